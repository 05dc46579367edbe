"""Tails of columns: how far out each number of a row lies among those of the window, and how rare its categories are.

A number counts for the negative logarithm of the smaller of its two empirical tail probabilities, as in ECOD (Li et
al., "ECOD: unsupervised outlier detection using empirical cumulative distribution functions", 2022); beyond all numbers
of the window, also for log(1 + distance), in units of the distance from the median to the extreme. A missing value
counts for how rarely the column misses. A category counts for its negative log frequency, in cells that fade by a
quarter with each window; the entries of a row count for their mean, times the root of their number, so that a long text
does not outweigh the numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.anomaly.settings import MISSING
from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats, Ints, Singles

KEPT = 0.75  # of the counts of hashed entries, from window to window


@outlined
def surprise(value: float, held: int, known: int, sorted_values: Singles, logs: Floats) -> float:
    """Return the surprise of one value of a column; `sorted_values` float32 (window,) begins with `known` numbers.

    `logs[k]` is log(k + 1/2).
    """
    if not abs(value) < MISSING:
        return float(math.log(held + 1.0) - logs[held - known]) if held else 0.0
    if not known:
        return 0.0
    low, high = 0, known
    while low < high:
        middle = (low + high) >> 1
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    upper, high = low, known
    while upper < high:
        middle = (upper + high) >> 1
        if sorted_values[middle] <= value:
            upper = middle + 1
        else:
            high = middle
    found: float = math.log(known + 1.0) - logs[min(upper, known - low)]
    if upper > 0 and low < known:
        return found
    edge = np.float64(sorted_values[known - 1 if upper else 0])
    unit = abs(edge - np.float64(sorted_values[known // 2]))
    return found + math.log1p(min(abs(value - edge) / max(unit, 1e-6 * abs(edge), 1e-30), 1000.0))


@outlined
def rarity(indices: NDArray[np.int32], start: int, stop: int, skip: int, counts: Floats) -> float:
    """Return the surprise of the hashed entries start..stop-1, without entry `skip`.

    `counts` float64 (cells + 1,) are the counts of cells, and that of rows.
    """
    cells = len(counts) - 1
    total, entries = 0.0, 0
    for e in range(start, stop):
        if e != skip:
            total += math.log(counts[cells] + 1.0) - math.log(counts[indices[e] % cells] + 0.5)
            entries += 1
    return total / math.sqrt(entries) if entries else 0.0


@outlined
def refill(window: Singles, first: int, held: int, sorted_values: Singles, known: Ints) -> None:
    """Sort the numbers of each column of `held` rows of the ring `window`, from row `first` on."""
    numbers = np.empty(held, np.float32)
    for j in range(len(known)):
        n = 0
        for i in range(held):
            value = window[(first + i) % len(window), j]
            if abs(value) < MISSING:
                numbers[n] = value
                n += 1
        known[j] = n
        ordered = np.sort(numbers[:n])
        for i in range(n):
            sorted_values[j, i] = ordered[i]


@outlined
def fade(counts: Floats, latest: Floats) -> None:
    """Let the counts of hashed entries fade, add those of the newest rows, and clear the latter."""
    for cell in range(len(counts)):
        counts[cell] = KEPT * counts[cell] + latest[cell]
        latest[cell] = 0.0
