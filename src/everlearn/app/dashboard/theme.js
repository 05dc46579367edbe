// Loaded before the first paint, so that the chosen theme does not flash; app.js holds the switch.
"use strict";
try {
  const chosen = localStorage.getItem("everlearn-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage, the theme of the system applies.
}
