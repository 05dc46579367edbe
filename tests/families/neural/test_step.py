"""Steps: what a full minibatch counts, drift in the network's own loss, and passes that fail."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.families.neural.training_state import DRIFTS, PASSES, SINCE, WAITING
from everlearn.model import copied, cut
from tests.support.neural_nets import (
    BALANCED,
    CLASSES,
    DENSE,
    HERE,
    SPEC,
    Counts,
    bytes_of,
    examples,
    learn,
)


def test_an_average_begins_anew_with_a_new_class() -> None:
    spec = {**SPEC, "restart": True, "optimizer": {"name": "sgd", "lr": 0.1}}
    model, rows = el.build(spec), examples(400, DENSE, CLASSES)
    rows.y[:] = np.where(np.arange(400) < 390, np.arange(400) % 2, 2)
    learn(model, cut(rows, 0, 390))
    before = model.arrays["weights/0.weight"].copy()
    learn(model, cut(rows, 390, 400))
    raw = model.arrays["learn/raw/0.weight"]
    np.testing.assert_allclose(model.arrays["weights/0.weight"], before / 3 + raw * 2 / 3, atol=1e-6)


def test_a_sudden_change_is_noticed_although_the_network_is_still_learning() -> None:
    rows = examples(4000, DENSE, 2)
    rows.y[:] = rows.batch.dense[:, 0] > 0
    rows.y[2500:] = 1 - rows.y[2500:]
    spec = {**SPEC, "task": "binary", "classes": 2, "drift": {"detector": "adwin"}, "optimizer": {"lr": 0.01}}
    model = el.build({**spec, "optimizer": {"name": "adam", "lr": 0.01}})
    learn(model, cut(rows, 0, 2500))
    assert model.arrays["learn/counts"][5] == 0
    learn(model, cut(rows, 2500, 2700))
    assert model.arrays["learn/counts"][5] == 1


def test_a_rise_of_the_loss_raises_the_rate_for_a_while() -> None:
    rows = examples(1200, DENSE, 2)
    rows.y[600:] = 1 - rows.y[600:]
    spec = {**SPEC, "task": "binary", "classes": 2, "ema": 0.9, "optimizer": {"name": "adam", "lr": 0.01}}
    watching = {**spec, "drift": {"detector": "page_hinkley", "grace_period": 100, "rate": 4.0}}
    model, calm = el.build(watching), el.build(spec)
    learn(model, cut(rows, 0, 600))
    assert model.arrays["learn/counts"][DRIFTS] == 0
    learn(calm, cut(rows, 0, 600))
    assert (model.arrays["weights/0.weight"] == calm.arrays["weights/0.weight"]).all()
    after = learn(model, cut(rows, 600, 1200)), learn(calm, cut(rows, 600, 1200))
    assert model.arrays["learn/counts"][DRIFTS] == 1
    right = [(said[:300].argmax(1) == rows.y[600:900]).mean() for said in after]
    assert right[0] > right[1] + 0.05


@pytest.mark.parametrize("passes", [1, 2])
def test_rows_of_a_pass_that_fails_are_counted_once(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"normalize": True, "ema": 0.9, "passes": passes, "drift": {"detector": "adwin"}}
    spec = {**BALANCED, **more, "family": HERE + "Counts", "optimizer": "adam"}
    rows = examples(60, 5, 3)
    rows.y[:] %= 2
    rows.y[22] = 2  # met for the first time where it fails
    model, whole = el.build(spec), el.build(spec)
    learn(whole, rows)
    learn(model, cut(rows, 0, 29))
    before = copied(model.arrays)
    monkeypatch.setattr(Counts, "fails", True)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="out of memory"):
            learn(model, cut(rows, 29, 30) if model.arrays["learn/counts"][WAITING] == 9 else cut(rows, 30, 31))
        for name in ("classes", "prior", "inputs/moments", "learn/frequent", "weights/passes", "learn/raw/passes"):
            assert model.arrays[name].tobytes() == before[name].tobytes()
        counts = model.arrays["learn/counts"]
        assert [counts[at] for at in (PASSES, DRIFTS, SINCE)] == [
            before["learn/counts"][at] for at in (PASSES, DRIFTS, SINCE)
        ]
    monkeypatch.undo()
    learn(model, cut(rows, 30, 60))
    assert bytes_of(model.arrays) == bytes_of(whole.arrays)
