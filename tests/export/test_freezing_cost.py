"""The cost of frozen leaves against scikit-learn's measures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, root_mean_squared_error

from everlearn.errors import InputError
from everlearn.export import cost
from everlearn.families import frozen
from everlearn.records import Examples
from tests.support.learned_models import fresh, score, taught


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_measures_are_those_of_both_models(task: str) -> None:
    model, encoder = taught("forest", task)
    records, batch = fresh(encoder, 300)
    y = np.array([score(record) for record in records])
    y = 1000.0 + 10.0 * y if task == "regression" else np.digitize(y, [1.5, 3.0]).astype(float)
    ones, position = np.ones(300, np.float32), np.arange(300)
    found = cost(model, [Examples(batch, y, ones, position)])
    assert found.rows == 300
    for which, one in enumerate((model, frozen.still(model))):
        scores = one.predict(batch).astype(float)
        if task == "regression":
            assert found.measures["mae"][which] == pytest.approx(mean_absolute_error(y, scores[:, 0]))
            assert found.measures["rmse"][which] == pytest.approx(root_mean_squared_error(y, scores[:, 0]))
        else:
            assert found.measures["accuracy"][which] == pytest.approx(accuracy_score(y, scores.argmax(1)))
            normal = scores / scores.sum(1, keepdims=True)
            assert found.measures["log_loss"][which] == pytest.approx(log_loss(y, normal, labels=[0, 1, 2]), rel=1e-5)
    was, now = found.measures["mae" if task == "regression" else "log_loss"]
    assert was != now


def test_no_rows_are_refused() -> None:
    model, _ = taught("tree", "binary")
    with pytest.raises(InputError, match="cost: got no labelled row"):
        cost(model, [])
