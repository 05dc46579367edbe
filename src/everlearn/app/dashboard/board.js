// The board: a prompt and two answers; one key or button judges the pair, and the next one is there already.

import { get, post } from "./api.js";
import { bone, fill, h, mark, put } from "./dom.js";
import { brief, count, percent } from "./format.js";
import { grown } from "./tree.js";
import { firstAnswer } from "./first_answer.js";
import { undoing } from "./undoing.js";

const PATIENCE = 40000; // milliseconds; the server itself waits 25 s for a pair
const AGAIN = 2000; // milliseconds until the server is asked once more for a pair
const KEYS = { 1: "left", 2: "right", 3: "tie", s: "skip", u: "undo" };
const CHOICES = [["left", "1", "Answer 1 is better"], ["tie", "3", "Tie"], ["right", "2", "Answer 2 is better"], ["skip", "s", "Skip"], ["undo", "u", "Undo"]];
const HEARD = { left: "Answer 1 is better", right: "Answer 2 is better", tie: "Tie", skip: "Skipped" };

/** Create the board of an annotator. */
export function board(context, name) {
  const parts = frame(context, name, act);
  let pair = null; // on the screen
  let coming = null; // the promise of the pair that follows it
  let busy = false;
  let since = 0; // when the pair was shown, in milliseconds
  let left = false; // the board is gone
  let judgedAny = false; // from then on, replies to judgements know the progress better than pairs fetched before them
  let turn = 0; // counts the pairs shown, so that a late reply replaces nothing

  const fetched = (after) => get(`label/next?annotator=${encodeURIComponent(name)}${after ? `&after=${encodeURIComponent(after)}` : ""}`, PATIENCE);

  /** Fetch the pair that follows; a failure shows when it is needed. */
  function ahead() {
    coming = fetched(pair.id);
    coming.catch(() => {});
  }

  function show(next, current) {
    turn += 1;
    pair = next;
    since = performance.now();
    parts.show(next, current);
    ahead();
  }

  /** Show the pair that comes, asking again while the server has none. */
  async function advance(next) {
    turn += 1;
    const mine = turn;
    pair = null;
    parts.waiting("");
    while (!left && turn === mine) {
      try {
        const found = await next;
        if (!left && turn === mine) show(found, !judgedAny);
        return;
      } catch (problem) {
        if (left || turn !== mine) return;
        if (problem.status === 401) return void context.locked();
        parts.waiting(problem.message);
        await new Promise((done) => setTimeout(done, AGAIN));
        next = fetched();
      }
    }
  }

  async function act(what) {
    if (busy || left || (what !== "undo" && !pair)) return;
    busy = true;
    parts.note("");
    try {
      if (what === "undo") await undo();
      else await judge(what);
    } catch (problem) {
      if (problem.status === 401) context.locked();
      else parts.note(problem.message);
    } finally {
      busy = false;
    }
  }

  async function judge(verdict) {
    const seconds = Math.min(86400, (performance.now() - since) / 1000);
    const { body } = await post("label/judge", { id: pair.id, annotator: name, verdict, seconds });
    judgedAny = true;
    parts.judged(verdict, body);
    await soon(advance(coming));
  }

  async function undo() {
    const { body } = await post("label/undo", { annotator: name });
    show(body.pair, true);
    context.announce("The last pair is shown again. Judge it to correct the judgement.");
  }

  // A key may be pressed again while the next pair is still made: an undo must not wait for it.
  const soon = (task) => Promise.race([task, new Promise((done) => setTimeout(done, 50))]);

  function pressed(event) {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    const what = KEYS[event.key.toLowerCase()];
    if (!what || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    parts.pressed(what);
    act(what);
  }

  const back = () => { if (!document.hidden) since = performance.now(); }; // the time in other tabs does not count
  return {
    name,
    element: parts.element,
    begin() {
      addEventListener("keydown", pressed);
      document.addEventListener("visibilitychange", back);
      advance(fetched());
    },
    leave() {
      left = true;
      removeEventListener("keydown", pressed);
      document.removeEventListener("visibilitychange", back);
    },
  };
}

/** Create the elements of the board; `act` gets "left", "right", "tie", "skip" or "undo". */
function frame(context, name, act) {
  const prompt = area("Prompt", "prompt");
  const left = area("Answer 1", "left");
  const right = area("Answer 2", "right");
  const buttons = Object.fromEntries(CHOICES.map(([what, key, text]) => [what, h("button", { type: "button", "data-verdict": what, "aria-keyshortcuts": key, onclick: () => act(what) }, h("kbd", { "aria-hidden": "true" }, key), h("span", {}, text))]));
  const why = h("p", { class: "reason small" }, bone());
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const strip = h("dl", { class: "strip" });
  const first = firstAnswer();
  const element = h("div", { class: "board" },
    h("header", {}, h("h1", { tabindex: -1 }, "Which answer is better?"), strip),
    prompt.element, h("div", { class: "answers" }, left.element, right.element),
    note, why,
    h("div", { class: "verdicts", role: "group", "aria-label": "Your judgement" }, Object.values(buttons)),
    h("div", { class: "more" }, first.element, undoing(context, name, (progress) => shown(progress))));

  function shown(progress, total) {
    const { judged, minute, compared, agreement, shared, with_others: others } = progress;
    const facts = [["judged", count(judged)], ["last minute", count(minute)],
      ["agreement with the model", agreement === null ? "–" : percent(agreement, 0), `of ${count(compared)}`],
      ["with others", others === null ? "–" : percent(others, 0), `of ${count(shared)}`]];
    if (total !== undefined) facts.push(["by all", count(total)]);
    fill(strip, facts.map(([label, value, of]) => h("div", { title: of ?? null, "data-fact": label }, h("dt", {}, label), h("dd", {}, value))));
  }

  return {
    element,
    show(pair, current) {
      prompt.show(pair.trees.prompt);
      left.show(pair.trees.left);
      right.show(pair.trees.right);
      const kind = pair.again ? ["Judged before", "warn"] : pair.arm === "random" ? ["Random check", ""] : ["Chosen", "challenger"];
      fill(why, h("span", { class: `chip ${kind[1]}` }, kind[0]), " ", pair.again ? "Your next judgement corrects the one before." : pair.why, h("span", { class: "version" }, " Version ", h("span", { class: "id" }, brief(pair.version))));
      if (current) shown(pair.progress, pair.total);
      first.show(pair.id);
    },
    waiting(text) {
      for (const one of [prompt, left, right]) one.wait();
      fill(why, text || "The next pair is being made.");
    },
    judged(verdict, { progress, total }) {
      shown(progress, total);
      context.announce(verdict === "skip" ? `Skipped. ${progress.skipped} skipped.` : `${HEARD[verdict]}. ${progress.judged} judged.`);
    },
    note(text) {
      put(note, text);
      mark(note, { hidden: !text });
    },
    pressed(what) {
      const button = buttons[what];
      button.classList.add("pressed");
      setTimeout(() => button.classList.remove("pressed"), 160);
    },
  };
}

/** Create a card that scrolls inside, so that a long answer moves nothing. */
function area(title, place) {
  const id = `${place}-title`;
  const content = h("div", { class: "text", tabindex: 0, role: "group", "aria-labelledby": id }, bone());
  return {
    element: h("section", { class: `card ${place}`, "aria-labelledby": id }, h("h2", { id }, title), content),
    show(nodes) {
      fill(content, nodes.length ? grown(nodes) : h("p", { class: "soft" }, "(empty)"));
      content.scrollTop = 0;
    },
    wait() {
      fill(content, bone());
    },
  };
}
