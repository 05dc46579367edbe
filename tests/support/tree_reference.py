"""A Hoeffding tree in plain Python, by the rules of the family "tree" without drift: the oracle of its kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
State = tuple[float, float | None, float]  # variance or spread, second value, its share
SHRINK, TIE, THRESHOLDS, LEAST_BRANCH, INHERITED = 10.0, 0.05, 10, 0.01, 1e-3
PARENTAL = 1.0


@dataclass
class ColumnOfStream:
    """The values of a column so far: up to three different ones, how many, their mean and squared deviations."""

    kinds: list[float] = field(default_factory=list)
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, v: float) -> None:
        if v not in self.kinds and len(self.kinds) < 3:
            self.kinds.append(v)
        self.count += 1
        away = v - self.mean
        self.mean += away / self.count
        self.squares += away * (v - self.mean)

    @property
    def second(self) -> float | None:
        return self.kinds[1] if len(self.kinds) == 2 else None

    @property
    def spread(self) -> float:
        return self.squares / self.count if len(self.kinds) > 1 else 0.0

    @property
    def share(self) -> float:
        return (self.mean - self.kinds[0]) / (self.kinds[1] - self.kinds[0])


class LeafOfReference:
    """A leaf with all of its rows, by class."""

    def __init__(self, counts: Array, grace: float) -> None:
        self.counts, self.grace, self.next = counts, grace, grace
        self.rows: list[list[Array]] = [[] for _ in counts]
        self.right = [0, 0]  # majority, naive Bayes
        self.test: tuple[int, float, bool] | None = None
        self.children: list[LeafOfReference] = []
        self.variances: Array | None = None  # within the classes of the parent
        self.kept: dict[int, list[State]] = {}  # of each class, at its last row
        self.kinds: list[int] = []

    def known(self, j: int, k: int) -> Array:
        values = np.array([row[j] for row in self.rows[k]], np.float64)
        return values[~np.isnan(values)]


class ReferenceTree:
    """A Hoeffding tree that keeps its rows; slow, and short enough to be read."""

    def __init__(self, classes: int, columns: int, grace: float, delta: float, prior: str = "stream") -> None:
        self.prior = prior
        self.classes, self.grace, self.bits = classes, grace, -math.log(delta)
        self.columns = [ColumnOfStream() for _ in range(columns)]
        self.root = LeafOfReference(np.zeros(classes), grace)

    def walk(self, row: Array) -> LeafOfReference:
        node = self.root
        while node.test is not None:
            column, cut, missing_right = node.test
            right = missing_right if math.isnan(row[column]) else row[column] > cut
            node = node.children[int(right)]
        return node

    def predict(self, row: Array) -> tuple[Array, int, int]:
        leaf = self.walk(row)
        total = leaf.counts.sum()
        shares = leaf.counts / total if total > 0 else np.full(self.classes, 1 / self.classes)
        majority = int(shares.argmax())
        if total <= 0:
            return shares, majority, majority
        logs = np.full(self.classes, -math.inf)
        known = [k for k in range(self.classes) if (leaf.rows[k] if self.prior == "parent" else leaf.counts[k] > 0)]
        if not known:
            return shares, majority, majority
        states = self.states(leaf)
        quick = self.prior == "parent" and leaf.kinds == self.kinds() and self.known(row)
        for k in known:
            used = leaf.kept[k] if quick else states
            logs[k] = math.log(leaf.counts[k]) + sum(
                density(leaf.known(j, k), row[j], used[j]) for j in range(len(row))
            )
        guess = int(logs.argmax())
        if leaf.right[1] >= leaf.right[0]:
            likely, mass = np.exp(logs - logs.max()), shares[known].sum()
            shares[known] = mass * likely[known] / likely.sum()
        return shares, majority, guess

    def known(self, row: Array) -> bool:
        """Return True if no value of a row is missing, or the third one of its column."""
        third = (one.second is not None and v not in one.kinds for one, v in zip(self.columns, row, strict=True))
        return not (np.isnan(row).any() or any(third))

    def kinds(self) -> list[int]:
        return [len(column.kinds) for column in self.columns]

    def states(self, leaf: LeafOfReference) -> list[State]:
        """Return what densities of a leaf are drawn towards."""
        found = []
        for j, column in enumerate(self.columns):
            spread, second = column.spread, column.second
            if leaf.variances is not None and leaf.variances[j] > 0.0 and spread > 0.0:
                spread = max(float(leaf.variances[j]), 1e-6 * spread)
            found.append((spread, second, column.share if second is not None else 0.0))
        return found

    def keep(self, leaf: LeafOfReference, y: int, states: list[State], kinds: list[int]) -> None:
        """Let a leaf keep the states of class y, and of all its classes if a column has another kind."""
        for k in range(self.classes):
            if k == y or (leaf.kinds != kinds and leaf.rows[k]):
                leaf.kept[k] = states
        leaf.kinds = kinds

    def learn(self, row: Array, y: int) -> Array:
        shares, majority, guess = self.predict(row)
        leaf = self.walk(row)
        seconds, states, kinds = [column.second for column in self.columns], self.states(leaf), self.kinds()
        for column, v in zip(self.columns, row, strict=True):
            if not math.isnan(v):
                column.add(float(v))
        leaf.counts[y] += 1
        leaf.right[0] += majority == y
        leaf.right[1] += guess == y
        leaf.rows[y].append(row)
        self.keep(leaf, y, states, kinds)
        if leaf.counts.sum() >= leaf.next - 1e-9:
            self.examine(leaf, seconds)
        return shares

    def examine(self, leaf: LeafOfReference, seconds: list[float | None]) -> None:
        total = leaf.counts.sum()
        leaf.next = total + self.grace
        kinds = int((leaf.counts > 0).sum())
        if kinds < 2:
            return
        found = [(0.0, -1, 0.0, np.zeros(self.classes))]
        found += [self.best(leaf, j, seconds[j]) for j in range(len(self.columns))]
        found.sort(key=lambda split: -split[0])
        bound = math.sqrt(math.log2(kinds) ** 2 * self.bits / (2 * total))
        gain, column, cut, left = found[0]
        if gain > 0.0 and (gain - found[1][0] > bound or bound < TIE):
            right = leaf.counts - left
            leaf.test = (column, cut, right.sum() > left.sum())
            leaf.children = [LeafOfReference(INHERITED * part, self.grace) for part in (left, right)]
            if self.prior == "parent":
                for child in leaf.children:
                    child.variances = self.within(leaf)

    def within(self, leaf: LeafOfReference) -> Array:
        """Return the variance of each column within the classes of a leaf."""
        found = np.zeros(len(self.columns))
        for j in range(len(self.columns)):
            own = 0.0 if leaf.variances is None else float(leaf.variances[j])
            weight = PARENTAL if own > 0.0 else 0.0
            values = [leaf.known(j, k) for k in range(self.classes)]
            squares = sum(float(((part - part.mean()) ** 2).sum()) for part in values if len(part))
            found[j] = (weight * own + squares) / max(weight + sum(map(len, values)), PARENTAL)
        return found

    def best(self, leaf: LeafOfReference, j: int, second: float | None) -> tuple[float, int, float, Array]:
        values = [leaf.known(j, k) for k in range(self.classes)]
        weights = np.array([len(part) for part in values], np.float64)
        every = np.concatenate(values)
        none = (-1.0, j, 0.0, np.zeros(self.classes))
        if len(every) == 0 or every.min() == every.max():
            return none
        low, high = every.min(), every.max()
        cuts = [(low + high) / 2] if second is not None else [low + (high - low) * i / 11 for i in range(1, 11)]
        splits = [none]
        for cut in cuts:
            left = np.array([self.below(part, cut, second is not None) for part in values])
            gain = information_gain(left, weights) * min(weights.sum() / leaf.counts.sum(), 1.0)
            shares = np.divide(left, weights, out=np.zeros(self.classes), where=weights > 0)
            splits.append((gain, j, float(cut), leaf.counts * shares))
        return max(splits, key=lambda split: split[0])

    def below(self, values: Array, cut: float, exact: bool) -> float:
        if len(values) == 0 or cut < values.min():
            return 0.0
        if cut >= values.max():
            return float(len(values))
        if exact or values.std() == 0:
            return float((values <= cut).sum())
        return len(values) * 0.5 * math.erfc((values.mean() - cut) / values.std() / math.sqrt(2))


def density(values: Array, v: float, state: State) -> float:
    """Return the logarithm of the density of a value in a class with some values."""
    spread, second, share = state
    if math.isnan(v) or spread == 0.0:
        return 0.0
    if second is not None:
        part = (values == second).sum() + SHRINK * share
        part = part if v == second else len(values) + SHRINK - part
        return math.log(max(part, 1e-9) / (len(values) + SHRINK))
    if len(values) == 0:
        return -0.5 * (1.0 + math.log(spread))
    variance = (values.var() * len(values) + SHRINK * spread) / (len(values) + SHRINK)
    return float(-0.5 * ((v - values.mean()) ** 2 / variance + math.log(variance)))


def information_gain(left: Array, whole: Array) -> float:
    """Return the gain of a split in bits a row; -1 if a branch is too small."""
    right, total = whole - left, whole.sum()
    if min(left.sum(), right.sum()) < LEAST_BRANCH * total:
        return -1.0
    return (entropy(whole) - entropy(left) - entropy(right)) / float(total)


def entropy(weights: Array) -> float:
    """Return the entropy of weights times their sum."""
    some = weights[weights > 0]
    return float(-(some * np.log2(some / some.sum())).sum())


def reference_splits(tree: ReferenceTree) -> list[tuple[int, float]]:
    """List the tests of a tree from the root: column and threshold."""
    found, pending = [], [tree.root]
    while pending:
        node = pending.pop(0)
        if node.test is not None:
            found.append((node.test[0], node.test[1]))
            pending += node.children
    return found
