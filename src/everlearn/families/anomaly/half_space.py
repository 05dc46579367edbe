"""Half-space trees: the mass around a row (Tan, Ting and Liu, "Fast anomaly detection for streaming data", 2011).

A tree is perfect and drawn at build: each node halves the work range of one column, which is [0, 1] stretched around a
random point (their section 3.1). The paper takes ranges as known. Here they come from the window: at its end, [0, 1] is
laid over the smallest to the largest value of each column, on the scale asinh((x - median) / quartile distance), so
that one huge value does not press all others into one leaf. Then the masses of all nodes are counted again.

The paper adds mass * 2**depth over the trees. We add log2(mass + 1/2) + depth, the logarithm of the same density, which
one crowded leaf does not dominate (docs/why/anomalies.md has the figures). A row that lacks the column of a node stops
there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.families.anomaly.settings import MISSING
from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats, Ints, Singles

LARGEST = 3.4e38


@exact_kernel
def draw(seed: int, trees: int, height: int, dense: int, columns: NDArray[np.int32], shares: Floats) -> None:
    """Draw the trees: the column of each node, int32 (trees, nodes), and its cut in [0, 1], float64 (trees, nodes)."""
    nodes = (1 << height) - 1
    ranges = np.zeros((nodes * 2 + 1, dense, 2))
    for t in range(trees):
        for j in range(dense):
            middle = uniform(seed, t, j)
            reach = 2.0 * max(middle, 1.0 - middle)
            ranges[0, j, 0], ranges[0, j, 1] = middle - reach, middle + reach
        for node in range(nodes):
            column = min(int(uniform(seed, t, dense + node) * dense), dense - 1)
            cut = 0.5 * (ranges[node, column, 0] + ranges[node, column, 1])
            columns[t, node], shares[t, node] = column, cut
            for side in range(2):
                for j in range(dense):
                    for end in range(2):
                        ranges[2 * node + 1 + side, j, end] = ranges[node, j, end]
                ranges[2 * node + 1 + side, column, 1 - side] = cut


@outlined
def mass(
    x: Singles, skip: int, columns: NDArray[np.int32], cuts: Singles, values: Singles, at: NDArray[np.int32]
) -> float:
    """Return the mean log density of a row, float32 (d,), over the trees; column `skip` counts as missing.

    `at` int32 (trees,) is overwritten. Without missing values all trees go down together, which hides the time that one
    step waits for the last.
    """
    trees, nodes = columns.shape
    whole = skip < 0
    for j in range(len(x)):
        whole &= abs(x[j]) < MISSING
    total: float = 0.0
    if whole:
        at[:] = 0
        below = 1
        while below <= nodes:
            for t in range(trees):
                node = at[t]
                at[t] = 2 * node + 1 + (x[columns[t, node]] >= cuts[t, node])
            below *= 2
        for t in range(trees):
            total += values[t, at[t]]
        return float(total / trees)
    for t in range(trees):
        node = 0
        while node < nodes:
            column = columns[t, node]
            if not abs(x[column]) < MISSING or column == skip:
                break
            node = 2 * node + 1 + (x[column] >= cuts[t, node])
        total += values[t, node]
    return float(total / trees)


@outlined
def refit(
    window: Singles, first: int, held: int, sorted_values: Singles, known: Ints, columns: NDArray[np.int32],
    shares: Floats, cuts: Singles, values: Singles,
) -> None:  # fmt: skip
    """Lay the cuts over the ranges of `held` rows of the ring `window`, from `first` on; count them in all nodes."""
    trees, nodes = columns.shape
    dense = len(known)
    scales = np.zeros((dense, 4))
    for j in range(dense):
        n = known[j]
        if not n:
            continue
        low, high, middle = float(sorted_values[j, 0]), float(sorted_values[j, n - 1]), float(sorted_values[j, n // 2])
        unit = float(sorted_values[j, 3 * n // 4]) - float(sorted_values[j, n // 4])
        if unit <= 0.0:
            unit = (high - low) / 8.0
        if unit <= 0.0:
            unit = 1.0
        scales[j, 0], scales[j, 1] = middle, unit
        scales[j, 2], scales[j, 3] = math.asinh((low - middle) / unit), math.asinh((high - middle) / unit)
    for t in range(trees):
        for node in range(nodes):
            middle, unit, low, high = scales[columns[t, node]]
            cut = math.sinh(min(max(low + shares[t, node] * (high - low), -700.0), 700.0)) * unit + middle
            cuts[t, node] = min(max(cut, -LARGEST), LARGEST)
    whole = True
    for j in range(dense):
        whole &= known[j] == held
    counts, at = np.zeros(values.shape[1], np.int64), np.zeros(held, np.int32)
    for t in range(trees):
        counts[:] = 0
        count(window, first, at, whole, columns[t], cuts[t], counts)
        depth, last = 0, 0
        for node in range(len(counts)):
            if node > last:
                depth, last = depth + 1, 2 * last + 2
            values[t, node] = math.log2(counts[node] + 0.5) + depth


@outlined
def count(
    window: Singles, first: int, at: NDArray[np.int32], whole: bool, columns: NDArray[np.int32], cuts: Singles,
    counts: Ints,
) -> None:  # fmt: skip
    """Count `len(at)` rows of the ring `window` in every node of a tree; `whole` if they have no missing values."""
    nodes, size = len(columns), len(window)
    at[:] = 0
    below = 1
    while below <= nodes and whole:
        row = first % size
        for i in range(len(at)):
            node = at[i]
            at[i] = 2 * node + 1 + (window[row, columns[node]] >= cuts[node])
            row = row + 1 if row + 1 < size else 0
        below *= 2
    for i in range(len(at)):
        node, row = at[i], (first + i) % size
        while node < nodes and abs(window[row, columns[node]]) < MISSING:
            node = 2 * node + 1 + (window[row, columns[node]] >= cuts[node])
        counts[node] += 1
    for node in range(nodes - 1, -1, -1):
        counts[node] += counts[2 * node + 1] + counts[2 * node + 2]
