"""Online isolation trees (Leveni, Weigert Cassales, Pfahringer, Bifet and Boracchi, "Online isolation forest", 2024).

A node counts the rows of the window that came to it, and knows the box around them. A leaf at depth k splits once it
holds 32 * 2**k rows: at a random place of a random column of its box, with as many rows to the left as that many
uniform draws from the box put there. A row that leaves the window is taken from the nodes on its path, and an inner
node below its threshold becomes a leaf again. Crowded regions are deep, so a row at a shallow leaf is isolated.

Two choices are ours. The box of a child is that of its parent, cut; the paper takes that of the drawn points, which is
hardly smaller and costs a draw for each column. A tree looks at 64 dense columns at most, to bound its memory.
A row that lacks the column of a node stops there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.families.anomaly.settings import MISSING
from everlearn.families.kernel_parts import outlined
from everlearn.records import Singles

LEAF = -1  # in the place of a node's column
COLUMN, ROWS = range(2)  # in nodes[t, node]
FAR = 3.4e38


@outlined
def expected(rows: int, leaf_rows: int) -> float:
    """Return the depth that `rows` rows of one leaf would add: log2(rows / leaf_rows), 0 for few."""
    return math.log2(rows / leaf_rows) if rows > leaf_rows else 0.0


@outlined
def isolated(x: Singles, skip: int, rows: int, leaf_rows: int, nodes: NDArray[np.int32], cuts: Singles) -> float:
    """Return the anomaly score of a row, 2**(-mean depth / expected depth); column `skip` counts as missing."""
    total = 0.0
    for t in range(nodes.shape[0]):
        node, depth = 0, 0
        while nodes[t, node, COLUMN] != LEAF:
            column = nodes[t, node, COLUMN]
            value = x[column]
            if not abs(value) < MISSING or column == skip:
                break
            node = 2 * node + 1 + (value >= cuts[t, node])
            depth += 1
        total += depth + expected(nodes[t, node, ROWS], leaf_rows)
    return float(2.0 ** (-total / nodes.shape[0] / max(expected(rows, leaf_rows), 1.0)))


@outlined
def enter(
    x: Singles, seed: int, row: int, leaf_rows: int, nodes: NDArray[np.int32], cuts: Singles, boxes: Singles,
    columns: NDArray[np.int32],
) -> None:  # fmt: skip
    """Let a row enter every tree; `row` numbers it, for the draws. A node without rows has a box of no extent."""
    inner = nodes.shape[1] // 2
    for t in range(nodes.shape[0]):
        node, threshold = 0, leaf_rows
        while True:
            nodes[t, node, ROWS] += 1
            for j in range(columns.shape[1]):
                value = x[columns[t, j]]
                if abs(value) < MISSING:
                    boxes[t, node, 0, j] = min(boxes[t, node, 0, j], value)
                    boxes[t, node, 1, j] = max(boxes[t, node, 1, j], value)
            if nodes[t, node, COLUMN] == LEAF:
                if node < inner and nodes[t, node, ROWS] >= threshold:
                    split(t, node, seed, row, nodes, cuts, boxes, columns)
                break
            value = x[nodes[t, node, COLUMN]]
            if not abs(value) < MISSING:
                break
            node = 2 * node + 1 + (value >= cuts[t, node])
            threshold *= 2


@outlined
def split(
    t: int, node: int, seed: int, row: int, nodes: NDArray[np.int32], cuts: Singles, boxes: Singles,
    columns: NDArray[np.int32],
) -> None:  # fmt: skip
    """Split a leaf at a random place of a random column; it stays a leaf where no column has an extent."""
    wide, first = columns.shape[1], row << 12
    offset = int(uniform(seed, t, first) * wide)
    for step in range(wide):
        j = (offset + step) % wide
        low, high = np.float64(boxes[t, node, 0, j]), np.float64(boxes[t, node, 1, j])
        cut = np.float32(low + uniform(seed, t, first + 1) * (high - low))
        if not low < cut <= high:
            continue
        rows, left = nodes[t, node, ROWS], 0
        share = (np.float64(cut) - low) / (high - low)
        for draw in range(rows):
            if uniform(seed, t, first + 2 + draw) < share:
                left += 1
        nodes[t, node, COLUMN], cuts[t, node] = columns[t, j], cut
        for side in range(2):
            child = 2 * node + 1 + side
            nodes[t, child, COLUMN], nodes[t, child, ROWS] = LEAF, rows - left if side else left
            for end in range(2):
                for k in range(wide):
                    boxes[t, child, end, k] = boxes[t, node, end, k]
            boxes[t, child, 1 - side, j] = cut
        return


@outlined
def leave(x: Singles, leaf_rows: int, nodes: NDArray[np.int32], cuts: Singles, boxes: Singles) -> None:
    """Take a row that leaves the window out of every tree."""
    for t in range(nodes.shape[0]):
        node, threshold = 0, leaf_rows
        while True:
            nodes[t, node, ROWS] = max(nodes[t, node, ROWS] - 1, 0)
            if nodes[t, node, COLUMN] == LEAF:
                break
            if nodes[t, node, ROWS] < threshold:
                merge(t, node, nodes, boxes)
                break
            value = x[nodes[t, node, COLUMN]]
            if not abs(value) < MISSING:
                break
            node = 2 * node + 1 + (value >= cuts[t, node])
            threshold *= 2


@outlined
def merge(t: int, node: int, nodes: NDArray[np.int32], boxes: Singles) -> None:
    """Make an inner node a leaf again; its box is that of its children."""
    for k in range(boxes.shape[3]):
        first, second = 2 * node + 1, 2 * node + 2
        boxes[t, node, 0, k] = min(boxes[t, first, 0, k], boxes[t, second, 0, k])
        boxes[t, node, 1, k] = max(boxes[t, first, 1, k], boxes[t, second, 1, k])
    nodes[t, node, COLUMN] = LEAF
