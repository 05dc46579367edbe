// The overview: quality, champion, staleness and latency first, then the details.

import { actions } from "./bandit.js";
import { calibration, segments } from "./calibration.js";
import { chart } from "./chart.js";
import { pause } from "./commands.js";
import { bone, empty, fill, h, list, mark, put, why } from "./dom.js";
import { brief, bytes, count, counted, duration, known, metric, metricDelta, metricName, number, percent, short } from "./format.js";
import { gate } from "./gate.js";
import { preferences } from "./preference.js";
import { ticks, trend } from "./scale.js";
import { HELP, installed, ROLES, summary } from "./words.js";
import { series } from "./series.js";

const SILENT = 2; // seconds without a new status after which the learner is shown as silent
const LINES = { champion: "champion", challenger: "challenger", frozen: "frozen start", majority: "majority class", mean: "mean", last_label: "last label", seasonal: "one season ago" };
const NAIVE = { majority: "other", mean: "other", last_label: "rollback", seasonal: "promotion" };

export function overview(context) {
  const hero = answering(context);
  const curves = quality();
  const [verdicts, people, labels] = [gate(), contestants(), state()];
  const side = { element: h("div", { class: "side" }, people.element, labels.element), update: (status) => { people.update(status); labels.update(status); } };
  const rewards = actions();
  const parts = [hero, curves, rewards, preferences(), verdicts, side, ...series(), workers(), calibration(), segments()];
  const brief = [hero, curves, rewards, verdicts]; // on a phone, until the user wants the rest
  const all = h("button", { type: "button", class: "all", "aria-expanded": "false", onclick: () => mark(grid, { "data-all": true }) }, "Show labels, latency and the other cards");
  const none = empty("No events yet", "Send predictions, then labels for them. They appear on this page within a second.",
    "POST /predict   {\"features\": {…}}\nPOST /feedback  {\"id\": \"…\", \"label\": …}");
  const start = h("section", { class: "card", hidden: true }, none);
  for (const one of parts) if (!brief.includes(one)) one.element.classList.add("rest");
  const grid = h("div", { class: "grid" }, hero.element, start, parts.slice(1).map((one) => one.element), all);
  return {
    title: "Overview",
    element: grid,
    update({ status }) {
      if (!status) return;
      const { prediction = 0, example = 0 } = status.counts ?? {};
      const fresh = !prediction && !example && !status.examples;
      mark(start, { hidden: !fresh });
      mark(all, { hidden: fresh });
      for (const one of parts) {
        if (one !== hero) mark(one.element, { hidden: fresh });
        one.update(status); // a card may hide itself
      }
    },
  };
}

function fact(name, help, key) {
  const value = h("dd", { class: "value", "data-value": key }, bone());
  const more = h("dd", { class: "more" });
  const element = h("div", { class: "fact" }, h("dt", {}, name, why(name.toLowerCase(), help)), value, more);
  return { element, show: (text, rest, alarm = false) => { put(value, text); put(more, rest); mark(element, { "data-alarm": alarm }); }, value };
}

function figure(name, main = false) {
  const value = h("span", { class: "value" }, bone());
  const label = h("span", { class: "name" }, name);
  return { element: h("div", { class: main ? "figure main" : "figure" }, value, label), value, label };
}

