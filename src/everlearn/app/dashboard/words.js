// Texts about the numbers on the page. Nothing here touches the page itself.

import { brief, counted, delta, duration, known, lowerIsBetter, metric, metricDelta, metricName, odds } from "./format.js";
import { trend } from "./scale.js";

const EARLY = 100; // labelled examples below which quality is not judged
const SAME = 0.002; // relative difference below which two values count as equal

export const HELP = {
  frozen: "The baseline is the first version, never changed, if it was trained in a warm start; else the best of the naive ones: the last known label, the majority class or the mean, and the label of one season ago where rows have a time. It is scored on every example, and never promoted. The gain over it is what learning has brought.",
  prequential: "Prequential evaluation: every prediction is scored before the model learns from its label, so this is the quality that users got.",
  lately: "The mean over the last five intervals of the chart below.",
  serves: "The champion is the version that serves predictions. Every change of the champion is a decision with a reason.",
  fresh: "Every label older than this is in the serving weights. The bound is the setting serve.staleness; an alarm is raised when it is exceeded.",
  speed: "Time from a request to its reply, including the durable write to the log. p50: half of the replies are faster; p99: 99 of 100 are. Rare spikes may exceed the chart; point at them to read their values.",
  lag: "Events in the log that the learner has not folded yet. Lag does not slow down predictions; it delays the effect of labels.",
  gate: "The gate compares losses on the same examples. Its evidence is valid at every moment: a candidate that is no better reaches the threshold with probability at most alpha, however often it is checked.",
  difference: "Mean loss of the reference minus mean loss of the candidate: above zero, the candidate is better. The band is a confidence sequence, which holds at all times simultaneously.",
  evidence: "Natural logarithm of the e-value. A verdict is reached at the dashed threshold.",
  replay: "Rows in the replay memory, by class. New challengers are trained on them after drift; their balance follows the stream.",
  drift: "The detector monitors the champion's loss, and reports a warning, then drift, when the stream changes.",
  contestants: "All models that predict every example. Only the predictions of the champion (and of a canary) are returned to users.",
  workers: "The processes of the server. Workers serve predictions, and each has its own latency and memory. Refused: requests with a 4xx reply. Failed: requests with a 5xx reply. The admin process serves this page.",
  labelled: "The share of predictions whose feedback came in time. Metrics are about these rows, and about rows that took the default label, where there is one.",
  waiting: "Predictions without feedback so far.",
  evicted: "Predictions dropped before their feedback came, because feedback.bytes was reached.",
  early: "Feedback that came before its prediction, and is kept for a while.",
  quarantined: "Labels with an extreme loss, set aside and not learned.",
  capped: "Labels whose weight was reduced to the limit.",
  rejected: "Rows and events that could not be used.",
  chain: "Each decision has a seal: a hash of itself and of the previous seal. A later change of a decision breaks the chain at that position.",
};

export const ROLES = {
  champion: "Champion",
  challenger: "Challenger",
  fresh: "New challenger",
  candidate: "Candidate",
  previous: "Good version",
  frozen: "Baseline",
  shadow: "Frozen challenger",
};

export const ACTIONS = {
  start: "Start",
  promote: "Promotion",
  reject: "Rejection",
  rollback: "Rollback",
  drift: "Drift",
  challenger: "New challenger",
  withdraw: "Withdrawal",
  erase: "Erasure",
  config: "Settings changed",
  order: "Command",
};

/** The symbol of each action in the charts. */
export const SIGNS = { promote: "promotion", reject: "rejection", rollback: "rollback", drift: "drift", challenger: "challenger", withdraw: "rejection" };

/** Summarise the quality: {tone, title, sentence, now, gain, lately}; numbers are null while unknown. */
export function summary(status) {
  const name = status.metric;
  const champion = status.metrics?.champion?.[name];
  const frozen = baseline(status, name);
  const lately = recent(status.curves?.champion, name);
  const found = { tone: "", now: champion ?? null, gain: null, lately: lately?.now ?? null };
  if (!known(champion)) {
    return { ...found, title: "Waiting for the first labels", sentence: "Quality is measured as soon as labels arrive for earlier predictions. Until then the first version serves." };
  }
  if (status.examples < EARLY) {
    return { ...found, title: "Too early to say", sentence: `${counted(status.examples, "labelled example")} so far; the comparison starts at ${EARLY}.` };
  }
  const sign = lowerIsBetter(name) ? -1 : 1;
  const gain = known(frozen) ? champion - frozen : null;
  const better = gain === null || Math.abs(gain) <= SAME * Math.abs(frozen) ? 0 : Math.sign(sign * gain);
  return { ...found, gain, tone: ["bad", "even", "good"][better + 1], title: titled(better, lately, sign), sentence: sentence(status, better, lately, sign) };
}

/** The metric of the frozen start, else that of the better naive baseline; undefined while there is none. */
export function baseline(status, name) {
  const of = (role) => status.metrics?.[role]?.[name];
  if (known(of("frozen"))) return of("frozen");
  const naive = ["last_label", "majority", "mean", "seasonal"].map(of).filter(known);
  return naive.length ? (lowerIsBetter(name) ? Math.min(...naive) : Math.max(...naive)) : undefined;
}

/** The mark of the decision that installed the champion; undefined while the first version serves. */
export const installed = (status) => (status.marks ?? []).findLast((one) => one.kind === "promotion" || one.kind === "rollback");

