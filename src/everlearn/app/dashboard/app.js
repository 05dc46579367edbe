// The frame of the dashboard: navigation, connection state, colour theme, session.

import { get, remember, remove } from "./api.js";
import { colours } from "./colours.js";
import { resume } from "./commands.js";
import { fill, mark, put } from "./dom.js";
import { duration } from "./format.js";
import { watch } from "./feed.js";
import { alarms } from "./words.js";
import { overview } from "./overview.js";
import { versions } from "./versions.js";
import { decisions } from "./decisions.js";
import { events } from "./events.js";
import { login } from "./login.js";

const PAGES = { overview, versions, decisions, events, login };

const main = document.getElementById("content");
const shell = Object.fromEntries(["link", "link-text", "theme", "logout", "about", "alarm", "announcer", "paused", "resume"].map((id) => [id, document.getElementById(id)]));
let page = null; // {name, title, element, update, leave}
let session = null; // the reply of GET /session, or null
let feed = null;

/** Parse the address: #/events/abc is page "events" with the rest "abc". */
function route() {
  const [, name = "", ...rest] = location.hash.split("/");
  return { name: name === "" ? "overview" : name, rest: decodeURIComponent(rest.join("/")) };
}

const context = {
  go: (hash) => { location.hash = hash; },
  announce: (text) => put(shell.announcer, text),
  may: (scope) => !session || session.open || session.scopes.includes(scope),
  refresh: () => feed?.now(),
  async entered(started) {
    session = started;
    remember(session?.csrf);
    mark(shell.logout, { hidden: !session || session.open });
    await feed?.now();
  },
};

function show(focus = true) {
  const { name, rest } = route();
  const known = PAGES[name] ? name : "overview";
  if (page?.name === known && page.turn) {
    page.turn(rest);
    return;
  }
  page?.leave?.();
  page = { name: known, ...PAGES[known](context, rest) };
  fill(main, page.element);
  document.title = `${page.title} · Everlearn`;
  for (const link of document.querySelectorAll("nav a")) mark(link, { "aria-current": link.dataset.page === known ? "page" : null });
  if (feed) page.update?.(feed.feed);
  if (!focus) return;
  scrollTo(0, 0);
  const title = main.querySelector("h1");
  mark(title, { tabindex: -1 });
  title.focus();
}

// ---- the connection ---------------------------------------------------------------------------------------------

function linked({ link, silent, problem, status }) {
  mark(document.body, { "data-link": link });
  mark(shell.link, { "data-state": link, title: problem?.message ?? null });
  const learner = silent >= 1 ? `silent for ${Math.round(silent)} s` : "silent";
  put(shell["link-text"], { live: "connected", quiet: `learner ${learner}`, gone: "disconnected", locked: "log in", loading: "connecting" }[link]);
  let alarm = "";
  if (link === "gone") alarm = status ? `The server does not respond. This page shows the state of ${ago(silent)} ago. Trying to reconnect.` : "The server does not respond yet. Trying to connect.";
  else if (link === "quiet") alarm = ["The learner is silent. Predictions are still served; labels are stored in the log and learned later.", ...(status ? alarms(status, true) : [])].join(" ");
  else if (status && link === "live") alarm = alarms(status).join(" ");
  mark(shell.alarm, { hidden: !alarm });
  put(shell.alarm, alarm);
  mark(shell.paused, { hidden: !status?.paused });
  mark(shell.resume, { disabled: !context.may("admin"), title: context.may("admin") ? null : "Needs a token with the scope admin" });
  if (status) put(shell.about, `Everlearn ${status.server?.version ?? ""} · up for ${duration(status.server?.uptime)} · ${status.mode} · log position ${status.position?.toLocaleString("en")}`);
}

// Minutes instead of seconds after a while: screen readers would read out a text that changes every second.
const ago = (seconds) => (seconds < 60 ? "less than a minute" : duration(60 * Math.floor(seconds / 60)));

function changed(news) {
  linked(news);
  if (news.link === "locked" && page?.name !== "login") {
    sessionStorage.setItem("everlearn-after", location.hash);
    location.hash = "#/login";
  }
  page?.update?.(news);
}

// ---- start ------------------------------------------------------------------------------------------------------

/** Load the session; return false if the page must log in first. */
async function loadSession() {
  try {
    await context.entered(await get("session"));
  } catch (problem) {
    if (problem.status === 401) await context.entered(null);
    return problem.status !== 401;
  }
  return true;
}

shell.logout.addEventListener("click", async () => {
  try {
    await remove("session");
  } finally {
    location.hash = "#/login";
    location.reload();
  }
});
shell.resume.addEventListener("click", () => resume((text) => {
  context.announce(text);
  context.refresh();
}));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is used for navigation
  main.focus();
  main.scrollIntoView();
});
addEventListener("hashchange", () => show());
colours(shell.theme, context.announce);
const allowed = await loadSession();
if (!allowed && route().name !== "login") {
  sessionStorage.setItem("everlearn-after", location.hash);
  history.replaceState(null, "", "#/login");
}
show(false);
feed = watch(changed, allowed);
