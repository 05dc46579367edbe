"""The pool: every node and block has one place, and a full pool never fails."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.trees import layout, settings
from tests.support.trees import boxes, check_pool, learned, tree_of

FLIPS = 8  # times the classes change places


@pytest.mark.parametrize(
    "spec", [{"family": "tree"}, {"family": "forest", "trees": 3}], ids=lambda spec: spec["family"]
)
@pytest.mark.parametrize("blocks", [4, 9, 10_000])
def test_a_pool_keeps_its_order_through_drift(spec: dict[str, object], blocks: int) -> None:
    x, y = boxes(FLIPS * 1500, classes=4, seed=5)
    y = (y + np.arange(len(y)) // 1500) % 4
    shape = settings.read({**spec, "task": "multiclass", "dense": 4, "classes": 4})
    memory = layout.needed(shape.trees or 1, 4, settings.drawn(shape), 0, blocks, quick=True)
    model = tree_of(4, 4, **spec, memory=memory, grace=20)
    for start in range(0, len(y), 1500):
        learned(model, x[start : start + 1500], y[start : start + 1500])
        check_pool(model)
    trees = model.arrays["trees"]
    assert trees[:, layout.SWAPS].sum() >= FLIPS // 2
    assert trees[:, layout.USED_BLOCKS].max() <= max(blocks, 0)
    if blocks < 10:
        assert trees[:, layout.USED_BLOCKS].max() == model.arrays["blocks"].shape[1]


def test_leaves_without_a_block_still_count_classes() -> None:
    x, y = boxes(6000, classes=4, seed=6)
    small = tree_of(4, 4, memory=layout.needed(1, 4, 4, 0, 4, quick=True), drift=False)
    scores = learned(small, x, y)
    assert (small.arrays["nodes"][0, :, layout.LEFT] == layout.INACTIVE).any()
    assert (scores.argmax(1) == y)[3000:].mean() > 0.75


def test_memory_is_within_the_budget() -> None:
    for budget in (1 << 18, 1 << 20, 1 << 24):
        model = tree_of(6, 3, family="forest", hashed=64, memory=budget)
        held = {name: array for name, array in model.arrays.items() if name not in ("moments", "clock")}
        assert 0.7 * budget < sum(array.nbytes for array in held.values()) <= budget


def test_leaves_of_a_forest_draw_their_own_columns() -> None:
    x, y = boxes(2000, columns=30, seed=7)
    model = tree_of(30, family="forest", trees=2, share=0.2)
    learned(model, x, y)
    drawn = model.arrays["choices"][:, 0, layout.CHOICES :]
    assert drawn.shape[1] == 6
    assert (np.diff(drawn, axis=1) > 0).all()
    assert (drawn[0] != drawn[1]).any()
