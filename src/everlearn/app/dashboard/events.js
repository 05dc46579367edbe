// The page of events: the lifecycle of one prediction, and the newest events.

import { get } from "./api.js";
import { bone, empty, fill, h, list, mark, put } from "./dom.js";
import { brief, count, duration, moment, percent, plain } from "./format.js";
import { ACTIONS } from "./words.js";

const EVERY = 2000; // milliseconds between two requests for the newest events
const PAGE = 30;
const STATES = { queued: ["", "queued"], waiting: ["warn", "waiting for feedback"], learned: ["good", "learned"], corrected: ["good", "corrected"], paused: ["warn", "learning was paused"], settled: ["warn", "weight 0"], left_out: ["bad", "left out"], refused: ["bad", "refused"], early: ["warn", "early feedback"], expired: ["bad", "expired"], evicted: ["bad", "evicted"], quarantined: ["bad", "quarantined"], overdue: ["bad", "overdue"] };
const KINDS = { prediction: "Predictions", label: "Labels", reward: "Rewards", preference: "Preferences", example: "Examples", decision: "Decisions", version: "Versions", rejected: "Rejected" };

export function events(context, rest) {
  let classes = [];
  let timer = 0;
  let left = false;
  const id = h("input", { name: "id", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "id of a prediction", "aria-label": "Id of a prediction" });
  const form = h("form", { role: "search" }, id, h("button", { class: "main", type: "submit" }, "Look up"));
  const lifecycle = h("section", { class: "card", "aria-live": "polite", "aria-label": "Lifecycle", hidden: true });
  const kind = h("select", { "aria-label": "Kind", onchange: () => recent() }, h("option", { value: "" }, "All kinds"), Object.entries(KINDS).map(([key, text]) => h("option", { value: key }, text)));
  const pause = h("button", { class: "small", type: "button", "aria-pressed": "false", onclick: () => { mark(pause, { "aria-pressed": String(pause.getAttribute("aria-pressed") === "false") }); put(pause, paused() ? "Resume" : "Pause"); recent(); } }, "Pause");
  const body = h("tbody", {}, Array.from({ length: 8 }, () => h("tr", {}, h("td", {}, bone()), h("td", {}, bone()), h("td", {}, bone()), h("td", {}, bone()))));
  const table = h("table", { class: "fits" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "position"), h("th", { scope: "col" }, "time"), h("th", { scope: "col" }, "event"), h("th", { scope: "col" }, "about"))), body);
  const none = h("div", { hidden: true });
  const element = h("div", { class: "stack" },
    h("div", { class: "head" }, h("h1", {}, "Events"), h("p", { class: "lead" }, "Look up a prediction by its id or your own key: its features, the answer, the feedback, and if it was learned.")),
    h("section", { class: "card", "aria-label": "Look up" }, h("div", { class: "filters" }, form)), lifecycle,
    h("section", { class: "card", "aria-labelledby": "recent" }, h("header", {}, h("h2", { id: "recent" }, "Newest events"), h("span", { class: "small soft" }, "paused while the pointer is over the table"), h("div", { class: "end filters" }, kind, pause)), h("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": "recent" }, table), none));

  const paused = () => pause.getAttribute("aria-pressed") === "true";
  const held = () => paused() || table.matches(":hover, :focus-within"); // a link must not move away from the pointer

  async function recent() {
    clearTimeout(timer);
    if (left) return;
    try {
      const filter = kind.value ? `&kind=${kind.value}` : "";
      if (!document.hidden && !held()) rows((await get(`events?order=newest&limit=${PAGE}${filter}`)).events);
    } catch (problem) {
      if (body.querySelector(".bone")) fill(body, h("tr", {}, h("td", { colspan: 4 }, h("p", { class: "note bad" }, `${problem.title}. ${problem.message}`))));
    }
    if (!left) timer = setTimeout(recent, EVERY);
  }

  function rows(found) {
    mark(table, { hidden: !found.length });
    mark(none, { hidden: found.length > 0 });
    if (!found.length) fill(none, empty("No events yet", "Events appear here as they are written to the log."));
    if (body.querySelector(".bone, .note")) fill(body);
    show(found, (one) => one.position);
  }

  const show = list(body, (one) => ({
    element: h("tr", {}, h("td", {}, count(one.position)), h("td", { class: "soft" }, moment(one.time)), h("td", {}, describe(one.payload)), h("td", {}, about(one.payload))),
    update: () => {},
  }));

  function about(payload) {
    if (payload.id) return h("a", { class: "id", href: `#/events/${encodeURIComponent(payload.id)}`, "data-id": payload.id }, payload.id.slice(0, 24));
    const version = payload.version?.id ?? payload.version;
    return version ? h("a", { class: "id", href: "#/versions", "data-id": version }, brief(version)) : "";
  }

  /** Show the lifecycle of an id; `aloud` moves the focus to it. */
  async function look(name, aloud = false) {
    id.value = name;
    mark(lifecycle, { hidden: !name });
    if (!name) return;
    fill(lifecycle, h("p", { class: "soft" }, `Looking up ${name} `, bone()));
    try {
      fill(lifecycle, shown(await get(`events/${encodeURIComponent(name)}`), classes));
      if (aloud) lifecycle.querySelector("h2").focus();
    } catch (problem) {
      fill(lifecycle, h("p", { class: "note bad" }, problem.message));
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = id.value.trim();
    if (location.hash === `#/events/${encodeURIComponent(name)}`) look(name, true);
    else context.go(`#/events/${encodeURIComponent(name)}`);
  });
  look(rest);
  recent();
  return {
    title: "Events",
    element,
    turn: (name) => look(name, true),
    update: ({ status }) => { classes = status?.bandit?.actions.map((one) => one.action) ?? status?.classes ?? classes; },
    leave: () => { left = true; clearTimeout(timer); },
  };
}

