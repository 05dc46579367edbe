"""Streams for tests of trees, and views of the arrays of a tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families.trees import Trees, build, layout
from everlearn.records import Batch, Singles

Array = NDArray[Any]


def batch_of(x: Array, entries: list[list[int]] | None = None) -> Batch:
    """Return rows of dense columns, and of hashed entries with the value 1."""
    lists = entries if entries is not None else [[] for _ in x]
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in lists])]).astype(np.int64)
    indices = np.array([index for part in lists for index in part], np.int32)
    return Batch(np.ascontiguousarray(x, np.float32), indptr, indices, np.ones(len(indices), np.float32))


def learned(model: Trees, x: Array, y: Array, entries: list[list[int]] | None = None) -> Singles:
    """Learn rows of weight 1 and return the predictions."""
    return model.learn(batch_of(x, entries), np.asarray(y, np.float64), np.ones(len(x), np.float32))


def tree_of(columns: int, classes: int = 2, **settings: Any) -> Trees:
    """Build a small tree or forest."""
    task = "binary" if classes == 2 else "multiclass"
    return build({"family": "tree", "task": task, "dense": columns, "classes": classes, **settings})


def boxes(count: int, columns: int = 4, classes: int = 2, seed: int = 0) -> tuple[Array, Array]:
    """Return uniform rows whose class is a function of two columns, with a tenth of the labels at random."""
    random = np.random.default_rng(seed)
    x = random.random((count, columns)).astype(np.float32)
    y = ((x[:, 0] > 0.35) + 2 * (x[:, 1] > 0.6)) % classes
    noisy = random.random(count) < 0.1
    y[noisy] = random.integers(0, classes, noisy.sum())
    return x, y.astype(float)


def splits_of(model: Trees, t: int = 0, place: int = layout.ROOT) -> list[tuple[int, float]]:
    """List the tests of a tree from its root: column, and threshold as the stream has it."""
    nodes, moments = model.arrays["nodes"][t], model.arrays["moments"]
    found, pending = [], [int(model.arrays["trees"][t, place])]
    while pending:
        node = nodes[pending.pop(0)]
        if node[layout.LEFT] >= 0:
            column = int(node[layout.COLUMN])
            cut = float(node[layout.CUT : layout.CUT + 1].view(np.float32)[0])
            found.append((column, cut + (moments[layout.ORIGIN, column] if column >= 0 else 0.0)))
            pending += [int(node[layout.LEFT]), int(node[layout.LEFT]) + 1]
    return found


def check_pool(model: Trees) -> None:
    """Check that each node and block of a pool is in one tree or free, and that blocks and leaves name each other."""
    for t, tree in enumerate(model.arrays["trees"]):
        nodes, choices = model.arrays["nodes"][t], model.arrays["choices"][t]
        pending = [int(root) for root in tree[[layout.ROOT, layout.BACKGROUND]] if root >= 0]
        pairs, used = {root // 2 for root in pending}, set()
        while pending:
            node = pending.pop()
            left = int(nodes[node, layout.LEFT])
            if left >= 0:
                assert left // 2 not in pairs
                pairs.add(left // 2)
                pending += [left, left + 1]
            elif left != layout.INACTIVE:
                assert choices[-1 - left, layout.NODE] == node
                assert -1 - left not in used
                used.add(-1 - left)
        pair, block = int(tree[layout.FREE_PAIR]), int(tree[layout.FREE_BLOCK])
        while pair >= 0:
            assert pair // 2 not in pairs
            pairs.add(pair // 2)
            pair = int(nodes[pair, layout.LEFT])
        while block >= 0:
            assert block not in used
            used.add(block)
            block = int(choices[block, layout.KEY])
        assert len(pairs) == tree[layout.USED_PAIRS]
        assert len(used) == tree[layout.USED_BLOCKS]
