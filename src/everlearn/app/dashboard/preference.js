// The card of loops that learn preferences: win, distance to the anchor, reward model, answers, annotators.

import { chart } from "./chart.js";
import { fill, h, list, mark, put, why } from "./dom.js";
import { count, duration, known, number, percent, short } from "./format.js";

const NAMED = { random: "warn", inverted: "bad" };

// name, explanation, text for what the status holds; null hides the line
const LINES = [
  ["Win", "The share of duels that the answers of the present version win against those of the version it is compared with, with its interval; ties count half.",
    ({ win }) => known(win?.share) && `${percent(win.share)}${known(win.low) ? `, ${percent(win.low)} to ${percent(win.high)}` : ""}`],
  ["KL to the anchor", "How far the policy has moved from the weights it started from, in nats per answer, and the budget that it may use.",
    ({ policy }) => known(policy?.kl) && `${number(policy.kl)}${known(policy.budget) ? ` of ${number(policy.budget)}` : ""} nats`],
  ["Out of distribution", "The share of answers that are unlike all that the reward model has learned from. Its scores say little about them.",
    ({ ood }) => known(ood) && percent(ood)],
  ["Brier of the reward model", "On random pairs, before their judgement is learned; and on old pairs that are asked again. Lower is better; always saying one half gives 0.25.",
    ({ brier }) => known(brier?.fresh) && `${number(brier.fresh)} fresh${known(brier.old) ? `, ${number(brier.old)} old` : ""}`],
  ["Length", "The mean length of an answer in tokens, and the share of answers that the limit cut.",
    ({ policy }) => known(policy?.length) && `${number(policy.length)} tokens, ${percent(policy.cut, 0)} cut`],
  ["Entropy", "The randomness of an answer, in nats. A fall to nearly nothing means that the policy repeats itself.",
    ({ policy }) => known(policy?.entropy) && `${number(policy.entropy)} nats`],
  ["Distinct answers", "The share of the answers to one prompt that differ from each other.",
    ({ policy }) => known(policy?.distinct) && percent(policy.distinct, 0)],
  ["Lag of labels", "The recent mean time from a question to its judgement.",
    ({ lag }) => known(lag) && duration(lag)],
  ["Spend", "What the judgements of all sources have cost, in the unit of their prices.",
    ({ spend }) => known(spend) && number(spend)],
];

/** Create the card: {element, update(status)}; it stays hidden for loops that learn no preferences. */
export function preferences() {
  const cells = LINES.map(() => [h("dt", { hidden: true }), h("dd", { hidden: true })]);
  LINES.forEach(([name, help], i) => fill(cells[i][0], name, why(name.toLowerCase(), help)));
  const labels = h("span", { class: "soft small" });
  const kl = byLabels("KL to the anchor and its budget");
  const shape = byLabels("Entropy of an answer");
  const people = annotators();
  const samples = h("div", { class: "samples", hidden: true });
  const element = h("section", { class: "card preference", hidden: true, "aria-labelledby": "preference" },
    h("header", {}, h("h2", { id: "preference" }, "Preferences"), labels, h("a", { class: "button small end", href: "label" }, "Judge answers")),
    h("div", { class: "three" }, h("dl", { class: "pairs" }, cells),
      h("div", {}, h("h3", {}, "KL to the anchor"), kl.element, h("h3", {}, "Entropy"), shape.element),
      people.element),
    samples);
  return {
    element,
    update(status) {
      const found = status.task === "preference" ? status.preference : null;
      mark(element, { hidden: !found });
      if (!found) return;
      const all = { ...found, ...judged(found) };
      LINES.forEach(([, , text], i) => {
        const shown = text(all);
        for (const cell of cells[i]) mark(cell, { hidden: !shown });
        if (shown) put(cells[i][1], shown);
      });
      put(labels, `${count(Math.floor(found.labels))} labels, ${count(Math.floor(found.trusted))} of them trusted, in ${count(found.rounds)} rounds`);
      const { labels: x = [], kl: moved, budget, entropy } = found.curves ?? {};
      kl.update({ x, lines: [{ name: "budget", tone: "frozen", dashed: true, values: budget }, { name: "KL", tone: "champion", bold: true, values: moved }] });
      shape.update({ x, lines: [{ name: "entropy", tone: "champion", bold: true, values: entropy }] });
      people.update(found.annotators ?? []);
      mark(samples, { hidden: !found.samples?.length });
      fillSamples(samples, found.samples ?? []);
    },
  };
}

/** Return the figures of the status that are about duels and judgements, as the card names them. */
function judged({ duels = [], strange, brier = {}, lag, spend = {} }) {
  const win = duels[0]?.win;
  const prices = Object.values(spend);
  return {
    win: win && { share: win.value, low: win.low, high: win.high },
    ood: strange,
    brier: { fresh: brier.random, old: brier.again },
    lag: lag?.seconds,
    spend: prices.length ? prices.reduce((sum, one) => sum + one, 0) : null,
  };
}

/** Create a chart of nats over the labels learned. */
const byLabels = (label) => chart({
  label, height: 130, none: "The chart starts with the second round",
  formats: { x: (value) => `at label ${count(value)}`, tick: short, y: (value) => `${number(value)} nats`, yTick: (value) => number(value, 2), latest: "" },
});

function fillSamples(element, samples) {
  const key = JSON.stringify(samples);
  if (element.dataset.key === key) return; // an unchanged text can be selected
  element.dataset.key = key;
  fill(element, h("h3", {}, "Sample answers"), samples.map(({ prompt, answer }) => h("div", { class: "sample" }, h("p", { class: "soft" }, prompt), h("p", {}, answer))));
}

function annotators() {
  const body = h("tbody");
  const rows = list(body, () => {
    const name = h("span");
    const chip = h("span", { class: "chip", hidden: true });
    const cells = [h("th", { scope: "row" }, name, " ", chip), ...Array.from({ length: 3 }, () => h("td", { class: "number" }))];
    return {
      element: h("tr", {}, cells),
      update(one) {
        put(name, one.name ?? `…${one.digest.toString(16).slice(-6)}`);
        put(chip, one.named);
        mark(chip, { hidden: !one.named, class: `chip ${NAMED[one.named] ?? ""}` });
        [short(one.judged), percent(one.reliability, 0), duration(one.seconds)].forEach((text, i) => put(cells[i + 1], text));
        mark(cells[3], { hidden: !one.timed });
      },
    };
  });
  const headings = ["judged", "reliability", "time"].map((text) => h("th", { scope: "col", class: "number" }, text));
  const element = h("div", { class: "people" }, h("h3", {}, "Annotators", why("the reliability", "How often an annotator reports the true preference, estimated from the predictions of the model before it learned each label. Random and inverted annotators are marked, and count less.")),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Annotators" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "source"), headings)), body)));
  return {
    element,
    update(found) {
      mark(element, { hidden: !found.length });
      const timed = found.some((one) => known(one.seconds));
      mark(headings[2], { hidden: !timed });
      rows(found.map((one) => ({ ...one, timed })), (one) => one.digest);
    },
  };
}
