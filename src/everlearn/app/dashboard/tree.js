// Build elements from the trees that the server makes of answers. Names and attributes come from the short lists here,
// and texts become text nodes, so nothing that a model wrote can become other markup, or code.

import { h } from "./dom.js";

const TAGS = new Set("a br code del em s strong blockquote h1 h2 h3 h4 h5 h6 hr li ol p pre table tbody td th thead tr ul".split(" "));
const ADDRESS = /^(?:https?:\/\/[^/\\?#]|mailto:[^/])/i;
const LANGUAGE = /^language-[\w.+#-]{1,32}$/;

/** Return the nodes of a tree: a text is a string, an element [name, attributes, children]. */
export const grown = (nodes) => nodes.map(node);

function node(given) {
  if (typeof given === "string") return given;
  const [name, attributes, children] = given;
  if (!TAGS.has(name)) return grown(children);
  return h(shown(name), kept(name, attributes), grown(children));
}

// The headings of an answer stand below those of the page.
const shown = (name) => (/^h[1-6]$/.test(name) ? `h${Math.min(6, Number(name[1]) + 2)}` : name);

function kept(name, { href, title, class: language, start }) {
  if (name === "a" && ADDRESS.test(href ?? "")) return { href, title, target: "_blank", rel: "noopener noreferrer nofollow ugc" };
  if (name === "code" && LANGUAGE.test(language ?? "")) return { class: language };
  if (name === "ol" && /^\d{1,9}$/.test(start ?? "")) return { start };
  return {};
}
