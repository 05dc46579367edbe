// The login form of servers that need a token.

import { post } from "./api.js";
import { h, mark, put } from "./dom.js";

const DASHBOARD = "scope read shows the dashboard; scope admin also allows changes";

/** Create the form; `hint` says which scopes of a token allow what, and `scope` is the one to ask for. */
export function login(context, hint = DASHBOARD, scope = "read") {
  const token = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", maxlength: 200, spellcheck: "false" });
  const name = h("input", { type: "text", autocomplete: "username", value: "everlearn", hidden: true }); // for the password manager of the browser
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const send = h("button", { class: "main", type: "submit" }, "Log in");
  const form = h("form", {}, name, h("label", { class: "field" }, "Token", h("span", { class: "hint" }, hint), token), note, h("div", { class: "buttons" }, send));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    mark(note, { hidden: true });
    send.disabled = true;
    try {
      const { body } = await post("session", { token: token.value.trim() });
      const target = sessionStorage.getItem("everlearn-after");
      sessionStorage.removeItem("everlearn-after");
      await context.entered(body);
      context.go(target && target !== "#/login" ? target : "#/");
    } catch (problem) {
      put(note, problem.message);
      mark(note, { hidden: false });
      token.select();
    } finally {
      send.disabled = false;
    }
  });
  return {
    title: "Log in",
    element: h("section", { class: "card entrance", "aria-labelledby": "entrance" }, h("h1", { id: "entrance" }, "Log in"),
      h("p", { class: "soft" }, "This server needs a token. Its operator creates one with: ", h("code", {}, `everlearn token create NAME --scope ${scope}`)), form),
  };
}
