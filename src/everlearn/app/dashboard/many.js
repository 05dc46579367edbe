// The page of a server of many loops: a table of all loops, a search, and a link to the dashboard of each.

import { get, remember, remove } from "./api.js";
import { colours } from "./colours.js";
import { empty, fill, h, mark, put } from "./dom.js";
import { count, metric, metricName, moment } from "./format.js";
import { login } from "./login.js";

const PAGE = 100; // loops requested at a time
const EVERY = 2000; // milliseconds between two refreshes
const TYPING = 200; // milliseconds without a key after which a search begins

const main = document.getElementById("content");
const leave = document.getElementById("logout");
const announcer = document.getElementById("announcer");

let pages = 1; // that are shown
let newest = 0; // the number of the last request: an older reply is dropped

const search = h("input", { type: "search", id: "search", placeholder: "Part of a name", "aria-label": "Search loops", maxlength: 48, spellcheck: "false" });
const shown = h("p", { class: "soft", role: "status", id: "counts" });
const note = h("p", { class: "note bad", role: "alert", hidden: true });
const body = h("tbody", {});
const table = h("table", { class: "loops" }, h("caption", { class: "unseen" }, "All loops"),
  h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "loop"), h("th", { scope: "col" }, "state"), h("th", { scope: "col", class: "number" }, "position"),
    h("th", { scope: "col", class: "number" }, "champion"), h("th", { scope: "col" }, "last used"))), body);
const more = h("button", { type: "button", hidden: true, id: "more" }, "Show more");
const none = empty("This server has no loop yet",
  "Create one with a request, or put its settings into the file NAME.toml in the folder of the server. The request takes the settings from everlearn.toml in that folder; where the server has tokens, send one with the scope admin.",
  `curl ${location.origin}/loops/NAME -H 'Content-Type: application/json' -d '{}'`);
const results = h("div", { class: "scroll fits" }, table);
const element = h("div", { class: "stack" },
  h("div", { class: "head" }, h("h1", {}, "Loops"), h("div", { class: "filters" }, search), h("p", { class: "lead" }, "Every loop of this server. Choose one to see its own numbers.")),
  note, h("section", { class: "card", "aria-label": "All loops" }, shown, none, results, more));

const row = (one) => h("tr", { "data-loop": one.name },
  h("th", { scope: "row" }, h("a", { href: `loops/${one.name}/` }, one.name)),
  h("td", {}, one.resident ? "in memory" : "on disk"),
  h("td", { class: "number", "data-is": "position" }, count(one.position)),
  h("td", { class: "number", "data-is": "champion" }, one.value === null ? "–" : `${metric(one.metric, one.value)} ${metricName(one.metric)}`),
  h("td", { "data-is": "last used" }, one.used === null ? "never" : moment(one.used)));

/** Read the pages that are shown, and show them; return false if the page must log in first. */
async function load() {
  const number = ++newest;
  const wanted = encodeURIComponent(search.value.trim());
  const found = [];
  let page = { next: "", total: 0, resident: 0 };
  try {
    for (let at = 0; at < pages && page.next !== null; at++) {
      page = await get(`loops?limit=${PAGE}&search=${wanted}&after=${encodeURIComponent(page.next)}`);
      found.push(...page.loops);
    }
  } catch (problem) {
    if (problem.status === 401) return false;
    if (number === newest) show(`${problem.title}. ${problem.message}`);
    return true;
  }
  if (number !== newest) return true;
  show("");
  fill(body, found.map(row));
  mark(results, { hidden: !found.length });
  mark(none, { hidden: page.total > 0 || search.value.trim() !== "" });
  mark(shown, { hidden: !none.hidden });
  put(shown, `${count(page.total)} ${page.total === 1 ? "loop" : "loops"}${search.value.trim() ? " with this name" : ""}, ${count(page.resident)} in memory`);
  mark(more, { hidden: page.next === null });
  return true;
}

function show(text) {
  put(note, text);
  mark(note, { hidden: !text });
}

const context = {
  go: () => open(),
  async entered(session) {
    remember(session?.csrf);
    mark(leave, { hidden: !session || session.open });
  },
};

function locked() {
  const entrance = login(context, "scope read shows the loops; scope admin also allows changes");
  fill(main, entrance.element);
}

async function open() {
  if (!(await load())) return locked();
  if (!element.isConnected) fill(main, element);
  return null;
}

let typing = 0;
search.addEventListener("input", () => {
  clearTimeout(typing);
  pages = 1;
  typing = setTimeout(open, TYPING);
});
more.addEventListener("click", () => {
  pages += 1;
  load();
});
leave.addEventListener("click", async () => {
  await remove("session");
  location.reload();
});
colours(document.getElementById("theme"), (text) => put(announcer, text));
try {
  await context.entered(await get("session"));
} catch (problem) {
  if (problem.status !== 401) show(problem.message);
}
await open();
setInterval(() => { if (element.isConnected && !document.hidden) open(); }, EVERY);