function answering(context) {
  const badge = h("span", { class: "badge", "aria-hidden": "true" });
  const title = h("span", {}, "Loading…");
  const now = figure("", true);
  const gain = figure("against the baseline");
  const halt = h("button", { type: "button", class: "small", onclick: () => pause((text) => { context.announce(text); context.refresh(); }) }, "Pause learning");
  const lately = figure("recent");
  const sentence = h("p", { class: "sentence" }, "");
  const serves = fact("Champion", HELP.serves, "serves");
  const fresh = fact("Staleness", HELP.fresh, "fresh");
  const speed = fact("Latency", HELP.speed, "speed");
  const lag = fact("Lag", HELP.lag, "lag");
  const link = h("a", { href: "#/versions", class: "id" });
  let champion = null;
  const element = h("section", { class: "card hero", "aria-labelledby": "answer" },
    h("div", {}, h("h1", { id: "answer" }, badge, title), h("div", { class: "figures" }, now.element, gain.element, lately.element), sentence, h("p", { class: "halt rest" }, halt, why("pausing", HELP.pause))),
    h("dl", { class: "facts" }, [serves, fresh, speed, lag].map((one) => one.element)));
  return {
    element,
    update(status) {
      const found = summary(status);
      mark(badge, { "data-tone": found.tone });
      put(title, found.title);
      for (const [one, value] of [[now, found.now], [gain, found.gain], [lately, found.lately]]) mark(one.element, { "data-unknown": value === null });
      put(now.value, metric(status.metric, found.now));
      put(now.label, `${metricName(status.metric)} of the champion`);
      const compared = found.gain;
      put(gain.value, compared ? metricDelta(compared.metric, compared.difference) : "–");
      put(gain.label, compared ? `${compared.metric === status.metric ? "" : `${metricName(compared.metric)} `}against ${LINES[compared.baseline]}` : "against the baseline");
      mark(gain.value, { class: `value ${found.tone}` });
      mark(halt.parentNode, { hidden: Boolean(status.paused) });
      mark(halt, { disabled: !context.may("admin"), title: context.may("admin") ? null : "Needs a token with the scope admin" });
      put(lately.value, metric(status.metric, found.lately));
      put(sentence, found.sentence);
      const id = status.aliases?.champion;
      if (id !== champion || !link.isConnected) {
        if (champion && id) context.announce(`The champion is now ${brief(id)}.`);
        champion = id;
        put(link, brief(id));
        fill(serves.value, id ? link : "none yet");
      }
      const promoted = installed(status);
      const first = status.mode === "live" ? "learns while it serves" : "the first version";
      put(serves.element.lastChild, promoted ? `since example ${count(promoted.at)}` : id ? first : status.mode);
      const { seconds, bound, broken } = status.staleness ?? {};
      const silent = status.age >= SILENT ? `learner silent for ${duration(Math.round(status.age))}` : "";
      fresh.show(duration(seconds), broken ? `ALARM: bound ${duration(bound)}` : `bound: ${duration(bound)}`, broken);
      const { requests_per_second: rate, p50, p99 } = status.traffic ?? {};
      speed.show(known(p99) ? `${duration(p99)} at p99` : "no requests", `${known(p50) ? `p50 ${duration(p50)}, ` : ""}${number(rate ?? 0)} requests/s`);
      lag.show(counted(status.lag?.events, "event"), silent || `learner: ${short(Math.round(status.learner?.events_per_second ?? 0))} events/s`, Boolean(silent));
    },
  };
}

