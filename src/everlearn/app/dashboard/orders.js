// What a person tells the loop to do: dialogs that ask for a reason, send the order, and say what became of it.

import { post, Problem, remove } from "./api.js";
import { fill, h, mark, put } from "./dom.js";
import { brief, counted } from "./format.js";

let dialogs = 0;

/**
 * A dialog with `fields` and a required reason. `order(reason)` sends it and gives the server's answer; `done(text)` is
 * told the result. What the server refuses is shown in the dialog, where it can be mended.
 */
function ask({ title, lead, fields = [], confirm, order, said, done }) {
  const id = `dialog-${++dialogs}`;
  const reason = h("textarea", { rows: 3, required: true, maxlength: 1000, placeholder: "Why? This is kept in the decisions for ever." });
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const send = h("button", { class: "main", type: "submit" }, confirm);
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", { method: "dialog" }, h("h2", { id }, title), h("p", { class: "lead" }, lead),
    h("label", { class: "field" }, "Reason", reason), fields, note, h("div", { class: "buttons" }, send, cancel));
  const dialog = h("dialog", { "aria-labelledby": id }, form);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const why = reason.value.trim();
    if (!why) {
      refuse("Please give a reason.");
      reason.focus();
      return;
    }
    busy(true);
    mark(note, { hidden: true });
    try {
      const { status, body } = await order(why);
      const text = status === 202 ? "The order is in the log; the learner carries it out as soon as it gets there." : said(carried(body));
      dialog.close();
      done(text);
    } catch (problem) {
      refuse(problem.message);
    } finally {
      busy(false);
    }
  });
  dialog.addEventListener("close", () => dialog.remove());

  function refuse(text) {
    put(note, text);
    mark(note, { hidden: false });
  }

  function busy(now) {
    send.disabled = now;
    put(send, now ? "Waiting for the learner…" : confirm);
  }

  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}

/** The decision in which the loop says what it did; raises Problem where it could not. */
function carried({ decision, followed }) {
  const outcome = followed.find((one) => one.detail.order === decision.detail.order) ?? decision;
  if (outcome.action === "reject") throw new Problem(409, "The order was not carried out", outcome.reason);
  return outcome;
}

/** Promote a version. */
export function promote(version, champion, done) {
  ask({
    title: `Promote ${brief(version.id)}?`,
    lead: champion ? `Its answers are given to users from the next request on, in place of ${brief(champion)}'s. The gate is not asked.` : "Its answers are given to users from the next request on.",
    confirm: `Promote ${brief(version.id)}`,
    order: (reason) => post(`versions/${encodeURIComponent(version.id)}/promote`, { reason }),
    said: (outcome) => `${brief(outcome.version)} is now the champion.`,
    done,
  });
}

/** Roll back to the previous champion, or to a version; labels may be left out. */
export function rollback(to, champion, done) {
  const source = h("input", { name: "source", autocomplete: "off", maxlength: 200 });
  const first = h("input", { name: "first", type: "number", min: 1, step: 1, inputmode: "numeric" });
  const last = h("input", { name: "last", type: "number", min: 1, step: 1, inputmode: "numeric" });
  const advanced = h("details", {}, h("summary", {}, "Leave bad labels out"),
    h("p", { class: "small soft" }, "Goes back to the last champion that had learned none of them, and learns what came since again, without them. Name a source, a range of log positions, or both."),
    h("label", { class: "field" }, "Source", h("span", { class: "hint" }, "the name of the token or sender"), source),
    h("div", { class: "row" }, h("label", { class: "field" }, "First position", first), h("label", { class: "field" }, "Last position", last)));
  ask({
    title: `Roll back to ${brief(to)}?`,
    lead: `${brief(to)} answers from the next request on, in place of ${brief(champion)}. Nothing is deleted: you can promote ${brief(champion)} again.`,
    fields: [advanced],
    confirm: `Roll back to ${brief(to)}`,
    order: (reason) => {
      const without = { source: source.value.trim(), first: Number(first.value) || 0, last: Number(last.value) || 0 };
      const some = without.source || without.first || without.last;
      return post("rollback", { reason, ...(some ? { without } : {}) });
    },
    said: ({ version, detail }) => `Rolled back: ${brief(version)} is the champion.${"left_out" in detail ? ` ${counted(detail.again, "label")} learned again, ${counted(detail.left_out, "label")} left out.` : ""}`,
    done,
  });
}

/** Start a challenger from a spec in JSON. */
export function challenge(example, done) {
  const spec = h("textarea", { class: "code", rows: 6, required: true, spellcheck: "false", "aria-describedby": "spec-check" });
  spec.value = JSON.stringify(example, null, 2);
  const check = h("span", { class: "hint", id: "spec-check", "aria-live": "polite" });
  const verify = () => {
    const wrong = mistake(spec.value);
    spec.setCustomValidity(wrong);
    mark(spec, { "aria-invalid": wrong ? "true" : null });
    fill(check, wrong ? h("span", { class: "bad" }, wrong) : "A model spec as in everlearn.toml, written as JSON.");
  };
  spec.addEventListener("input", verify);
  verify();
  ask({
    title: "Start a challenger",
    lead: "It learns in shadow on live traffic. The gate compares it with the champion, and promotes it if it is better.",
    fields: [h("label", { class: "field" }, "Model", check, spec)],
    confirm: "Start challenger",
    order: (reason) => post("challengers", { model: JSON.parse(spec.value), reason }),
    said: (outcome) => `Challenger ${brief(outcome.version)} learns now.`,
    done,
  });
}

/** What is wrong with the text of a model spec; "" if nothing is. */
export function mistake(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
  if (value === null || Array.isArray(value) || typeof value !== "object") return "Expected an object, for instance {\"family\": \"linear\"}.";
  return typeof value.family === "string" && value.family ? "" : "\"family\" is missing, for instance \"linear\".";
}

/** Stop a challenger. */
export function withdraw(version, done) {
  ask({
    title: `Withdraw ${brief(version)}?`,
    lead: "It stops learning and is compared no more. Its version stays in the lineage.",
    confirm: `Withdraw ${brief(version)}`,
    order: (reason) => remove(`challengers/${encodeURIComponent(version)}?reason=${encodeURIComponent(reason)}`),
    said: () => `${brief(version)} was withdrawn.`,
    done,
  });
}
