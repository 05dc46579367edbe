// Draw the lineage of versions beside their rows: newest on top, one lane for each line of descent.

import { fill, mark, s } from "./dom.js";

const LANE = 16; // pixels between two lanes
const BEND = 46; // pixels over which a line goes from lane to lane
const MOST = 6; // lanes drawn separately; further ones share the last lane

/**
 * Assign a lane to every version, given oldest first. The first child continues in its parent's lane; further children
 * open new lanes. A lane is free again after its last descendant.
 */
export function lanes(versions) {
  const last = new Map(); // the newest row in which a version is mentioned, as itself or as a parent
  versions.forEach((one, row) => [one.id, ...one.parents].forEach((id) => last.set(id, row)));
  const lane = new Map();
  const tips = []; // the newest version in each lane
  versions.forEach((one, row) => {
    const inherited = one.parents.map((id) => lane.get(id)).find((at) => at !== undefined && one.parents.includes(tips[at]));
    const free = tips.findIndex((id) => id === undefined || (last.get(id) < row && !one.parents.includes(id)));
    const at = inherited ?? (free >= 0 ? free : tips.length);
    tips[at] = one.id;
    lane.set(one.id, Math.min(at, MOST - 1));
  });
  return lane;
}

/** Draw into `svg`: `rows` newest first, with their middles at `heights`; `look(version)` gives the classes of a dot. */
export function draw(svg, rows, heights, look) {
  const lane = lanes(rows.toReversed());
  const width = LANE * (Math.max(0, ...lane.values()) + 1) + 10;
  const at = new Map(rows.map((one, row) => [one.id, { x: 10 + LANE * lane.get(one.id), y: heights[row] }]));
  const lines = rows.flatMap((one) => one.parents.filter((id) => at.has(id)).map((id) => s("path", { class: look(one).dim ? "dim" : null, d: curve(at.get(one.id), at.get(id)) })));
  const dots = rows.map((one) => {
    const { x, y } = at.get(one.id);
    const { now, learning, dim } = look(one);
    return s("circle", { class: [now && "now", learning && "learning", dim && "dim"].filter(Boolean).join(" "), cx: x, cy: y, r: now ? 6 : 5 });
  });
  mark(svg, { width, height: (heights[heights.length - 1] ?? 0) + LANE });
  fill(svg, lines, dots);
  return width;
}

/** Return the path down the child's lane, then over to the parent's lane just above the parent. */
function curve(child, parent) {
  if (child.x === parent.x) return `M${child.x} ${child.y}V${parent.y}`;
  const turn = Math.max(child.y, parent.y - BEND);
  const middle = (turn + parent.y) / 2;
  return `M${child.x} ${child.y}V${turn}C${child.x} ${middle} ${parent.x} ${middle} ${parent.x} ${parent.y}`;
}