function quality() {
  const drawn = chart({
    label: "Quality over the stream",
    height: matchMedia("(width < 760px)").matches ? 160 : 330,
    xTicks: (low, high, wanted) => ticks(low, high, wanted).filter(Number.isInteger),
    none: "The chart starts with the second point",
    formats: {
      x: (value) => `at example ${count(value)}`,
      tick: (value) => (value < 1e6 ? count(value) : short(value)),
      y: (value) => metric(shown.name, value),
      yTick: (value) => (metric(shown.name, 0.5) === "50.0%" ? percent(value, 0) : number(value, 2)),
      latest: "",
    },
  });
  const shown = { name: "accuracy", all: true, status: null };
  const title = h("h2", {}, "Quality over the stream");
  const choices = h("div", { class: "switch", role: "group", "aria-label": "Metric" });
  const ranges = h("div", { class: "switch rest", role: "group", "aria-label": "Range" },
    [["Whole stream", true], ["Latest quarter", false]].map(([text, all]) => h("button", { type: "button", "aria-pressed": all, onclick: () => { shown.all = all; draw(); } }, text)));
  const element = h("section", { class: "card", "aria-label": "Quality over the stream" },
    h("header", {}, title, why("prequential quality", HELP.prequential), h("div", { class: "end filters" }, choices, ranges)), drawn.element,
    h("p", { class: "small soft rest" }, "Faint: mean of each interval. Bold: mean of five intervals. Horizontal: labelled examples."));

  function draw() {
    const { status, name, all } = shown;
    ranges.childNodes.forEach((one, i) => mark(one, { "aria-pressed": String((i === 0) === all) }));
    choices.childNodes.forEach((one) => mark(one, { "aria-pressed": String(one.dataset.name === name) }));
    const curves = status.curves ?? {};
    const x = [...new Set(Object.values(curves).flatMap((one) => one.x ?? []))].sort((a, b) => a - b);
    const from = all ? 0 : x[Math.floor(x.length * 0.75)] ?? 0;
    const used = x.filter((one) => one >= from);
    const lines = Object.entries(LINES).filter(([role]) => curves[role]?.[name]?.length && !(role === "challenger" && status.mode === "live"))
      .map(([role, text]) => ({ name: text, tone: NAIVE[role] ?? role, bold: role === "champion", dashed: role === "frozen" || role in NAIVE, ...along(used, curves[role], name) })).reverse();
    const marks = (status.marks ?? []).map((one) => ({ x: one.at, kind: one.kind, text: `${one.kind} ${one.version ? brief(one.version) : ""}`.trim() }));
    drawn.update({ x: used, lines, marks: marks.filter((one) => one.x >= from), domain: used.length ? [all ? 0 : used[0], used[used.length - 1]] : null });
  }

  return {
    element,
    update(status) {
      const offered = Object.keys(status.curves?.champion ?? {}).filter((one) => !["x", "count", "weight"].includes(one));
      if (offered.length && choices.childNodes.length !== offered.length) {
        shown.name = offered.includes(status.metric) ? status.metric : offered[0];
        fill(choices, offered.map((name) => h("button", { type: "button", "data-name": name, onclick: () => { shown.name = name; draw(); } }, metricName(name))));
      }
      shown.status = status;
      draw();
    },
  };
}

/** Return the smoothed and the raw values of a curve at each x of the chart; null without a point. */
function along(x, curve, name) {
  const smooth = trend(curve[name], curve.weight ?? curve[name].map(() => 1));
  const at = new Map(curve.x.map((one, i) => [one, i]));
  const taken = (values) => x.map((one) => (at.has(one) ? values[at.get(one)] : null));
  return { values: taken(smooth), faint: taken(curve[name]) };
}

/** Return a line for each member of a mix: its family, with its place where there are several, and its weight. */
function members(found) {
  const families = found.map((one) => one.name.replace(/^\d+ /, ""));
  const name = (i) => (families.filter((one) => one === families[i]).length > 1 ? found[i].name : families[i]);
  return found.map((one, i) => `${name(i)} ${one.resting ? "at rest" : one.weight.toFixed(2)}`);
}

function contestants() {
  const body = h("tbody");
  const title = h("th", { class: "number", scope: "col" });
  const rows = list(body, () => {
    const cells = [h("td"), h("td", { class: "id" }), h("td", { class: "soft" }), h("td", { class: "number" })];
    return {
      element: h("tr", {}, cells),
      update({ one, status }) {
        put(cells[0], ROLES[one.role] ?? one.role);
        put(cells[1], brief(one.version));
        const lines = [`${one.family}, ${one.learns ? "learning" : "frozen"}`, ...members(one.members ?? [])];
        if (cells[2].textContent !== lines.join("")) fill(cells[2], lines.map((line, i) => h("div", { class: i ? "small" : "" }, line)));
        put(cells[3], metric(status.metric, status.metrics?.[one.role]?.[status.metric]));
      },
    };
  });
  return {
    element: h("section", { class: "card", "aria-labelledby": "roster" }, h("header", {}, h("h2", { id: "roster" }, "Roster"), why("the roster", HELP.contestants)),
      h("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": "roster" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "role"), h("th", { scope: "col" }, "version"), h("th", { scope: "col" }, "model"), title)), body))),
    update(status) {
      put(title, metricName(status.metric));
      rows((status.contestants ?? []).map((one, i) => ({ one, status, key: `${one.role}${i}` })), (value) => value.key);
    },
  };
}

