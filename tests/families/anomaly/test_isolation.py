"""Online isolation trees against an implementation in plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from everlearn._random import uniform
from everlearn.families.anomaly.model import Anomaly, build
from everlearn.records import Batch, Singles

WINDOW, LEAF_ROWS = 128, 32


@dataclass
class Node:
    """A node of the reference: its rows, its box, and its two children where it is cut."""

    place: int
    depth: int
    rows: int = 0
    box: list[list[np.float32]] = field(default_factory=list)
    column: int = -1
    cut: float = 0.0
    children: tuple[Node, ...] = ()

    def enter(self, x: Singles, t: int, row: int) -> None:
        self.rows += 1
        for j, value in enumerate(x):
            if not math.isnan(value):
                self.box[j] = [min(self.box[j][0], value), max(self.box[j][1], value)]
        if self.children:
            if not math.isnan(x[self.column]):
                self.children[int(x[self.column] >= self.cut)].enter(x, t, row)
        elif self.depth < int(math.log2(WINDOW / LEAF_ROWS)) and self.rows >= LEAF_ROWS * 2**self.depth:
            self.split(t, row)

    def split(self, t: int, row: int) -> None:
        wide, key = len(self.box), row * 4096
        for step in range(wide):
            j = (int(uniform(0, t, key) * wide) + step) % wide
            low, high = map(float, self.box[j])
            cut = np.float32(low + uniform(0, t, key + 1) * (high - low))
            if low < cut <= high:
                break
        else:
            return
        share = (float(cut) - low) / (high - low)
        left = sum(uniform(0, t, key + 2 + draw) < share for draw in range(self.rows))
        self.column, self.cut = j, cut
        made = [Node(2 * self.place + 1 + side, self.depth + 1, left, [list(b) for b in self.box]) for side in range(2)]
        made[1].rows = self.rows - left
        made[0].box[j][1] = made[1].box[j][0] = cut
        self.children = tuple(made)

    def leave(self, x: Singles) -> None:
        self.rows = max(self.rows - 1, 0)
        if not self.children:
            return
        if self.rows < LEAF_ROWS * 2**self.depth:
            one, two = self.children
            self.box = [[min(a[0], b[0]), max(a[1], b[1])] for a, b in zip(one.box, two.box, strict=True)]
            self.children = ()
        elif not math.isnan(x[self.column]):
            self.children[int(x[self.column] >= self.cut)].leave(x)

    def depth_of(self, x: Singles) -> float:
        if self.children and not math.isnan(x[self.column]):
            return self.children[int(x[self.column] >= self.cut)].depth_of(x)
        return self.depth + (math.log2(self.rows / LEAF_ROWS) if self.rows > LEAF_ROWS else 0.0)


def detector(**settings: object) -> Anomaly:
    spec = {"family": "anomaly", "task": "binary", "dense": 3, "window": WINDOW, "method": "isolation", "trees": 4}
    return build({**spec, **settings})


def rows_of(dense: Singles) -> Batch:
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def test_scores_are_those_of_the_reference() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(700, 3)).astype(np.float32)
    x[350:] += 4.0  # so that nodes are merged
    x[random.random(x.shape) < 0.05] = np.nan
    trees = [Node(0, 0, 0, [[np.float32(3.4e38), np.float32(-3.4e38)] for _ in range(3)]) for _ in range(4)]
    model, splits = detector(), 0
    for i, row in enumerate(x):
        mean = sum(tree.depth_of(row) for tree in trees) / 4
        held = min(i, WINDOW)
        expected = 2.0 ** (-mean / max(math.log2(held / LEAF_ROWS) if held > LEAF_ROWS else 0.0, 1.0))
        assert math.isclose(model.raw(rows_of(x[i : i + 1]))[0], expected, rel_tol=1e-9), i
        for t, tree in enumerate(trees):
            if i >= WINDOW:
                tree.leave(x[i - WINDOW])
            tree.enter(row, t, i)
            splits += bool(tree.children)
        model.learn(rows_of(x[i : i + 1]), np.zeros(1), np.ones(1, np.float32))
    assert splits > 1000  # the trees did grow


def test_isolated_rows_have_the_highest_ranks() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(3000, 3)).astype(np.float32)
    odd = np.arange(500, 3000, 100)
    x[odd] = 6.0
    scores = detector(trees=32, window=512).learn(rows_of(x), np.zeros(3000), np.ones(3000, np.float32))[:, 1]
    assert np.median(scores[odd]) > 0.99
