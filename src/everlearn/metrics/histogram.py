"""ROC AUC from a histogram, as homes of release 0.1.0 keep it.

The bins are fixed: 64 an octave from 2**-21 to 2**-1 for the rarer of the two outcomes, mirrored around one half. A
float32's bits are its logarithm, piecewise linear. Pairs within a bin count as ties. New homes have `ranks`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.metrics.recent import HIGH, LABEL, LOW, WEIGHT
from everlearn.records import Floats

Bits = NDArray[np.int32]

_BIN_SHIFT = 17
_LOWEST = 106 << 23
_HALF = 20 * 64


def start() -> Floats:
    """Return an empty histogram, float64 (2, 2561): the weights of class 0 and of class 1 in each bin."""
    return np.zeros((2, 2 * _HALF + 1))


def report(histogram: Floats) -> dict[str, float]:
    """Return `roc_auc`; empty while one of the two classes has no weight."""
    negative, positive = histogram
    pairs = negative.sum() * positive.sum()
    if not pairs > 0:
        return {}
    below = np.cumsum(negative) - negative / 2
    return {"roc_auc": float(positive @ below / pairs)}


@exact_kernel
def add(ints: Bits, floats: Floats, rows: int, histogram: Floats) -> None:
    """Count the first rows that `classes` judged: the bits of their scores, their labels and weights."""
    for row in range(rows):
        low = min(max(ints[HIGH, row] - _LOWEST, 0) >> _BIN_SHIFT, _HALF)
        high = min(max(ints[LOW, row] - _LOWEST, 0) >> _BIN_SHIFT, _HALF)
        # The outcome that is not the rarer one is at _HALF, so one of the two terms gives the bin.
        histogram[ints[LABEL, row], low + _HALF - high] += floats[WEIGHT, row]
