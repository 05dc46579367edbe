"""An interval for the mean of paired differences, from their sums over equal stretches of a stream.

It needs only the points of two curves, so it serves numbers that the gate does not compare. It says less than the
gate: how the rows so far turned out, drift included, and not if that will last. So a change of the difference over time
is not counted as chance, as it is in the gate's blocks: the variance is that of successive differences of blocks, and
the width is that of the gate's confidence sequence (`kernels.half_width`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from everlearn.errors import ConfigError, InputError
from everlearn.gate.kernels import UNBOUNDED, half_width
from everlearn.records import Floats

FEWEST_BLOCKS = 64  # of the longest length: with fewer, the variance is hardly known
CAUTION = 0.5  # standard errors added to the resemblance of neighbours
LEAP = 3.0
MOST_ALIKE = 0.95  # the most that it may be


class MeanInterval(NamedTuple):
    """A mean, and the ends of its interval; None where there are too few blocks for one, or nothing bounds it."""

    mean: float
    low: float | None
    high: float | None


def of_stretches(
    sums: Floats, weights: Floats, examples: int, alpha: float = 0.05, bound: float = math.inf
) -> MeanInterval:
    """Return the mean difference of a stream so far, and an interval for the mean of its expected differences.

    `sums` float64 (n,) holds the weighted sum of the differences in each stretch, in order, `weights` float64 (n,) the
    weight of each, above 0; `examples` is the number of rows behind them. Stretches are joined to blocks of 1, 2, 4,
    ... of them, as long as `FEWEST_BLOCKS` remain, and the widest interval counts: outcomes that resemble their
    neighbours need long blocks. The interval is a confidence sequence: seen after every row, it leaves out the truth at
    any time with probability about `alpha`. That is asymptotic, and asks that rows forget within a block.

    Equal differences do not show that all others are equal. If no difference is farther from 0 than `bound`, n equal
    stretches leave log(1 / alpha) / n for the share of other ones ("rule of three"); that is the least half width. With
    an infinite bound, differences without any variance have no interval.

    Source: Wang & Ramdas, arXiv 2310.03722, sec. 4; von Neumann 1941 for the variance; Hanley & Lippman-Hand 1983 for
    the rule of three. Raises `InputError` for shapes that differ or a weight that is not above 0, and `ConfigError` for
    an alpha outside (0, 1).

    >>> rng = np.random.default_rng(0)
    >>> found = of_stretches(100 * rng.normal(0.02, 0.03, 64), np.full(64, 100.0), 6400)
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (0.022, 0.009, 0.035)
    >>> found = of_stretches(np.zeros(200), np.full(200, 100.0), 20_000, bound=1.0)
    >>> found.mean, round(found.low, 3), round(found.high, 3)
    (0.0, -0.015, 0.015)
    """
    sums, weights = np.asarray(sums, np.float64), np.asarray(weights, np.float64)
    if sums.shape != weights.shape or sums.ndim != 1:
        raise InputError(f"interval: got sums {sums.shape} and weights {weights.shape}; expected (n,) twice")
    if not (weights > 0.0).all():
        raise InputError(f"interval: got a weight of {weights.min():g}; expected weights above 0")
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"interval: got an alpha of {alpha!r}; expected a probability above 0 and below 1")
    if not len(sums):
        return MeanInterval(0.0, None, None)
    mean = float(sums.sum() / weights.sum())
    residuals, threshold = (sums - mean * weights) / weights.mean(), math.log(1.0 / alpha)
    half, length = 0.0, 1
    while len(sums) // length >= FEWEST_BLOCKS:
        blocks = residuals[: len(sums) // length * length].reshape(-1, length).sum(axis=1) / length
        variance, effective = _noise(blocks)
        deviations = float(half_width(1.0, effective, float(examples), threshold))
        if deviations == UNBOUNDED:
            return MeanInterval(mean, None, None)
        half = max(half, deviations * math.sqrt(variance))
        length *= 2
    if length == 1 or (half == 0.0 and bound == math.inf):
        return MeanInterval(mean, None, None)
    if bound < math.inf:
        half = max(half, (bound + abs(mean)) * threshold * float(weights.max() / weights.sum()))
    return MeanInterval(mean, max(mean - half, -bound), min(mean + half, bound))


def _noise(blocks: Floats) -> tuple[float, float]:
    """Return the variance of the noise in a series with a moving mean, and the effective number of its values.

    Differences d of neighbours hold little of the moving mean. Of noise in which a value resembles its neighbour by r
    (an autoregression), var(d) = 2 (1 - r) variance, and neighbouring differences correlate by -(1 - r) / 2. A leap of
    the mean counts as `LEAP` standard deviations there, so that one change of the stream is not taken for resemblance.
    """
    steps = np.diff(blocks)
    square = float(np.square(steps).mean())
    if square == 0.0:
        return 0.0, float(len(blocks))
    usual = float(np.median(np.abs(steps))) / 0.6745  # standard deviation, were they normal
    bounded = np.clip(steps, -LEAP * usual, LEAP * usual) if usual > 0.0 else steps
    near = 1.0 + 2.0 * float((bounded[1:] * bounded[:-1]).mean()) / float(np.square(bounded).mean())
    near = min(max(near + CAUTION / math.sqrt(len(blocks)), 0.0), MOST_ALIKE)
    return square / (2.0 * (1.0 - near)), len(blocks) * (1.0 - near) / (1.0 + near)
