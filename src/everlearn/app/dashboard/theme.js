// Loaded before the page is painted, so that a chosen theme never flashes; the switch itself is in app.js.
"use strict";
try {
  const chosen = localStorage.getItem("everlearn-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; the system's theme is used then.
}
