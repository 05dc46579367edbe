"""Turn scores into decisions. A rule is one small array, so that it travels with the model that it belongs to.

    (1,)     two classes: the threshold; the second class is decided where its probability is at least that
    (k, k)   costs of a true class (row) and a decided class (column): the lowest expected cost is decided

Without a rule the likeliest class is decided. `learn/thresholds.py` chooses thresholds as labels come.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from everlearn.errors import ConfigError, nearest
from everlearn.records import Floats, Ints, Scalar, Singles
from everlearn.schema import meaning
from everlearn.spec import Schema, Spec

Kind = Literal["none", "costs", "rate", "recall"]

_TARGETS: tuple[Kind, ...] = ("costs", "rate", "recall")


def kind(spec: Spec) -> Kind:
    """Return which target of `spec.decision` is set. Raises `ConfigError` for more than one, or for the wrong task."""
    chosen = [name for name in _TARGETS if getattr(spec.decision, name)]
    task = spec.schema.task
    if len(chosen) > 1:
        raise ConfigError(f"decision: got {' and '.join(chosen)}; expected one of them. Remove the others")
    if not chosen:
        return "none"
    if task == "regression" or (task != "binary" and chosen[0] != "costs"):
        fits = "'costs' needs classes" if chosen[0] == "costs" else f"'{chosen[0]}' is for two classes"
        raise ConfigError(f"decision.{chosen[0]}: got it for a {task} task; {fits}. Remove it")
    return chosen[0]


def costs(spec: Spec) -> Floats:
    """Return the costs, float64 (k, k): a row for each true class, a column for each decided one.

    Raises `ConfigError` for an unknown class, a cost that is not finite, a wrong decision that costs less than the
    right one, and a class that is never worse to decide than the others: then there would be nothing to decide.

    >>> from everlearn.spec import DecisionSpec
    >>> schema = Schema(label="y", task="binary", classes=("ok", "fraud"), fields={"x": "numeric"})
    >>> decision = DecisionSpec(costs={"fraud": {"ok": 100.0}, "ok": {"fraud": 1.0}})
    >>> costs(Spec(schema=schema, decision=decision)).tolist()
    [[0.0, 1.0], [100.0, 0.0]]
    """
    given, classes = spec.decision.costs, spec.schema
    found = np.zeros((len(classes.classes), len(classes.classes)))
    for true, row in given.items():
        for decided, cost in row.items():
            where = f"decision.costs.{true}.{decided}"
            if not math.isfinite(cost):
                raise ConfigError(f"{where}: got {cost}; expected a finite cost")
            found[class_index(classes, true, "decision.costs"), class_index(classes, decided, where)] = cost
    names = [str(label) for label in classes.classes]
    for i, true in enumerate(names):
        for j, decided in enumerate(names):
            if found[i, j] < found[i, i]:
                raise ConfigError(
                    f"decision.costs.{true}.{decided}: got {found[i, j]:g}; expected at least {found[i, i]:g}, the "
                    "cost of the right decision. Raise it, or lower that"
                )
    for j, decided in enumerate(names):
        if (found[:, j] <= found.diagonal()).all():
            raise ConfigError(
                f"decision.costs: deciding {decided!r} never costs more than the right decision, so it would always "
                f"be decided. Add what a false {decided!r} costs"
            )
    return found


def class_index(schema: Schema, name: str, where: str) -> int:
    """Return the index of the class that a setting names. Raises `ConfigError`, naming the setting `where`."""
    known = {meaning.category(label): index for index, label in enumerate(schema.classes)}
    known |= {str(label).encode(): index for index, label in enumerate(schema.classes)}
    index = known.get(name.encode(), known.get(meaning.category(name)))
    if index is None:
        names = [str(label) for label in schema.classes]
        near = nearest(name, names)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ConfigError(f"{where}: got the class {name!r}{hint}; expected one of {', '.join(names) or 'none'}")
    return index


def bayes_threshold(costs: Floats) -> float:
    """Return the threshold of the lowest expected cost for two classes, if probabilities are right.

    It is c_fp / (c_fp + c_fn), where each cost is what the wrong decision costs more than the right one (Elkan 2001,
    "The foundations of cost-sensitive learning", eq. 2).

    >>> bayes_threshold(np.array([[0.0, 1.0], [99.0, 0.0]]))
    0.01
    """
    false_alarm, miss = costs[0, 1] - costs[0, 0], costs[1, 0] - costs[1, 1]
    return float(false_alarm / (false_alarm + miss))


def decide(rule: Floats | None, scores: Singles) -> Ints:
    """Return the decided class of each row, int64 (n,), for scores float32 (n, k).

    Of classes with equal cost, or equal probability, it is the first.

    >>> decide(np.array([0.1]), np.array([[0.95, 0.05], [0.8, 0.2]], np.float32)).tolist()
    [0, 1]
    """
    if rule is None:
        return np.asarray(scores.argmax(1), np.int64)
    if rule.ndim == 1:
        return np.asarray(scores[:, 1].astype(np.float64) >= rule[0], np.int64)
    expected = np.zeros(scores.shape)
    for true, row in enumerate(rule):  # a matrix product may round differently for other numbers of rows
        expected += scores[:, true : true + 1].astype(np.float64) * row
    return np.asarray(expected.argmin(1), np.int64)


def values(rule: Floats | None, scores: Singles, classes: tuple[Scalar, ...]) -> list[Scalar]:
    """Return the decided classes for scores float32 (n, k) as the labels that they stand for."""
    return [classes[best] for best in decide(rule, scores).tolist()]
