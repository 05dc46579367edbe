"""A Mondrian tree in plain Python, by the rules of the family "mondrian" without a cap: the oracle of its kernels.

It keeps the logarithms of weights of the paper (Mourtada, Gaiffas and Scornet 2021), where the kernels keep odds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform

Array = NDArray[Any]


@dataclass
class MondrianNode:
    """A node: when it began, its counts and box, the logarithms of its weight and of its tree's, and its children."""

    time: float
    counts: Array
    lowest: Array
    highest: Array
    log_weight: float = 0.0
    log_tree: float = 0.0
    column: int = -1
    cut: float = 0.0
    children: list[MondrianNode] = field(default_factory=list)


class MondrianReference:
    """Trees that draw the random numbers of the kernels, and predict the mean of their probabilities."""

    def __init__(self, classes: int, columns: int, trees: int, seed: int = 0, prior: float = 0.5) -> None:
        self.classes, self.columns, self.seed, self.prior = classes, columns, seed, prior / classes
        self.roots: list[MondrianNode | None] = [None] * trees
        self.draws = [0] * trees
        self.moments: list[list[float]] = [[] for _ in range(columns)]

    def learn(self, x: Array, y: int, weight: float = 1.0) -> Array:
        """Return the probabilities of a row, then learn it."""
        predicted = np.mean([self.probabilities(root, x) for root in self.roots], axis=0)
        scale = np.zeros(self.columns)
        for j, values in enumerate(self.moments):
            if not math.isnan(x[j]):
                values.append(float(x[j]))
            deviation = float(np.std(values)) if values else 0.0
            scale[j] = 1.0 / deviation if deviation > 0.0 else 0.0
        for t, root in enumerate(self.roots):
            if root is None:
                root = self.roots[t] = self.empty(0.0)
            self.grow(t, root, x, scale, y, weight)
        return predicted

    def empty(self, time: float) -> MondrianNode:
        """Return a leaf without rows."""
        none = np.full(self.columns, math.inf)
        return MondrianNode(time, np.zeros(self.classes), none, -none)

    def shares(self, node: MondrianNode) -> Array:
        """Return the probabilities of a node alone."""
        return (node.counts + self.prior) / (node.counts.sum() + self.classes * self.prior)

    def below(self, node: MondrianNode, x: Array) -> MondrianNode:
        """Return the child to which a row goes."""
        if math.isnan(x[node.column]):
            left, right = (child.counts.sum() for child in node.children)
            return node.children[1 if right > left else 0]
        return node.children[1 if x[node.column] > node.cut else 0]

    def probabilities(self, node: MondrianNode | None, x: Array) -> Array:
        """Return the probabilities of a tree, from its leaf upwards."""
        if node is None:
            return np.full(self.classes, 1.0 / self.classes)
        if not node.children:
            return self.shares(node)
        own = 0.5 * math.exp(node.log_weight - node.log_tree)
        return own * self.shares(node) + (1.0 - own) * self.probabilities(self.below(node, x), x)

    def draw(self, t: int) -> float:
        self.draws[t] += 1
        return uniform(self.seed, t, self.draws[t])

    def count(self, node: MondrianNode, x: Array, y: int, weight: float) -> None:
        """Extend the box of a node, and count the row."""
        node.lowest, node.highest = np.fmin(node.lowest, x), np.fmax(node.highest, x)
        node.counts[y] += weight

    def grow(self, t: int, node: MondrianNode, x: Array, scale: Array, y: int, weight: float) -> None:
        """Learn a row in the tree below a node, and bring the logarithms of weights up to date."""
        gaps = np.fmax(np.fmax(node.lowest - x, x - node.highest), 0.0)
        gaps = np.where((node.lowest <= node.highest) & ~np.isnan(x), gaps, 0.0) * scale.astype(np.float32)
        total, pure, added = float(gaps.sum()), node.counts[y] == node.counts.sum(), False
        if total > 0.0 and not pure:
            time = node.time - math.log(1.0 - self.draw(t)) / total
            if not node.children or time < node.children[0].time:
                added = True
                self.split(t, node, x, gaps, time, y, weight)
        node.log_weight += weight * math.log(self.shares(node)[y])
        self.count(node, x, y, weight)
        node.log_tree = node.log_weight
        if node.children:
            if not added:
                self.grow(t, self.below(node, x), x, scale, y, weight)
            both = node.children[0].log_tree + node.children[1].log_tree
            node.log_tree = float(np.logaddexp(node.log_weight, both)) - math.log(2.0)

    def split(self, t: int, node: MondrianNode, x: Array, gaps: Array, time: float, y: int, weight: float) -> None:
        """Put a copy of a node and a leaf of the row below it."""
        rest = self.draw(t) * float(gaps.sum())
        column = int(np.searchsorted(np.cumsum(gaps), rest, side="right"))
        right = x[column] > node.highest[column]
        begin, end = (node.highest[column], x[column]) if right else (x[column], node.lowest[column])
        cut = float(np.float32(begin + self.draw(t) * (end - begin)))
        old = MondrianNode(time, node.counts.copy(), node.lowest, node.highest, node.log_weight, node.log_tree,
                            node.column, node.cut, node.children)  # fmt: skip
        new = self.empty(time)
        self.count(new, x, y, weight)
        node.column, node.cut, node.children = column, cut, [old, new] if right else [new, old]


def reference_splits(node: MondrianNode | None) -> list[tuple[int, float]]:
    """List column and threshold of each split of a tree, breadth first."""
    found, pending = [], [node]
    while pending:
        first = pending.pop(0)
        if first is not None and first.children:
            found.append((first.column, first.cut))
            pending += first.children
    return found


def prunings(node: MondrianNode) -> list[tuple[int, list[MondrianNode]]]:
    """List every pruning of a tree: how many of its nodes might have been split or not, and its leaves."""
    if not node.children:
        return [(0, [node])]
    left, right = (prunings(child) for child in node.children)
    return [(1, [node]), *((1 + a + b, [*first, *second]) for a, first in left for b, second in right)]


def brute_force(forest: MondrianReference, root: MondrianNode, x: Array) -> Array:
    """Return the probabilities of a row, as the mean of all prunings weighted by prior and likelihood."""
    total, weights = np.zeros(forest.classes), 0.0
    way, node = [root], root
    while node.children:
        node = forest.below(node, x)
        way.append(node)
    for decisions, leaves in prunings(root):
        weight = 0.5**decisions * math.exp(sum(leaf.log_weight for leaf in leaves))
        leaf = next(leaf for leaf in leaves if any(leaf is passed for passed in way))
        total += weight * forest.shares(leaf)
        weights += weight
    return total / weights