function state() {
  const shown = ["drift", "labelled", "waiting", "quarantined", "capped", "rejected", "evicted", "early"];
  const names = { drift: "Drift", labelled: "Labelled predictions", waiting: "Waiting for feedback", quarantined: "Quarantined labels", capped: "Capped labels", rejected: "Rejected rows", evicted: "Evicted predictions", early: "Early feedback" };
  const cells = Object.fromEntries(shown.map((key) => [key, h("dd", { "data-value": key }, bone())]));
  const chip = h("span", { class: "chip" });
  return {
    element: h("section", { class: "card", "aria-labelledby": "state" }, h("header", {}, h("h2", { id: "state" }, "Stream and labels")),
      h("dl", { class: "pairs" }, shown.flatMap((key) => [h("dt", {}, names[key], why(names[key].toLowerCase(), HELP[key])), cells[key]]))),
    update(status) {
      const { state: now = "stable", drifts = 0 } = status.drift ?? {};
      put(chip, now);
      mark(chip, { class: `chip ${{ stable: "good", warning: "warn", drift: "bad" }[now] ?? ""}` });
      const text = ` ${counted(drifts, "drift")} so far`;
      if (cells.drift.textContent !== now + text) fill(cells.drift, chip, text);
      for (const key of ["waiting", "quarantined", "capped", "evicted", "early"]) put(cells[key], count(status[key] ?? 0));
      put(cells.rejected, count(status.counts?.rejected ?? 0));
      const { share = null, predictions = 0, default: assumed = null } = status.labelling ?? {};
      const open = assumed?.provisional ? `; ${counted(assumed.open, "default label")} may still change` : "";
      put(cells.labelled, share === null ? "–" : `${Math.floor(100 * share)} % of ${count(predictions)}${open}`);
    },
  };
}

function workers() {
  const body = h("tbody");
  const rows = list(body, () => {
    const cells = [h("th", { scope: "row" }), ...Array.from({ length: 5 }, () => h("td", { class: "number" }))];
    return {
      element: h("tr", {}, cells),
      update(one) {
        [one.name, one.requests, one.refused, one.faults, one.p99, one.memory].forEach((text, i) => put(cells[i], text));
        mark(cells[0], { class: one.alive ? null : "bad" });
      },
    };
  });
  return {
    element: h("section", { class: "card w5", "aria-labelledby": "processes" }, h("header", {}, h("h2", { id: "processes" }, "Processes"), why("a process", HELP.workers)),
      h("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": "processes" }, h("table", { class: "fits" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "process"), ["requests", "refused", "failed", "p99", "memory"].map((text) => h("th", { scope: "col", class: "number" }, text)))), body))),
    update(status) {
      const { learner, desk: admin, workers: found = [] } = status;
      const other = (name, memory) => ({ key: name, name, requests: "", refused: "", faults: "", p99: "", memory: bytes(memory), alive: true });
      const shown = found.map((one) => ({ key: `w${one.index}`, name: `worker ${one.index}${one.alive === false ? ": down" : ""}`, requests: short(one.requests), refused: short(one.refused), faults: short(one.faults), p99: duration(one.p99), memory: bytes(one.memory), alive: one.alive !== false }));
      rows([other("learner", learner?.memory), other("admin", admin?.memory), ...shown], (one) => one.key);
    },
  };
}
