"""Find the best split of a leaf of numbers: the one that lowers the variance of its errors most.

The reduction of variance by a split of n rows into left and right is (L^2 / n_L + R^2 / n_R - S^2 / n) / n, where L, R
and S are the sums of errors (Breiman et al. 1984, section 8.3): sums of squares cancel out. It counts over the rows
whose value is known, times their share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import inlined
from everlearn.families.kernel_parts import uncounted
from everlearn.families.trees.layout import (
    BASE,
    CELLS,
    CHOICES,
    COLUMN_FLOATS,
    ENTRY_SUMS,
    FIRST_CELL,
    NUMBER_HEAD,
    OWN,
    OWN_MEAN,
    WIDTH,
)
from everlearn.families.trees.observers import EMPTY
from everlearn.families.trees.splits import AT, LEAST_BRANCH, WHERE, remember
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

# after the four numbers of `splits.BEST`: weight and sum of the left branch, and of all rows with a known value
LEFT_WEIGHT, LEFT_SUM, KNOWN_WEIGHT, KNOWN_SUM, NUMBER_BEST = range(4, 9)


@inlined
def explained(left: float, left_sum: float, weight: float, total: float) -> float:
    """Return by how much a split lowers the sum of squares; -1 if a branch is too small.

    >>> explained(2.0, 2.0, 4.0, 10.0)  # 1, 1 and 4, 4: squares of 9 about the mean 2.5, and 0 within
    9.0
    """
    right = weight - left
    if not min(left, right) >= LEAST_BRANCH * weight or not min(left, right) > 0.0:
        return -1.0
    right_sum = total - left_sum
    return left_sum * left_sum / left + right_sum * right_sum / right - total * total / weight


@inlined
def remember_number(
    best: Floats, found: float, column: int, cut: float, left: float, left_sum: float, weight: float, total: float
) -> None:
    """Keep the best split of a column, with its sums, if it is the best so far, or its gain if it is the second."""
    remember(best, found, column, cut)
    if best[WHERE] == column and best[AT] == cut:
        best[LEFT_WEIGHT], best[LEFT_SUM], best[KNOWN_WEIGHT], best[KNOWN_SUM] = left, left_sum, weight, total


@uncounted
def try_cells(blocks: Singles, t: int, block: int, j: int, column: int, best: Floats) -> None:
    """Try all borders between cells of the column at place j of a leaf; a threshold is the middle of a gap."""
    at = NUMBER_HEAD + j * COLUMN_FLOATS
    width = np.float64(blocks[t, block, at + WIDTH])
    if width == 0.0:
        return
    weight = total = 0.0
    for i in range(CELLS):
        weight += blocks[t, block, at + FIRST_CELL + i]
        total += blocks[t, block, at + FIRST_CELL + CELLS + i]
    left, left_sum, last = 0.0, 0.0, -1
    most, border, next_cell, most_left, most_sum = -1.0, -1, -1, 0.0, 0.0
    for i in range(CELLS):
        n = np.float64(blocks[t, block, at + FIRST_CELL + i])
        if n == 0.0:
            continue
        if last >= 0:
            found = explained(left, left_sum, weight, total)
            if found > most:
                most, border, next_cell, most_left, most_sum = found, last, i, left, left_sum
        left += n
        left_sum += blocks[t, block, at + FIRST_CELL + CELLS + i]
        last = i
    if most > 0.0:
        base = np.float64(blocks[t, block, at + BASE])
        cut = np.float64(np.float32(width * (base + 0.5 * (border + 1 + next_cell))))
        own = np.float64(blocks[t, block, OWN])
        remember_number(best, most / own, column, cut, most_left, most_sum, weight, total)


@uncounted
def try_number_entries(blocks: Singles, choices: Nodes, t: int, block: int, m: int, at: int, best: Floats) -> None:
    """Try the presence of each hashed entry of a leaf, whose table begins at `at` in the block."""
    first = CHOICES + m
    entries = choices.shape[2] - first
    own = np.float64(blocks[t, block, OWN])
    total = own * blocks[t, block, OWN_MEAN]
    for place in range(entries):
        if choices[t, block, first + place] == EMPTY:
            continue
        left = min(np.float64(blocks[t, block, at + entries + place * ENTRY_SUMS]), own)
        left_sum = np.float64(blocks[t, block, at + entries + place * ENTRY_SUMS + 1])
        found = explained(left, left_sum, own, total) / own
        remember_number(best, found, -1 - choices[t, block, first + place], 0.0, left, left_sum, own, total)
