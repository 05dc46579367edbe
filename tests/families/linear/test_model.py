"""The linear model: read-only snapshots, rows it refuses, and its loss on real streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.families.linear import build
from everlearn.model import own_loss
from everlearn.records import Batch, Loss
from tests.support.linear_rows import (
    BINARY,
    OPTIMIZERS,
    dense_batch,
    example_rows,
    learn,
)

Array = NDArray[Any]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_served_snapshot_may_be_read_only(optimizer: str) -> None:
    x, y = example_rows()
    model = build({**BINARY, "dense": 3, "hashed": 16, "optimizer": optimizer})
    learn(model, x, y)
    said = model.predict(dense_batch(x))
    for array in model.arrays.values():
        array.flags.writeable = False
    x.flags.writeable = False
    assert (model.predict(dense_batch(x)) == said).all()
    with pytest.raises(TypeError):
        learn(model, x, y)


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        ({"task": "binary"}, None),
        ({"task": "multiclass", "classes": 3}, None),
        ({"task": "regression"}, Loss("squared")),
        ({"task": "regression", "loss": "absolute"}, Loss("absolute")),
        ({"task": "regression", "loss": "quantile", "quantile": 0.9}, Loss("pinball", 0.9)),
        ({"task": "regression", "loss": "huber"}, Loss("huber", 1.0)),
    ],
)
def test_a_regression_exposes_its_loss(change: dict[str, Any], loss: Loss | None) -> None:
    assert own_loss(build({"dense": 1, **change})) == loss


@pytest.mark.parametrize(("y", "weight"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, np.nan)])
def test_rows_that_cannot_be_learned_are_predicted(y: float, weight: float) -> None:
    x, labels = example_rows()
    model = build({**BINARY, "dense": 3})
    learn(model, x, labels)
    before = {name: array.copy() for name, array in model.arrays.items()}
    said = model.predict(dense_batch(x[:1]))
    assert (learn(model, x[:1], [y], np.array([weight])) == said).all()
    assert all((model.arrays[name] == array).all() for name, array in before.items())


def broken(**parts: Any) -> Batch:
    whole = {
        "dense": np.zeros((2, 1), np.float32),
        "indptr": np.array([0, 1, 2]),
        "indices": np.array([0, 7], np.int32),
        "values": np.ones(2, np.float32),
    }
    return Batch(**{**whole, **parts})


@pytest.mark.parametrize("interactions", ["none", "hashed"])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken(indices=np.array([0, 8], np.int32)), "row 1 .* outside the hash space; expected 0 to 7"),
        (broken(indices=np.array([-1, 0], np.int32)), "row 0 .* outside the hash space"),
        (broken(indptr=np.array([0, 2, 1])), "indptr is wrong at row 1"),
        (broken(indptr=np.array([0, 1, 99])), "indptr is wrong .* from 0 to the 2 entries"),
        (broken(indptr=np.array([-5, 1, 2])), "indptr is wrong"),
        (broken(values=np.ones(1, np.float32)), "indptr is wrong"),
        (broken(dense=np.zeros((2, 3), np.float32)), r"shape \(2, 3\); expected \(2, 1\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Batch, message: str, interactions: str) -> None:
    model = build({**BINARY, "dense": 1, "hashed": 8, "interactions": interactions, "layout": 1})
    before = {name: array.copy() for name, array in model.arrays.items()}
    with pytest.raises(InputError, match=message):
        model.predict(batch)
    with pytest.raises(InputError, match=message):
        model.learn(batch, np.zeros(2), np.ones(2, np.float32))
    assert all((model.arrays[name] == array).all() for name, array in before.items())


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5])
def test_a_label_that_is_no_class_is_refused_and_nothing_is_learned(label: float) -> None:
    model = build({**BINARY, "dense": 3})
    x, y = example_rows(4)
    y[2] = label
    before = {name: array.tobytes() for name, array in model.arrays.items()}
    with pytest.raises(InputError, match=r"row 2 .* expected a class, a whole number from 0 to 1"):
        learn(model, x, y)
    assert {name: array.tobytes() for name, array in model.arrays.items()} == before


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"y and weight: got shapes \(3,\) and \(2,\) for 2 rows; expected \(2,\)"):
        build({**BINARY, "dense": 1}).learn(dense_batch(np.zeros((2, 1))), np.zeros(3), np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("name", "most"), [("elec2", 0.32), ("sms_spam", 0.124), ("hflights", 0.627), ("covtype20k", 0.55)]
)
def test_untuned_log_loss_on_real_streams(name: str, most: float, shared: Path) -> None:
    """Elec2's best peer has .385, Vowpal Wabbit .124 on the texts, River .627 on the flights."""
    import everlearn as el

    path = shared / f"{name}.parquet"
    report = el.prequential(el.build({"family": "linear"}), el.read(path, label="label"))
    assert report.metrics["log_loss"] <= most
