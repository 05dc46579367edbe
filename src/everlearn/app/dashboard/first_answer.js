// What the first and the present version of the model answer to the prompt on the screen, on demand.

import { request } from "./api.js";
import { bone, fill, h } from "./dom.js";
import { brief } from "./format.js";
import { grown } from "./tree.js";

const PATIENCE = 60000; // milliseconds: pairs and chats may come before

/** Create the fold; once open, it follows the pair on the screen. */
export function firstAnswer() {
  const body = h("div", { class: "versions" });
  const element = h("details", { class: "first" }, h("summary", {}, "The first version and the present one"), body);
  let id = null; // of the pair on the screen
  let asked = null; // of the pair that is shown here

  async function load() {
    if (!element.open || !id || asked === id) return;
    const wanted = id;
    asked = id;
    fill(body, column("First version", bone()), column("Present version", bone()));
    try {
      const { body: found } = await request("GET", `label/answers?id=${encodeURIComponent(wanted)}`, { patience: PATIENCE });
      if (wanted === id) fill(body, column("First version", grown(found.first)), column(["Present version ", h("span", { class: "id" }, brief(found.version))], grown(found.present)));
    } catch (problem) {
      if (wanted === id) fill(body, h("p", { class: "note bad" }, problem.message));
    }
  }

  element.addEventListener("toggle", load);
  return {
    element,
    show(next) {
      id = next;
      if (!element.open) fill(body);
      load();
    },
  };
}

const column = (title, content) => h("div", {}, h("h3", {}, title), h("div", { class: "text" }, content));
