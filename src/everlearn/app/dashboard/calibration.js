// The champion's probabilities against what came: the reliability curve, and the metrics of each segment.

import { chart } from "./chart.js";
import { h, list, mark, put, why } from "./dom.js";
import { count, counted, known, metric, metricName, number, percent } from "./format.js";
import { HELP } from "./words.js";

const FEWEST = 20; // weight of a range of probabilities below which its share is mostly chance
const MOST = 20; // segments shown

/** Create the card of the reliability curve, hidden while fewer than two ranges have enough rows. */
export function calibration() {
  const drawn = chart({
    label: "Observed share against predicted probability",
    height: 220,
    formats: { x: (value) => `predicted ${percent(value)}`, tick: (value) => percent(value, 0), y: percent, yTick: (value) => percent(value, 0), latest: "" },
  });
  const note = h("p", { class: "small soft" });
  const element = h("section", { class: "card w6 wide", hidden: true, "aria-labelledby": "reliability" },
    h("header", {}, h("h2", { id: "reliability" }, "Are the probabilities right?"), why("the reliability curve", HELP.reliability)), drawn.element, note);
  return {
    element,
    update(status) {
      const { weight = [], predicted = [], observed = [] } = status.reliability ?? {};
      const used = weight.flatMap((one, i) => (one >= FEWEST ? [i] : []));
      mark(element, { hidden: used.length < 2 });
      if (used.length < 2) return;
      const of = (line) => used.map((i) => line[i]);
      const x = of(predicted);
      drawn.update({ x, y: [0, 1], domain: [0, 1], lines: [
        { name: "as predicted", tone: "frozen", dashed: true, values: x },
        { name: status.task === "binary" ? `observed share of ${status.classes[1]}` : "share of right answers", tone: "champion", bold: true, values: of(observed) }] });
      const error = status.metrics?.champion?.ece;
      put(note, `Horizontal: predicted probability.${known(error) ? ` Mean gap: ${number(100 * error, 2)} points.` : ""}`);
    },
  };
}

/** Create the card of the segments, hidden where metrics are not split. */
export function segments() {
  const body = h("tbody");
  const heads = Array.from({ length: 2 }, () => h("th", { class: "number", scope: "col" }));
  const more = h("p", { class: "small soft" });
  let numbers = [];
  const rows = list(body, () => {
    const cells = [h("th", { scope: "row" }), ...Array.from({ length: 5 }, () => h("td", { class: "number" }))];
    return {
      element: h("tr", {}, cells),
      update([name, one]) {
        const mean = (value) => (numbers[0] === "mae" ? number(value) : percent(value));
        [name, count(one.examples), ...numbers.map((key) => metric(key, one[key])), mean(one.predicted), mean(one.observed)].forEach((text, i) => put(cells[i], text));
      },
    };
  });
  const element = h("section", { class: "card w6", hidden: true, "aria-labelledby": "segments" },
    h("header", {}, h("h2", { id: "segments" }, "Segments"), why("segments", HELP.segments)),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": "segments" }, h("table", { class: "fits" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "segment"), h("th", { scope: "col", class: "number" }, "examples"), heads, ["predicted", "observed"].map((text) => h("th", { scope: "col", class: "number" }, text)))), body)), more);
  return {
    element,
    update(status) {
      const found = Object.entries(status.segments ?? {});
      mark(element, { hidden: !found.length });
      if (!found.length) return;
      numbers = "mae" in found[0][1] ? ["mae", "rmse"] : ["accuracy", "log_loss"];
      heads.forEach((one, i) => put(one, numbers[i] === "mae" ? "MAE" : numbers[i] === "rmse" ? "RMSE" : metricName(numbers[i])));
      rows(found.slice(0, MOST), ([name]) => name);
      put(more, found.length > MOST ? `The ${MOST} largest of ${counted(found.length, "segment")}.` : "");
    },
  };
}
