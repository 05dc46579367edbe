"""The columns that a tree sees: dense ones, in their own unit or in deviations, and sums of hashed entries.

Boxes and thresholds hold values as they come. Only the chance of a split depends on the unit: it is proportional to how
far a row lies outside a box, column by column, times the column's scale.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.families.kernel_parts import inlined, outlined
from everlearn.families.mondrian.layout import CENTRE, COUNT, DEVIATIONS, SEED
from everlearn.records import Floats, Ints, Singles

FURTHEST = 1e15  # values are cut here, so that no square or sum overflows
ENTRIES = 0x5E7C  # what the keys of hashed entries are mixed with

Indices = NDArray[np.int32]


@inlined
def prepare(dense: Singles, i: int, moments: Floats, counts: bool, rows: Singles, scales: Singles, b: int) -> None:
    """Write row i to row b of `rows`; missing and infinite values are NaN.

    If the row `counts`, add it to the moments of its columns (Welford 1962), and write their scales, 1 / deviation (0
    while a column is constant), to row b of `scales`.
    """
    for j in range(dense.shape[1]):
        v: float = np.float64(dense[i, j])
        known = abs(v) < math.inf
        v = np.float64(np.float32(min(max(v, -FURTHEST), FURTHEST)))
        rows[b, j] = v if known else math.nan
        if counts:
            if known:
                moments[COUNT, j] += 1.0
                away = v - moments[CENTRE, j]
                moments[CENTRE, j] += away / moments[COUNT, j]
                moments[DEVIATIONS, j] += away * (v - moments[CENTRE, j])
            squares = moments[DEVIATIONS, j]
            scales[b, j] = math.sqrt(moments[COUNT, j] / squares) if squares > 0.0 else 0.0


@outlined
def gather(
    settings: Floats, columns: Indices, t: int, rows: Singles, scales: Singles, b: int, scaled: bool, indices: Indices,
    values: Singles, low: int, high: int, x: Singles, scale: Singles,
) -> None:  # fmt: skip
    """Write the columns of tree t to `x` and their scales to `scale`: dense ones, then sums of entries low to high - 1.

    Each tree adds an entry to a column of its own choice, times a number from 0.5 to 1.5 that it draws for the entry.
    """
    drawn, all_columns = columns.shape[1], len(x)
    for j in range(drawn):
        x[j] = rows[b, columns[t, j]]
        scale[j] = scales[b, columns[t, j]] if scaled else np.float32(1.0)
    if all_columns > drawn:
        for j in range(drawn, all_columns):
            x[j] = 0.0
            scale[j] = 1.0
        for e in range(low, high):
            v = np.float64(values[e])
            if abs(v) < math.inf:
                place = uniform(int(settings[SEED]) ^ ENTRIES, t, np.int64(indices[e])) * (all_columns - drawn)
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
