"""The linear model of a node of numbers: a ridge regression on the sums of its rows.

A node keeps the means of its columns, their products and those with the target, all about the means (Welford 1962).
From time to time Cholesky's method solves for how its slopes differ from those of its parent. Columns are divided by
their deviation in the node, so that units do not matter, and the slopes of the parent count as so many rows.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.kernel_parts import inlined, outlined
from everlearn.records import Singles

Single = np.float32

RIDGE = 4.0  # rows that the slopes of the parent count for
CONSTANT = 1e-30  # mean square of a column that is not used
FIRST_SOLVED = 2.0  # rows for each column, and two more, after which slopes are solved for first
RESOLVED = 1.25  # and then after this factor of rows, or as many more as columns


@inlined
def next_solved(held: float, lined: int) -> float:
    """Return the weight of a node at which its slopes are solved for next."""
    return max(held * RESOLVED, held + lined)


@outlined
def halve_line(counts: Singles, t: int, node: int, lined: int) -> None:
    """Halve the sums and the weight of a node, so that they stay in the range in which a float32 counts exactly."""
    for i in range(2 * lined, counts.shape[2]):
        counts[t, node, i] *= np.float32(0.5)


@inlined
def learn_line(
    counts: Singles, t: int, node: int, x: Singles, wide: int, lined: int, away: Single, share: Single, part: Single
) -> None:
    """Add a row to the sums; `away` is its target less the mean, `part` the weight of products about the means."""
    at, beside = 3 * lined, wide + lined
    for i in range(lined):
        x[beside + i] = x[wide + i] - counts[t, node, i]
    for i in range(lined):
        scaled = part * x[beside + i]
        counts[t, node, 2 * lined + i] += scaled * away
        for k in range(i + 1):
            counts[t, node, at + k] += scaled * x[beside + k]
        at += i + 1
    for j in range(lined):
        counts[t, node, j] += share * x[beside + j]


@outlined
def solve_line(counts: Singles, t: int, node: int, parent: int, lined: int) -> None:
    """Solve for the slopes of a node; those of a column that is constant there are the parent's."""
    held = np.float64(counts[t, node, counts.shape[2] - 1])
    products = 3 * lined
    scales, prior, found, factor = np.zeros(lined), np.zeros(lined), np.zeros(lined), np.zeros((lined, lined))
    for i in range(lined):
        square = np.float64(counts[t, node, products + i * (i + 1) // 2 + i])
        scales[i] = 1.0 / math.sqrt(square) if square > CONSTANT * held else 0.0
        prior[i] = counts[t, parent, lined + i] if parent >= 0 else 0.0
    for i in range(lined):
        row = products + i * (i + 1) // 2
        right = np.float64(counts[t, node, 2 * lined + i])
        for k in range(lined):
            at = row + k if k <= i else products + k * (k + 1) // 2 + i
            right -= counts[t, node, at] * prior[k]
        right *= scales[i]
        for k in range(i + 1):
            total = counts[t, node, row + k] * scales[i] * scales[k]
            if i == k:
                total = 1.0 + RIDGE / held
            for j in range(k):
                total -= factor[i, j] * factor[k, j]
            if i == k:
                factor[i, i] = math.sqrt(max(total, 1e-6))
            else:
                factor[i, k] = total / factor[k, k]
        for j in range(i):
            right -= factor[i, j] * found[j]
        found[i] = right / factor[i, i]
    for step in range(lined):
        i = lined - 1 - step
        total = found[i]
        for j in range(i + 1, lined):
            total -= factor[j, i] * found[j]
        found[i] = total / factor[i, i]
    for i in range(lined):
        slope = prior[i] + found[i] * scales[i]
        counts[t, node, lined + i] = slope if abs(slope) < 1e30 else 0.0
