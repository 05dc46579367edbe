"""The gain over the baseline: how much better the champion's role is than what never learns, with its interval.

Both were scored on the same rows, so the points of their two curves are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.gate import interval

LEARNED_NOTHING = ("last_label", "majority", "mean", "seasonal")
HIGHER_IS_BETTER = ("accuracy",)
_MEASURED = ("accuracy", "log_loss", "mae", "mse", "pinball")  # in the curves
_STANDS_FOR = {"rmse": "mse", "r2": "mse", "skill_last": "mae", "skill_mean": "mae", "kappa": "accuracy"}
_SAME = {"error": "accuracy", "log_loss": "log_loss", "absolute": "mae", "squared": "mse", "pinball": "pinball"}
_BOUNDS = {"accuracy": 1.0}  # of the difference in one row
_MOST_OF = 0.9  # share of the rows behind the gain from which evidence of the gate is about the same rows
_FEWEST = 100  # examples below which there is no gain


def of(curves: Mapping[str, Mapping[str, Any]], headline: str, alpha: float) -> dict[str, Any] | None:
    """Return the gain over the baseline, or None while there is nothing to compare.

    `curves` are those of `Monitor.curves`. The baseline is the frozen start if it has a curve, else the best naive one.
    `metric` is `headline` if curves hold it, else the mean loss nearest to it. `difference` is the champion's metric
    minus the baseline's, over `examples` rows that both predicted; `low` and `high` bound it (None: too few rows, or
    all are equal). They are a confidence sequence at `alpha`, shared among the naive baselines that the best was chosen
    of.
    `better` is 1 if the interval shows the champion better, -1 if worse, else 0.
    """
    champion = curves.get("champion", {})
    name = _metric(headline, champion)
    if not name:
        return None
    found = {role: _paired(champion, curves[role], name) for role in _baselines(curves, name)}
    found = {role: pairs for role, pairs in found.items() if pairs[2] >= _FEWEST}
    if not found:
        return None
    sign = 1.0 if name in HIGHER_IS_BETTER else -1.0
    role = min(found, key=lambda one: sign * float(found[one][0].sum() / found[one][1].sum()))
    sums, weights, examples = found[role]
    mean, low, high = interval.of_stretches(sums, weights, examples, alpha / len(found), _BOUNDS.get(name, np.inf))
    better = 0
    if low is not None and high is not None and not low <= 0.0 <= high:
        better = int(np.sign(sign * mean))
    return {
        "baseline": role,
        "metric": name,
        "difference": mean,
        "low": low,
        "high": high,
        "better": better,
        "examples": examples,
        "alpha": alpha,
    }


def beside_gate(
    gained: dict[str, Any] | None, frozen: str, compared: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the gain with the gate's evidence on the same two models under "gate": None where it has none.

    `frozen` is the version of the frozen start, `compared` the comparisons of the status. `better` is 1 or -1 where
    the gate's confidence sequence leaves out 0. If the gate measures the same over nearly all of the rows, the gain
    takes its difference and its interval.
    """
    if gained is None or gained["baseline"] != "frozen":
        return gained if gained is None else gained | {"gate": None}
    both = [one for one in compared if one["examples"] and _versions(one) == {"champion", frozen}]
    if not both:
        return gained | {"gate": None}
    one = max(both, key=lambda each: int(each["examples"]))
    forward = one["role"] == "champion"
    low, high = (one["low"], one["high"]) if forward else (-one["high"], -one["low"])  # of the baseline's loss - ours
    difference = one["difference"] if forward else -one["difference"]
    better = 1 if low > 0.0 else -1 if high < 0.0 else 0
    evidence = {"loss": one["loss"], "difference": difference, "low": low, "high": high, "examples": one["examples"]}
    found = gained | {"gate": evidence | {"better": better}}
    if _SAME.get(one["loss"]) != gained["metric"] or one["examples"] < _MOST_OF * gained["examples"] or low == -high:
        return found
    flip = gained["metric"] not in HIGHER_IS_BETTER  # a lower loss is a lower metric, and a higher accuracy
    ends = (-high, -low) if flip else (low, high)
    return found | {
        "difference": -difference if flip else difference,
        "low": ends[0],
        "high": ends[1],
        "better": better,
    }


def _versions(one: Mapping[str, Any]) -> set[str]:
    """Return the versions of a comparison, with "champion" for the champion, whatever its version."""
    sides = (one["role"], one["candidate"]), (one["reference_role"], one["reference"])
    return {"champion" if role == "champion" else version for role, version in sides}


def _metric(headline: str, curve: Mapping[str, Any]) -> str:
    """Return the metric to compare by; empty where the curve has none."""
    first = _STANDS_FOR.get(headline, headline)
    known = [name for name in (first, "log_loss", "mae", *_MEASURED) if name in _MEASURED and name in curve]
    return known[0] if known else ""


def _baselines(curves: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    held = [role for role in ("frozen", *LEARNED_NOTHING) if name in curves.get(role, {})]
    return held[:1] if "frozen" in held else held


def _paired(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> tuple[Any, Any, int]:
    """Return the sums of differences and the weights of the stretches in which both scored the same rows."""
    _, in_a, in_b = np.intersect1d(a["x"], b["x"], assume_unique=True, return_indices=True)
    same = (a["count"][in_a] == b["count"][in_b]) & np.isclose(a["weight"][in_a], b["weight"][in_b], rtol=1e-9)
    in_a, in_b = in_a[same], in_b[same]
    weights = a["weight"][in_a]
    return (a[name][in_a] - b[name][in_b]) * weights, weights, int(a["count"][in_a].sum())
