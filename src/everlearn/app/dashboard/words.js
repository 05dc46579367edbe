// What the numbers mean, in sentences. Nothing here touches the page.

import { brief, counted, delta, duration, known, lowerIsBetter, metric, metricDelta, metricName, odds } from "./format.js";
import { trend } from "./scale.js";

const EARLY = 100; // labelled examples below which nothing is said about quality
const SAME = 0.002; // a relative difference that is called none

export const HELP = {
  frozen: "The frozen start is the first version, never changed. It answers every question too, in shadow. The difference to it is what learning has brought.",
  prequential: "Every answer is scored before the model learns from its label, so this is what users actually got.",
  lately: "The mean over the last five stretches of the chart below.",
  serves: "The champion is the version whose answers users get. It changes only for a reason that is written down under Decisions.",
  fresh: "What serves includes every label older than this. The bound is promised in serve.staleness; an alarm is raised when it is broken.",
  speed: "Time from a request's arrival to its answer, prediction durably logged. p50: half of the answers are faster; p99: 99 of 100 are. In the chart, rare spikes may rise above the top; point at them to read them.",
  lag: "Events that are in the log, but not learned yet. Requests stay fast when the learner lags; labels only take effect later.",
  gate: "The gate compares losses on the same examples. Its evidence may be looked at at any moment: if a candidate is no better, it ever reaches the threshold with probability at most alpha.",
  difference: "Mean of the reference's loss minus the candidate's: above zero the candidate is better. The band is a confidence sequence: it holds at every moment at once.",
  evidence: "Natural logarithm of the e-value. At the dashed line the evidence is strong enough to act.",
  replay: "What the replay memory holds, by class. It warms fresh challengers after drift; its balance shifts when the stream does.",
  drift: "A detector watches the champion and says warning, then drift, when the stream changes.",
  contestants: "Everyone predicts every question; only the champion's (and a canary's) answers are given to users.",
  workers: "Processes that answer requests. Each has its own latencies and memory. Refused: requests that were wrong or too many (4xx). Faults: requests that the server failed to answer (5xx). The learner and the desk, which serves this page, run in others.",
  waiting: "Predictions whose feedback has not come yet.",
  evicted: "Predictions that had to make room before their feedback came: feedback.bytes is full.",
  early: "Feedback that came before its prediction, and is kept for a while.",
  quarantined: "Labels with an extreme loss, set aside and not learned.",
  capped: "Labels that were learned with less weight than they came with.",
  rejected: "Rows and events that could not be used.",
  chain: "Each decision is sealed with a hash of itself and of the seal before it. If somebody changes an old decision, the chain breaks there.",
};

export const ROLES = {
  champion: "Champion",
  challenger: "Challenger",
  fresh: "Fresh challenger",
  candidate: "Candidate",
  previous: "Previous champion",
  frozen: "Frozen start",
  shadow: "Shadow",
};

export const ACTIONS = {
  start: "Start",
  promote: "Promotion",
  reject: "Rejection",
  rollback: "Rollback",
  drift: "Drift",
  challenger: "Challenger",
  withdraw: "Withdrawal",
  erase: "Erasure",
  config: "Settings",
  order: "Order",
};

/** The symbol of each action, as in the charts. */
export const SIGNS = { promote: "promotion", reject: "rejection", rollback: "rollback", drift: "drift", challenger: "challenger", withdraw: "rejection" };

/** Is it getting better or worse? {tone, title, sentence, now, gain, lately}: numbers, or null where not known yet. */
export function answer(status) {
  const name = status.metric;
  const champion = status.metrics?.champion?.[name];
  const frozen = status.metrics?.frozen?.[name];
  const lately = recent(status.curves?.champion, name);
  const found = { tone: "", now: champion ?? null, gain: null, lately: lately?.now ?? null };
  if (!known(champion)) {
    return { ...found, title: "Waiting for the first labels", sentence: "Quality is known once labels come back for the answers given. Until then the first version serves." };
  }
  if (status.examples < EARLY) {
    return { ...found, title: "Too early to say", sentence: `${counted(status.examples, "labelled example")} so far; from ${EARLY} on there is something to compare.` };
  }
  const sign = lowerIsBetter(name) ? -1 : 1;
  const gain = known(frozen) ? champion - frozen : null;
  const better = gain === null || Math.abs(gain) <= SAME * Math.abs(frozen) ? 0 : Math.sign(sign * gain);
  return { ...found, gain, tone: ["bad", "even", "good"][better + 1], title: titled(better, lately, sign), sentence: sentence(status, better, lately, sign) };
}

/** The mark of the decision that made the champion what it is; undefined while the first version serves. */
export const installed = (status) => (status.marks ?? []).findLast((one) => one.kind === "promotion" || one.kind === "rollback");

function titled(better, lately, sign) {
  const first = ["Worse than without learning", "As good as without learning", "Better than without learning"][better + 1];
  const way = lately ? Math.sign(sign * lately.change) * Number(lately.moved) : 0;
  return `${first}, ${["getting worse lately", "steady lately", "getting better lately"][way + 1]}`;
}

