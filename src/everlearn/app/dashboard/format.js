// Format numbers with units and a sensible number of digits.

const SHARES = new Set(["accuracy", "balanced_accuracy", "precision", "recall", "f1", "coverage", "recall_at_share", "precision_at_share", "alert_share", "decided_positive", "decision_precision", "decision_recall"]);
const LOWER_IS_BETTER = new Set(["log_loss", "brier", "ece", "mae", "mse", "rmse", "pinball", "cost"]);
const NAMES = {
  ece: "calibration error",
  pinball: "pinball loss",
  cost: "cost per decision",
  recall_at_share: "recall of alerts",
  precision_at_share: "precision of alerts",
  alert_share: "share of alerts",
  kappa_t: "kappa-T",
  kappa_m: "kappa-M",
  skill_last: "skill against last label",
  skill_mean: "skill against mean",
  roc_auc: "ROC AUC",
  pr_auc: "PR AUC",
  mae: "mean absolute error",
  mse: "mean squared error",
  rmse: "root mean squared error",
};

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** 1234567 -> "1,234,567" */
export const count = (value) => (known(value) ? grouped.format(value) : "–");

/** 1234567 -> "1.23M", and below 10,000 in full. */
export const short = (value) => (!known(value) ? "–" : Math.abs(value) < 10000 ? count(value) : compact.format(value));

/** "1 row", "2 rows" */
export const counted = (value, singular, plural = `${singular}s`) => `${count(value)} ${value === 1 ? singular : plural}`;

/** Three significant digits, with a typographic minus. */
export function number(value, digits = 3) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return minus(value.toExponential(digits - 1));
  const places = Math.max(0, Math.min(6, digits - 1 - Math.floor(Math.log10(size))));
  return minus(value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places }));
}

const minus = (text) => text.replace("-", "−");
const signed = (text, value) => (value > 0 && !/^0[.0]*%?$/.test(text) ? `+${text}` : text);

/** A difference with its sign. */
export const delta = (value, digits = 3) => (known(value) ? signed(number(value, digits), value) : "–");

export const percent = (share, places = 1) => (known(share) ? `${minus((100 * share).toFixed(places))}%` : "–");

/** Seconds in a suitable unit: "0.9 ms", "3.1 s", "4 min", "2.5 h", "3 days". */
export function duration(seconds) {
  if (!known(seconds)) return "–";
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 9.95e-4) return `${Math.round(seconds * 1e6)} µs`;
  if (size < 0.00995) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (size < 0.995) return `${Math.round(seconds * 1e3)} ms`;
  if (size < 9.95) return `${seconds.toFixed(1)} s`;
  if (size < 99.5) return `${Math.round(seconds)} s`;
  if (size < 5400) return `${Math.round(seconds / 60)} min`;
  if (size < 129600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function bytes(size) {
  if (!known(size)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, size)) / 10)));
  const value = size / 1024 ** step;
  return `${value >= 100 || step === 0 ? Math.round(value) : value.toFixed(1)} ${units[step]}`;
}

/** Seconds since 1970 as local date and time. */
export function moment(time) {
  if (!known(time)) return "–";
  const date = new Date(time * 1000);
  const clock = date.toLocaleTimeString("en-GB");
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" })}, ${clock}`;
}

/** The first six letters of a version's id. */
export const brief = (id) => (id ? id.slice(0, 6) : "–");

const LATELY = "_lately";
const plainName = (name) => (name.endsWith(LATELY) ? name.slice(0, -LATELY.length) : name);

export const metricName = (name) => (name.endsWith(LATELY) ? `${metricName(plainName(name))}, last 1,000` : NAMES[name] ?? name.replaceAll("_", " "));
export const lowerIsBetter = (name) => LOWER_IS_BETTER.has(plainName(name));

export const isShare = (name) => SHARES.has(plainName(name));

/** The value of a metric: shares as percent, others as numbers. */
export const metric = (name, value) => (SHARES.has(plainName(name)) ? percent(value) : number(value));

/** The difference of a metric: shares in percentage points. */
export function metricDelta(name, difference) {
  if (!known(difference)) return "–";
  return SHARES.has(plainName(name)) ? `${signed(percent(difference).slice(0, -1), difference)} points` : delta(difference);
}

/** An e-value from its logarithm, as evidence: "none", "8.2 to 1", "1,200 to 1", "over a million to 1". */
export const odds = (log) => (!known(log) ? "–" : log <= 0.005 ? "none" : `${times(log)} to 1`);

function times(log) {
  if (log > Math.log(1e6)) return "over a million";
  const value = Math.exp(log);
  return value >= 100 ? count(value) : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

/** A value of any kind, as short text. */
export function plain(value) {
  if (typeof value === "number") return String(Number(value.toPrecision(6)));
  if (typeof value === "string") return value;
  return value === undefined ? "–" : JSON.stringify(value);
}
