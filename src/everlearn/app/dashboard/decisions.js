// The page of decisions: every change and every refusal, with its reason and evidence.

import { get } from "./api.js";
import { sign } from "./chart.js";
import { bone, empty, fill, h, list, mark, put, s, why } from "./dom.js";
import { brief, count, counted, moment, plain } from "./format.js";
import { interval } from "./gate.js";
import { ACTIONS, evidenceRows, HELP, SIGNS } from "./words.js";

const PAGE = 200; // decisions requested at a time

export function decisions(context) {
  let entries = [];
  let chain = null;
  let next = null;
  let total = 0;
  let newest = null;
  let loading = false;

  const action = h("select", { "aria-label": "Action", onchange: show }, h("option", { value: "" }, "All actions"), Object.entries(ACTIONS).map(([key, text]) => h("option", { value: key }, text)));
  const search = h("input", { type: "search", "aria-label": "Search reasons, versions and tokens", placeholder: "Search reasons and versions", oninput: show });
  const seal = h("span", { class: "chip", "data-value": "chain" }, "…");
  const save = h("button", { type: "button", onclick: exported }, "Export as JSON");
  const found = h("p", { class: "small soft", role: "status" });
  const items = h("ol", { class: "entries" });
  const none = h("div", {}, Array.from({ length: 6 }, () => h("p", {}, bone())));
  const rows = list(items, (one) => ({ element: entry(one), update: () => {} }));
  const more = h("button", { type: "button", hidden: true, onclick: () => load(next) }, "Show older decisions");
  const card = h("section", { class: "card", "aria-label": "Decisions" }, h("header", {}, h("div", { class: "filters" }, action, search), h("div", { class: "end" }, found)), items, none, more);
  const element = h("div", { class: "stack" },
    h("div", { class: "head" }, h("h1", {}, "Decisions"), h("span", { class: "state" }, seal, why("the chain", HELP.chain)), h("div", { class: "actions" }, save),
      h("p", { class: "lead" }, "Every change of the champion or the roster, and every refused one, with its reason and evidence. Decisions are never deleted.")), card);

  async function load(after = null) {
    if (loading) return;
    loading = true;
    try {
      const page = await get(`decisions?order=newest&limit=${PAGE}${after ? `&after=${after}` : ""}`);
      const old = after ? entries : [];
      entries = [...old, ...page.decisions];
      ({ chain, next, total } = page);
      show();
    } catch (problem) {
      if (!entries.length) fill(none, h("p", { class: "note bad" }, `${problem.title}. ${problem.message}`));
    } finally {
      loading = false;
    }
  }

  function show() {
    const text = search.value.trim().toLowerCase();
    const shown = entries.filter((one) => (!action.value || one.action === action.value) && (!text || JSON.stringify([one.reason, one.version, one.previous, one.by, one.alias, one.detail?.token]).toLowerCase().includes(text)));
    rows(shown, (one) => one.position);
    fill(none, shown.length ? null : entries.length ? empty("No match", "No decision has this action and these words.") : empty("No decisions yet", "The first one is made when the loop starts."));
    put(found, shown.length === total ? counted(total, "decision") : `${count(shown.length)} of ${counted(total, "decision")}`);
    mark(more, { hidden: !next });
    sealed();
  }

  function sealed() {
    if (!chain) return;
    const checked = chain.checked === 0 && !chain.head ? "not checked yet" : `intact up to position ${count(chain.checked)}`;
    put(seal, chain.ok ? `chain ${checked}` : `chain broken at position ${count(chain.broken)}`);
    mark(seal, { class: `chip ${chain.ok ? (chain.checked ? "good" : "") : "bad"}` });
  }

  async function exported() {
    let all = [];
    let after = 0;
    try {
      do {
        const page = await get(`decisions?limit=1000&after=${after}`);
        all = [...all, ...page.decisions];
        after = page.next;
      } while (after);
    } catch (problem) {
      context.announce(problem.message);
      put(found, problem.message);
      return;
    }
    const link = h("a", { href: URL.createObjectURL(new Blob([JSON.stringify({ decisions: all, chain }, null, 2)], { type: "application/json" })), download: "decisions.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    context.announce(`${counted(all.length, "decision")} exported`);
  }

  load();
  return {
    title: "Decisions",
    element,
    update({ status }) {
      if (!status) return;
      const now = JSON.stringify([status.marks?.length, status.counts?.decision, status.aliases, status.chain?.ok, status.chain?.head]);
      if (newest !== null && now !== newest && entries.length <= PAGE) load();
      newest = now;
    },
  };
}

/** The origin of a decision: "user (ann)" if a token sent the command. */
const origin = (one) => (one.detail?.token ? `${one.by} (${one.detail.token})` : one.by);

function entry(one) {
  const moved = one.alias && one.previous ? `${brief(one.previous)} → ${brief(one.version)}` : brief(one.version);
  const role = one.action === "start" && one.alias ? `${one.alias} ` : ""; // a loop starts with one decision for each
  const body = h("div", { class: "body" });
  const details = h("details", { class: "entry", "data-position": one.position },
    h("summary", {}, h("span", { class: "sign" }, sign(SIGNS[one.action] ?? "start")), h("span", { class: "what" }, ACTIONS[one.action] ?? one.action),
      h("span", { class: "reason" }, one.reason, one.version && h("span", { class: "soft" }, ` · ${role}`, h("span", { class: "id" }, moved))), h("span", { class: "when" }, `by ${origin(one)}, ${moment(one.time)}`)), body);
  details.addEventListener("toggle", () => details.open && !body.firstChild && fill(body, evidence(one)));
  return h("li", {}, details);
}

function evidence(one) {
  const pairs = (rows) => h("dl", { class: "pairs small" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  const what = [["log position", count(one.position)], ["follows position", count(one.at)], one.alias && ["alias", one.alias], one.version && ["version", h("span", { class: "id" }, one.version)],
    one.previous && ["before", h("span", { class: "id" }, one.previous)], ...Object.entries(one.detail ?? {}).map(([name, value]) => [name, plain(value)])].filter(Boolean);
  return [
    h("div", {}, h("h3", {}, "Details"), pairs(what)),
    one.evidence && h("div", {}, h("h3", {}, "Evidence"), s("svg", { class: "interval", viewBox: "0 0 240 34", preserveAspectRatio: "xMinYMid", "aria-hidden": "true" }, interval(one.evidence)), pairs(evidenceRows(one.evidence))),
    one.seal && h("p", { class: "seal" }, "Seal ", h("span", { class: "id" }, one.seal)),
  ];
}
