"""Tails of columns and rare categories, against counts in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.families.anomaly.model import Anomaly, build
from everlearn.records import Batch, Singles


def taught(dense: Singles, window: int = 64) -> Anomaly:
    spec = {"family": "anomaly", "task": "binary", "dense": dense.shape[1], "window": window, "method": "quantile"}
    model = build(spec)
    model.learn(rows_of(dense), np.zeros(len(dense)), np.ones(len(dense), np.float32))
    return model


def rows_of(dense: Singles) -> Batch:
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def surprise(value: float, column: Singles) -> float:
    known = column[np.isfinite(column)]
    if not math.isfinite(value):
        return -math.log((len(column) - len(known) + 0.5) / (len(column) + 1))
    tails = (known <= value).sum(), (known >= value).sum()
    found = -math.log((min(tails) + 0.5) / (len(known) + 1))
    if min(tails):
        return found
    edge = float(known.max() if value > known.max() else known.min())
    return found + math.log1p(min(abs(value - edge) / abs(edge - float(np.sort(known)[len(known) // 2])), 1000.0))


def test_surprises_are_log_tail_probabilities() -> None:
    random = np.random.default_rng(1)
    x = np.stack([random.normal(size=64), random.integers(0, 4, 64), random.exponential(size=64)], 1).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    model = taught(x)
    probes = np.array([[0.1, 2, 0.5], [-9, 7, 30], [np.nan, 0, np.inf], [1e38, -1, 0]], np.float32)
    expected = [sum(surprise(float(v), x[:, j]) for j, v in enumerate(row)) for row in probes]
    np.testing.assert_allclose(model.raw(rows_of(probes)), expected, rtol=1e-5)


def test_a_value_that_was_never_missing_is_a_surprise_when_it_is() -> None:
    x = np.random.default_rng(2).normal(size=(64, 2)).astype(np.float32)
    x[::2, 1] = np.nan
    model = taught(x)
    often, never = model.raw(rows_of(np.array([[0.0, np.nan], [np.nan, 0.0]], np.float32)))
    assert never > often + 2.0


@pytest.mark.parametrize("cells", [256, 1 << 20])
def test_rare_categories_stand_out(cells: int) -> None:
    random = np.random.default_rng(3)
    codes = np.where(random.random(3000) < 0.01, 17, random.choice([3, 9], 3000)).astype(np.int32)
    spec = {"family": "anomaly", "task": "binary", "dense": 0, "hashed": cells, "window": 256}
    model = build(spec)
    batch = Batch(np.zeros((3000, 0), np.float32), np.arange(3001, dtype=np.int64), codes, np.ones(3000, np.float32))
    scores = model.learn(batch, np.zeros(3000), np.ones(3000, np.float32))[500:, 1]
    assert scores[codes[500:] == 17].min() > scores[codes[500:] != 17].max()
