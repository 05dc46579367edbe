"""Rows that are learned offline before a loop starts: their number, their weight, and the model that learns them."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn import model, schema
from everlearn.learn.monitor import Monitor
from everlearn.loop.warm_up import WarmUp
from everlearn.model import Model
from everlearn.records import Batch, Examples
from everlearn.spec import Schema, Spec

SCHEMA = Schema(label="y", task="regression", fields={"x": "numeric"})


def warm_up(spec: Spec) -> tuple[WarmUp, Monitor, list[Model]]:
    built: list[Model] = []
    shape = schema.Encoder(spec.schema).shape

    def make() -> Model:
        built.append(model.build({"seed": 0, **spec.model}, shape))
        return built[-1]

    monitor = Monitor(spec, shape)
    return WarmUp(spec, monitor, make), monitor, built


def examples(n: int, weight: float = 1.0) -> Examples:
    x = np.arange(n, dtype=np.float32)[:, None]
    none = np.zeros(0, np.int32)
    batch = Batch(x, np.zeros(n + 1, np.int64), none, none.astype(np.float32))
    return Examples(batch, 2.0 * x[:, 0].astype(np.float64), np.full(n, weight, np.float32), np.arange(n))


def test_only_the_planned_rows_are_learned_and_remembered() -> None:
    warm, monitor, built = warm_up(Spec(schema=SCHEMA, model={"family": "linear"}, warm_start=5))
    assert [warm.learn(examples(3)), warm.learn(examples(3)), warm.learn(examples(3))] == [3, 2, 0]
    assert (warm.learned, len(monitor.remembered().y), monitor.scored) == (5, 5, 0)
    assert warm.end() is built[0]
    assert warm.model() is not built[0]


def test_without_a_warm_start_nothing_is_learned_and_no_model_is_built() -> None:
    warm, _, built = warm_up(Spec(schema=SCHEMA, model={"family": "linear"}))
    assert (warm.learn(examples(3)), built) == (0, [])


@pytest.mark.parametrize("weight", [1.0, 1000.0])
def test_a_warm_row_weighs_at_most_the_limit(weight: float) -> None:
    spec = Spec(schema=SCHEMA, model={"family": "linear"}, warm_start=3)
    warm, monitor, _ = warm_up(spec)
    warm.learn(examples(3, weight))
    assert monitor.remembered().weight.tolist() == [min(weight, spec.limits.weight)] * 3


def test_a_warm_row_of_weight_0_is_counted_and_changes_nothing() -> None:
    warm, monitor, built = warm_up(Spec(schema=SCHEMA, model={"family": "linear"}, warm_start=6))
    warm.learn(examples(3, 0.0))
    untouched = {name: array.tobytes() for name, array in warm.model().arrays.items()}
    assert (warm.learned, len(monitor.remembered().y)) == (3, 0)
    warm.learn(examples(3))
    assert (warm.learned, len(monitor.remembered().y)) == (6, 3)
    assert untouched != {name: array.tobytes() for name, array in built[0].arrays.items()}
