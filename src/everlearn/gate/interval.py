"""An interval for the mean of paired differences, from their sums over equal stretches of a stream.

It is the gate's t-test on blocks (`kernels.py`) for numbers that the gate does not compare: it needs only the points
of two curves. Stretches are joined to blocks of 1, 2, 4, ... of them. Lengths count from the longest one with at least
`FEWEST_BLOCKS` blocks down to one at which neighbouring blocks are still correlated, and the widest of their intervals
is returned. Unlike in the gate, the longest length always counts, with its correlation: an interval may be wide, but it
should not come and go.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from everlearn.errors import ConfigError, InputError
from everlearn.gate.kernels import (
    CORRELATED,
    COUNT,
    FIRST,
    LAGGED,
    LAST,
    SQUARES,
    SUM,
    UNBOUNDED,
    half_width,
    resemblance,
)
from everlearn.records import Floats

FEWEST_BLOCKS = 32  # of the longest length: with fewer, chance alone makes neighbours look alike, and intervals wide


class Interval(NamedTuple):
    """A mean, and the ends of its interval; None where there are too few blocks for one."""

    mean: float
    low: float | None
    high: float | None


def of_stretches(sums: Floats, weights: Floats, examples: int, alpha: float = 0.05) -> Interval:
    """Return the mean difference of a stream so far, and an interval for the mean of its expected differences.

    `sums` float64 (n,) holds the weighted sum of the differences in each stretch, in order, `weights` float64 (n,) the
    weight of each, above 0; `examples` is the number of rows behind them. The interval is a confidence sequence: seen
    after every row, it leaves out the truth at any time with probability about `alpha`. That is asymptotic, as for
    every t-test on blocks. The mean is that of the rows seen; under drift it promises nothing about later rows.

    Source: Wang & Ramdas, arXiv 2310.03722, sec. 4. Raises `InputError` for shapes that differ or a weight that is not
    above 0, and `ConfigError` for an alpha outside (0, 1).

    >>> rng = np.random.default_rng(0)
    >>> found = of_stretches(100 * rng.normal(0.02, 0.03, 64), np.full(64, 100.0), 6400)
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (0.022, 0.005, 0.039)
    """
    sums, weights = np.asarray(sums, np.float64), np.asarray(weights, np.float64)
    if sums.shape != weights.shape or sums.ndim != 1:
        raise InputError(f"interval: got sums {sums.shape} and weights {weights.shape}; expected (n,) twice")
    if not (weights > 0.0).all():
        raise InputError(f"interval: got a weight of {weights.min():g}; expected weights above 0")
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"interval: got an alpha of {alpha!r}; expected a probability above 0 and below 1")
    if not len(sums):
        return Interval(0.0, None, None)
    mean = float(sums.sum() / weights.sum())
    residuals, threshold = (sums - mean * weights) / weights.mean(), math.log(1.0 / alpha)
    half = 0.0
    level = int(math.log2(max(len(sums) // FEWEST_BLOCKS, 1)))
    while level >= 0 and len(sums) >> level >= FEWEST_BLOCKS:
        blocks = _described(residuals, 1 << level)
        near = float(resemblance(blocks))
        if near > CORRELATED and half > 0.0:
            break
        near = min(max(near, 0.0), 1.0)
        count = float(blocks[COUNT])
        effective = count * (1.0 - near) / (1.0 + near)
        deviations = float(half_width(1.0, effective, float(examples), threshold)) if effective else UNBOUNDED
        if deviations == UNBOUNDED:
            return Interval(mean, None, None)
        half = max(half, deviations * math.sqrt(float(blocks[SQUARES]) / count) / 2.0**level)
        level -= 1
    return Interval(mean, mean - half, mean + half) if half > 0.0 else Interval(mean, None, None)


def _described(residuals: Floats, length: int) -> Floats:
    """Return the row of sums that the gate keeps for blocks of one length, float64 (7,)."""
    blocks = residuals[: len(residuals) // length * length].reshape(-1, length).sum(axis=1)
    found = np.zeros(7)
    found[[COUNT, SUM, SQUARES]] = len(blocks), blocks.sum(), np.square(blocks).sum()
    found[[LAGGED, FIRST, LAST]] = (blocks[:-1] * blocks[1:]).sum(), blocks[0], blocks[-1]
    return found
