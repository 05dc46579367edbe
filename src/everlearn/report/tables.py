"""Tables of the results of a run, made from plain data; `summary` takes the object that `run --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mae", "mse", "rmse", "pinball", "cost"})
NEITHER = frozenset({"examples", "unscored", "coverage", "quantile", "alert_share"})  # no value is better than another
LATELY = "_lately"
MOST_ACTIONS = 10  # that are listed
NAMES = {
    "ece": "calibration error",
    "pinball": "pinball loss",
    "recall_at_share": "recall of alerts",
    "precision_at_share": "precision of alerts",
    "alert_share": "share of alerts",
    "kappa_t": "kappa-T",
    "kappa_m": "kappa-M",
    "skill_last": "skill against last label",
    "skill_mean": "skill against mean",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "mae": "mean absolute error",
    "cost": "cost per decision",
    "mse": "mean squared error",
    "rmse": "root mean squared error",
}


def summary(result: Mapping[str, Any]) -> Group:
    """Return the report of a run as a rich table, the best value of each metric in bold, with a line of counts below.

    `result` has `events`, `events_per_second`, `metrics` = {model: {metric: value}}, and counts (or lists) of `drifts`,
    `versions`, `promotions`, `rollbacks` and `rejected` rows; missing entries are not shown. `members` has
    the weights of mixes by role, see `everlearn.loop.status.members`.
    """
    split: list[Any] = [by_segment(result["segments"]), Text()] if result.get("segments") else []
    champion = result.get("members", {}).get("champion", [])
    mix = [mixed("champion", champion)] if champion else []
    found = result.get("bandit")
    rewarded: list[Any] = [policies(found), Text()] if found and found["served"]["rows"] else []
    any_examples = any(one.get("examples", 0) > 0 for one in result["metrics"].values())
    measured: list[Any] = [table(result["metrics"]), Text()] if any_examples else []
    return Group(*measured, *split, *rewarded, counts(result), *mix)


def mixed(role: str, members: Sequence[Mapping[str, Any]]) -> Text:
    """Return one line with the weights of the members of a mix, and the members that rest.

    A member is named by its family; by its place as well where several are of one family.

    >>> linear = {"name": "0 linear", "weight": 0.9, "resting": False}
    >>> print(mixed("champion", [linear, {"name": "1 forest", "weight": 0.0, "resting": True}]))
    mix of the champion: linear 0.90, forest at rest
    """
    families = [str(one["name"]).partition(" ")[2] for one in members]
    names = families if len(set(families)) == len(families) else [one["name"] for one in members]
    parts = [
        f"{name} {'at rest' if one['resting'] else format(one['weight'], '.2f')}"
        for name, one in zip(names, members, strict=True)
    ]
    return Text(f"mix of the {role}: {', '.join(parts)}")


def table(measured: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the metrics as a table, a column for each model that has any; where values differ the best is bold."""
    models = [name for name in measured if measured[name].get("examples", 0) > 0]
    grid = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    grid.add_column("metric")
    for name in models:
        grid.add_column(name.replace("_", " "), justify="right")
    texts = {name: written(measured[name]) for name in models}
    for metric in dict.fromkeys(metric for name in models for metric in texts[name]):
        values = [measured[name].get(metric) for name in models]
        known = [value for value in values if value is not None]
        plain = metric.removesuffix(LATELY)
        best = min(known) if plain in LOWER_IS_BETTER else max(known)
        choice = plain not in NEITHER and len(known) > 1 and min(known) < max(known)
        cells = [
            Text(texts[name].get(metric, number(None)), style="bold green" if choice and value == best else "")
            for name, value in zip(models, values, strict=True)
        ]
        grid.add_row(named(metric), *cells)
    return grid


def policies(found: Mapping[str, Any]) -> Group:
    """Return the rewards of a loop that chooses actions: those served, and off-policy values of other policies.

    `found` is the status of `everlearn.learn.policies`. A line below says how often each action was served.

    >>> from rich import print
    >>> actions = [{"action": "a", "share": 0.75}, {"action": "b", "share": 0.25}]
    >>> print(policies({"served": {}, "policies": {}, "actions": actions, "fallbacks": 2}).renderables[1])
    served: a 75%, b 25% · 2 answers with the fallback
    """
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("policy", "reward", "low", "high"):
        grid.add_column(name, justify="left" if name == "policy" else "right")
    values = {"served": found["served"], **found["policies"]}
    for name, one in values.items():
        shown = f"{name} ({one['action']})" if "action" in one else name
        if one:
            grid.add_row(Text(shown), *(number(one[end]) for end in ("value", "low", "high")))
    often = sorted(found["actions"], key=lambda one: -one["share"])
    more = f", and {len(often) - MOST_ACTIONS} more" if len(often) > MOST_ACTIONS else ""
    line = ", ".join(f"{one['action']} {one['share']:.0%}" for one in often[:MOST_ACTIONS])
    fell = f" · {found['fallbacks']:,} answers with the fallback" if found["fallbacks"] else ""
    return Group(grid, Text(f"served: {line}{more}{fell}"))


