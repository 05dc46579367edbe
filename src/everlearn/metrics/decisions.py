"""Quality of decisions: what they cost, and how they fall, from one table of weights.

The table has a row for each true class and a column for each decided one, so costs may change and hold for the past.
Accuracy, and all that follows from probabilities, is in `everlearn.metrics`.
"""

from __future__ import annotations

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.records import Floats, Ints, Singles


def start(classes: int) -> Floats:
    """Return an empty table, float64 (classes, classes)."""
    return np.zeros((classes, classes))


def update(table: Floats, decided: Ints, y: Floats, weight: Singles) -> None:
    """Add n decisions in order: the classes decided int64 (n,), the labels float64 (n,), weights float32 (n,)."""
    labels, weights = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
    _add(table, np.ascontiguousarray(decided, np.int64), labels, weights)


def report(table: Floats, costs: Floats | None = None) -> dict[str, float]:
    """Return the metrics so far, without those that are not defined yet.

    `cost` is the mean cost of a decision, where `costs`, float64 (classes, classes), are known. For two classes also
    `decided_positive`, the share decided positive, and `decision_precision` and `decision_recall` of the decisions.

    >>> table = start(2)
    >>> update(table, np.array([1, 1, 0, 0]), np.array([1.0, 0.0, 0.0, 1.0]), np.ones(4, np.float32))
    >>> report(table, np.array([[0.0, 1.0], [10.0, 0.0]]))
    {'cost': 2.75, 'decided_positive': 0.5, 'decision_precision': 0.5, 'decision_recall': 0.5}
    """
    total = float(table.sum())
    if not total > 0:
        return {}
    found = {} if costs is None else {"cost": float((table * costs).sum() / total)}
    if len(table) != 2:
        return found
    positive, decided, hit = float(table[1].sum()), float(table[:, 1].sum()), float(table[1, 1])
    found["decided_positive"] = decided / total
    return (
        found
        | ({"decision_precision": hit / decided} if decided > 0 else {})
        | ({"decision_recall": hit / positive} if positive > 0 else {})
    )


@exact_kernel
def _add(table: Floats, decided: Ints, y: Floats, weight: Singles) -> None:
    classes = len(table)
    for row in range(len(y)):
        w = np.float64(weight[row])
        if 0 <= y[row] < classes and y[row] == np.floor(y[row]) and 0.0 < w < np.inf:
            table[np.int64(y[row]), decided[row]] += w
