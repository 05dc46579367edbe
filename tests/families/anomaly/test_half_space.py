"""Half-space trees against a walk in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.families.anomaly import half_space
from everlearn.families.anomaly.model import Anomaly, build
from everlearn.records import Batch, Singles


def rows_of(dense: Singles) -> Batch:
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def detector(**settings: object) -> Anomaly:
    return build({"family": "anomaly", "task": "binary", "dense": 3, "window": 64, "method": "half_space", **settings})


def taught(random: np.random.Generator, missing: float) -> tuple[Anomaly, Singles]:
    x = (random.normal(size=(200, 3)) * [1.0, 50.0, 0.01]).astype(np.float32)
    x[random.random(x.shape) < missing] = np.nan
    model = detector(trees=7)
    model.learn(rows_of(x), np.zeros(200), np.ones(200, np.float32))
    return model, x


def mass(model: Anomaly, row: Singles, window: Singles) -> float:
    """The mean of log2(rows at the node + 1/2) + depth over the trees, of rows that are walked one by one."""
    held = model.arrays

    def walk(t: int, values: Singles) -> list[int]:
        nodes = [0]
        while nodes[-1] < 255:
            value = values[held["half_columns"][t, nodes[-1]]]
            if math.isnan(value):
                break
            nodes.append(2 * nodes[-1] + (2 if value >= held["half_cuts"][t, nodes[-1]] else 1))
        return nodes

    total = 0.0
    for t in range(len(held["half_cuts"])):
        node = walk(t, row)[-1]
        inside = sum(node in walk(t, other) for other in window)
        total += math.log2(inside + 0.5) + math.floor(math.log2(node + 1))
    return total / len(held["half_cuts"])


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_masses_are_those_of_rows_that_are_walked_one_by_one(missing: float) -> None:
    model, x = taught(np.random.default_rng(3), missing)
    # References follow rows 32, 64, 128 and 192: the newest holds the 64 rows before row 192.
    window = x[128:192]
    found = model.raw(rows_of(x[192:]))
    np.testing.assert_allclose(found, [-mass(model, row, window) for row in x[192:]], rtol=1e-6)


def test_cuts_halve_work_ranges_around_the_unit_interval() -> None:
    columns, shares = np.zeros((40, 255), np.int32), np.zeros((40, 255))
    half_space.draw(5, 40, 8, 2, columns, shares)
    assert set(np.unique(columns)) == {0, 1}
    for t in range(40):
        ranges = {0: np.array([[np.nan, np.nan]] * 2)}
        root = shares[t, 0]
        assert 0.0 <= root <= 1.0  # the middle of the stretched range is the random point itself
        for node in range(127):
            column, cut = columns[t, node], shares[t, node]
            for side in range(2):
                ranges[2 * node + 1 + side] = ranges[node].copy()
                ranges[2 * node + 1 + side][column, 1 - side] = cut
        for node, found in ranges.items():
            low, high = found[columns[t, node]]
            if not (math.isnan(low) or math.isnan(high)):
                assert shares[t, node] == pytest.approx(0.5 * (low + high))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_ranges_are_found_on_any_scale(scale: float) -> None:
    """The trap of River's detector, which takes all values to be in [0, 1]."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4000, 3))
    odd = random.random(4000) < 0.02
    x[odd] = random.normal(size=(int(odd.sum()), 3)) * 5.0
    model = detector(window=512)
    scores = model.learn(rows_of((x * scale + 7.0 * scale).astype(np.float32)), np.zeros(4000), np.ones(4000, "f4"))
    order = scores[:, 1].argsort().argsort()
    positives = order[odd]
    auc = (positives.mean() - (len(positives) - 1) / 2.0) / (4000 - len(positives))
    assert auc > 0.9
