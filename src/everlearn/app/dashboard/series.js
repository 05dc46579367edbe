// Charts of the last ten minutes, one point a second: requests, latency, staleness, replay memory.

import { chart } from "./chart.js";
import { h, put, why } from "./dom.js";
import { bytes, counted, duration, known, number, percent, short } from "./format.js";
import { extent } from "./scale.js";
import { HELP } from "./words.js";

const TONES = ["champion", "challenger", "promotion", "rollback", "drift", "other", "frozen"];
const LEAST = 60; // shortest time span of a chart, in seconds

/** "5 min ago", "now" */
export const ago = (value) => (value > -0.5 ? "now" : `${duration(-value)} ago`);

const tick = (value, [from]) => (value === 0 ? "now" : from < -100 ? `−${-value / 60} min` : `−${-value} s`);

function timeTicks(low, high, wanted) {
  const step = [10, 15, 30, 60, 120, 180, 300].find((one) => (high - low) / one <= wanted) ?? 600;
  const found = [];
  for (let at = 0; at >= low; at -= step) found.push(at);
  return found;
}

/** Create a chart over time; x is in seconds before now. */
export function timeChart(options) {
  return chart({ height: 170, xTicks: timeTicks, none: "The first points appear within seconds", ...options,
    formats: { x: ago, tick, latest: "", ...options.formats } });
}

/** Convert times to seconds before the newest point, and return the domain that they span. */
export function before(times) {
  const last = times[times.length - 1] ?? 0;
  const x = times.map((one) => one - last);
  return { x, domain: [Math.min(-LEAST, x[0] ?? 0), 0] };
}

function card(title, help, size, drawn, below = null) {
  const id = `series-${title.replaceAll(" ", "-").toLowerCase()}`;
  return h("section", { class: `card ${size}`, "aria-labelledby": id }, h("header", {}, h("h2", { id }, title), help && why(title.toLowerCase(), help)), drawn.element, below);
}

/** Create the cards: each {element, update(status)}. */
export function series() {
  const requests = timeChart({ label: "Requests per second", zero: true, least: 1, formats: { y: (value) => `${number(value)}/s`, yTick: (value) => short(value) } });
  const latency = timeChart({ label: "Latency of predictions", zero: true, least: 0.001, formats: { y: duration, yTick: duration } });
  const fresh = timeChart({ label: "Staleness and lag against the bound", zero: true, formats: { y: duration, yTick: duration } });
  const holds = h("p", { class: "small soft" }, "");
  const replay = timeChart({ label: "Rows in the replay memory by class", height: 200, zero: true, none: "No classes yet", formats: { y: (value) => value, yTick: (value) => percent(value, 0) } });
  return [
    {
      element: card("Requests", null, "w4", requests),
      update: ({ series: now = {} }) => requests.update({ ...before(now.time ?? []), lines: [{ name: "requests", tone: "champion", values: now.requests ?? [] }] }),
    },
    {
      element: card("Latency", HELP.speed, "w4", latency),
      update: ({ series: now = {} }) => latency.update({ ...before(now.time ?? []), y: most(now.p99 ?? []), lines: [
        { name: "p50", tone: "frozen", dashed: true, values: now.p50 ?? [] }, { name: "p99", tone: "champion", values: now.p99 ?? [] }] }),
    },
    {
      element: card("Staleness", HELP.fresh, "w4", fresh),
      update: ({ series: now = {}, staleness }) => fresh.update({ ...before(now.time ?? []),
        levels: known(staleness?.bound) ? [{ at: staleness.bound, name: `bound: ${duration(staleness.bound)}`, tone: "drift" }] : [],
        lines: [{ name: "lag", tone: "challenger", values: now.lag ?? [] }, { name: "staleness", tone: "champion", values: now.staleness ?? [] }] }),
    },
    {
      element: card("Replay memory", HELP.replay, "w7", replay, holds),
      update: (status) => {
        replay.update(stacked(status));
        put(holds, known(status.replay?.rows) ? `${counted(status.replay.rows, "row")}, ${bytes(status.replay.bytes)}` : "");
      },
    },
  ];
}

/** Return a range that holds nearly all values, so that one slow reply does not flatten all others. */
function most(values) {
  const sorted = values.filter(known).sort((a, b) => a - b);
  const usual = 3 * sorted[Math.floor(0.95 * (sorted.length - 1))];
  return sorted[sorted.length - 1] > usual ? extent([[0, usual]], { zero: true, least: 0.001 }) : null;
}

/** Stack the shares of the classes. */
function stacked({ series: now = {} }) {
  const names = Object.keys(now.replay ?? {});
  if (!names.length) return { x: [] };
  const total = (now.time ?? []).map((_, i) => names.reduce((sum, name) => sum + (now.replay[name][i] ?? 0), 0));
  let below = total.map(() => 0);
  const bands = names.map((name, k) => {
    const share = total.map((sum, i) => (sum > 0 ? (now.replay[name][i] ?? 0) / sum : null));
    const high = share.map((one, i) => (one === null ? null : below[i] + one));
    const band = { name, tone: TONES[k % TONES.length], solid: true, low: below, high, shown: share.map((one, i) => (one === null ? "–" : `${percent(one, 0)} (${short(now.replay[name][i])} rows)`)) };
    below = high;
    return band;
  });
  return { ...before(now.time ?? []), bands, y: [0, 1] };
}