def by_segment(measured: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the metrics of segments as a table, a row for each; see `everlearn.metrics.segment_report`."""
    names = list(dict.fromkeys(name for each in measured.values() for name in each))
    grid = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    grid.add_column("segment")
    for name in names:
        grid.add_column(named(name), justify="right")
    for segment, each in measured.items():
        grid.add_row(Text(segment), *(number(each.get(name)) for name in names))
    return grid


def drawable(metric: str, curve: Mapping[str, Any]) -> str:
    """Return `metric` if a curve holds it, else the loss that the curve holds: log loss or mean absolute error.

    >>> drawable("roc_auc", {"x": [], "accuracy": [], "log_loss": []})
    'log_loss'
    """
    return metric if metric in curve else "log_loss" if "log_loss" in curve else "mae"


def counts(result: Mapping[str, Any]) -> Text:
    """Return one line with the number of events, the rate, and the counts of drifts, versions and decisions."""
    events, rate = _count(result["events"]), result.get("events_per_second", 0.0)
    line = Text(f"{events:,} events" + (f", {rate:,.0f}/s" if rate else ""))
    for key in ("drifts", "versions", "promotions", "rollbacks"):
        if key in result:
            number = _count(result[key])
            line.append(f" · {number:,} {key.removesuffix('s') if number == 1 else key}")
    line.append(_labelled(result.get("labelling", {})))
    rejected = _count(result.get("rejected", 0))
    if rejected:
        line.append(f" · {rejected:,} {'row' if rejected == 1 else 'rows'} rejected", style="bold yellow")
    return line


def named(metric: str) -> str:
    """Return the display name of a metric.

    >>> named("roc_auc_lately")
    'ROC AUC, last 1,000'
    """
    if metric.endswith(LATELY):
        return f"{named(metric.removesuffix(LATELY))}, last 1,000"
    return NAMES.get(metric, metric.replace("_", " "))


def number(value: float | None) -> str:
    """Return a metric's value as text: counts in full, others to 4 decimals or digits, a dash for an unknown value.

    >>> number(3000), number(0.25), number(0.0000003)
    ('3,000', '0.2500', '3e-07')
    """
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if 0.0 < abs(value) < 1e-3 else f"{value:.4f}"


def written(measured: Mapping[str, float]) -> dict[str, str]:
    """Return the values of metrics as text; one with the ends of its interval is written with half their distance.

    A coverage is written beside the quantile that it should be.

    >>> written({"roc_auc": 0.75, "roc_auc_low": 0.749, "roc_auc_high": 0.751, "brier": 0.2})
    {'roc_auc': '0.7500 ± 0.0010', 'brier': '0.2000'}
    """
    ends = {f"{name}{end}" for name in measured for end in ("_low", "_high")} | {"quantile"}
    texts = {name: number(value) for name, value in measured.items() if name not in ends}
    for name in texts:
        half = (measured.get(f"{name}_high", 0.0) - measured.get(f"{name}_low", 0.0)) / 2
        if half >= 5e-5:
            texts[name] += f" ± {half:.4f}"
        if name.removesuffix(LATELY) == "coverage" and "quantile" in measured:
            texts[name] += f" of {measured['quantile']:g}"
    return texts


def _labelled(labelling: Mapping[str, Any]) -> str:
    """Return how many predictions have a label, and how many of the default labels in the metrics may change."""
    if not labelling.get("predictions"):
        return ""
    text = f" · {labelling['share']:.0%} of {labelling['predictions']:,} predictions labelled"
    default = labelling["default"]
    if default is None or not default["rows"]:
        return text
    text += f" · {default['rows']:,} took the default label, {default['corrected']:,} of them corrected"
    return text + (f"; metrics are provisional ({default['open']:,} may change)" if default["provisional"] else "")


def _count(value: Any) -> int:
    return value if isinstance(value, int) else len(value)
