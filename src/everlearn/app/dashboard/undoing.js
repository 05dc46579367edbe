// The button and the dialog that undo all judgements of an annotator.

import { post } from "./api.js";
import { h, mark, put } from "./dom.js";

/** Create the button, which needs the scope admin; `done` gets the progress of the annotator afterwards. */
export function undoing(context, name, done) {
  if (!context.may("admin")) return null;
  const note = h("p", { class: "note good", role: "status", hidden: true });
  const ask = () => {
    const wrong = h("p", { class: "note bad", role: "alert", hidden: true });
    const sure = h("button", { class: "main", type: "submit" }, "Undo all");
    const form = h("form", { method: "dialog" }, h("h2", { id: "undoing" }, `Undo all judgements of ${name}?`),
      h("p", { class: "lead" }, `The model is learned again without the judgements of ${name}. They stay in the log, marked as left out. This cannot be taken back.`),
      wrong, h("div", { class: "buttons" }, sure, h("button", { type: "button", onclick: () => dialog.close(), autofocus: true }, "Cancel")));
    const dialog = h("dialog", { "aria-labelledby": "undoing" }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      sure.disabled = true;
      try {
        const { body } = await post("label/undo", { annotator: name, what: "everything" });
        dialog.close();
        done(body.progress);
        put(note, `All judgements of ${name} are being undone.`);
        mark(note, { hidden: false });
      } catch (problem) {
        put(wrong, problem.message);
        mark(wrong, { hidden: false });
        sure.disabled = false;
      }
    });
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  };
  return h("div", { class: "undoing" }, h("button", { class: "quiet", type: "button", onclick: ask }, `Undo all judgements of ${name}…`), note);
}
