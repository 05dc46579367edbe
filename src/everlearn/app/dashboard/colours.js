// The button that switches between the colours of the system, light and dark; theme.js applies the choice on loading.

import { fill, h, s } from "./dom.js";

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };

/** Let a button switch the colours; `announce` speaks the new choice. */
export function colours(button, announce) {
  const show = (name) => fill(button,
    s("svg", { viewBox: "0 0 16 16", width: 15, height: 15, "aria-hidden": "true" }, s("circle", { class: "ring", cx: 8, cy: 8, r: 6.5 }), s("path", { class: "half", d: "M8 1.5a6.5 6.5 0 0 1 0 13z" })),
    h("span", { class: "unseen" }, "Colours: "), THEMES[name]);
  const now = () => document.documentElement.dataset.theme ?? "auto";
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(now()) + 1) % names.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("everlearn-theme", next);
    } catch {
      // Without storage the choice lasts until the page is closed.
    }
    announce(`Colours: ${THEMES[next]}`);
    show(next);
  });
  show(now());
}
