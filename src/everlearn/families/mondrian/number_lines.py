"""The linear model of a forest of numbers: a ridge regression of the stream, whose slopes all nodes share.

The means of columns and target, and their products about them, fade (Welford 1962, weighted). From time to time
Cholesky's method solves for slopes. Columns are divided by their deviation, so that units do not matter, and the ridge
counts as so many rows. A missing value is the mean of its column.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.kernel_parts import outlined
from everlearn.families.mondrian.layout import FILLS, SLOPES
from everlearn.records import Floats, Singles

RIDGE = 2.0  # rows that the prior slope 0 counts for
LONGEST = 5000.0  # rows over which the products fade to 1 / e
SOLVED = 16  # rows after which slopes are solved for at least, and as many as columns
CONSTANT = 1e-30  # mean square of a column that is not used


@outlined
def learn_line(products: Floats, fills: Singles, b: int, target: float, weight: float) -> None:
    """Add row b of `fills`, the values without missing ones, to the means and products."""
    lined = fills.shape[1]
    fade = 1.0 - 1.0 / LONGEST
    held = fade * products[lined + 1, 0]
    share = weight / (held + weight)
    beside = target - products[lined, lined]
    for i in range(lined):
        away = fills[b, i] - products[lined, i]
        for k in range(i + 1):
            products[i, k] = fade * products[i, k] + held * share * away * (fills[b, k] - products[lined, k])
        products[i, lined] = fade * products[i, lined] + held * share * away * beside
    for i in range(lined):
        products[lined, i] += share * (fills[b, i] - products[lined, i])
    products[lined, lined] += share * beside
    products[lined + 1, 0] = held + weight


@outlined
def solve_line(products: Floats, line: Floats) -> None:
    """Solve for the slopes, and write the means of columns that missing values are taken for."""
    lined = line.shape[1]
    held = products[lined + 1, 0]
    scales, found, factor = np.zeros(lined), np.zeros(lined), np.zeros((lined, lined))
    for i in range(lined):
        scales[i] = 1.0 / math.sqrt(products[i, i]) if products[i, i] > CONSTANT * held else 0.0
    for i in range(lined):
        for k in range(i + 1):
            total = products[i, k] * scales[i] * scales[k]
            if i == k:
                total = 1.0 + RIDGE / held
            for j in range(k):
                total -= factor[i, j] * factor[k, j]
            if i == k:
                factor[i, i] = math.sqrt(max(total, 1e-6))
            else:
                factor[i, k] = total / factor[k, k]
        total = products[i, lined] * scales[i]
        for j in range(i):
            total -= factor[i, j] * found[j]
        found[i] = total / factor[i, i]
    for step in range(lined):
        i = lined - 1 - step
        total = found[i]
        for j in range(i + 1, lined):
            total -= factor[j, i] * found[j]
        found[i] = total / factor[i, i]
    for i in range(lined):
        slope = found[i] * scales[i]
        line[SLOPES, i] = slope if abs(slope) < 1e30 else 0.0
        line[FILLS, i] = products[lined, i]
