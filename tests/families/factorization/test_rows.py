"""Factorization machines against sums over pairs and slopes by finite differences in numpy, and planted pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.model import build
from everlearn.records import Batch

FACTORS, COLUMNS, SPACE = 3, 2, 10


def batch(dense: Any, entries: list[list[int]], values: list[list[float]] | None = None) -> Batch:
    values = [[1.0] * len(row) for row in entries] if values is None else values
    indptr = np.cumsum([0, *map(len, entries)]).astype(np.int64)
    indices = np.array([one for row in entries for one in row], np.int32)
    amounts = np.array([one for row in values for one in row], np.float32)
    return Batch(np.asarray(dense, np.float32).reshape(len(entries), -1), indptr, indices, amounts)


def made(task: str, **spec: Any) -> Any:
    """Return a machine with random weights, whose standardised numbers are the numbers themselves."""
    shape = {"task": task, "classes": 2 * (task == "binary"), "dense": COLUMNS, "hashed": SPACE}
    model = build({"family": "factorization", **shape, "factors": FACTORS, **spec})
    random = np.random.default_rng(0)
    for name in ("dense", "hashed"):
        model.arrays[name][:, 0] = random.normal(0, 0.5, model.arrays[name][:, 0].shape)
        model.arrays[name][:, 1] = 1.0
    model.arrays["moments"][0], model.arrays["moments"][2] = 100.0, 100.0
    return model


def inputs(model: Any, dense: Any, entries: list[int], values: list[float]) -> tuple[Any, Any]:
    """Return the table of all inputs, (inputs, 1 + factors), and one row as a vector of all inputs."""
    x = np.zeros(COLUMNS + SPACE)
    x[:COLUMNS] = dense
    x[COLUMNS + np.array(entries)] = values
    table = np.concatenate([model.arrays["dense"][:-1, 0], model.arrays["hashed"][:, 0]]).astype(np.float64)
    return table, x


def score(table: Any, x: Any) -> float:
    pairs = [x[i] * x[j] * (table[i, 1:] @ table[j, 1:]) for i in range(len(x)) for j in range(i + 1, len(x))]
    return float(table[:, 0] @ x + sum(pairs))


DENSE, ENTRIES, VALUES = [0.5, -1.5], [1, 4, 7], [1.0, 0.5, 2.0]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_the_score_is_a_sum_over_pairs(task: str) -> None:
    model = made(task)
    table, x = inputs(model, DENSE, ENTRIES, VALUES)
    total = score(table, x) + float(model.arrays["dense"][-1, 0, 0])
    found = model.predict(batch(DENSE, [ENTRIES], [VALUES]))[0]
    assert found[-1] == pytest.approx(1 / (1 + np.exp(-total)) if task == "binary" else total, rel=1e-5)


def test_a_step_follows_the_slope_of_the_log_loss() -> None:
    model = made("binary", rate=0.3)
    table, x = inputs(model, DENSE, ENTRIES, VALUES)
    bias = float(model.arrays["dense"][-1, 0, 0])

    def loss(changed: Any) -> float:
        return float(np.log1p(np.exp(-(score(changed, x) + bias))))  # of class 1

    model.learn(batch(DENSE, [ENTRIES], [VALUES]), np.ones(1), np.full(1, 2.0, np.float32))
    after, _ = inputs(model, DENSE, ENTRIES, VALUES)
    for place in np.ndindex(table.shape):
        up, down = table.copy(), table.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = 2.0 * (loss(up) - loss(down)) / 2e-5  # the row weighs 2
        expected = table[place] - 0.3 * slope / np.sqrt(2.0 + slope * slope) if slope else table[place]
        assert after[place] == pytest.approx(expected, abs=2e-5)


def test_a_pair_decides_where_no_input_does() -> None:
    random = np.random.default_rng(1)
    pairs = random.integers(0, 4, (6000, 2)) + np.array([0, 5])
    y = (pairs.sum(axis=1) % 2).astype(float)
    rows, weight = batch(np.zeros((6000, 0)), pairs.tolist()), np.ones(6000, np.float32)
    right = {}
    for family in ("factorization", "linear"):
        model = build({"family": family, "task": "binary", "dense": 0, "hashed": 16})
        right[family] = float((model.learn(rows, y, weight).argmax(axis=1) == y)[3000:].mean())
    assert right["factorization"] > 0.99
    assert right["linear"] < 0.8  # a sum of two terms gets three of four corners right


def test_an_input_that_was_never_learned_adds_nothing() -> None:
    model = build({"family": "factorization", "task": "regression", "dense": 0, "hashed": 16, "seed": 3})
    model.learn(batch(np.zeros((500, 0)), [[k % 4, 4 + k % 3] for k in range(500)]), np.arange(500) % 4 * 1.0,
                np.ones(500, np.float32))  # fmt: skip
    alone, with_new = model.predict(batch(np.zeros((2, 0)), [[1], [1, 12]]))
    assert alone == with_new
    assert not model.arrays["hashed"][12].any()
