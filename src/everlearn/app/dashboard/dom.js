// Create and change elements. Text is set through text nodes only, so data can never become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Create an HTML element: `h("p", {class: "soft", onclick: go}, "text", child)`. Null and false children are skipped. */
export function h(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** Create an SVG element. */
export function s(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...kept(children));
  return element;
}

const kept = (children) => children.flat(Infinity).filter((one) => one !== null && one !== false && one !== undefined);

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...kept(children));
}

/** Set the text of an element if it differs; an unchanged node is not laid out again. */
export function put(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Set or remove attributes. */
export function mark(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
  }
}

/** Create a grey bar in place of a value that is still loading. */
export const bone = () => h("span", { class: "bone", "aria-label": "loading" });

let tips = 0;

/** Create a "?" button that opens a short explanation. */
export function why(about, text) {
  const tip = h("div", { class: "tip", popover: "auto", id: `tip-${++tips}` }, text);
  const button = h("button", { class: "why", type: "button", popovertarget: tip.id, "aria-label": `Explain ${about}` }, "?");
  tip.addEventListener("toggle", (event) => {
    if (event.newState !== "open") return;
    const at = button.getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(12, at.left - 20), innerWidth - box.width - 12);
    const below = at.bottom + 8 + box.height < innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - box.height - 8)}px`;
  });
  return [button, tip];
}

/** Create the content of a page without data. */
export function empty(title, text, example = "") {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), example && h("pre", {}, example));
}

/** Create a list that reuses its items: values update the item of their key, in order; items without a value are removed. */
export function list(container, make) {
  const items = new Map();
  return (values, key) => {
    if (!items.size) fill(container); // remove the placeholder
    const names = new Set(values.map(key));
    for (const [name, item] of items) {
      if (!names.has(name)) {
        item.element.remove();
        items.delete(name);
      }
    }
    values.forEach((value, i) => {
      const name = key(value);
      if (!items.has(name)) items.set(name, make(value));
      const item = items.get(name);
      if (container.children[i] !== item.element) container.insertBefore(item.element, container.children[i] ?? null);
      item.update(value);
    });
  };
}
