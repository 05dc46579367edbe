"""The linear model of a leaf of numbers: a ridge regression on the sums of its rows.

A leaf keeps the means of its columns, their products and those with the target, all about the means (Welford 1962,
Chan et al. 1983). From time to time it solves for slopes by Cholesky's method. Columns are divided by their deviation in
the leaf, so that their units do not matter, and the ridge counts as so many rows. A missing value is the mean of its
column. More columns than `MOST_LINE` would cost their square: then a leaf takes a window of them, another in each leaf.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.trees.layout import (
    AROUND,
    COLUMN_FLOATS,
    KEY,
    MOST_LINE,
    NUMBER_HEAD,
    OWN,
    OWN_MEAN,
    SPREAD,
    VALUE,
)
from everlearn.families.trees.parts import inlined, outlined
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

RIDGE = 2.0  # rows that the prior slope 0 counts for
CONSTANT = 1e-30  # mean square of a column that is not used


@inlined
def line_at(m: int) -> int:
    """Return where the linear model begins in a block: means, slopes, products with the target, products."""
    return NUMBER_HEAD + m * COLUMN_FLOATS


@inlined
def line_floats(m: int) -> int:
    """Return the numbers of the linear model in a block."""
    line = min(m, MOST_LINE)
    return 3 * line + line * (line + 1) // 2


@inlined
def line_column(choices: Nodes, t: int, block: int, m: int, i: int) -> int:
    """Return which of the m columns of a leaf is column i of its linear model."""
    if m <= MOST_LINE:
        return i
    return int((np.int64(choices[t, block, KEY]) * MOST_LINE + i) % m)


@outlined
def line_answer(blocks: Singles, choices: Nodes, t: int, block: int, seen: Floats) -> float:
    """Return the prediction of the linear model of a leaf."""
    m = seen.shape[1]
    line, at = min(m, MOST_LINE), line_at(m)
    total = np.float64(blocks[t, block, AROUND]) + np.float64(blocks[t, block, OWN_MEAN])
    for i in range(line):
        v = seen[VALUE, line_column(choices, t, block, m, i)]
        if not math.isnan(v):
            total += blocks[t, block, at + line + i] * (v - blocks[t, block, at + i])
    return total


@outlined
def learn_line(
    blocks: Singles, choices: Nodes, t: int, block: int, seen: Floats, target: float, weight: float
) -> None:
    """Add a row to the sums; row `SPREAD` of `seen` is written over. The head of the block is that before the row."""
    m = seen.shape[1]
    line, at = min(m, MOST_LINE), line_at(m)
    own = np.float64(blocks[t, block, OWN])
    share = weight / (own + weight)
    part = own * share
    beside = target - blocks[t, block, AROUND] - blocks[t, block, OWN_MEAN]
    products = at + 3 * line
    for i in range(line):
        v = seen[VALUE, line_column(choices, t, block, m, i)]
        away = 0.0 if math.isnan(v) else v - blocks[t, block, at + i]
        seen[SPREAD, i] = away
        blocks[t, block, at + i] += np.float32(share * away)
        blocks[t, block, at + 2 * line + i] += np.float32(part * away * beside)
        scaled = part * away
        if away != 0.0:
            for k in range(i + 1):
                blocks[t, block, products + k] += np.float32(scaled * seen[SPREAD, k])
        products += i + 1


@outlined
def solve_line(blocks: Singles, t: int, block: int, m: int, rows: float) -> None:
    """Solve for the slopes of a leaf; `rows` is how many rows its sums stand for."""
    line, at = min(m, MOST_LINE), line_at(m)
    products, own = at + 3 * line, np.float64(blocks[t, block, OWN])
    scales, found, factor = np.zeros(line), np.zeros(line), np.zeros((line, line))
    for i in range(line):
        square = np.float64(blocks[t, block, products + i * (i + 1) // 2 + i])
        scales[i] = 1.0 / math.sqrt(square) if square > CONSTANT * own else 0.0
    for i in range(line):
        for k in range(i + 1):
            total = blocks[t, block, products + i * (i + 1) // 2 + k] * scales[i] * scales[k]
            if i == k:
                total = 1.0 + RIDGE / rows
            for j in range(k):
                total -= factor[i, j] * factor[k, j]
            if i == k:
                factor[i, i] = math.sqrt(max(total, 1e-6))
            else:
                factor[i, k] = total / factor[k, k]
        total = blocks[t, block, at + 2 * line + i] * scales[i]
        for j in range(i):
            total -= factor[i, j] * found[j]
        found[i] = total / factor[i, i]
    for step in range(line):
        i = line - 1 - step
        total = found[i]
        for j in range(i + 1, line):
            total -= factor[j, i] * found[j]
        found[i] = total / factor[i, i]
    for i in range(line):
        slope = found[i] * scales[i]
        blocks[t, block, at + line + i] = slope if abs(slope) < 1e30 else 0.0