/** Describe an event in a few words. */
function describe(payload) {
  switch (payload.kind) {
    case "prediction": if (payload.payload?.expected !== undefined || payload.payload?.fallback) return `chose ${plain(payload.value)} (${percent(payload.propensity ?? 1)})${payload.payload.fallback ? ", the fallback" : ""}`;
      return `predicted ${plain(payload.value)}${payload.proba?.length ? ` (${percent(Math.max(...payload.proba))})` : ""}${payload.canary ? ", by the canary" : ""}`;
    case "label": return `label ${plain(payload.value)}`;
    case "reward": return `reward ${plain(payload.value)}`;
    case "preference": return payload.verdict ? `judged: ${payload.verdict}` : payload.chosen < 0 ? "preferred none" : `preferred answer ${payload.chosen}`;
    case "example": return `example with label ${plain(payload.label)}`;
    case "decision": return `${(ACTIONS[payload.action] ?? payload.action).toLowerCase()}: ${payload.reason}`;
    case "version": return "version stored";
    case "rejected": return `rejected: ${payload.reason}`;
    case "erased": return `erased on request (was ${payload.was})`;
    default: return payload.kind;
  }
}

/** Show the reply of GET /events/{id}. */
function shown({ id, state, explanation, events: found, decisions = [] }, classes) {
  const given = found.find((one) => one.payload.kind === "prediction" || one.payload.kind === "example");
  const [tone, word] = STATES[state] ?? ["", state];
  return [
    h("header", {}, h("h2", { tabindex: -1 }, h("span", { class: "id" }, id)), h("span", { class: `chip ${tone}`, "data-value": "state" }, word), h("span", { class: "small soft" }, explanation)),
    h("div", { class: "grid" },
      h("div", { class: "part w7" }, h("h3", {}, "Timeline"), h("ol", { class: "timeline" }, timeline(found, decisions, given, classes))),
      given && h("div", { class: "part w5" }, h("h3", {}, "Features"), h("dl", { class: "pairs small" }, Object.entries(given.payload.features).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, plain(value))])))),
  ];
}

function timeline(found, decisions, given, classes) {
  const own = found.map((one) => ({ at: one.position, element: h("li", { class: one === given ? "answer" : "good" }, h("b", {}, capital(describe(one.payload))), h("div", { class: "small soft" }, when(one, given)), one.payload.kind === "prediction" && answered(one.payload, classes)) }));
  const around = decisions.map((one) => ({ at: one.position, element: h("li", { class: one.action === "drift" || one.action === "rollback" ? "bad" : null }, h("span", { class: "soft" }, `${ACTIONS[one.action] ?? one.action}: ${one.reason}`), h("div", { class: "small soft" }, when(one, given))) }));
  return [...own, ...around].sort((a, b) => a.at - b.at).map((one) => one.element);
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

function when(one, given) {
  const gap = given && one !== given ? one.time - given.time : 0;
  const later = !gap ? "" : gap > 0 ? `, ${duration(gap)} later` : `, ${duration(-gap)} before`;
  const source = one.payload?.source ? `, from ${one.payload.source}` : "";
  const weight = one.payload?.weight !== undefined && one.payload.weight !== 1 ? `, weight ${plain(one.payload.weight)}` : "";
  return `${moment(one.time)}${later} · log position ${count(one.position)}${source}${weight}`;
}

function answered(payload, classes) {
  const by = h("div", { class: "small soft" }, "by version ", h("span", { class: "id" }, payload.version.slice(0, 12)), payload.position ? `, which had learned up to position ${count(payload.position)}` : "",
    payload.propensity !== undefined && payload.propensity !== 1 ? `; chosen with probability ${plain(payload.propensity)}` : "");
  const shares = (payload.proba ?? []).map((share, i) => {
    const bar = h("div", { class: "fill" });
    bar.style.width = `${100 * share}%`;
    return [h("span", {}, String(classes[i] ?? `class ${i}`)), h("div", { class: "track" }, bar), h("span", { class: "number" }, percent(share))];
  });
  return [by, shares.length > 0 && h("div", { class: "shares" }, shares)];
}