function sentence(status, better, lately, sign) {
  const champion = status.aliases?.champion;
  const promoted = installed(status);
  const learned = counted(status.examples, "labelled example");
  if (better === 0 && !promoted && status.mode === "gated") {
    return `Nothing has been promoted in ${learned}: the first version still serves while the challenger learns in shadow.`;
  }
  const since = promoted ? ` ${brief(champion)} serves since a ${promoted.kind} ${counted(Math.max(0, status.examples - promoted.at), "example")} ago.` : "";
  const name = status.metric;
  const trend = lately?.moved ? ` Lately it ${sign * lately.change > 0 ? "improved" : "slipped"} from ${metric(name, lately.before)} to ${metric(name, lately.now)}.` : "";
  return `Over ${learned}, each scored before it was learned.${since}${trend}`;
}

/** The mean of the curve's last five stretches, and of the five before. */
export function recent(curve, name) {
  const values = curve?.[name];
  if (!values || values.length < 10) return null;
  const smooth = trend(values, curve.weight ?? values.map(() => 1));
  const now = smooth[smooth.length - 1];
  const before = smooth[smooth.length - 6];
  const spread = Math.sqrt(smooth.reduce((sum, one) => sum + (one - now) ** 2, 0) / smooth.length);
  return { now, before, change: now - before, moved: Math.abs(now - before) > Math.max(0.5 * spread, SAME * Math.abs(now)) };
}

const SUBJECTS = { previous: "The previous champion", frozen: "The frozen start", champion: "The champion", fresh: "The fresh challenger", shadow: "The shadow", candidate: "The candidate" };

/** What the gate knows about one question: {tone, text}. */
export function judged(one) {
  const guard = one.role === "previous" || one.role === "frozen";
  const live = one.role === "champion";
  const who = `${SUBJECTS[one.role] ?? "The challenger"} ${one.role === "candidate" ? `(from ${brief(one.candidate)})` : brief(one.candidate)}`;
  const reference = one.reference_role === "champion" ? "the champion" : `the ${(ROLES[one.reference_role] ?? "reference").toLowerCase()}`;
  const up = live ? "to become the new last good version" : guard ? "to be brought back" : "to be promoted";
  const down = live ? "to roll it back" : "to dismiss it";
  const [better, worse, need] = [one.log_e_better, one.log_e_worse, one.threshold];
  const bad = guard ? "" : "bad"; // that an old version is worse than what serves is as it should be
  if (!one.examples) return { tone: "", text: `${who} has just begun: nothing has been compared yet.` };
  if (better >= need) return { tone: "good", text: `${who} is better than ${reference}: the evidence, ${odds(better)}, is enough ${up}.` };
  if (worse >= need) return { tone: bad, text: `${who} is worse than ${reference}: the evidence, ${odds(worse)}, is enough ${down}.` };
  if (better > need / 3) return { tone: "good", text: `${who} is probably better than ${reference}: it has evidence of ${odds(better)}, and needs ${odds(need)} ${up}.` };
  if (worse > need / 3) return { tone: bad, text: `${who} is probably worse than ${reference}: the evidence is ${odds(worse)}, and ${odds(need)} is enough ${down}.` };
  return { tone: "", text: `${who} is not shown to be ${guard ? "better" : "better or worse"} than ${reference}. It needs evidence of ${odds(need)} ${up}; it has ${odds(better)}.` };
}

/** What is wrong at this moment, in sentences; nothing if all is well. */
export function alarms(status, silent = false) {
  const found = [];
  const { staleness, chain, learner, workers = [] } = status;
  if (learner?.trouble) found.push(`The learner is in trouble: ${learner.trouble}`);
  if (staleness?.broken && known(staleness.seconds)) found.push(`What serves is ${silent ? "older than it may be" : `${duration(staleness.seconds)} old`}; promised are ${duration(staleness.bound)}.`);
  const dead = workers.filter((one) => one.alive === false).length;
  if (dead) found.push(`${counted(dead, "worker")} of ${workers.length} ${dead === 1 ? "does" : "do"} not answer.`);
  if (chain && chain.ok === false) found.push("The decisions have been tampered with: their chain of seals is broken.");
  return found;
}

/** A metric of a role beside another's: "+13.0 points". */
export const gained = (status, role, from) => metricDelta(status.metric, status.metrics?.[role]?.[status.metric] - status.metrics?.[from]?.[status.metric]);

export const evidenceRows = (one) => [
  ["examples compared", one.examples],
  ["mean difference in loss", delta(one.difference)],
  ["confidence sequence", `${delta(one.low)} to ${delta(one.high)}`],
  ["evidence for better", odds(one.log_e_better)],
  ["evidence for worse", odds(one.log_e_worse)],
  ["needed", odds(one.threshold)],
  ["blocks", `${one.blocks} of ${counted(one.block, "example")}`],
];

export const titleOf = (status) => `${metricName(status.metric)[0].toUpperCase()}${metricName(status.metric).slice(1)}`;
