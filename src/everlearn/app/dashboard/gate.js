// The gate: its comparisons, the evidence so far, and the evidence that a verdict needs.

import { fill, h, list, mark, put, s, why } from "./dom.js";
import { brief, delta, known, number, odds } from "./format.js";
import { linear } from "./scale.js";
import { before, timeChart } from "./series.js";
import { comparisonText, HELP, oldEvidence } from "./words.js";

const ORDER = ["candidate", "fresh", "champion", "previous", "frozen"];

/** Create the card: {element, update(status)}. */
export function gate() {
  const difference = timeChart({ label: "Difference in loss with its confidence sequence", height: 200, least: 0.001, formats: { y: delta, yTick: (value) => delta(value, 2) }, none: "No comparison at the moment" });
  const evidence = timeChart({ label: "Logarithm of the e-values against the threshold", height: 200, zero: true, formats: { y: (value) => (known(value) ? `${number(value)} (${odds(value)})` : "–"), yTick: (value) => number(value, 2) }, none: "No comparison at the moment" });
  const questions = h("ul", { class: "questions" });
  const none = h("p", { class: "note" }, "The gate has nothing to compare yet. A comparison starts with the first labels of a candidate.");
  const old = h("p", { class: "note warn", role: "status", hidden: true });
  const rows = list(questions, comparison);
  return {
    element: h("section", { class: "card w8", "aria-labelledby": "gate" },
      h("header", {}, h("h2", { id: "gate" }, "Gate: is a change of model justified?"), why("the gate", HELP.gate)),
      old, none, questions,
      h("div", { class: "weigh rest" },
        h("div", {}, h("h3", {}, "Difference in loss ", why("the difference", HELP.difference)), difference.element),
        h("div", {}, h("h3", {}, "Evidence, log e ", why("evidence", HELP.evidence)), evidence.element))),
    update(status) {
      const comparisons = (status.gate ?? []).toSorted((a, b) => ORDER.indexOf(a.role) - ORDER.indexOf(b.role));
      mark(none, { hidden: comparisons.length > 0 });
      const dated = oldEvidence(status);
      put(old, dated);
      mark(old, { hidden: !dated });
      const seen = new Map();
      rows(comparisons, (one) => {
        const name = `${one.role}-${one.reference_role}`;
        seen.set(one, seen.get(one) ?? `${name}-${[...seen.values()].filter((key) => key.startsWith(name)).length}`);
        return seen.get(one);
      });
      curves(status, comparisons, difference, evidence);
    },
  };
}

function curves(status, comparisons, difference, evidence) {
  const now = status.series?.gate ?? {};
  const all = status.series?.time ?? [];
  const first = all.findIndex((_, i) => known(now.difference?.[i]));
  const time = first < 0 ? [] : all.slice(first);
  const of = (name) => (now[name] ?? []).slice(first);
  const span = before(time);
  const [values, low, high] = [of("difference"), of("low"), of("high")];
  const informative = low.map((one, i) => known(one) && one !== -high[i]); // else there are too few examples for a bound
  const bounded = (line) => line.map((one, i) => (informative[i] ? one : null));
  const threshold = comparisons.find((one) => one.candidate === now.candidate)?.threshold ?? comparisons[0]?.threshold;
  difference.update({ ...span, y: window(values, bounded(low), bounded(high)), levels: [{ at: 0, tone: "frozen" }],
    bands: [{ tone: "champion", low: bounded(low), high: bounded(high) }], lines: [{ name: now.candidate ? `${brief(now.candidate)} better by` : "better by", tone: "champion", values }] });
  evidence.update({ ...span, levels: known(threshold) ? [{ at: threshold, tone: "promotion", name: `threshold: ${odds(threshold)}` }] : [],
    lines: [{ name: "worse", tone: "drift", dashed: true, values: of("log_e_worse") }, { name: "better", tone: "champion", values: of("log_e_better") }] });
}

/** Return a range that holds 90% of the differences and the current interval: early outliers would hide the rest. */
function window(values, low, high) {
  const sizes = values.filter(known).map(Math.abs).sort((a, b) => a - b);
  const reach = Math.max(...[sizes[Math.floor(0.9 * sizes.length)], low.findLast(known), high.findLast(known)].filter(known).map(Math.abs), 0);
  return reach > 0 ? [-1.25 * reach, 1.25 * reach] : null;
}

/** Create one comparison: a verdict, what was measured, what it takes, and the interval as a picture. */
function comparison() {
  const [sentence, measured, needed] = [h("p", {}), h("p", { class: "small soft" }), h("p", { class: "small soft" })];
  const picture = s("svg", { class: "interval", viewBox: "0 0 240 34", role: "img" });
  const element = h("li", {}, h("div", { class: "say" }, sentence, measured, needed), picture);
  return {
    element,
    update(one) {
      const about = comparisonText(one);
      put(sentence, about.text);
      mark(sentence, { class: about.tone || null });
      put(measured, about.found);
      put(needed, about.needed);
      mark(picture, { "aria-label": about.found });
      fill(picture, interval(one));
    },
  };
}

/** Draw an interval from worse (left) to better (right), with zero in the middle. */
export function interval({ low, high, difference, examples }) {
  if (!examples) return [];
  const reach = Math.max(4 * Math.abs(difference), 1.1 * Math.min(Math.abs(low), Math.abs(high)), 1e-6);
  const x = linear(-reach, reach, 4, 236);
  const at = (value) => Math.min(238, Math.max(2, x(value)));
  const tone = low > 0 ? "promotion" : high < 0 ? "drift" : "frozen";
  return [
    s("line", { class: "zero", x1: 120, x2: 120, y1: 0, y2: 18 }),
    s("g", { class: `tone-${tone}` }, s("line", { class: "reach", x1: at(low), x2: at(high), y1: 9, y2: 9 }), s("circle", { class: "middle", cx: at(difference), cy: 9, r: 5 })),
    s("text", { x: 4, y: 31 }, "worse"), s("text", { x: 120, y: 31, "text-anchor": "middle" }, "0"), s("text", { x: 236, y: 31, "text-anchor": "end" }, "better"),
  ];
}
