"""Learn one row: extend the boxes on its way, count it, and perhaps split above a node.

A node waits for a split as long as an exponential time whose rate is the distance of the row from its box; the sooner a
split would be, the higher in the tree it is (Mourtada, Gaiffas and Scornet 2021, algorithms 2 to 4). A node with one
class is not split while rows of that class come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.families.kernel_parts import inlined, outlined
from everlearn.families.mondrian.aggregating import LARGEST_ODDS, child, reweigh
from everlearn.families.mondrian.layout import (
    COLUMN,
    CUT,
    DRAWS,
    HIGHEST,
    LEFT,
    LOWEST,
    NONE,
    ODDS,
    PARENT,
    SEED,
    SEEN,
    TIME,
)
from everlearn.families.mondrian.pool import open_leaf, take_pair
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

LEAST_EVIDENCE = 1e-90  # of a row of large weight


Answer = tuple[float, float, int]  # of a node of numbers: answer, variance of targets, and the node with its slopes


class NodeKind(NamedTuple):
    """The functions in which nodes of classes and of numbers differ, for the same boxes and splits.

    `given(settings, beliefs, counts, t, node, x, wide, y, above)` is what a node gives the label of a row, and its
    answer, `above` that of its parent; `x` has `wide` columns. `mixed(beliefs, counts, t, node, y)` is True if the
    labels of a node and `y` differ. `learn(settings, nodes, beliefs, counts, t, node, x, wide, y, weight, answer)`
    counts a row in a node, and `settle(nodes, beliefs, counts, t, path, passed, x, wide)` ends a row at all nodes that
    it passed.
    """

    given: Callable[..., tuple[Any, Any]]
    mixed: Callable[..., bool]
    learn: Callable[..., None]
    settle: Callable[..., None]


@inlined
def outside(boxes: Singles, t: int, node: int, x: Singles) -> bool:
    """Return True if a known value lies outside the box of a node."""
    found = 0
    for j in range(boxes.shape[3]):
        found |= (x[j] < boxes[t, node, LOWEST, j]) | (x[j] > boxes[t, node, HIGHEST, j])
    return found != 0


@inlined
def distance(boxes: Singles, t: int, node: int, x: Singles, scale: Singles, gaps: Floats) -> float:
    """Write how far each column lies outside the box of a node to `gaps`, and return the sum.

    A column of which the box has no value yet, and a missing value, are 0.
    """
    for j in range(boxes.shape[3]):
        low, high = np.float64(boxes[t, node, LOWEST, j]), np.float64(boxes[t, node, HIGHEST, j])
        gap = max(low - x[j], 0.0) if x[j] < low else 0.0
        gap = max(x[j] - high, 0.0) if x[j] > high else gap
        gaps[j] = gap * scale[j] if low <= high else 0.0
    total = 0.0
    for j in range(boxes.shape[3]):
        total += gaps[j]
    return total


@inlined
def extend(boxes: Singles, t: int, node: int, x: Singles) -> None:
    """Extend the box of a node to a row."""
    for j in range(boxes.shape[3]):
        v = x[j]
        if v < boxes[t, node, LOWEST, j]:
            boxes[t, node, LOWEST, j] = v
        if v > boxes[t, node, HIGHEST, j]:
            boxes[t, node, HIGHEST, j] = v


@inlined
def draw(settings: Floats, trees: Ints, t: int) -> float:
    """Return the next random number of a tree, in [0, 1)."""
    trees[t, DRAWS] += 1
    return uniform(int(settings[SEED]), t, trees[t, DRAWS])


@inlined
def threshold(low: float, high: float, x: float, u: float) -> float:
    """Return a threshold between a box and a value outside it: values above it go to the right."""
    begin, end = (high, x) if x > high else (x, low)
    cut = np.float64(np.float32(begin + u * (end - begin)))
    return cut if begin <= cut < end else begin


@outlined
def move(nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles, t: int, node: int, to: int) -> None:
    """Copy a node to a place below it, and make its children those of the copy."""
    for i in (COLUMN, CUT, LEFT, SEEN):
        nodes[t, to, i] = nodes[t, node, i]
    nodes[t, to, PARENT] = node
    for i in range(ODDS, beliefs.shape[2]):
        beliefs[t, to, i] = beliefs[t, node, i]
    left = nodes[t, node, LEFT]
    if left != NONE:
        nodes[t, left, PARENT] = to
        nodes[t, left + 1, PARENT] = to
    for k in range(counts.shape[2]):
        counts[t, to, k] = counts[t, node, k]
    for side in (LOWEST, HIGHEST):
        for j in range(boxes.shape[3]):
            boxes[t, to, side, j] = boxes[t, node, side, j]


@outlined
def split(
    settings: Floats, trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles, node: int,
    x: Singles, gaps: Floats, total: float, time: float, own: float, now: int,
) -> float:  # fmt: skip
    """Split above a node by a column and threshold drawn from its gaps: a copy of it, and an empty leaf for the row.

    Return what the node and its subtree gave the label of the row; -1, with nothing changed, if the pool is full.
    """
    pair = take_pair(trees, t, nodes, beliefs, node, now)
    if pair == NONE:
        return -1.0
    rest, column = draw(settings, trees, t) * total, 0
    for j in range(len(gaps)):
        if gaps[j] > 0.0:
            column = j
            rest -= gaps[j]
            if rest < 0.0:
                break
    low, high = np.float64(boxes[t, node, LOWEST, column]), np.float64(boxes[t, node, HIGHEST, column])
    cut = threshold(low, high, np.float64(x[column]), draw(settings, trees, t))
    old, new = (pair, pair + 1) if x[column] > high else (pair + 1, pair)
    subtree = 0.5 + 0.5 * beliefs[t, node, ODDS] if nodes[t, node, LEFT] != NONE else 1.0
    move(nodes, beliefs, counts, boxes, t, node, old)
    beliefs[t, old, TIME] = time
    open_leaf(nodes, beliefs, counts, boxes, t, new, node, time, now)
    extend(boxes, t, new, x)
    nodes[t, node, COLUMN] = column
    nodes[t, node, CUT] = np.float32(cut).view(np.int32)
    nodes[t, node, LEFT] = pair
    beliefs[t, node, ODDS] = min(subtree / own, LARGEST_ODDS)
    return (own + subtree) / (2.0 * subtree)


def growing(kind: NodeKind) -> Callable[..., None]:
    """Return the function with which a tree of a kind learns a row."""
    given_at, mixed, count, settle = kind

    @outlined
    def learn_at(
        settings: Floats, trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles,
        x: Singles, scale: Singles, gaps: Floats, path: Nodes, own: Floats, y: Any, weight: float, now: int,
    ) -> None:  # fmt: skip
        """Learn a row of label y: extend and count the nodes on its way, split above one, and move their odds."""
        node, depth, answer, wide = 0, 0, (0.0, 0.0, 0), boxes.shape[3]
        while True:
            nodes[t, node, SEEN] = now
            left = nodes[t, node, LEFT]
            given, answer = given_at(settings, beliefs, counts, t, node, x, wide, y, answer)
            if weight != 1.0:
                given = max(given**weight, LEAST_EVIDENCE)
            below = -1.0
            if outside(boxes, t, node, x):
                if mixed(beliefs, counts, t, node, y):
                    far = distance(boxes, t, node, x, scale, gaps)
                    if far > 0.0:
                        time = beliefs[t, node, TIME] - math.log(1.0 - draw(settings, trees, t)) / far
                        if left == NONE or time < beliefs[t, left, TIME]:
                            below = split(settings, trees, t, nodes, beliefs, counts, boxes, node, x, gaps, far, time,
                                          given, now)  # fmt: skip
                extend(boxes, t, node, x)
            count(settings, nodes, beliefs, counts, t, node, x, wide, y, weight, answer)
            path[depth] = node
            if below >= 0.0:
                new = child(nodes, counts, t, node, x)
                count(settings, nodes, beliefs, counts, t, new, x, wide, y, weight, answer)
                break
            if left == NONE:
                break
            own[depth] = given
            depth += 1
            node = child(nodes, counts, t, node, x)
        reweigh(beliefs, t, path, own, depth, below if below >= 0.0 else given)
        settle(nodes, beliefs, counts, t, path, depth + 1, x, wide)

    return learn_at
