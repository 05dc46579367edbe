// A chart of lines and bands over a common x, with levels, marks, and a read-out at the pointer or the arrow keys.

import { fill, h, put, s } from "./dom.js";
import { known } from "./format.js";
import { extent, linear, nearest, ticks } from "./scale.js";

const SYMBOLS = {
  drift: { d: "M-5-4H5L0 5Z" },
  promotion: { d: "M-5 4H5L0-5Z" },
  rollback: { d: "M-4-4 4 4M4-4-4 4", open: true },
  rejection: { d: "M-3.5-3.5 3.5 3.5M3.5-3.5-3.5 3.5", open: true },
  challenger: { d: "M0-5 5 0 0 5-5 0Z" },
};
const ROW = 15; // height in pixels of the strip for each kind of mark
let charts = 0;

/** Create the symbol of a kind of mark, for a drawing. */
export function symbol(kind) {
  const look = SYMBOLS[kind] ?? { d: "M-3 0A3 3 0 1 0 3 0A3 3 0 1 0-3 0" };
  return s("path", { class: `mark tone-${kind}${look.open ? " open" : ""}`, d: look.d });
}

/** Create the symbol as a small picture beside text. */
export const sign = (kind) => s("svg", { class: "sign", viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true" }, symbol(kind));

/**
 * A chart. `update` takes {x, lines, bands, levels, marks, y, domain}:
 *   x       ascending numbers
 *   lines   {name, tone, values, dashed, bold, faint: values}: null for an unknown point
 *   bands   {name, tone, low, high, solid, shown: text of the read-out}
 *   levels  {at, name, tone}: horizontal
 *   marks   {x, kind, text}: symbols below, and a line up from promotions and rollbacks
 *   y       [low, high]; default: the range of all lines
 *   domain  [first, last] of x
 * `formats` has x(value) for the read-out, tick(value, domain) below the axis, y(value), and yTick(value).
 */
export function chart({ label, height = 200, left = 52, formats, zero = false, least = 0, none = "No data yet", xTicks = ticks }) {
  const legend = h("ul", { class: "legend" });
  const svg = s("svg", { height, "aria-hidden": "true" });
  const spoken = h("span", { class: "unseen", "aria-live": "polite" });
  const plot = h("div", { class: "plot", tabindex: 0, role: "group", "aria-roledescription": "chart" }, svg, spoken);
  plot.setAttribute("aria-label", `${label}. Left and right arrow keys read values.`);
  const element = h("div", { class: "chart" }, legend, plot);
  const clip = `clip-${++charts}`;
  let data = null;
  let place = null; // layout of the last drawing
  let cursor = null; // x of the read-out, or null for the newest point
  let y = null;
  let width = 0; // last observed width of the plot; measuring it in every drawing would force a layout

  function layout() {
    const kinds = Object.keys(SYMBOLS).filter((kind) => data.marks.some((one) => one.kind === kind));
    const bottom = height - 22 - kinds.length * ROW;
    const domain = data.domain ?? [data.x[0], data.x[data.x.length - 1]];
    y = steady(y, data.y ?? extent([...data.lines.map((one) => one.values), ...data.bands.flatMap((one) => [one.low, one.high]), data.levels.map((one) => one.at)], { zero, least }));
    return { kinds, bottom, domain, sx: linear(domain[0], domain[1], left, width - 8), sy: linear(y[0], y[1], bottom, 8) };
  }

  function draw() {
    if (!width) return;
    if (!data || data.x.length < 2) {
      fill(svg, s("line", { class: "rule", x1: left, x2: width - 8, y1: height - 22.5, y2: height - 22.5 }),
        s("text", { class: "none", x: width / 2 + left / 2, y: height / 2 }, data ? none : ""));
      fill(legend);
      delete legend.dataset.key;
      place = null;
      return;
    }
    place = layout();
    const { sx, sy, bottom } = place;
    const inside = s("g", { "clip-path": `url(#${clip})` });
    for (const one of data.bands) inside.append(s("path", { class: `band tone-${one.tone}${one.solid ? " solid" : ""}`, d: area(data.x, one.low, one.high, sx, sy) }));
    for (const one of data.marks) if (one.kind === "promotion" || one.kind === "rollback") inside.append(s("line", { class: `event tone-${one.kind}`, x1: sx(one.x), x2: sx(one.x), y1: 8, y2: bottom }));
    for (const one of data.lines) if (one.faint) inside.append(s("path", { class: `line faint tone-${one.tone}`, d: path(data.x, one.faint, sx, sy) }));
    for (const one of data.lines) inside.append(s("path", { class: `line tone-${one.tone}${one.bold ? " bold" : ""}${one.dashed ? " dashed" : ""}`, d: path(data.x, one.values, sx, sy) }));
    fill(svg,
      s("clipPath", { id: clip }, s("rect", { x: left, y: 0, width: width - left, height: bottom + 1 })),
      axes(place), inside, levels(place), strip(place), s("g", { class: "reading" }));
    read();
  }

  function axes({ sx, sy, bottom, domain }) {
    const group = s("g");
    for (const value of ticks(y[0], y[1], height < 160 ? 3 : 4)) {
      const at = Math.round(sy(value)) + 0.5;
      group.append(s("line", { class: value === 0 ? "axis" : "rule", x1: left, x2: width - 8, y1: at, y2: at }));
      group.append(s("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, formats.yTick(value)));
    }
    const below = bottom + place.kinds.length * ROW + 17;
    for (const value of xTicks(domain[0], domain[1], width < 420 ? 3 : 6)) {
      const at = sx(value);
      const anchor = at > width - 30 ? "end" : at < left + 20 ? "start" : "middle";
      group.append(s("text", { x: anchor === "end" ? width - 8 : Math.max(at, left), y: below, "text-anchor": anchor }, formats.tick(value, domain)));
    }
    return group;
  }

  function levels({ sy }) {
    return s("g", {}, data.levels.map((one) => {
      const at = Math.round(sy(one.at)) + 0.5;
      return [
        s("line", { class: `level tone-${one.tone}`, x1: left, x2: width - 8, y1: at, y2: at }),
        one.name && s("text", { x: left + 4, y: at - 5 }, one.name),
      ];
    }).flat().filter(Boolean));
  }

  function strip({ kinds, sx, bottom }) {
    const group = s("g");
    kinds.forEach((kind, row) => {
      const at = bottom + row * ROW + ROW / 2 + 3;
      group.append(s("line", { class: "rule", x1: left, x2: width - 8, y1: at, y2: at }));
      for (const one of data.marks) {
        if (one.kind !== kind || one.x < place.domain[0] || one.x > place.domain[1]) continue;
        const shape = symbol(kind);
        shape.setAttribute("transform", `translate(${sx(one.x).toFixed(1)} ${at})`);
        group.append(shape);
      }
    });
    return group;
  }

  /** Show the values at the cursor, or the newest ones. */
  function read(aloud = false) {
    if (!place) return;
    const at = cursor === null ? data.x.length - 1 : nearest(data.x, cursor);
    const group = svg.querySelector(".reading");
    if (cursor === null) fill(group);
    else {
      const x = place.sx(data.x[at]);
      fill(group, s("line", { class: "cursor", x1: x, x2: x, y1: 8, y2: place.bottom }),
        data.lines.filter((one) => known(one.values[at])).map((one) => s("circle", { class: `spot tone-${one.tone}`, cx: x, cy: place.sy(one.values[at]), r: 4 })));
    }
    const shown = [...data.lines, ...data.bands.filter((one) => one.name)];
    const values = shown.map((one) => formats.y((one.shown ?? one.values)[at]));
    legends(shown, values, cursor === null ? formats.latest ?? "" : formats.x(data.x[at]));
    if (aloud) put(spoken, cursor === null ? "newest" : `${formats.x(data.x[at])}: ${shown.map((one, i) => `${one.name} ${values[i]}`).join(", ")}${marksNear(data.x[at])}`);
  }

  function marksNear(x) {
    const reach = (place.domain[1] - place.domain[0]) / 100;
    return data.marks.filter((one) => Math.abs(one.x - x) <= reach).map((one) => `; ${one.text}`).join("");
  }

  function legends(shown, values, at) {
    const key = shown.map((one) => `${one.name}|${one.tone}`).join() + place.kinds.join();
    if (legend.dataset.key !== key) {
      legend.dataset.key = key;
      fill(legend, shown.map((one) => h("li", {}, swatch(one), `${one.name} `, h("b"))),
        place.kinds.map((kind) => h("li", {}, sign(kind), h("span", { class: "kind" }))), h("li", { class: "at" }));
    }
    legend.querySelectorAll("b").forEach((one, i) => put(one, values[i]));
    legend.querySelectorAll(".kind").forEach((one, i) => {
      const number = data.marks.filter((each) => each.kind === place.kinds[i]).length;
      put(one, `${number} ${place.kinds[i]}${number === 1 ? "" : "s"}`);
    });
    const near = cursor === null ? "" : marksNear(nearest(data.x, cursor) >= 0 ? data.x[nearest(data.x, cursor)] : 0);
    put(legend.querySelector(".at"), `${at}${near}`);
  }

  function move(x, aloud) {
    cursor = x;
    read(aloud);
  }

  plot.addEventListener("pointermove", (event) => {
    if (!place) return;
    const box = plot.getBoundingClientRect();
    const [first, last] = place.domain;
    move(linear(left, width - 8, first, last)(event.clientX - box.left), false);
  });
  plot.addEventListener("pointerleave", () => place && move(null, false));
  plot.addEventListener("blur", () => place && move(null, false));
  plot.addEventListener("keydown", (event) => {
    if (!place) return;
    const end = data.x.length - 1;
    const at = cursor === null ? end : nearest(data.x, cursor);
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: end }[event.key];
    if (event.key === "Escape" && cursor !== null) move(null, true);
    else if (to !== undefined) move(data.x[Math.min(end, Math.max(0, to))], true);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(([one]) => {
    width = Math.round(one.contentRect.width);
    draw();
  }).observe(plot);

  return {
    element,
    update(next) {
      data = { bands: [], levels: [], marks: [], lines: [], ...next };
      draw();
    },
  };
}

/** Keep the old axis while the data still fill most of it, so that it does not jump. */
function steady(old, fresh) {
  if (!old) return fresh;
  const fits = fresh[0] >= old[0] && fresh[1] <= old[1];
  return fits && fresh[1] - fresh[0] > 0.6 * (old[1] - old[0]) ? old : fresh;
}

function swatch(one) {
  const shape = one.solid
    ? s("rect", { width: 11, height: 11, y: 0, rx: 2 })
    : s("line", { x1: 0, x2: 20, y1: 6, y2: 6, class: one.dashed ? "dashed" : null });
  return s("svg", { class: `swatch tone-${one.tone}`, width: one.solid ? 11 : 20, height: 12, "aria-hidden": "true" }, shape);
}

/** Return the path through all known points, with gaps at unknown ones. */
function path(x, values, sx, sy) {
  let drawn = "";
  let pen = "M";
  for (let i = 0; i < x.length; i++) {
    if (!known(values[i])) {
      pen = "M";
      continue;
    }
    drawn += `${pen}${sx(x[i]).toFixed(1)} ${sy(values[i]).toFixed(1)}`;
    pen = "L";
  }
  return drawn;
}

/** Return the area between two lines, in separate pieces around gaps. */
function area(x, low, high, sx, sy) {
  const pieces = [[]];
  x.forEach((_, i) => {
    if (known(low[i]) && known(high[i])) pieces.at(-1).push(i);
    else if (pieces.at(-1).length) pieces.push([]);
  });
  const point = (i, value) => `${sx(x[i]).toFixed(1)} ${sy(value).toFixed(1)}`;
  return pieces.filter((piece) => piece.length > 1)
    .map((piece) => `M${piece.map((i) => point(i, high[i])).join("L")}L${piece.toReversed().map((i) => point(i, low[i])).join("L")}Z`).join("");
}
