"""Bounds on the labels that members learn: one wild number must not spoil a mix of numbers for thousands of rows.

A label that is further from the mean of all labels so far than `reach` mean absolute deviations is learned as the
number at that distance. Both means are plain, over all rows: among labels that are mostly 0, recent rows alone would
take each other number for wild. Where the scale of the labels really grows, each bounded label raises the mean
deviation, so that the bound follows. Scores and metrics are those of the true label.
"""

from __future__ import annotations

import math

from everlearn._jit import exact_kernel
from everlearn.records import Floats, Singles

REACH = 1_000.0  # mean absolute deviations; a log-normal price over six decades stays within them
FEWEST = 100.0  # rows before any label is bounded
ROWS, MEAN, DEVIATION = range(3)


@exact_kernel
def bound(y: Floats, weight: Singles, reach: float, state: Floats) -> Floats:
    """Return n labels, float64 (n,), bounded by those before each, and count them in `state`, float64 (3,).

    Labels that are not finite, or whose weight is not a finite number above 0, are not learned: they stay as they are.

    >>> import numpy as np
    >>> state = np.zeros(3)
    >>> usual = np.tile([1.0, 3.0], 100)
    >>> bool((bound(usual, np.ones(200, np.float32), 1000.0, state) == usual).all())
    True
    >>> bound(np.array([500.0, 1e9]), np.ones(2, np.float32), 1000.0, state).round().tolist()
    [500.0, 3506.0]
    """
    out: Floats = y.copy()
    for i in range(len(y)):
        if not (math.isfinite(y[i]) and math.isfinite(weight[i]) and weight[i] > 0.0):
            continue
        away = y[i] - state[MEAN]
        most = reach * state[DEVIATION]
        if state[ROWS] >= FEWEST and most > 0.0 and abs(away) > most:
            away = most if away > 0.0 else -most
            out[i] = state[MEAN] + away
        state[ROWS] += 1.0
        if state[ROWS] == 1.0:
            state[MEAN] = y[i]
            continue
        state[MEAN] += away / state[ROWS]
        state[DEVIATION] += (abs(away) - state[DEVIATION]) / (state[ROWS] - 1.0)
    return out
