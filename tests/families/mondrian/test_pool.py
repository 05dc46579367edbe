"""The pool: every node has one place, a full pool never fails, and pairs that say little are given up."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.mondrian import layout
from tests.support.mondrian import check_nodes, forest_of, taught
from tests.support.trees import boxes


@pytest.mark.parametrize("nodes", [8, 60, 100_000])
def test_a_pool_keeps_its_order_through_drift(nodes: int) -> None:
    x, y = boxes(6000, classes=4, seed=5)
    y = (y + np.arange(len(y)) // 1500) % 4
    model = forest_of(4, 4, trees=3, nodes=nodes)
    for start in range(0, len(y), 750):
        taught(model, x[start : start + 750], y[start : start + 750])
        check_nodes(model)
    trees = model.arrays["trees"]
    assert trees[:, layout.RESETS].min() >= 2
    assert (trees[:, layout.USED_PAIRS] == nodes // 2).all() == (nodes < 100)


def test_a_full_pool_gives_nodes_to_a_new_concept() -> None:
    """The classes depend on two columns, and then on two others; a tree that only counted on would stay at .5."""
    random = np.random.default_rng(0)
    x = random.random((12_000, 4)).astype(np.float32)
    late = np.arange(len(x)) >= 6000
    y = np.where(late, (x[:, 2] > 0.5) ^ (x[:, 3] > 0.5), (x[:, 0] > 0.5) ^ (x[:, 1] > 0.5)).astype(float)
    model = forest_of(4, nodes=300, drift=False)
    scores = taught(model, x, y)
    assert (model.arrays["trees"][:, layout.USED_PAIRS] == 150).all()
    check_nodes(model)
    assert (scores.argmax(1) == y)[4000:6000].mean() > 0.9
    assert (scores.argmax(1) == y)[11_000:].mean() > 0.6


def test_memory_is_within_the_budget() -> None:
    for budget in (1 << 18, 1 << 20, 1 << 23):
        model = forest_of(6, 3, hashed=64, memory=budget, nodes=1_000_000)
        pool = {name: array for name, array in model.arrays.items() if name not in ("learn/moments", "learn/clock")}
        assert 0.7 * budget < sum(array.nbytes for array in pool.values()) <= budget


def test_trees_of_wide_rows_look_at_columns_of_their_own() -> None:
    model = forest_of(300, trees=3, nodes=100)
    columns = model.arrays["columns"]
    assert columns.shape == (3, layout.MOST_COLUMNS)
    assert (np.diff(columns, axis=1) > 0).all()
    assert len({row.tobytes() for row in columns}) == 3
    assert columns.max() > 250
