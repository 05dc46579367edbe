"""Builders for tests of Mondrian forests, and views of the arrays of a tree."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.families.mondrian import Mondrian, build, layout
from everlearn.records import Singles
from tests.support.trees import Array, batch_of


def forest_of(columns: int, classes: int = 2, **settings: Any) -> Mondrian:
    """Build a small Mondrian forest."""
    task = "binary" if classes == 2 else "multiclass"
    return build({"task": task, "dense": columns, "classes": classes, **settings})


def number_forest(columns: int, **settings: Any) -> Mondrian:
    """Build a small Mondrian forest of numbers."""
    return build({"task": "regression", "dense": columns, **settings})


def waves(n: int, columns: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Return rows and a smooth function of two of their columns, with noise."""
    random = np.random.default_rng(seed)
    x = random.random((n, columns)).astype(np.float32)
    return x, 100.0 + 5.0 * np.sin(6.0 * x[:, 0]) * x[:, 1] + 0.2 * random.normal(size=n)


def taught(model: Mondrian, x: Array, y: Array, entries: list[list[int]] | None = None) -> Singles:
    """Learn rows of weight 1 and return the predictions."""
    return model.learn(batch_of(x, entries), np.asarray(y, np.float64), np.ones(len(x), np.float32))


def mondrian_splits(model: Mondrian, t: int = 0) -> list[tuple[int, float]]:
    """List column and threshold of each split of a tree, breadth first."""
    nodes, found, pending = model.arrays["nodes"][t], [], [0]
    while pending:
        node = nodes[pending.pop(0)]
        if node[layout.LEFT] >= 0:
            found.append((int(node[layout.COLUMN]), float(node[layout.CUT : layout.CUT + 1].view(np.float32)[0])))
            pending += [int(node[layout.LEFT]), int(node[layout.LEFT]) + 1]
    return found


def check_nodes(model: Mondrian) -> None:
    """Check that each used pair of a pool is in the tree once, and that links, times, counts and boxes agree."""
    for t, tree in enumerate(model.arrays["trees"]):
        nodes, counts = model.arrays["nodes"][t], model.arrays["counts"][t]
        times, boxes = model.arrays["beliefs"][t, :, layout.TIME], model.arrays["learn/boxes"][t]
        pending, pairs = [0], {0}
        while pending:
            node = pending.pop()
            left = int(nodes[node, layout.LEFT])
            if model.loss is None:
                assert np.isclose(counts[node, :-1].sum(), counts[node, -1], rtol=1e-5)
            if left >= 0:
                assert left % 2 == 0
                assert left // 2 not in pairs
                pairs.add(left // 2)
                for child in (left, left + 1):
                    assert nodes[child, layout.PARENT] == node
                    assert times[child] > times[node]
                    known = boxes[child, layout.LOWEST] <= boxes[child, layout.HIGHEST]
                    assert (boxes[child, layout.LOWEST] >= boxes[node, layout.LOWEST])[known].all()
                    assert (boxes[child, layout.HIGHEST] <= boxes[node, layout.HIGHEST])[known].all()
                pending += [left, left + 1]
        assert pairs == set(range(tree[layout.USED_PAIRS]))