function titled(better, lately, sign) {
  const first = ["Worse than the baseline", "Equal to the baseline", "Better than the baseline"][better + 1];
  const way = lately ? Math.sign(sign * lately.change) * Number(lately.moved) : 0;
  return `${first}, ${["recently declining", "recently steady", "recently improving"][way + 1]}`;
}

function sentence(status, better, lately, sign) {
  const champion = status.aliases?.champion;
  const promoted = installed(status);
  const learned = counted(status.examples, "labelled example");
  if (better === 0 && !promoted && status.mode === "gated") {
    return `No promotion in ${learned}: the first version still serves, and the challenger learns in shadow.`;
  }
  const since = promoted ? ` ${brief(champion)} has served since a ${promoted.kind} ${counted(Math.max(0, status.examples - promoted.at), "example")} ago.` : "";
  const name = status.metric;
  const trend = lately?.moved ? ` Recently it ${sign * lately.change > 0 ? "improved" : "declined"} from ${metric(name, lately.before)} to ${metric(name, lately.now)}.` : "";
  return `Measured on ${learned}, each scored before it was learned.${since}${trend}`;
}

/** Return the mean of the last five intervals of the curve, and of the five before. */
export function recent(curve, name) {
  const values = curve?.[name];
  if (!values || values.length < 10) return null;
  const smooth = trend(values, curve.weight ?? values.map(() => 1));
  const now = smooth[smooth.length - 1];
  const before = smooth[smooth.length - 6];
  const spread = Math.sqrt(smooth.reduce((sum, one) => sum + (one - now) ** 2, 0) / smooth.length);
  return { now, before, change: now - before, moved: Math.abs(now - before) > Math.max(0.5 * spread, SAME * Math.abs(now)) };
}

const SUBJECTS = { previous: "The good version", frozen: "The baseline", champion: "The champion", fresh: "The new challenger", shadow: "The frozen challenger", candidate: "The candidate" };

/** Describe the evidence of one comparison: {tone, text}. */
export function comparisonText(one) {
  const guard = one.role === "previous" || one.role === "frozen";
  const live = one.role === "champion";
  const subject = `${SUBJECTS[one.role] ?? "The challenger"} ${one.role === "candidate" ? `(from ${brief(one.candidate)})` : brief(one.candidate)}`;
  const reference = one.reference_role === "champion" ? "the champion" : `the ${(ROLES[one.reference_role] ?? "reference").toLowerCase()}`;
  const up = live ? "to make it the new good version" : guard ? "to roll back to it" : "to promote it";
  const down = live ? "to roll it back" : "to reject it";
  const [better, worse, need] = [one.log_e_better, one.log_e_worse, one.threshold];
  const bad = guard ? "" : "bad"; // an old version should be worse than the champion
  if (!one.examples) return { tone: "", text: `${subject} has no examples yet.` };
  if (better >= need) return { tone: "good", text: `${subject} is better than ${reference}: the evidence of ${odds(better)} is enough ${up}.` };
  if (worse >= need) return { tone: bad, text: `${subject} is worse than ${reference}: the evidence of ${odds(worse)} is enough ${down}.` };
  const soFar = better <= 0.005 ? "there is no evidence yet" : `the evidence is ${odds(better)}`;
  if (better > need / 3) return { tone: "good", text: `${subject} is probably better than ${reference}: the evidence is ${odds(better)}; ${odds(need)} is needed ${up}.` };
  if (worse > need / 3) return { tone: bad, text: `${subject} is probably worse than ${reference}: the evidence is ${odds(worse)}; ${odds(need)} is needed ${down}.` };
  return { tone: "", text: `${subject} is not shown to be ${guard ? "better" : "better or worse"} than ${reference}: ${soFar}; ${odds(need)} is needed ${up}.` };
}

/** Return the current alarms, one sentence each. */
export function alarms(status, silent = false) {
  const found = [];
  const { staleness, chain, learner, workers = [] } = status;
  if (learner?.trouble) found.push(`The learner reports an error: ${learner.trouble}`);
  if (staleness?.broken && known(staleness.seconds)) found.push(`The staleness ${silent ? "exceeds its bound" : `is ${duration(staleness.seconds)}, above its bound`} of ${duration(staleness.bound)}.`);
  const dead = workers.filter((one) => one.alive === false).length;
  if (dead) found.push(`${counted(dead, "worker")} of ${workers.length} ${dead === 1 ? "is" : "are"} down.`);
  if (chain && chain.ok === false) found.push("The decisions were changed after the fact: their chain of seals is broken.");
  return found;
}

/** The difference of a metric between two roles: "+13.0 points". */
export const gained = (status, role, from) => metricDelta(status.metric, status.metrics?.[role]?.[status.metric] - status.metrics?.[from]?.[status.metric]);

export const evidenceRows = (one) => [
  ["examples compared", one.examples],
  ["mean difference in loss", delta(one.difference)],
  ["confidence sequence", `${delta(one.low)} to ${delta(one.high)}`],
  ["evidence for better", odds(one.log_e_better)],
  ["evidence for worse", odds(one.log_e_worse)],
  ["threshold", odds(one.threshold)],
  ["blocks", `${one.blocks} × ${counted(one.block, "example")}`],
];

export const titleOf = (status) => `${metricName(status.metric)[0].toUpperCase()}${metricName(status.metric).slice(1)}`;
