"""Rows are learned in order; importance weights follow what each model predicts just before."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import ModelError
from everlearn.feedback.correction import Arrival
from everlearn.learn.teach import teach, warm
from everlearn.model import build
from everlearn.records import Batch, Floats, Singles
from tests.support.models import Mean, examples, part

SHAPE = {"task": "binary", "dense": 3, "hashed": 0, "classes": 2}


def test_each_model_learns_all_rows_in_one_call_or_row_by_row() -> None:
    rows = examples(50)
    whole, single = build({"family": "linear", **SHAPE}), build({"family": "linear", **SHAPE})
    teach([whole], rows.batch, rows.y, rows.weight, [None] * 50)
    for row in range(50):
        teach([single], part(rows.batch, row), rows.y[row : row + 1], rows.weight[row : row + 1], [None])
    assert {name: array.tobytes() for name, array in whole.arrays.items()} == {
        name: array.tobytes() for name, array in single.arrays.items()
    }


class Recorded(Mean):
    """Keeps the weights that it was taught with."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[float] = []

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        self.weights += weight.tolist()
        return super().learn(batch, y, weight)


def test_importance_weights_follow_the_prediction_of_each_model() -> None:
    rows = examples(3)
    y = np.array([1.0, 1.0, 0.0])
    late, assumed = Arrival(True, True, 0.5), Arrival(False, False, 0.5)
    fresh, experienced = Recorded(), Recorded()
    experienced.arrays["count"] += 8
    experienced.arrays["ones"] += 8
    teach([fresh, experienced], rows.batch, y, np.full(3, 2.0, np.float32), [late, None, assumed])
    assert fresh.weights == pytest.approx([2 * late.weight(1 / 2), 2.0, 2 * assumed.weight(3 / 4)], rel=1e-6)
    assert experienced.weights == pytest.approx([2 * late.weight(9 / 10), 2.0, 2 * assumed.weight(11 / 12)], rel=1e-6)


def test_a_warm_up_takes_as_many_passes_as_asked_for() -> None:
    one = Mean()
    warm(one, examples(20), epochs=3)
    assert one.arrays["count"] == 60


def test_a_model_that_fails_offline_is_reported() -> None:
    class Failing(Mean):
        def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
            raise ValueError("no")

    with pytest.raises(ModelError, match="learn raised ValueError: no"):
        warm(Failing(), examples(2))
