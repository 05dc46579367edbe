"""Learn one row at a leaf of classes: count it, examine the leaf from time to time, and split it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn.families.kernel_parts import outlined, uncounted
from everlearn.families.trees.layout import (
    BAYES_RIGHT,
    BITS,
    CHOICES,
    GRACE,
    HEAD,
    INACTIVE,
    LEFT,
    MAJORITY_RIGHT,
    NEXT,
    NONE,
    PARTS,
    SECOND,
    TIE,
    VISITS,
)
from everlearn.families.trees.observers import halve, learn_entries
from everlearn.families.trees.pool import branch, open_leaf, room_finder
from everlearn.families.trees.splits import (
    AT,
    BEST,
    GAIN,
    SECOND_GAIN,
    WHERE,
    divide,
    may_gain,
    try_column,
    try_entries,
)
from everlearn.families.trees.tables import information
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

INHERITED = 1e-3  # of a parent's weight in its children, so that an empty leaf can answer
MOST_WEIGHT = float(1 << 22)  # of a leaf before all its weights are halved
PATIENCE = 4.0  # periods of grace until a leaf that found no room is examined again
ROUNDING = 1.0 + 1e-6  # of weights to float32
REVIVED = 64  # an inactive leaf looks for a block at one row of so many


@uncounted
def weight_of(counts: Singles, t: int, node: int) -> float:
    """Return the weight of all classes of a leaf."""
    total = 0.0
    for k in range(counts.shape[2]):
        total += counts[t, node, k]
    return total


@uncounted
def promised(counts: Singles, t: int, node: int, visits: float) -> float:
    """Return the weight of all classes but the largest, times the visits."""
    total = largest = 0.0
    for k in range(counts.shape[2]):
        total += counts[t, node, k]
        largest = max(largest, np.float64(counts[t, node, k]))
    return (total - largest) * visits


find_room = room_finder(promised)


class Observing(NamedTuple):
    """How leaves learn the columns of a row, and what they keep of their parents.

    `learn(settings, table, counts, blocks, choices, t, node, block, rows, b, seen, y, weight)` learns row b, of class
    y. `hold` returns what a leaf that is split has for its children, and `hand` gives it to one of them.
    """

    learn: Callable[..., None]
    hold: Callable[..., Floats]
    hand: Callable[..., None]


def splitting(kept: Observing) -> Callable[..., bool]:
    """Return the splitting of a leaf."""
    hold, hand = kept.hold, kept.hand

    @merged
    def split(
        settings: Floats, table: Floats, behind: bool, trees: Ints, t: int, nodes: Nodes, counts: Singles,
        blocks: Singles, choices: Nodes, node: int, rows: Floats, b: int, m: int, best: Floats, normals: Floats,
        left: Floats,
    ) -> bool:  # fmt: skip
        """Split a leaf by its best split; return False if there are no more nodes."""
        block = -1 - nodes[t, node, LEFT]
        least = promised(counts, t, node, blocks[t, block, VISITS])
        pair, other = find_room(behind, trees, t, nodes, counts, blocks, choices, least, 1)
        if pair != NONE:
            variances = hold(blocks, choices, t, block, counts.shape[2], m, rows.shape[2])
            second = rows[b, SECOND, int(max(best[WHERE], 0.0))] if best[WHERE] >= 0.0 else 0.0
            divide(counts, blocks, choices, t, node, block, m, second, best, normals, left, table)
            lefts = rights = 0.0
            for k in range(len(left)):
                right = max(counts[t, node, k] - left[k], 0.0)
                lefts += left[k]
                rights += right
                counts[t, pair, k] = INHERITED * left[k]
                counts[t, pair + 1, k] = INHERITED * right
            branch(settings, m, rows.shape[2], trees, t, nodes, blocks, choices, node, pair, block, other,
                   int(best[WHERE]), best[AT], 1 if rights > lefts else 0)  # fmt: skip
            hand(blocks, choices, t, block, counts.shape[2], m, variances)
            if other != NONE:
                hand(blocks, choices, t, other, counts.shape[2], m, variances)
        return pair != NONE

    return split


def examining(kept: Observing) -> Callable[..., None]:
    """Return the compiled examination of a leaf."""
    split = splitting(kept)

    @outlined
    def examine(
        settings: Floats, table: Floats, behind: bool, trees: Ints, t: int, nodes: Nodes, counts: Singles,
        blocks: Singles, choices: Nodes, node: int, rows: Floats, b: int, m: int, total: float,
    ) -> None:  # fmt: skip
        """Split a leaf if the Hoeffding bound says that its best split is the best."""
        block, kinds = -1 - nodes[t, node, LEFT], 0
        blocks[t, block, NEXT] = total + settings[GRACE]
        for k in range(counts.shape[2]):
            kinds += counts[t, node, k] > 0.0
        done = False
        spread = information(float(kinds), table) / max(kinds, 1)
        bound = math.sqrt(spread * spread * settings[BITS] / (2.0 * total))
        best, whole, left = np.zeros(BEST), np.zeros(counts.shape[2]), np.zeros(counts.shape[2])
        if kinds >= 2 and (
            bound < settings[TIE] or may_gain(counts, blocks, choices, t, node, block, m, total, whole, bound, table)
        ):
            normals = np.zeros((PARTS, counts.shape[2]))
            for j in range(m):
                column = choices[t, block, CHOICES + j]
                second = rows[b, SECOND, column]
                try_column(blocks, t, block, m, j, second, column, total, best, normals, whole, left, table)
            if choices.shape[2] > CHOICES + m:
                try_entries(counts, blocks, choices, t, node, block, m, best, whole, left, table)
            apart = best[GAIN] - best[SECOND_GAIN]
            if best[GAIN] > 0.0 and (apart > bound or bound < settings[TIE]):
                blocks[t, block, NEXT] = total + PATIENCE * settings[GRACE]
                done = split(settings, table, behind, trees, t, nodes, counts, blocks, choices, node, rows, b, m, best,
                             normals, left)  # fmt: skip
        if total > MOST_WEIGHT and not done:
            entries = choices.shape[2] - CHOICES - m
            halve(counts, blocks, t, node, block, m, HEAD + (PARTS * m + entries) * counts.shape[2] + entries)

    return examine


def growing(kept: Observing) -> Callable[..., None]:
    """Return the learning of a row at a leaf of classes that keeps something for naive Bayes."""
    examine, learn = examining(kept), kept.learn

    @merged
    def learn_at(
        settings: Floats, table: Floats, behind: bool, number: int, trees: Ints, t: int, nodes: Nodes, counts: Singles,
        blocks: Singles, choices: Nodes, node: int, rows: Floats, b: int, indices: Nodes, values: Singles, low: int,
        high: int, seen: Floats, majority: float, guess: float, target: float, weight: float,
    ) -> None:  # fmt: skip
        """Learn a row at its leaf; `seen` are the columns of the leaf, `majority` and `guess` its two predictions."""
        y = int(target)
        counts[t, node, y] += np.float32(weight)
        m, left = seen.shape[1], nodes[t, node, LEFT]
        total = weight_of(counts, t, node)
        if left == INACTIVE:
            least = promised(counts, t, node, REVIVED / 2.0) if number % REVIVED == 0 else 0.0
            _, block = find_room(behind or least == 0.0, trees, t, nodes, counts, blocks, choices, least, 0)
            if block != NONE:
                open_leaf(settings, m, rows.shape[2], trees, t, nodes, blocks, choices, node, block)
                blocks[t, block, NEXT] += np.float32(total)
        else:
            block = -1 - left
            blocks[t, block, VISITS] += np.float32(1.0)
            if majority == y:
                blocks[t, block, MAJORITY_RIGHT] += np.float32(weight)
            if guess == y:
                blocks[t, block, BAYES_RIGHT] += np.float32(weight)
            learn(settings, table, counts, blocks, choices, t, node, block, rows, b, seen, y, weight)
            if choices.shape[2] > CHOICES + m and high > low:
                classes = counts.shape[2]
                learn_entries(settings, blocks, choices, t, block, m, classes, indices, values, low, high, y, weight)
            if total * ROUNDING >= blocks[t, block, NEXT]:
                examine(settings, table, behind, trees, t, nodes, counts, blocks, choices, node, rows, b, m, total)

    return learn_at
