"""Contributions of Mondrian forests: they add up to the score, and sums of hashed entries are divided among these."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.families.explain import contributions
from tests.support.learned_models import CLASSES, fresh, taught


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_contributions_add_up_to_the_score(task: str, hashed: bool) -> None:
    model, encoder = taught("mondrian", task, hashed)
    records, batch = fresh(encoder, 60)
    for record, scores in zip(records, model.predict(batch).astype(float), strict=True):
        found = contributions(model, encoder, record)
        if task == "regression":
            assert sum(found.values()) == pytest.approx(scores[0], rel=1e-6)
        elif task == "binary":
            assert sum(found.values()) == pytest.approx(math.log(scores[1] / scores[0]), rel=2e-6, abs=2e-6)
        else:
            sums = [sum(found[label].values()) for label in CLASSES[task]]
            np.testing.assert_allclose(sums, np.log(scores), rtol=2e-6, atol=2e-6)


def test_a_category_is_credited_and_its_absence_as_well() -> None:
    model, encoder = taught("mondrian", "binary", hashed=True)
    record = {"amount": 3100.0, "age": 30.0, "night": False, "country": "NL"}
    found = contributions(model, encoder, record)
    assert found["country"] > 0.0
    del record["country"]
    without = contributions(model, encoder, record)
    assert without["country"] == 0.0
    assert without["absent values"] != 0.0


def test_a_column_that_never_changes_adds_nothing() -> None:
    model, encoder = taught("mondrian", "binary")
    records, _ = fresh(encoder, 30)
    for record in records:
        assert contributions(model, encoder, {**record, "unknown": 3.0}).get("unknown") is None
    arrays = dict(model.arrays)
    used = arrays["nodes"][:, :, 0][arrays["nodes"][:, :, 2] > 0]
    assert {0, 1} <= set(used.tolist())
