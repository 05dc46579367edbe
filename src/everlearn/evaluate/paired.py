"""Paired comparisons of two models that predicted the same rows: McNemar's test, and intervals of the difference.

The test counts rows where one of both is wrong; it takes rows to be independent, and on streams whose labels resemble
their neighbours it finds differences too often. The interval heeds that, and holds at every moment: it is the gate's
(`everlearn.gate.interval`), over the sums of stretches of a fixed length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.gate import interval
from everlearn.gate.interval import MeanInterval
from everlearn.records import Floats, Singles

STRETCH = 16  # rows
_EXACT = 1000  # differing rows up to which the p-value is that of the binomial distribution


class McNemar(NamedTuple):
    """McNemar's test: the rows on which only the first, and only the second, was wrong.

    `statistic` is (first - second)**2 / (first + second) with the sign of first - second, as in Bifet et al. 2015:
    above 3.84 the first is worse at the level 0.05, below -3.84 the second. `p` is two-sided.
    """

    only_first: float
    only_second: float
    statistic: float
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], fading: float = 1.0) -> McNemar:
    """Return McNemar's test of two models, from their errors on the same n rows, bool (n,), in order.

    With a `fading` factor below 1, a row that is k rows old counts fading**k (Gama, Sebastião and Rodrigues 2013).
    Raises `InputError` for shapes that differ or a factor outside (0, 1].

    >>> first, second = np.array([True] * 9 + [False] * 91), np.array([False] * 98 + [True] * 2)
    >>> found = mcnemar(first, second)
    >>> found.only_first, found.only_second, round(found.statistic, 2), round(found.p, 3)
    (9.0, 2.0, 4.45, 0.065)
    """
    first, second = np.asarray(first, np.bool_), np.asarray(second, np.bool_)
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(f"mcnemar: got errors of shapes {first.shape} and {second.shape}; expected (n,) twice")
    if not 0.0 < fading <= 1.0:
        raise InputError(f"fading: got {fading!r}; expected a factor above 0 and at most 1")
    weight = fading ** np.arange(len(first) - 1, -1, -1, dtype=np.float64)
    return of_counts(float(weight[first & ~second].sum()), float(weight[second & ~first].sum()))


def of_counts(only_first: float, only_second: float) -> McNemar:
    """Return McNemar's test from its two counts: exact up to 1,000 differing rows, else by the normal distribution.

    Counts that are not whole numbers, of faded rows, take the normal distribution.

    >>> of_counts(0, 0).p, round(of_counts(10, 20).p, 4)
    (1.0, 0.0987)
    """
    total, gap = only_first + only_second, only_first - only_second
    if total == 0:
        return McNemar(only_first, only_second, 0.0, 1.0)
    statistic = math.copysign(gap * gap / total, gap)
    if total > _EXACT or only_first % 1.0 or only_second % 1.0:
        p = math.erfc(math.sqrt(abs(statistic) / 2.0))
    else:
        fewer = int(min(only_first, only_second))
        logs = [-_log_beta(int(total), k) - total * math.log(2.0) for k in range(fewer + 1)]
        p = min(1.0, 2.0 * sum(map(math.exp, logs)))
    return McNemar(only_first, only_second, statistic, p)


class LossSums:
    """The sums of a model's losses over stretches of 16 consecutive rows, and their weights.

    Two models that read the same stream are paired by them, however calls were cut.
    """

    def __init__(self) -> None:
        self._sums: list[Floats] = []
        self._open = np.zeros((0, 2))

    def add(self, loss: Floats, weight: Singles) -> None:
        """Add the losses, float64 (n,), and weights, float32 (n,), of the next rows; NaN or no weight: not counted."""
        counted = np.isfinite(loss) & (weight > 0) & np.isfinite(weight)
        w = np.where(counted, weight, 0.0).astype(np.float64)
        rows = np.column_stack([np.where(counted, loss, 0.0) * w, w])
        rows = np.concatenate([self._open, rows])
        whole = len(rows) // STRETCH * STRETCH
        self._sums.append(rows[:whole].reshape(-1, STRETCH, 2).sum(axis=1))
        self._open = rows[whole:]

    def sums(self) -> tuple[Floats, Floats]:
        """Return the weighted sums of the losses and the weights of whole stretches, float64 (m,) each."""
        found = np.concatenate(self._sums) if self._sums else np.zeros((0, 2))
        return found[:, 0], found[:, 1]


def difference(first: LossSums, second: LossSums, alpha: float = 0.05, bound: float = math.inf) -> MeanInterval:
    """Return how much more the first model loses per row than the second, with its interval at 1 - alpha.

    Only rows that both predicted count, up to the last whole stretch. `alpha` and `bound` are those of
    `gate.interval.of_stretches`; divide alpha by the number of pairs that are looked at (Bonferroni).
    """
    sums, weights = first.sums()
    others, other_weights = second.sums()
    n = min(len(sums), len(others))
    weights, other_weights = weights[:n], other_weights[:n]
    used = (weights > 0) & (other_weights > 0)
    shared = np.minimum(weights, other_weights)[used]  # equal, unless a prediction was not finite
    gaps = (sums[:n][used] / weights[used] - others[:n][used] / other_weights[used]) * shared
    return interval.of_stretches(gaps, shared, len(gaps) * STRETCH, alpha, bound)


def _log_beta(n: int, k: int) -> float:
    """Return -log of the binomial coefficient n over k."""
    return math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 1)
