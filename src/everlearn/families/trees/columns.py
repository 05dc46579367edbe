"""The columns of the stream: origins, spreads, and which hold only two values.

Leaves keep float32 sums, which cancel on columns far from zero. So every value counts from the first one of its column.
A column is binary until a third value comes. Mean and count of a binary column are the counts of its two values, so
that a leaf needs no other observer for it, and none is lost when a third value comes.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.kernel_parts import inlined
from everlearn.families.trees.layout import (
    BINARY,
    CENTRE,
    COUNT,
    DEVIATIONS,
    KIND,
    MISSING,
    NUMERIC,
    ORIGIN,
    OTHER,
    SECOND,
    SPREAD,
    STATE,
    VALUE,
)
from everlearn.records import Floats, Singles

FURTHEST = 1e15  # from the origin; squares, summed with weights, stay in the range of float32


@inlined
def prepare(dense: Singles, i: int, moments: Floats, rows: Floats, b: int) -> None:
    """Write row i to row b of `rows`, float64 (n, 4, columns), by the columns as they were before it.

    Missing and infinite values are NaN. The spread is 0 where a column had one value so far. The state of the columns
    is how many vary, plus how many have more than two values, which only grows, plus `MISSING` if a value is missing or
    the third one of its column.
    """
    state = 0.0
    missing = 0.0
    for j in range(dense.shape[1]):
        v: float = np.float64(dense[i, j])
        kind, spread = moments[KIND, j], 0.0
        if kind == BINARY:
            spread = moments[CENTRE, j] / moments[OTHER, j]
        elif kind == NUMERIC:
            spread = moments[DEVIATIONS, j] / max(moments[COUNT, j], 1.0)
        rows[b, SPREAD, j] = spread
        rows[b, SECOND, j] = moments[OTHER, j] if kind == BINARY else 0.0
        known = abs(v) < math.inf
        v = min(max(v - moments[ORIGIN, j], -FURTHEST), FURTHEST)
        rows[b, VALUE, j] = np.float64(np.float32(v)) if known else math.nan
        if spread > 0.0:
            state += 1.0 if kind == BINARY else 2.0
        if not known or (kind == BINARY and v != 0.0 and v != moments[OTHER, j]):
            missing = MISSING
    if dense.shape[1] > 0:
        rows[b, STATE, 0] = state + missing


@inlined
def count(dense: Singles, i: int, moments: Floats, rows: Floats, b: int) -> None:
    """Add row i to its columns; correct the prepared row where this value is the first of its column."""
    for j in range(dense.shape[1]):
        v = rows[b, VALUE, j]
        if not abs(v) < math.inf:
            continue
        if moments[COUNT, j] == 0.0:
            moments[ORIGIN, j] = np.float64(dense[i, j])
            v = 0.0
            rows[b, VALUE, j] = v
        if v != 0.0 and moments[KIND, j] != NUMERIC and v != moments[OTHER, j]:
            moments[OTHER, j] = v
            moments[KIND, j] += 1.0
        moments[COUNT, j] += 1.0
        away = v - moments[CENTRE, j]
        if away != 0.0:
            moments[CENTRE, j] += away / moments[COUNT, j]
            moments[DEVIATIONS, j] += away * (v - moments[CENTRE, j])
