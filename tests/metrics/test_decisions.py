"""The metrics of decisions equal those of scikit-learn, with weights, however the rows are split."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from everlearn.metrics import decisions

COSTS = np.array([[0.0, 1.0], [9.0, 0.5]])


def rows(n: int = 3000, classes: int = 2) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(4)
    y = draw.integers(0, classes, n)
    decided = np.where(draw.random(n) < 0.7, y, draw.integers(0, classes, n))
    return decided, y.astype(np.float64), draw.integers(1, 5, n).astype(np.float32) / 2


def test_decisions_are_scored_as_scikit_learn_does() -> None:
    decided, y, weight = rows()
    table = decisions.start(2)
    decisions.update(table, decided, y, weight)
    got = decisions.report(table, COSTS)
    assert got["decision_precision"] == pytest.approx(sk.precision_score(y, decided, sample_weight=weight))
    assert got["decision_recall"] == pytest.approx(sk.recall_score(y, decided, sample_weight=weight))
    assert got["decided_positive"] == pytest.approx(np.average(decided, weights=weight))
    each = [COSTS[int(true), choice] for true, choice in zip(y, decided, strict=True)]
    assert got["cost"] == pytest.approx(np.average(each, weights=weight))
    assert table == pytest.approx(sk.confusion_matrix(y, decided, sample_weight=weight))


def test_more_classes_have_a_cost_alone() -> None:
    decided, y, weight = rows(classes=4)
    table, costs = decisions.start(4), np.arange(16.0).reshape(4, 4)
    decisions.update(table, decided, y, weight)
    each = [costs[int(true), choice] for true, choice in zip(y, decided, strict=True)]
    assert decisions.report(table, costs) == {"cost": pytest.approx(np.average(each, weights=weight))}
    assert decisions.report(table) == {}


def test_rows_one_by_one_leave_the_same_bytes_and_bad_rows_nothing() -> None:
    decided, y, weight = rows(500)
    together, single = decisions.start(2), decisions.start(2)
    decisions.update(together, decided, y, weight)
    for row in range(500):
        decisions.update(single, decided[row : row + 1], y[row : row + 1], weight[row : row + 1])
    assert together.tobytes() == single.tobytes()
    bad = np.array([np.nan, 2.0, -1.0, 0.5, 1.0]), np.array([1, 1, 1, 1, np.nan], np.float32)
    decisions.update(together, np.zeros(5, np.int64), *bad)
    assert together.tobytes() == single.tobytes()
    assert decisions.report(decisions.start(2), COSTS) == {}
