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
  ["Asking", "Whether questions are asked, and how pairs are chosen. Asking stops while random questions promise almost nothing; a selector goes off while chosen pairs are worth less than random ones.",
    ({ asking }) => asking && (asking.state === "stopped" ? "stopped" : asking.selector === asking.configured ? `on, ${asking.selector}` : `random, ${asking.configured} is off`)],
  ["Prompts left out", "Prompts in the file that are longer than the limit.",
    ({ asking }) => asking?.skipped_prompts > 0 && `${count(asking.skipped_prompts)} of ${count(asking.prompts)}`],
  ["Judge and people", "The share of pairs on which the judge and a person gave the same verdict, with its interval, which may be looked at after each pair.",
    ({ asking }) => { const one = asking?.agreement.at(-1); return one && `${percent(one.share, 0)}, ${percent(one.low, 0)} to ${percent(one.high, 0)}, ${count(one.pairs)} pairs`; }],
  ["Judge", "Why the judge gives no verdict.",
    ({ asking }) => asking?.judge?.trouble],
];

/** Create the card: {element, update(status)}; it stays hidden for loops that learn no preferences. */
export function preferences() {
  const cells = LINES.map(() => [h("dt", { hidden: true }), h("dd", { hidden: true })]);
  LINES.forEach(([name, help], i) => fill(cells[i][0], name, why(name.toLowerCase(), help)));
  const labels = h("span", { class: "soft small" });
  const kl = byLabels("KL to the anchor and its budget");
  const shape = byLabels("Entropy of an answer");
  const people = annotators();
  const costs = spending();
  const samples = h("div", { class: "samples", hidden: true });
  const element = h("section", { class: "card preference", hidden: true, "aria-labelledby": "preference" },
    h("header", {}, h("h2", { id: "preference" }, "Preferences"), labels, h("a", { class: "button small end", href: "label" }, "Judge answers")),
    h("div", { class: "three" }, h("dl", { class: "pairs" }, cells),
      h("div", {}, h("h3", {}, "KL to the anchor"), kl.element, h("h3", {}, "Entropy"), shape.element),
      h("div", { class: "people" }, people.element, costs.element)),
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
      people.update(found.asking?.annotators ?? found.annotators ?? []);
      costs.update(found.asking?.sources ?? []);
      mark(samples, { hidden: !found.samples?.length });
      fillSamples(samples, found.samples ?? []);
    },
  };
}

/** Return the figures of the status that are about duels and judgements, as the card names them. */
function judged({ duels = [], strange, brier = {}, lag }) {
  const win = duels[0]?.win;
  return {
    win: win && { share: win.value, low: win.low, high: win.high },
    ood: strange,
    brier: { fresh: brier.random, old: brier.again },
    lag: lag?.seconds,
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
    const cells = [h("th", { scope: "row" }, name, " ", chip), ...Array.from({ length: 4 }, () => h("td", { class: "number" }))];
    return {
      element: h("tr", {}, cells),
      update(one) {
        put(name, shortened(one));
        mark(name, { title: one.source || null });
        put(chip, one.named);
        mark(chip, { hidden: !one.named, class: `chip ${NAMED[one.named] ?? ""}` });
        [short(one.judged), percent(one.reliability, 0), known(one.consistency) ? percent(one.consistency, 0) : "–", known(one.seconds) && !one.source?.startsWith("judge/") ? duration(one.seconds) : "–"].forEach((text, i) => put(cells[i + 1], text));
        mark(cells[3], { hidden: !one.repeats });
        mark(cells[4], { hidden: !one.timed });
      },
    };
  });
  const headings = ["judged", "reliability", "same again", "time"].map((text) => h("th", { scope: "col", class: "number" }, text));
  const element = h("div", {}, h("h3", {}, "Annotators", why("the reliability", "How often an annotator reports the true preference, estimated from the predictions of the model before it learned each label. Random and inverted annotators are marked, and count less. The column “same again” is the share of repeated pairs that were judged as before.")),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Annotators" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "source"), headings)), body)));
  return {
    element,
    update(found) {
      mark(element, { hidden: !found.length });
      const timed = found.some((one) => known(one.seconds));
      const repeats = found.some((one) => known(one.consistency));
      mark(headings[2], { hidden: !repeats });
      mark(headings[3], { hidden: !timed });
      rows(found.map((one) => ({ ...one, timed, repeats })), (one) => one.digest);
    },
  };
}

/** Return the name of a source without its kind; a judge's without its digest, which the title shows. */
function shortened({ source, digest }) {
  if (!source) return `…${digest.toString(16).slice(-6)}`;
  return source.startsWith("people/") ? source.slice(7) : source.split("@")[0];
}

/** Create the table of what people and the judge cost. */
function spending() {
  const body = h("tbody");
  const rows = list(body, () => {
    const cells = [h("th", { scope: "row" }), ...Array.from({ length: 4 }, () => h("td", { class: "number" }))];
    return {
      element: h("tr", {}, cells),
      update(one) {
        const hour = one.budget ? `${number(one.hour)} of ${number(one.budget)}` : number(one.hour);
        [one.kind, short(one.labels), number(one.spent), hour, known(one.win_per_unit) ? number(100 * one.win_per_unit) : "–"].forEach((text, i) => put(cells[i], text));
      },
    };
  });
  const headings = ["labels", "spent", "this hour", "win per unit"].map((text) => h("th", { scope: "col", class: "number" }, text));
  const element = h("div", { hidden: true }, h("h3", {}, "Spend", why("the spend", "What judgements have cost, in the unit of their prices. Win per unit is in percentage points: the present win in duels above 50 %, divided among sources by their labels, for each unit spent.")),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Spend" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "source"), headings)), body)));
  return {
    element,
    update(found) {
      const used = found.filter((one) => one.labels);
      mark(element, { hidden: !used.length });
      rows(used, (one) => one.kind);
    },
  };
}
