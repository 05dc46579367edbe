"""The pool of a tree: pairs of nodes, and what happens when none is left.

Free pairs are chained; those above the used ones were never touched. When none is left, the pair of leaves that was
visited least recently, among the next ones that a hand passes, is given up: its parent is a leaf again, and keeps what
it has counted. Functions take the arrays of all trees and the number of a tree, since views of arrays cost more than
the work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import outlined
from everlearn.families.mondrian.layout import (
    FREE,
    FREE_PAIR,
    HAND,
    HIGHEST,
    LEFT,
    LOWEST,
    NONE,
    ODDS,
    PARENT,
    SEEN,
    TIME,
    USED_PAIRS,
)
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

CANDIDATES, STEPS = 16, 64  # pairs of leaves that are compared, and pairs that the hand passes at most
AGES = 0x7FFFFFFF
UNSEEN = np.float32(3e38)  # lowest value of an empty box


@outlined
def take_pair(trees: Ints, t: int, nodes: Nodes) -> int:
    """Return the first of two free neighbouring nodes, or -1."""
    pair = trees[t, FREE_PAIR]
    if pair != NONE:
        trees[t, FREE_PAIR] = nodes[t, pair, LEFT]
    elif 2 * trees[t, USED_PAIRS] + 1 < nodes.shape[1]:
        pair = 2 * trees[t, USED_PAIRS]
        trees[t, USED_PAIRS] += 1
    return int(pair)


@outlined
def free_pair(trees: Ints, t: int, nodes: Nodes, pair: int) -> None:
    """Put a pair back."""
    nodes[t, pair, PARENT] = FREE
    nodes[t, pair + 1, PARENT] = FREE
    nodes[t, pair, LEFT] = trees[t, FREE_PAIR]
    trees[t, FREE_PAIR] = pair


@outlined
def recycle(trees: Ints, t: int, nodes: Nodes, beliefs: Floats, kept: int, now: int) -> int:
    """Make the parent of an old pair of leaves a leaf, and return the pair; -1 if there is none.

    The pair of children of node `kept`, and pairs that row `now` has visited, are left alone.
    """
    best, oldest, seen = NONE, 0, 0
    pairs = nodes.shape[1] // 2
    for _ in range(min(STEPS, pairs)):
        pair = 2 * trees[t, HAND]
        trees[t, HAND] = (trees[t, HAND] + 1) % pairs
        parent = nodes[t, pair, PARENT]
        if parent < 0 or parent == kept or nodes[t, pair, LEFT] != NONE or nodes[t, pair + 1, LEFT] != NONE:
            continue
        age = min((now - nodes[t, pair, SEEN]) & AGES, (now - nodes[t, pair + 1, SEEN]) & AGES)
        if age > oldest:
            best, oldest = int(pair), age
        seen += 1
        if seen == CANDIDATES:
            break
    if best != NONE:
        parent = nodes[t, best, PARENT]
        nodes[t, parent, LEFT] = NONE
        beliefs[t, parent, ODDS] = 0.0
    return best


@outlined
def open_leaf(
    nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles, t: int, node: int, parent: int, time: float,
    now: int,
) -> None:  # fmt: skip
    """Make a node an empty leaf that begins at a time."""
    nodes[t, node, LEFT] = NONE
    nodes[t, node, PARENT] = parent
    nodes[t, node, SEEN] = now
    beliefs[t, node, TIME] = time
    beliefs[t, node, ODDS] = 0.0
    for k in range(counts.shape[2]):
        counts[t, node, k] = 0.0
    for j in range(boxes.shape[3]):
        boxes[t, node, LOWEST, j] = UNSEEN
        boxes[t, node, HIGHEST, j] = -UNSEEN


@outlined
def free_tree(trees: Ints, t: int, nodes: Nodes, place: int) -> None:
    """Put all nodes of the tree whose root is at `place` back."""
    found = np.empty(nodes.shape[1], np.int32)
    found[0] = trees[t, place]
    trees[t, place] = NONE
    taken, count = 0, 1
    while taken < count:
        left = nodes[t, found[taken], LEFT]
        taken += 1
        if left != NONE:
            found[count] = left
            found[count + 1] = left + 1
            count += 2
    for i in range(count):
        if found[i] % 2 == 0:
            free_pair(trees, t, nodes, found[i])


@outlined
def plant(
    trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles, place: int, now: int
) -> None:
    """Begin a tree with an empty leaf, its root at `place`; leave it if there is no room."""
    pair = take_pair(trees, t, nodes)
    if pair == NONE:
        pair = recycle(trees, t, nodes, beliefs, NONE, now)
    if pair != NONE:
        open_leaf(nodes, beliefs, counts, boxes, t, pair, NONE, 0.0, now)
        open_leaf(nodes, beliefs, counts, boxes, t, pair + 1, NONE, 0.0, now)
        trees[t, place] = pair
