// Log in with a token, on servers that ask for one.

import { post } from "./api.js";
import { h, mark, put } from "./dom.js";

export function login(context) {
  const token = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", maxlength: 200, spellcheck: "false" });
  const name = h("input", { type: "text", autocomplete: "username", value: "everlearn", hidden: true }); // for the browser's store of passwords
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const send = h("button", { class: "main", type: "submit" }, "Log in");
  const form = h("form", {}, name, h("label", { class: "field" }, "Token", h("span", { class: "hint" }, "with the scope read to look, admin to give orders"), token), note, h("div", { class: "buttons" }, send));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    mark(note, { hidden: true });
    send.disabled = true;
    try {
      const { body } = await post("session", { token: token.value.trim() });
      const after = sessionStorage.getItem("everlearn-after");
      sessionStorage.removeItem("everlearn-after");
      await context.entered(body);
      context.go(after && after !== "#/login" ? after : "#/");
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
      h("p", { class: "soft" }, "This server asks for a token. Whoever runs it makes one with: ", h("code", {}, "everlearn token create NAME --scope read")), form),
  };
}
