// The page on which people judge pairs of answers: session, name of the annotator, and the board.

import { get, remember, remove } from "./api.js";
import { board } from "./board.js";
import { colours } from "./colours.js";
import { fill, h, mark, put } from "./dom.js";
import { login } from "./login.js";

const NAME = "everlearn-annotator"; // in the storage of the browser
const HINT = "scope feedback allows judging; scope admin also allows undoing all judgements of an annotator";

const main = document.getElementById("content");
const shell = Object.fromEntries(["person", "theme", "logout", "announcer"].map((id) => [id, document.getElementById(id)]));
let session = null; // the reply of GET /session, or null
let shown = null; // {title, element, leave}

const context = {
  announce: (text) => put(shell.announcer, text),
  may: (scope) => !session || session.open || session.scopes.includes(scope),
  async entered(started) {
    session = started;
    remember(session?.csrf);
    mark(shell.logout, { hidden: !session || session.open });
  },
  go: () => begin(),
  locked: () => show(login(context, HINT, "feedback")),
};

function show(next) {
  shown?.leave?.();
  shown = next;
  mark(shell.person, { hidden: !next.name });
  if (next.name) fill(shell.person, h("span", { class: "unseen" }, "Annotator: "), next.name);
  fill(main, next.element);
  next.begin?.();
  main.querySelector("[autofocus]")?.focus();
}

/** Ask for the name of the annotator, once: the browser remembers it. */
function named() {
  const name = h("input", { type: "text", name: "annotator", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", autocomplete: "nickname", spellcheck: "false", autofocus: true, value: remembered() });
  const form = h("form", {}, h("label", { class: "field" }, "Your name", h("span", { class: "hint" }, "letters, digits, dots, dashes and underscores; recorded with each judgement"), name),
    h("div", { class: "buttons" }, h("button", { class: "main", type: "submit" }, "Start")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      localStorage.setItem(NAME, name.value);
    } catch {
      // Without storage the name is asked again on the next visit.
    }
    show(board(context, name.value));
  });
  return { element: h("section", { class: "card entrance", "aria-labelledby": "entrance" }, h("h1", { id: "entrance" }, "Judge answers"),
    h("p", { class: "soft" }, "You see a prompt and two answers of the model, and say which one is better. The model learns from it at once."), form) };
}

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

async function begin() {
  try {
    await context.entered(await get("session"));
  } catch (problem) {
    if (problem.status === 401) {
      await context.entered(null);
      context.locked();
      return;
    }
  }
  const name = remembered();
  show(name ? board(context, name) : named());
}

colours(shell.theme, context.announce);
shell.person.addEventListener("click", () => show(named()));
shell.logout.addEventListener("click", async () => {
  try {
    await remove("session");
  } finally {
    location.reload();
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
  main.scrollIntoView();
});
await begin();
