// Two versions side by side.

import { h, mark } from "./dom.js";
import { brief, counted, delta, lowerIsBetter, metric, metricDelta, metricName, number, percent, plain } from "./format.js";

/** Show the reply of GET /versions/{a}/diff/{b}. */
export function compared(found, close) {
  const { a, b, spec, metrics, arrays, missing, common, steps } = found;
  return [
    h("header", {}, h("h2", {}, `${brief(a.id)} compared with ${brief(b.id)}`), h("button", { class: "small end", type: "button", onclick: close }, "Close")),
    h("p", { class: "small soft" }, related(a, b, common, steps)),
    h("div", { class: "grid versus" },
      part("w4", "Settings", spec.length ? table(["setting", brief(a.id), brief(b.id)], spec.map((one) => [one.name, h("span", { class: "old" }, plain(one.a ?? undefined)), h("span", { class: "new" }, plain(one.b ?? undefined))])) : h("p", { class: "soft" }, "No setting differs.")),
      part("w4", "Metrics when stored", metrics.length ? table(["metric", brief(a.id), brief(b.id), "change"], metrics.map(measured)) : h("p", { class: "soft" }, "Neither was scored before it was stored.")),
      part("w4", "Arrays", arrays ? table(["array", "shape", "distance", "relative"], arrays.map(moved)) : h("p", { class: "soft" }, missing))),
  ];
}

function related(a, b, common, steps) {
  if (common === null || common === undefined) return "They have no common ancestor.";
  if (common === a.id) return `${brief(b.id)} descends from ${brief(a.id)} (${counted(steps, "generation")}).`;
  if (common === b.id) return `${brief(a.id)} descends from ${brief(b.id)} (${counted(steps, "generation")}).`;
  return `Both descend from ${brief(common)}; they are ${counted(steps, "generation")} apart.`;
}

const part = (size, title, content) => h("div", { class: `part ${size}` }, h("h3", {}, title), content);

function table(head, rows) {
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { scope: "col", class: i ? "number" : null }, text)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) => h(i ? "td" : "th", { scope: i ? null : "row", class: i ? "number" : null }, cell)))))));
}

function measured({ name, a, b }) {
  const change = a === null || b === null ? null : b - a;
  const tone = !change ? "" : change > 0 === !lowerIsBetter(name) ? "good" : "bad";
  const quality = name !== "examples" && name !== "unscored";
  const cell = h("span", {}, change === null ? "–" : quality ? metricDelta(name, change) : delta(change));
  mark(cell, { class: quality ? tone : null });
  return [metricName(name), metric(name, a), metric(name, b), cell];
}

function moved(one) {
  const share = one.relative === null ? (one.moved === null ? "shape differs" : "–") : percent(one.relative);
  return [h("code", {}, one.name), one.shape.join(" × ") || "1", one.moved === null ? "–" : number(one.moved), share];
}
