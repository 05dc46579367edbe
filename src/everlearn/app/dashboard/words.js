// Texts about the numbers on the page. Nothing here touches the page itself.

import { brief, counted, delta, duration, isShare, known, lowerIsBetter, metric, metricDelta, metricName, number, odds } from "./format.js";
import { trend } from "./scale.js";

const EARLY = 100; // labelled examples below which quality is not judged
const SAME = 0.002; // relative difference below which a trend counts as none

export const HELP = {
  frozen: "The baseline is the first version, never changed, if it was trained in a warm start; else the best of the naive ones: the last known label, the majority class or the mean, and the label of one season ago where rows have a time. It is scored on every example, and never promoted. The gain over it is what learning has brought. Its interval holds the true mean difference on the rows so far, at all times, with the gate's probability of error; under drift it promises nothing about later rows.",
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
  contestants: "All models that predict every example. Only the predictions of the champion (and of a canary) are returned to users. A mix names its members with their weights; one that adds too little for its cost is at rest.",
  workers: "The processes of the server. Workers serve predictions, and each has its own latency and memory. Refused: requests with a 4xx reply. Failed: requests with a 5xx reply. The admin process serves this page.",
  labelled: "The share of predictions whose feedback came in time. Metrics are about these rows, and about rows that took the default label, where there is one.",
  waiting: "Predictions without feedback so far.",
  evicted: "Predictions dropped before their feedback came, because feedback.bytes was reached.",
  early: "Feedback that came before its prediction, and is kept for a while.",
  quarantined: "Labels with an extreme loss, set aside and not learned.",
  capped: "Labels whose weight was reduced to the limit.",
  reliability: "Where the model predicts a probability, how often the event came. A calibrated model follows the diagonal. Ranges with fewer than 20 rows are left out.",
  segments: "The champion's metrics for each value of the field metrics.segment. A model is calibrated on a segment where predicted and observed agree.",
  pause: "While learning is paused, predictions go on and labels are scored, but no model learns them, also not later.",
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

const AGAINST = { frozen: "the frozen start", last_label: "repeating the last label", majority: "the majority class", mean: "the mean", seasonal: "the label of one season ago" };
const LOSSES = { brier: "Brier score", error: "error rate", log_loss: "log loss", absolute: "absolute error", squared: "squared error", pinball: "pinball loss", huber: "Huber loss" };

/** Summarise the quality: {tone, title, sentence, now, gain, lately}; numbers are null while unknown. */
export function summary(status) {
  const name = status.metric;
  const champion = status.metrics?.champion?.[name];
  const lately = recent(status.curves?.champion, name);
  const found = { tone: "", now: champion ?? null, gain: null, lately: lately?.now ?? null };
  if (!known(champion)) {
    return { ...found, title: "Waiting for the first labels", sentence: "Quality is measured as soon as labels arrive for earlier predictions. Until then the first version serves." };
  }
  if (status.examples < EARLY) {
    return { ...found, title: "Too early to say", sentence: `${counted(status.examples, "labelled example")} so far; the comparison starts at ${EARLY}.` };
  }
  const gain = status.gain;
  if (!gain) return { ...found, title: `Measured on ${counted(status.examples, "labelled example")}`, sentence: `No baseline has answered the same rows yet.${context(status, lately)}` };
  return { ...found, gain, ...judged(gain), sentence: `${uncertainty(gain)}${context(status, lately)}` };
}

/** Return the tone and the title; the gate's verdict on the same two models is never left out. */
function judged(gain) {
  const against = AGAINST[gain.baseline] ?? "the baseline";
  const tone = ["bad", "even", "good"][gain.better + 1];
  const gate = gain.gate?.better ?? 0;
  if (gate !== 0 && gate !== gain.better) {
    const loss = LOSSES[gain.gate.loss] ?? "loss";
    const mine = metricName(gain.metric);
    if (gain.better === 0) return { tone: ["bad", "", "good"][gate + 1], title: `${sentenceCase(loss)} ${gate > 0 ? "better" : "worse"} than ${against}; no difference in ${mine} shown` };
    return { tone: "even", title: `${sentenceCase(mine)} ${gain.better > 0 ? "better" : "worse"}, but ${loss} ${gate > 0 ? "better" : "worse"}, than ${against}` };
  }
  if (gain.better === 0) return { tone, title: `No difference from ${against} shown` };
  const size = amount(gain.metric, gain.difference);
  const range = between(gain);
  if (isShare(gain.metric)) return { tone, title: `${size} ${gain.better > 0 ? "better" : "worse"} than ${against}, ${range}` };
  return { tone, title: `${gain.better > 0 ? "Better" : "Worse"} than ${against}: ${metricName(gain.metric)} ${gain.difference < 0 ? "lower" : "higher"} by ${size}, ${range}` };
}

/** "between 0.4 and 3.8" in the direction of the difference; "" without an interval or if it holds zero. */
function between({ metric: name, low, high, better }) {
  if (!known(low) || !known(high) || better === 0) return "";
  const [near, far] = [Math.abs(low), Math.abs(high)].toSorted((a, b) => a - b);
  return `between ${bare(name, near)} and ${bare(name, far)}`;
}

/** State the difference and its interval where the title cannot. */
function uncertainty(gain) {
  const { metric: name, low, high, difference, better, examples } = gain;
  const base = `Measured on ${counted(examples, "labelled example")}, each scored before it was learned.`;
  if (!known(low)) return `So far ${metricName(name)} is ${directed(name, difference)}; there is no bound for the true difference yet. ${base}`;
  if (better === 0) return `So far ${metricName(name)} is ${directed(name, difference)}; the true difference lies between ${directed(name, low)} and ${directed(name, high)}. ${base}`;
  return base;
}

const sentenceCase = (text) => text[0].toUpperCase() + text.slice(1);
const bare = (name, value) => amount(name, value).replace(" points", "");
const amount = (name, value) => metricDelta(name, Math.abs(value)).replace(/^\+/, "");
const directed = (name, value) => (value === 0 ? "equal" : `${amount(name, value)} ${value > 0 ? "higher" : "lower"}`);

/** The metric of the frozen start, else that of the best naive baseline; undefined while there is none. */
export function baseline(status, name) {
  const of = (role) => status.metrics?.[role]?.[name];
  if (known(of("frozen"))) return of("frozen");
  const naive = ["last_label", "majority", "mean", "seasonal"].map(of).filter(known);
  return naive.length ? (lowerIsBetter(name) ? Math.min(...naive) : Math.max(...naive)) : undefined;
}

/** The mark of the decision that installed the champion; undefined while the first version serves. */
export const installed = (status) => (status.marks ?? []).findLast((one) => one.kind === "promotion" || one.kind === "rollback");

/** Describe what serves, and what changed lately. */
function context(status, lately) {
  const promoted = installed(status);
  const name = status.metric;
  const first = !promoted && status.mode === "gated" ? " No promotion so far: the first version serves, and the challenger learns in shadow." : "";
  const since = promoted ? ` ${brief(status.aliases?.champion)} has served since a ${promoted.kind} ${counted(Math.max(0, status.examples - promoted.at), "example")} ago.` : "";
  const better = lately?.moved && (lowerIsBetter(name) ? -1 : 1) * lately.change > 0;
  const trend = lately?.moved ? ` Recently it ${better ? "improved" : "declined"} from ${metric(name, lately.before)} to ${metric(name, lately.now)}.` : "";
  const other = baseline(status, name);
  const own = status.gain && status.gain.metric !== name && known(other) ? ` ${sentenceCase(metricName(name))}: ${metric(name, status.metrics.champion[name])}, baseline ${metric(name, other)} (no interval).` : "";
  return `${own}${first}${since}${trend}`;
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
const OLD = 86400; // seconds after which evidence counts as old

/** Describe one comparison: {tone, text, found, needed}; `needed` says what evidence leads to what. */
export function comparisonText(one) {
  const guard = one.role === "previous" || one.role === "frozen";
  const live = one.role === "champion";
  const subject = `${SUBJECTS[one.role] ?? "The challenger"} ${one.role === "candidate" ? `(from ${brief(one.candidate)})` : brief(one.candidate)}`;
  const reference = one.reference_role === "champion" ? "the champion" : `the ${(ROLES[one.reference_role] ?? "reference").toLowerCase()} ${brief(one.reference)}${one.reference === one.candidate ? " as it was stored" : ""}`;
  const [better, worse, need] = [one.log_e_better, one.log_e_worse, one.threshold];
  const bad = guard ? "" : "bad"; // an old version should be worse than the champion
  const up = live ? "make it the new good version" : guard ? "roll back to it" : "promote it";
  const down = live ? "roll it back" : guard ? "" : "reject it";
  if (!one.examples) return { tone: "", text: `${subject} and ${reference}: no examples to compare yet.`, found: "", needed: "" };
  const [tone, verdict] = better >= need ? ["good", "is better than"] : worse >= need ? [bad, "is worse than"]
    : better > need / 3 ? ["good", "is probably better than"] : worse > need / 3 ? [bad, "is probably worse than"] : ["", "is not shown to differ from"];
  return { tone, text: `${subject} ${verdict} ${reference}.`, found: foundText(one), needed: `${neededText("better", better, need, up)}${down ? ` ${neededText("worse", worse, need, down)}` : ""}` };
}

function neededText(what, evidence, need, result) {
  if (evidence >= need && result === "roll it back") return `The evidence that it is worse, ${odds(evidence)}, is enough; it rolls back where the difference is a tenth of the good version's loss.`;
  if (evidence >= need) return `The evidence that it is ${what}, ${odds(evidence)}, is enough to ${result}.`;
  return `Evidence that it is ${what}: ${odds(evidence)}; ${odds(need)} would ${result}.`;
}

function foundText({ difference, low, high, examples, loss }) {
  const name = sentenceCase(LOSSES[loss] ?? "loss");
  const text = `${name} ${difference < 0 ? "higher" : "lower"} by ${number(Math.abs(difference))} over ${counted(examples, "example")}`;
  if (low === -high) return `${text}; too few to bound the true difference.`;
  const side = (value) => (value === 0 ? "0" : `${number(Math.abs(value))} ${value < 0 ? "higher" : "lower"}`);
  return `${text}; the true difference lies between ${side(low)} and ${side(high)}.`;
}

/** Say how old the newest label is if the evidence has not changed for a day; "" else. */
export function oldEvidence(status) {
  const age = known(status.labelled_at) ? status.time - status.labelled_at : 0;
  return age >= OLD ? `The newest label came ${duration(age)} ago: quality and evidence are as of then.` : "";
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
