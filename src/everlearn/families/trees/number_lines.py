"""The linear model of a leaf of numbers: a ridge regression on the sums of its rows.

A leaf keeps the means of its columns, their products and those with the target, all about the means (Welford 1962,
Chan et al. 1983). From time to time it solves for slopes by Cholesky's method. Columns are divided by their deviation
in the leaf, so that their units do not matter, and the ridge counts as so many rows. A missing value is the mean of its
column. The model takes all columns, not only those that the leaf may split, up to `MOST_LINE`; more would cost their
square, and then each tree has a window of them. A new leaf inherits the sums of its parent, as so many rows.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.kernel_parts import inlined, outlined, uncounted
from everlearn.families.trees.layout import (
    AROUND,
    COLUMN_FLOATS,
    LINE_MEAN,
    LINE_START,
    LINE_WEIGHT,
    MOST_LINE,
    NUMBER_HEAD,
    NUMBER_PART,
    SPREAD,
    VALUE,
)
from everlearn.records import Floats, Singles

RIDGE = 2.0  # rows that the prior slope 0 counts for
CONSTANT = 1e-30  # mean square of a column that is not used


@inlined
def line_at(m: int) -> int:
    """Return where the linear model begins in a block: means, slopes, products with the target, products."""
    return NUMBER_HEAD + m * COLUMN_FLOATS


@inlined
def line_floats(columns: int) -> int:
    """Return the numbers of the linear model in a block."""
    line = min(columns, MOST_LINE)
    return 3 * line + line * (line + 1) // 2


@inlined
def line_column(blocks: Singles, t: int, block: int, columns: int, i: int) -> int:
    """Return the column of the stream that is number i of a linear model."""
    if columns <= MOST_LINE:
        return i
    return (int(blocks[t, block, LINE_START]) + i) % columns


@uncounted
def line_answer(blocks: Singles, t: int, block: int, m: int, rows: Floats, b: int) -> float:
    """Return the prediction of the linear model of a leaf for row b."""
    columns = rows.shape[2]
    line, at = min(columns, MOST_LINE), line_at(m)
    total = np.float64(blocks[t, block, AROUND]) + np.float64(blocks[t, block, LINE_MEAN])
    for i in range(line):
        v = rows[b, VALUE, line_column(blocks, t, block, columns, i)]
        if not math.isnan(v):
            total += blocks[t, block, at + line + i] * (v - blocks[t, block, at + i])
    return total


@uncounted
def learn_line(blocks: Singles, t: int, block: int, m: int, rows: Floats, b: int, target: float, weight: float) -> None:
    """Add row b to the sums; its `SPREAD`, which trees of numbers do not use, is written over."""
    columns = rows.shape[2]
    line, at = min(columns, MOST_LINE), line_at(m)
    held = np.float64(blocks[t, block, LINE_WEIGHT])
    share = weight / (held + weight)
    part = held * share
    beside = target - blocks[t, block, AROUND] - blocks[t, block, LINE_MEAN]
    blocks[t, block, LINE_WEIGHT] = held + weight
    blocks[t, block, LINE_MEAN] += np.float32(share * beside)
    products = at + 3 * line
    for i in range(line):
        v = rows[b, VALUE, line_column(blocks, t, block, columns, i)]
        away = 0.0 if math.isnan(v) else v - blocks[t, block, at + i]
        rows[b, SPREAD, i] = away
        blocks[t, block, at + i] += np.float32(share * away)
        blocks[t, block, at + 2 * line + i] += np.float32(part * away * beside)
        scaled = part * away
        if away != 0.0:
            for k in range(i + 1):
                blocks[t, block, products + k] += np.float32(scaled * rows[b, SPREAD, k])
        products += i + 1


@outlined
def keep_line(blocks: Singles, t: int, block: int, m: int, columns: int, most: float) -> Singles:
    """Return the linear model of a leaf, with its head, for the leaf's children; its sums weigh at most `most`."""
    line, at, size = min(columns, MOST_LINE), line_at(m), line_floats(columns)
    head = NUMBER_HEAD - NUMBER_PART
    held = np.empty(head + size, np.float32)
    for i in range(head):
        held[i] = blocks[t, block, NUMBER_PART + i]
    share = np.float32(min(most / max(np.float64(blocks[t, block, LINE_WEIGHT]), most), 1.0))
    held[LINE_WEIGHT - NUMBER_PART] *= share
    for i in range(size):
        held[head + i] = blocks[t, block, at + i] * (share if i >= 2 * line else np.float32(1.0))
    return held


@uncounted
def inherit_line(blocks: Singles, t: int, block: int, m: int, held: Singles) -> None:
    """Give a leaf the linear model that `keep_line` returned."""
    head = NUMBER_HEAD - NUMBER_PART
    for i in range(head):
        blocks[t, block, NUMBER_PART + i] = held[i]
    for i in range(head, len(held)):
        blocks[t, block, line_at(m) + i - head] = held[i]


@outlined
def solve_line(blocks: Singles, t: int, block: int, m: int, columns: int, rate: float) -> None:
    """Solve for the slopes of a leaf; `rate` is the mean weight of a row."""
    line, at = min(columns, MOST_LINE), line_at(m)
    products, held = at + 3 * line, np.float64(blocks[t, block, LINE_WEIGHT])
    scales, found, factor = np.zeros(line), np.zeros(line), np.zeros((line, line))
    for i in range(line):
        square = np.float64(blocks[t, block, products + i * (i + 1) // 2 + i])
        scales[i] = 1.0 / math.sqrt(square) if square > CONSTANT * held else 0.0
    for i in range(line):
        for k in range(i + 1):
            total = blocks[t, block, products + i * (i + 1) // 2 + k] * scales[i] * scales[k]
            if i == k:
                total = 1.0 + RIDGE * rate / held
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
