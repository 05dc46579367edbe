// The card of loops that choose actions: the reward of what was served, the values of policies, and the actions.

import { fill, h, mark, put, why } from "./dom.js";
import { count, known, number, percent } from "./format.js";

const HELP = "The mean reward of the answers, with an interval that holds at every moment. The other lines are estimates of what each policy would have earned on the same requests (off-policy, doubly robust). Best constant: the one action that would have earned most.";
const MOST = 12; // actions that are listed

/** Create the card: {element, update(status)}; it stays hidden for loops that choose no actions. */
export function actions() {
  const fallbacks = h("span", { class: "soft small" });
  const policies = h("tbody");
  const served = h("tbody");
  const element = h("section", { class: "card bandit", hidden: true, "aria-labelledby": "bandit" },
    h("header", {}, h("h2", { id: "bandit" }, "Rewards and actions"), why("rewards", HELP), fallbacks),
    h("div", { class: "two" },
      h("table", {}, head("Policy", "Reward", "Interval"), policies),
      h("table", {}, head("Action", "Served", "Mean reward"), served)));
  return {
    element,
    update(status) {
      const found = status.bandit;
      mark(element, { hidden: !found });
      if (!found) return;
      const values = Object.entries({ served: found.served, ...found.policies }).filter(([, one]) => one.rows);
      fill(policies, values.map(([name, one]) => row(one.action ? `${name}: ${one.action}` : name, known(one.value) ? number(one.value) : "–", `${number(one.low)} to ${number(one.high)}`)));
      const often = [...found.actions].sort((a, b) => b.served - a.served).slice(0, MOST);
      fill(served, often.map((one) => row(one.action, `${count(one.served)} (${percent(one.share, 0)})`, known(one.reward) ? number(one.reward) : "–")));
      put(fallbacks, found.fallbacks ? `${count(found.fallbacks)} answers with the fallback` : "");
    },
  };
}

function head(...names) {
  return h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));
}

function row(name, ...cells) {
  return h("tr", {}, h("th", { scope: "row" }, name), cells.map((text) => h("td", {}, text)));
}
