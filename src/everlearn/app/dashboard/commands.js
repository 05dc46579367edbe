// Dialogs for commands: they ask for a reason, send the command, and show its outcome.

import { post, Problem, remove } from "./api.js";
import { fill, h, mark, put } from "./dom.js";
import { brief, counted } from "./format.js";

let dialogs = 0;

/**
 * Open a dialog with `fields` and a required reason. `send(reason)` sends the command and returns the reply, and
 * `result(decision)` describes its outcome for `done`. A refusal is shown in the dialog, where it can be corrected.
 */
function open({ title, lead, fields = [], confirm, send, result, done }) {
  const id = `dialog-${++dialogs}`;
  const reason = h("textarea", { rows: 3, required: true, maxlength: 1000, placeholder: "Recorded with the decision" });
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const submit = h("button", { class: "main", type: "submit" }, confirm);
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", { method: "dialog" }, h("h2", { id }, title), h("p", { class: "lead" }, lead),
    h("label", { class: "field" }, "Reason", reason), fields, note, h("div", { class: "buttons" }, submit, cancel));
  const dialog = h("dialog", { "aria-labelledby": id }, form);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const why = reason.value.trim();
    if (!why) {
      refuse("Enter a reason.");
      reason.focus();
      return;
    }
    busy(true);
    mark(note, { hidden: true });
    try {
      const { status, body } = await send(why);
      const text = status === 202 ? "The command is in the log; the learner will carry it out as soon as it reaches it." : result(carriedOut(body));
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
    submit.disabled = now;
    put(submit, now ? "Waiting for the learner…" : confirm);
  }

  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}

/** Return the decision that the command caused; throws Problem if the loop rejected it. */
function carriedOut({ decision, followed }) {
  const outcome = followed.find((one) => one.detail.order === decision.detail.order) ?? decision;
  if (outcome.action === "reject") throw new Problem(409, "The command was rejected", outcome.reason);
  return outcome;
}

/** Pause learning. */
export function pause(done) {
  open({
    title: "Pause learning?",
    lead: "Predictions go on, and labels are scored. No model learns labels that come during the pause, also not later.",
    confirm: "Pause learning",
    send: (reason) => post("pause", { reason }),
    result: () => "Learning is paused.",
    done,
  });
}

/** Learn on after a pause. */
export function resume(done) {
  open({
    title: "Resume learning?",
    lead: "Models learn from the next label on. Labels of the pause are not learned.",
    confirm: "Resume learning",
    send: (reason) => post("resume", { reason }),
    result: () => "Models learn again.",
    done,
  });
}

/** Give a version a name, a note, or both. */
export function rename(version, done) {
  const name = h("input", { name: "name", autocomplete: "off", maxlength: 100, pattern: "[\\w.\\-]{1,100}" });
  const text = h("textarea", { name: "note", rows: 2, maxlength: 1000 });
  text.value = version.note ?? "";
  open({
    title: `Name ${brief(version.id)}`,
    lead: "A name stays until you move it to another version, and keeps the arrays of its version.",
    fields: [h("label", { class: "field" }, "Name", h("span", { class: "hint" }, "letters, digits, dots, hyphens and underscores"), name), h("label", { class: "field" }, "Note", text)],
    confirm: "Save",
    send: (reason) => post(`versions/${encodeURIComponent(version.id)}/name`, { reason, ...(name.value.trim() ? { name: name.value.trim() } : {}), ...(text.value.trim() ? { note: text.value.trim() } : {}) }),
    result: () => (name.value.trim() ? `${brief(version.id)} is now also called ${name.value.trim()}.` : `The note on ${brief(version.id)} is saved.`),
    done,
  });
}

/** Promote a version. */
export function promote(version, champion, done) {
  open({
    title: `Promote ${brief(version.id)}?`,
    lead: champion ? `It replaces ${brief(champion)} from the next request on. This bypasses the gate.` : "It serves from the next request on.",
    confirm: `Promote ${brief(version.id)}`,
    send: (reason) => post(`versions/${encodeURIComponent(version.id)}/promote`, { reason }),
    result: (outcome) => `${brief(outcome.version)} is now the champion.`,
    done,
  });
}

/** Roll back to the previous champion, or to a version; labels may be left out. */
export function rollback(to, champion, done) {
  const source = h("input", { name: "source", autocomplete: "off", maxlength: 200 });
  const first = h("input", { name: "first", type: "number", min: 1, step: 1, inputmode: "numeric" });
  const last = h("input", { name: "last", type: "number", min: 1, step: 1, inputmode: "numeric" });
  const advanced = h("details", {}, h("summary", {}, "Exclude labels"),
    h("p", { class: "small soft" }, "Goes back to the last champion that had learned none of them, and learns the later events again without them. Give a source, a range of log positions, or both."),
    h("label", { class: "field" }, "Source", h("span", { class: "hint" }, "the name of the token or of the sender"), source),
    h("div", { class: "row" }, h("label", { class: "field" }, "First position", first), h("label", { class: "field" }, "Last position", last)));
  open({
    title: `Roll back to ${brief(to)}?`,
    lead: `${brief(to)} replaces ${brief(champion)} from the next request on. Nothing is deleted: ${brief(champion)} can be promoted again.`,
    fields: [advanced],
    confirm: `Roll back to ${brief(to)}`,
    send: (reason) => {
      const without = { source: source.value.trim(), first: Number(first.value) || 0, last: Number(last.value) || 0 };
      const some = without.source || without.first || without.last;
      return post("rollback", { reason, ...(some ? { without } : { to }) }); // the version in the title, even if "previous" moved
    },
    result: ({ version, detail }) => `Rolled back: ${brief(version)} is the champion.${"left_out" in detail ? ` ${counted(detail.again, "label")} learned again, ${counted(detail.left_out, "label")} excluded.` : ""}`,
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
  open({
    title: "Start a challenger",
    lead: "It learns in shadow on live traffic. The gate compares it with the champion, and promotes it if it is better.",
    fields: [h("label", { class: "field" }, "Model", check, spec)],
    confirm: "Start challenger",
    send: (reason) => post("challengers", { model: JSON.parse(spec.value), reason }),
    result: (outcome) => `Challenger ${brief(outcome.version)} started.`,
    done,
  });
}

/** Return the error in the text of a model spec; "" if there is none. */
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

/** End a challenger. */
export function withdraw(version, done) {
  open({
    title: `Withdraw ${brief(version)}?`,
    lead: "It stops learning, and the gate no longer compares it. Its version stays in the lineage.",
    confirm: `Withdraw ${brief(version)}`,
    send: (reason) => remove(`challengers/${encodeURIComponent(version)}?reason=${encodeURIComponent(reason)}`),
    result: () => `${brief(version)} was withdrawn.`,
    done,
  });
}
