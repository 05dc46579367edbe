"""A Mondrian forest of numbers in plain Python and numpy: the oracle of its kernels, without a cap and without drift.

It keeps all rows of a node, takes means and ridge regressions of them, and logarithms of the weights of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.families.mondrian.number_lines import FIRST_SOLVED, RESOLVED, RIDGE
from everlearn.families.mondrian.number_nodes import ABOVE, HORIZON, REACH, STEADY
from everlearn.families.mondrian.number_rows import BENT, LONGEST_ERRORS, STEEPEST, WIDENED
from tests.support.mondrian_reference import prunings

Array = NDArray[Any]
Answer = tuple[float, float, Array]


@dataclass
class NumberNode:
    """A node: when it began, its rows and box, quantile and slopes, the logarithms of its weights, and its children."""

    time: float
    lowest: Array
    highest: Array
    x: list[Array] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    shift: float = 0.0
    slopes: Array | None = None
    solve: float = 0.0
    log_weight: float = 0.0
    log_tree: float = 0.0
    column: int = -1
    cut: float = 0.0
    children: list[NumberNode] = field(default_factory=list)

    def mean(self) -> float:
        return float(np.average(self.y, weights=self.weight))

    def square(self) -> float:
        return float(np.average((np.array(self.y) - self.mean()) ** 2, weights=self.weight))

    def centre(self) -> Array:
        found: Array = np.average(self.x, axis=0, weights=self.weight)
        return found


class NumberReference:
    """Trees that draw the random numbers of the kernels, and predict the mean of their answers."""

    def __init__(self, columns: int, trees: int, seed: int = 0, quantile: float = 0.0) -> None:
        self.columns, self.seed, self.quantile = columns, seed, quantile
        self.roots: list[NumberNode | None] = [None] * trees
        self.draws, self.losses = [0] * trees, [0.0] * trees
        self.bends = [np.zeros(columns) for _ in range(trees)]
        self.rows: list[Array] = []
        self.targets: list[float] = []

    def learn(self, x: Array, y: float, weight: float = 1.0) -> float:
        """Return the answer to a row, then learn it."""
        first = self.targets[0] if self.targets else y
        votes = [self.answer(root, x) for root in self.roots]
        found = 0.0
        if self.targets:
            low, high = min(self.targets), max(self.targets)
            wider = WIDENED * (high - low)
            found = min(max(float(np.mean(votes)), low - wider), high + wider)
        self.rows.append(x)
        self.targets.append(y)
        deviations = np.std(self.rows, axis=0)
        seen = min(len(self.rows), LONGEST_ERRORS)
        for t, vote in enumerate(votes):
            away = (vote if len(self.rows) > 1 else first) - y
            self.losses[t] += (self.loss(away) - self.losses[t]) / seen
            root = self.roots[t]
            if root is None:
                none = np.full(self.columns, math.inf)
                root = self.roots[t] = NumberNode(0.0, none, -none)
            steady = root
            for node in self.way(root, x):
                steady = node if sum(node.weight) >= STEADY * self.columns + 10 else steady
            bend = np.zeros(self.columns)
            if steady.slopes is not None and root.slopes is not None:
                bend = np.abs(steady.slopes - root.slopes) * deviations
                bend = np.minimum(bend, STEEPEST * math.sqrt(root.square()))
            self.bends[t] += (bend - self.bends[t]) / seen
            scale = np.divide(1.0, deviations, out=np.zeros(self.columns), where=deviations > 0.0)
            if self.bends[t].sum() > 0.0:
                scale = scale * (1.0 - BENT + BENT * self.bends[t] / self.bends[t].mean())
            self.grow(t, root, (0.0, 0.0, np.zeros(self.columns)), x, scale, y, weight)
            parent = None
            for node in self.way(root, x):
                self.settle(node, parent)
                parent = node
        return found

    def loss(self, away: float) -> float:
        if self.quantile == 0.0:
            return away * away
        return (1.0 - self.quantile) * away if away > 0.0 else -self.quantile * away

    def way(self, root: NumberNode, x: Array) -> list[NumberNode]:
        """Return the nodes of a row, from the root."""
        found = [root]
        while found[-1].children:
            node = found[-1]
            found.append(node.children[1 if x[node.column] > node.cut else 0])
        return found

    def own(self, root: NumberNode, node: NumberNode, x: Array, above: Answer) -> Answer:
        """Return answer, variance and slopes of a node below another."""
        n = sum(node.weight)
        part = 1.0 if node is root else n / (n + ABOVE)
        variance = part * node.square() + (1.0 - part) * above[1]
        slopes = above[2] if node.slopes is None else node.slopes
        moved, most = float(slopes @ (x - node.centre())), REACH * math.sqrt(variance)
        answer = node.mean() + node.shift + min(max(moved, -most), most)
        return part * answer + (1.0 - part) * above[0], variance, slopes

    def answers(self, root: NumberNode, x: Array) -> list[tuple[NumberNode, float]]:
        """Return the nodes of a row with the answer of each."""
        above: Answer = (0.0, 0.0, np.zeros(self.columns))
        found = []
        for node in self.way(root, x):
            above = self.own(root, node, x, above)
            found.append((node, above[0]))
        return found

    def answer(self, root: NumberNode | None, x: Array) -> float:
        """Return the answer of a tree: the mean of its nodes by their shares."""
        if root is None:
            return float(np.mean(self.targets)) if self.targets else 0.0
        total, mass = 0.0, 1.0
        for node, answer in self.answers(root, x):
            share = mass * (0.5 * math.exp(node.log_weight - node.log_tree) if node.children else 1.0)
            total, mass = total + share * answer, mass - share
        return total

    def draw(self, t: int) -> float:
        self.draws[t] += 1
        return uniform(self.seed, t, self.draws[t])

    def count(self, node: NumberNode, x: Array, y: float, weight: float, answer: float, variance: float) -> None:
        """Extend the box of a node, and count the row."""
        node.lowest, node.highest = np.fmin(node.lowest, x), np.fmax(node.highest, x)
        held = sum(node.weight)
        if held == 0.0:
            node.solve = FIRST_SOLVED * self.columns + 2.0
        elif self.quantile > 0.0:
            q = self.quantile
            step = math.sqrt(variance) * min(0.6 / (q * (1.0 - q) * min(1.0 + held, HORIZON)), 1.0)
            node.shift += step * min(weight, 1.0) * (q - (y < answer))
        node.x.append(x)
        node.y.append(y)
        node.weight.append(weight)

    def settle(self, node: NumberNode, parent: NumberNode | None) -> None:
        """Solve for the slopes of a node if it is time."""
        n = sum(node.weight)
        if n >= node.solve:
            node.solve = max(n * RESOLVED, n + self.columns)
            beside, away = np.array(node.x) - node.centre(), np.array(node.y) - node.mean()
            prior = np.zeros(self.columns) if parent is None or parent.slopes is None else parent.slopes
            products = (beside.T * node.weight) @ beside
            right = (beside.T * node.weight) @ away - products @ prior
            node.slopes = prior + np.linalg.solve(products + np.diag(np.diag(products)) * RIDGE / n, right)

    def grow(
        self, t: int, node: NumberNode, above: Answer, x: Array, scale: Array, y: float, weight: float
    ) -> None:  # fmt: skip
        """Learn a row in the tree below a node, and bring the logarithms of weights up to date."""
        given, found = 0.0, (0.0, 0.0, np.zeros(self.columns))
        if node.y:
            found = self.own(self.roots[t], node, x, above)  # type: ignore[arg-type]
            unit = self.losses[t] * (1.0 if self.quantile else 2.0)
            given = -self.loss(found[0] - y) / unit if unit > 0.0 else 0.0
        gaps = np.where(
            node.lowest <= node.highest, np.maximum(np.maximum(node.lowest - x, x - node.highest), 0.0), 0.0
        )
        total, added = float((gaps * scale).sum()), False
        if total > 0.0 and any(one != y for one in node.y):
            time = node.time - math.log(1.0 - self.draw(t)) / total
            added = not node.children or time < node.children[0].time
            if added:
                self.split(t, node, x, gaps * scale, time)
        node.log_weight += weight * given
        self.count(node, x, y, weight, found[0], found[1])
        node.log_tree = node.log_weight
        if node.children:
            below = node.children[1 if x[node.column] > node.cut else 0]
            if added:
                below.shift = node.shift
                self.count(below, x, y, weight, found[0], found[1])
            else:
                self.grow(t, below, found, x, scale, y, weight)
            both = node.children[0].log_tree + node.children[1].log_tree
            node.log_tree = float(np.logaddexp(node.log_weight, both)) - math.log(2.0)

    def split(self, t: int, node: NumberNode, x: Array, gaps: Array, time: float) -> None:
        """Put a copy of a node and an empty leaf below it."""
        rest = self.draw(t) * float(gaps.sum())
        column = int(np.searchsorted(np.cumsum(gaps), rest, side="right"))
        right = x[column] > node.highest[column]
        begin, end = (node.highest[column], x[column]) if right else (x[column], node.lowest[column])
        cut = float(np.float32(begin + self.draw(t) * (end - begin)))
        old = NumberNode(time, node.lowest, node.highest, [*node.x], [*node.y], [*node.weight], node.shift, node.slopes,
                          node.solve, node.log_weight, node.log_tree, node.column, node.cut, node.children)  # fmt: skip
        none = np.full(self.columns, math.inf)
        new = NumberNode(time, none, -none)
        node.column, node.cut, node.children = column, cut, [old, new] if right else [new, old]


def brute_number(forest: NumberReference, root: NumberNode, x: Array) -> float:
    """Return the answer to a row, as the mean of all prunings weighted by prior and likelihood."""
    answers = {id(node): answer for node, answer in forest.answers(root, x)}
    total = weights = 0.0
    for decisions, leaves in prunings(root):  # type: ignore[arg-type]
        weight = 0.5**decisions * math.exp(sum(leaf.log_weight for leaf in leaves))
        total += weight * next(answers[id(leaf)] for leaf in leaves if id(leaf) in answers)
        weights += weight
    return total / weights
