"""The columns that a tree sees: dense ones, and sums of hashed entries.

Boxes and thresholds hold values as they come. Only the chance of a split depends on the scale of a column: it is
proportional to how far a row lies outside a box, in deviations of the column so far. So units do not matter, and a
change of the deviations moves no threshold.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.families.kernel_parts import inlined, outlined
from everlearn.families.mondrian.layout import CENTRE, COUNT, DEVIATIONS, SEED
from everlearn.records import Floats, Singles

FURTHEST = np.float32(1e15)  # values are cut here, so that no square or sum overflows
ENTRIES = 0x5E7C  # what the keys of hashed entries are mixed with

Indices = NDArray[np.int32]


@inlined
def prepare(dense: Singles, i: int, rows: Singles, b: int) -> None:
    """Write row i to row b of `rows`; missing and infinite values are NaN."""
    for j in range(dense.shape[1]):
        v = dense[i, j]
        rows[b, j] = min(max(v, -FURTHEST), FURTHEST) if abs(v) < math.inf else np.float32(math.nan)


@inlined
def measure(rows: Singles, b: int, moments: Floats, scales: Singles) -> None:
    """Add row b to the moments of its columns (Welford 1962), and write their scales: 1 / deviation, 0 if constant."""
    for j in range(rows.shape[1]):
        v: float = np.float64(rows[b, j])
        if not math.isnan(v):
            moments[COUNT, j] += 1.0
            away = v - moments[CENTRE, j]
            moments[CENTRE, j] += away / moments[COUNT, j]
            moments[DEVIATIONS, j] += away * (v - moments[CENTRE, j])
        squares = moments[DEVIATIONS, j]
        scales[b, j] = math.sqrt(moments[COUNT, j] / squares) if squares > 0.0 else 0.0


@outlined
def gather(
    settings: Floats, columns: Indices, t: int, rows: Singles, b: int, indices: Indices, values: Singles, low: int,
    high: int, x: Singles,
) -> None:  # fmt: skip
    """Write the columns that tree t sees to `x`: its dense ones, then sums of the entries `low` to `high` - 1.

    A tree draws for each entry the column that it is added to, and a factor from 0.5 to 1.5.
    """
    drawn, wide = columns.shape[1], len(x)
    for j in range(drawn):
        x[j] = rows[b, columns[t, j]]
    for j in range(drawn, wide):
        x[j] = 0.0
    if wide > drawn:
        for e in range(low, high):
            v = np.float64(values[e])
            if abs(v) < math.inf:
                place = uniform(int(settings[SEED]) ^ ENTRIES, t, int(np.int64(indices[e]))) * (wide - drawn)
                at = int(place)
                x[drawn + at] += np.float32((0.5 + place - at) * min(max(v, -FURTHEST), FURTHEST))


def draw_columns(seed: int, trees: int, dense: int, drawn: int) -> NDArray[np.int32]:
    """Return the dense columns that each tree looks at, int32 (trees, drawn), in rising order."""
    found = np.empty((trees, drawn), np.int32)
    for t in range(trees):
        have = 0
        for j in range(dense):
            if have < drawn and (drawn == dense or uniform(seed, t, j) * (dense - j) < drawn - have):
                found[t, have] = j
                have += 1
    return found
