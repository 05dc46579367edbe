"""The pool of a tree: pairs of nodes, and which pair is given up when none is left.

A split is worth what its odds say: how much better the subtree was than the node alone. When the pool is full, a hand
goes on over the pairs and compares the next ones that are two leaves. The odds of each fade with the time since its
last visit. The pair with the lowest odds goes, if these are below 1: its parent is a leaf again and keeps its counts.
What it had added to the odds of nodes above stays there, since it did predict until now. Functions take the arrays of
all trees and the number of a tree, since views of arrays cost more than the work.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import outlined
from everlearn.families.mondrian.layout import (
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
FADING = 2000.0  # rows without a visit in which odds fall to 1 / e
AGES = 0x7FFFFFFF  # row numbers are kept in 31 bits
UNSEEN = np.float32(3e38)  # lowest value of an empty box


@outlined
def take_pair(trees: Ints, t: int, nodes: Nodes, beliefs: Floats, kept: int, now: int) -> int:
    """Return the first node of a free pair, or of one that is given up; -1 if there is none.

    The children of node `kept`, and pairs that row `now` has visited, are left alone.
    """
    pair = 2 * trees[t, USED_PAIRS]
    if pair + 1 < nodes.shape[1]:
        trees[t, USED_PAIRS] += 1
        return int(pair)
    best, lowest, compared, pairs = NONE, 1.0, 0, nodes.shape[1] // 2
    for _ in range(min(STEPS, pairs)):
        pair = 2 * trees[t, HAND]
        trees[t, HAND] = (trees[t, HAND] + 1) % pairs
        parent = nodes[t, pair, PARENT]
        if parent in (NONE, kept) or nodes[t, pair, LEFT] != NONE or nodes[t, pair + 1, LEFT] != NONE:
            continue
        age = min((now - nodes[t, pair, SEEN]) & AGES, (now - nodes[t, pair + 1, SEEN]) & AGES)
        worth = beliefs[t, parent, ODDS] * math.exp(-age / FADING)
        if age > 0 and worth < lowest:
            best, lowest = int(pair), worth
        compared += 1
        if compared == CANDIDATES:
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
    for i in range(ODDS, beliefs.shape[2]):
        beliefs[t, node, i] = 0.0
    for k in range(counts.shape[2]):
        counts[t, node, k] = 0.0
    for j in range(boxes.shape[3]):
        boxes[t, node, LOWEST, j] = UNSEEN
        boxes[t, node, HIGHEST, j] = -UNSEEN


@outlined
def plant(trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles, now: int) -> None:
    """Begin a tree with an empty leaf; all other nodes are free."""
    trees[t, USED_PAIRS] = 1
    trees[t, HAND] = 0
    for node in range(2):
        open_leaf(nodes, beliefs, counts, boxes, t, node, NONE, 0.0, now)
