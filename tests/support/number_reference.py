"""A regression tree in plain Python, by the rules of the family "tree" without drift: the oracle of its kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TIE, LEAST_BRANCH, INHERITED, PRIOR_ROWS, RIDGE, RESOLVED = 0.05, 0.01, 0.05, 20.0, 2.0, 0.125
FADE, WIDENED, CELLS, TAIL = 0.98, 0.1, 32, 0.125


@dataclass
class NumberLeaf:
    """A leaf with all of its rows: for the linear model with weights, since it inherits those of its parent."""

    weight: float
    mean: float
    next: float
    rows: list[Array] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    own: list[tuple[Array, float]] = field(default_factory=list)  # rows since the leaf opened, and their errors
    solve: float = 0.0
    slopes: Array | None = None
    losses: tuple[float, float] = (0.0, 0.0)
    range: tuple[float, float] = (math.inf, -math.inf)
    test: tuple[int, float] | None = None
    children: list[NumberLeaf] = field(default_factory=list)

    def centre(self) -> tuple[Array, float]:
        return np.average(self.rows, 0, self.shares), float(np.average(self.numbers, weights=self.shares))

    def answers(self, row: Array) -> tuple[float, float, float]:
        first = second = self.mean
        if self.slopes is None:
            return first, second, first
        x, y = self.centre()
        low, high = self.range
        second = min(max(y + self.slopes @ (row - x), low - WIDENED * (high - low)), high + WIDENED * (high - low))
        return first, second, second if self.losses[1] <= self.losses[0] else first


class NumberTree:
    """A regression tree that keeps its rows; slow, and short enough to be read."""

    def __init__(self, grace: float, delta: float) -> None:
        self.grace, self.bits = grace, -math.log(delta)
        self.root = NumberLeaf(0.0, 0.0, grace)
        self.origin: Array | None = None
        self.splits: list[tuple[int, float]] = []  # column and threshold

    def walk(self, row: Array) -> NumberLeaf:
        node = self.root
        while node.test is not None:
            node = node.children[int(row[node.test[0]] > node.test[1])]
        return node

    def learn(self, row: Array, y: float) -> float:
        self.origin = row if self.origin is None else self.origin
        row = row - self.origin
        leaf = self.walk(row)
        first, second, chosen = leaf.answers(row)
        answer = chosen
        if leaf.weight == 0:  # the first row of the stream is where numbers count from
            answer, first, second, chosen = math.nan, y, y, y
        leaf.weight += 1
        leaf.mean += (y - leaf.mean) / leaf.weight
        if leaf.slopes is not None:
            squares = (first - y) ** 2, (second - y) ** 2
            leaf.losses = FADE * leaf.losses[0] + squares[0], FADE * leaf.losses[1] + squares[1]
        leaf.own.append((row, y - chosen))
        leaf.rows.append(row)
        leaf.numbers.append(y)
        leaf.shares.append(1.0)
        leaf.range = min(leaf.range[0], y), max(leaf.range[1], y)
        own = len(leaf.own)
        if own >= max(leaf.solve, self.grace):
            leaf.slopes = ridge(leaf)
            leaf.solve = own + max(self.grace, RESOLVED * own)
        if own >= leaf.next:
            self.examine(leaf)
        return answer

    def examine(self, leaf: NumberLeaf) -> None:
        own = len(leaf.own)
        leaf.next = own + self.grace
        rows, errors = np.array([row for row, _ in leaf.own]), np.array([error for _, error in leaf.own])
        found = [(0.0, -1, 0.0)] + [best_border(rows[:, j], errors, j) for j in range(rows.shape[1])]
        found.sort(key=lambda split: -split[0])
        gain, column, cut = found[0]
        bound = math.sqrt(self.bits / (2 * own))
        if gain * own <= (15.0 if own < 300 else 6.0) * (errors.var() - gain):
            return
        if not (found[1][0] < (1 - bound) * gain or bound < TIE):
            return
        self.splits.append((column, cut + (0.0 if self.origin is None else float(self.origin[column]))))
        leaf.test = (column, cut)
        share = min(PRIOR_ROWS / max(sum(leaf.shares), PRIOR_ROWS), 1.0)
        for side in (rows[:, column] <= cut, rows[:, column] > cut):
            mean = leaf.mean + errors[side].mean() - errors.mean()
            child = NumberLeaf(INHERITED * float(side.sum()), float(mean), self.grace, list(leaf.rows))
            child.numbers, child.shares = list(leaf.numbers), [share * part for part in leaf.shares]
            child.slopes, child.losses, child.range = leaf.slopes, leaf.losses, leaf.range
            child.solve = self.grace if leaf.slopes is not None else 0.0
            leaf.children.append(child)


def ridge(leaf: NumberLeaf) -> Array:
    """Return the slopes of a ridge regression whose columns are divided by their deviations."""
    weights = np.array(leaf.shares)
    x, y = leaf.centre()
    z, target = np.array(leaf.rows) - x, np.array(leaf.numbers) - y
    scale = np.sqrt((weights[:, None] * z * z).sum(0))
    scale[scale == 0.0] = np.inf
    z /= scale
    gram = (weights[:, None] * z).T @ z
    np.fill_diagonal(gram, 1.0 + RIDGE / weights.sum())
    found: Array = np.linalg.solve(gram, (weights * target) @ z) / scale
    return found


class Cells:
    """The cells of a column in a leaf: weight and sum of errors by the number of a cell."""

    def __init__(self) -> None:
        self.width, self.first, self.base = 0.0, 0.0, 0
        self.sums: dict[int, list[float]] = {}

    def number(self, v: float) -> int:
        return math.ceil(v / self.width) - 1

    def add(self, v: float, error: float) -> None:
        if not self.sums:
            self.first = v
        if self.width == 0.0 and v != self.first:
            held = self.sums.pop(0)
            self.width = 2.0 ** (math.frexp(abs(v - self.first))[1] - 4)
            self.base = self.number(0.5 * (v + self.first)) - CELLS // 2
            self.sums[self.number(self.first)] = held
        cell = 0 if self.width == 0.0 else self.inside(v)
        held = self.sums.setdefault(cell, [0.0, 0.0])
        held[0] += 1.0
        held[1] += error

    def inside(self, v: float) -> int:
        """Return the cell of a value; shift or double the cells, or take the outermost one."""
        cell, last = self.number(v), self.base + CELLS - 1
        if self.base <= cell <= last:
            return cell
        below = cell < self.base
        if below and max(self.sums) <= cell + CELLS - 1:
            self.base = cell
        elif not below and min(self.sums) >= cell - CELLS + 1:
            self.base = cell - CELLS + 1
        else:
            end = self.base if below else last
            total = sum(n for n, _ in self.sums.values()) + 1.0
            if self.sums.get(end, [0.0])[0] + 1.0 <= TAIL * total:
                return end
            doubled: dict[int, list[float]] = {}
            for old, (n, error) in self.sums.items():
                held = doubled.setdefault(old // 2, [0.0, 0.0])
                held[0] += n
                held[1] += error
            self.width, self.sums = 2.0 * self.width, doubled
            self.base = last // 2 - CELLS + 1 if below else self.base // 2
        return min(max(self.number(v), self.base), self.base + CELLS - 1)


def best_border(column: Array, errors: Array, j: int) -> tuple[float, int, float]:
    """Return the gain of the best split of a column, in variance of the errors, and its threshold."""
    cells = Cells()
    for v, error in zip(column.tolist(), errors.tolist(), strict=True):
        cells.add(v, error)
    numbers = sorted(cells.sums)
    sums = np.array([cells.sums[number] for number in numbers])
    total, best = sums.sum(0), (-1.0, j, 0.0)
    for i in range(1, len(numbers)):
        left = sums[:i].sum(0)
        right = total - left
        if min(left[0], right[0]) >= LEAST_BRANCH * total[0]:
            gain = (left[1] ** 2 / left[0] + right[1] ** 2 / right[0] - total[1] ** 2 / total[0]) / total[0]
            cut = cells.width * 0.5 * (numbers[i - 1] + 1 + numbers[i])
            best = max(best, (float(gain), j, cut), key=lambda split: split[0])
    return best
