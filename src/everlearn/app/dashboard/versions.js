// The page of versions: their lineage, a comparison of two, and commands to promote, roll back or start a challenger.

import { get } from "./api.js";
import { compared } from "./compare.js";
import { bone, empty, fill, h, list, mark, put, s } from "./dom.js";
import { brief, count, metric, metricName, moment } from "./format.js";
import { draw } from "./lineage.js";
import { challenge, promote, rename, rollback, withdraw } from "./commands.js";

const PAGE = 60; // versions requested at a time

export function versions(context) {
  const known = { entries: [], aliases: {}, next: null, total: 0 };
  let status = null;
  let key = null;
  let chosen = []; // ids of at most two
  let loading = false;

  const note = h("p", { class: "note", role: "status", hidden: true });
  const back = h("button", { type: "button", disabled: true, onclick: () => rollback(known.aliases.previous, known.aliases.champion, finished) }, "Roll back");
  const start = h("button", { type: "button", onclick: () => challenge({ family: "linear" }, finished) }, "Start a challenger");
  const graph = s("svg", { class: "graph", "aria-hidden": "true" });
  const body = h("tbody", {}, skeleton());
  const metricHead = h("th", { class: "number col-metric", scope: "col" });
  const table = h("table", {}, h("caption", { class: "unseen" }, "Versions, newest first"),
    h("thead", {}, h("tr", {}, h("th", { class: "col-graph" }, h("span", { class: "unseen" }, "Lineage")), h("th", { class: "col-pick" }, h("span", { class: "unseen" }, "Compare")),
      h("th", { scope: "col" }, "version"), h("th", { scope: "col", class: "col-born" }, "stored"), metricHead, h("th", { class: "col-do" }, h("span", { class: "unseen" }, "Commands")))), body);
  const lineage = h("div", { class: "lineage" }, graph, table);
  const more = h("button", { type: "button", hidden: true, onclick: () => load(known.next) }, "Show older versions");
  const challengers = h("section", { class: "card", hidden: true, "aria-labelledby": "challengers" });
  const listed = h("section", { class: "card", "aria-label": "Lineage" }, lineage, more);
  const side = h("section", { class: "card", "aria-live": "polite", "aria-label": "Comparison" });
  const element = h("div", { class: "stack" },
    h("div", { class: "head" }, h("h1", {}, "Versions"), h("div", { class: "actions" }, start, back),
      h("p", { class: "lead" }, "Every stored model and its parents. Select two versions to compare them.")),
    note, challengers, side, listed);

  function finished(text) {
    put(note, text);
    mark(note, { hidden: false, class: "note good" });
    context.announce(text);
    context.refresh();
    load();
  }

  async function load(after = null) {
    if (loading) return;
    loading = true;
    try {
      const page = await get(`versions?order=newest&limit=${PAGE}${after ? `&after=${after}` : ""}`);
      const fresh = new Set(page.versions.map((one) => one.id));
      known.entries = after ? [...known.entries.filter((one) => !fresh.has(one.id)), ...page.versions] : page.versions;
      Object.assign(known, { aliases: page.aliases, next: page.next, total: page.total });
      show();
    } catch (problem) {
      if (!known.entries.length) fill(body, h("tr", {}, h("td", { colspan: 6 }, h("p", { class: "note bad" }, `${problem.title}. ${problem.message}`))));
    } finally {
      loading = false;
    }
  }

  const rejected = () => new Set((status?.marks ?? []).filter((one) => one.kind === "rejection").map((one) => one.version));
  const champions = () => new Set((status?.marks ?? []).filter((one) => one.kind === "promotion" || one.kind === "rollback").map((one) => one.version));

  function look(one, refused, served) {
    const learns = (status?.contestants ?? []).some((each) => each.learns && each.version === one.id);
    return { now: known.aliases.champion === one.id, learning: learns && known.aliases.champion !== one.id, dim: !one.kept || (refused.has(one.id) && !served.has(one.id) && !one.aliases?.length) };
  }

  function show() {
    const name = status?.metric === "cost" ? "log_loss" : (status?.metric ?? "accuracy"); // versions hold the losses of their comparison
    const [refused, served] = [rejected(), champions()];
    put(metricHead, `${metricName(name)} when stored`);
    mark(table, { hidden: !known.entries.length });
    if (!known.entries.length) {
      fill(listed, empty("No version yet", "The first one is stored with the first event of the loop."));
    } else if (!lineage.isConnected) fill(listed, lineage, more);
    rows(known.entries.map((one) => row(one, name, look(one, refused, served))), (one) => one.key);
    drawn();
    mark(more, { hidden: !known.next });
    buttons();
    mark(side, { hidden: chosen.length === 0 });
    if (chosen.length === 1) fill(side, h("p", { class: "soft" }, `${brief(chosen[0])} is selected. Select a second version to compare.`));
  }

  /** Draw the graph beside the rows, at their current positions. */
  function drawn() {
    const [refused, served] = [rejected(), champions()];
    const heights = [...body.rows].map((one) => one.offsetTop + one.offsetHeight / 2);
    if (!known.entries.length || heights.length !== known.entries.length) return;
    const width = draw(graph, known.entries, heights, (one) => look(one, refused, served));
    lineage.style.setProperty("--lanes", `${width + 4}px`);
  }

  function buttons() {
    const { champion, previous } = known.aliases;
    const may = context.may("admin");
    mark(back, { disabled: !may || !previous || previous === champion, title: may ? (previous ? null : "No earlier champion yet") : "Needs a token with the scope admin" });
    put(back, previous && previous !== champion ? `Roll back to ${brief(previous)}` : "Roll back");
    mark(start, { disabled: !may, title: may ? null : "Needs a token with the scope admin" });
    const learning = (status?.contestants ?? []).filter((one) => one.role === "fresh" || one.role === "shadow");
    mark(challengers, { hidden: !learning.length });
    const now = learning.map((one) => one.role + one.version).join();
    if (challengers.dataset.key === now) return;
    challengers.dataset.key = now;
    fill(challengers, h("header", {}, h("h2", { id: "challengers" }, "Challengers in shadow")), h("dl", { class: "pairs" }, learning.flatMap((one) => [
      h("dt", {}, h("span", { class: "id" }, brief(one.version)), ` ${one.family}, ${one.learns ? "learning" : "frozen"}`),
      h("dd", {}, h("button", { class: "small", type: "button", disabled: !may, onclick: () => withdraw(one.version, finished) }, "Withdraw"))])));
  }

  /** Return a row and its key, which holds everything in the row that may change. */
  function row(one, name, { now, dim }) {
    const admin = context.may("admin");
    const may = { promote: admin && one.kept !== false && !now, name: admin };
    const names = Object.entries(known.aliases).filter(([, id]) => id === one.id).map(([alias]) => alias);
    return { key: [one.id, names, dim, may.promote, may.name, one.kept, one.note, name].join(), make: () => made(one, name, names, dim, may) };
  }

  function made(one, name, names, dim, may) {
    const pick = h("input", { type: "checkbox", class: "pick", "aria-label": `Compare ${brief(one.id)}`, onchange: (event) => choose(one.id, event.target.checked) });
    pick.checked = chosen.includes(one.id);
    return h("tr", { class: dim ? "dim" : null, "data-version": one.id }, h("td"), h("td", {}, pick),
      h("td", { class: "what" }, h("div", {}, h("span", { class: "id" }, h("b", {}, brief(one.id)), h("span", { class: "rest" }, one.id.slice(6))), names.map((alias) => [" ", h("span", { class: `chip ${alias}` }, alias)]), " ", one.kept === false && h("span", { class: "chip" }, "arrays pruned")),
        h("div", { class: "small soft", title: one.reason }, one.reason), one.note && h("div", { class: "small words" }, one.note)),
      h("td", { class: "born small soft" }, h("div", {}, moment(one.time)), h("div", {}, `${one.unit || "position"} ${count(one.position)}`)),
      h("td", { class: "number metric" }, metric(name, one.metrics?.[name])),
      h("td", { class: "number do" }, may.name && h("button", { class: "small", type: "button", "aria-label": `Name ${brief(one.id)}`, onclick: () => rename(one, finished) }, "Name"),
        may.promote && h("button", { class: "small", type: "button", onclick: () => promote(one, known.aliases.champion, finished) }, "Promote")));
  }

  async function choose(id, on) {
    chosen = on ? [...chosen, id].slice(-2) : chosen.filter((one) => one !== id);
    for (const box of body.querySelectorAll(".pick")) box.checked = chosen.includes(box.closest("tr").dataset.version);
    mark(side, { hidden: chosen.length === 0 });
    if (chosen.length < 2) {
      fill(side, h("p", { class: "soft" }, chosen.length ? `${brief(chosen[0])} is selected. Select a second version to compare.` : ""));
      return;
    }
    const [b, a] = [...chosen].sort((one, other) => place(one) - place(other)); // b is the newer version
    fill(side, h("p", { class: "soft" }, `Comparing ${brief(a)} with ${brief(b)} `, bone()));
    try {
      const found = await get(`versions/${a}/diff/${b}`);
      if (chosen.includes(a) && chosen.includes(b)) fill(side, compared(found, () => { chosen = []; show(); }));
    } catch (problem) {
      fill(side, h("p", { class: "note bad" }, problem.message));
    }
  }

  const place = (id) => known.entries.findIndex((one) => one.id === id);

  const rows = list(body, (one) => ({ element: one.make(), update: () => {} }));
  new ResizeObserver(drawn).observe(lineage);
  mark(side, { hidden: true });
  load();
  return {
    title: "Versions",
    element,
    update(feed) {
      if (!feed.status) return;
      const first = status === null;
      status = feed.status;
      const now = JSON.stringify([status.aliases, status.marks?.length, status.counts?.decision]);
      if (now !== key && !document.querySelector("dialog[open]")) {
        key = now;
        load();
      } else if (first) show();
      buttons();
    },
  };
}

const skeleton = () => Array.from({ length: 5 }, () => h("tr", {}, h("td"), h("td"), h("td", {}, bone()), h("td", {}, bone()), h("td", {}, bone()), h("td")));
