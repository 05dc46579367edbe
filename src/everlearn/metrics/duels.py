"""Measures of one comparison of policies by duels, as fixed arrays: win, expected win, and win at equal length.

Each judged duel gives the candidate's win (1, 1/2 or 0), the win that the candidate's reward model expected before it
learned the judgement, and how much longer its answer was. Intervals hold at every moment: they are confidence
sequences, so that looking after each duel costs nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from everlearn.errors import InputError
from everlearn.records import Arrays, Floats

NEWEST = 512  # duels that are kept, for the fit of the length
ALPHA = 0.05
_OFTEN = 100.0  # duels at which the intervals are tightest
_COUNT, _WIN, _EXPECTED = range(3)  # columns of "duel_sums"
_PRIOR = np.array([4.0, 1.0])  # variances of the intercept, and of the effect of length, before any duel
_STEPS = 25  # of Newton's method


class Interval(NamedTuple):
    """An estimate, and the bounds of its confidence sequence."""

    value: float
    low: float
    high: float


def start() -> Arrays:
    """Return the arrays of a comparison without duels.

    >>> {name: array.shape for name, array in start().items()}
    {'duels': (512, 3), 'duel_sums': (3,)}
    """
    return {"duels": np.zeros((NEWEST, 3)), "duel_sums": np.zeros(3)}


def update(arrays: Arrays, win: float, expected: float, longer: float) -> None:
    """Add one judged duel, in place: the candidate's win, its expected win, and its answer's logarithmic length less
    that of the other answer.

    Raises `InputError` for a win outside [0, 1].

    >>> held = start()
    >>> update(held, 1.0, 0.75, 0.2)
    >>> won(held).value, overrated(held).value
    (1.0, -0.25)
    """
    if not (0.0 <= win <= 1.0 and 0.0 <= expected <= 1.0):
        raise InputError(f"duel: got a win of {win} where {expected} was expected; expected both from 0 to 1")
    arrays["duels"][int(arrays["duel_sums"][_COUNT]) % NEWEST] = win, expected, longer
    arrays["duel_sums"] += 1.0, win, expected


def count(arrays: Arrays) -> int:
    """Return the number of judged duels."""
    return int(arrays["duel_sums"][_COUNT])


def won(arrays: Arrays, alpha: float = ALPHA) -> Interval:
    """Return the candidate's win over all duels; `low` and `high` hold the truth at all times with 1 - `alpha`.

    >>> won(start())
    Interval(value=0.5, low=0.0, high=1.0)
    """
    n, total, _ = arrays["duel_sums"].tolist()
    half = _radius(n, 0.5, alpha)
    value = total / n if n else 0.5
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def overrated(arrays: Arrays, alpha: float = ALPHA) -> Interval:
    """Return by how much the reward model expected more wins than there were; bounds as for `won`.

    Above 0, the policy has learned to please the reward model more than people.
    """
    n, total, expected = arrays["duel_sums"].tolist()
    half = _radius(n, 0.5, alpha)  # given the past, only the win is random, within [0, 1]
    value = (expected - total) / n if n else 0.0
    return Interval(value, max(value - half, -1.0), min(value + half, 1.0))


def at_equal_length(arrays: Arrays, alpha: float = ALPHA) -> Interval:
    """Return the win that the newest duels show for answers of equal length, with its confidence sequence.

    A logistic regression of the win with an intercept, prior N(0, 4), and an offset for the difference in length, whose
    coefficient has the prior N(0, 1); the win is the logistic function of the intercept (as length-controlled
    AlpacaEval, Dubois et al. 2024, arXiv 2404.04475, eq. 1). The interval is the asymptotic confidence sequence of the
    intercept (Waudby-Smith et al., arXiv 2103.06476, theorem 2.2).

    >>> at_equal_length(start())
    Interval(value=0.5, low=0.0, high=1.0)
    """
    n = min(count(arrays), NEWEST)
    if n < 10:
        return Interval(0.5, 0.0, 1.0)
    win, longer = arrays["duels"][:n, 0], arrays["duels"][:n, 2]
    theta, variance = _fitted(win, longer)
    half = math.sqrt(variance * n) * _radius(n, 1.0, alpha)
    return Interval(*(1.0 / (1.0 + math.exp(-one)) for one in (theta, theta - half, theta + half)))


def _fitted(win: Floats, longer: Floats) -> tuple[float, float]:
    """Return the intercept of the regression and its variance."""
    x, prior = np.stack([np.ones(len(win)), longer], 1), np.diag(1.0 / _PRIOR)
    weights = np.zeros(2)
    for _ in range(_STEPS):
        p = 0.5 + 0.5 * np.tanh(0.5 * (x @ weights))
        precision = (x * (p * (1.0 - p))[:, None]).T @ x + prior
        step = np.linalg.solve(precision, x.T @ (win - p) - prior @ weights)
        weights = weights + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(np.linalg.inv(precision)[0, 0])


def _radius(n: float, deviation: float, alpha: float) -> float:
    """Return half the width of a confidence sequence for a mean of n terms, sub-Gaussian with this deviation.

    Robbins' normal mixture (Howard et al. 2021, arXiv 1810.08240, eq. 14), tightest at `_OFTEN` terms.
    """
    if n <= 0:
        return math.inf
    rho = 1.0 / _OFTEN * (2.0 * math.log(1.0 / alpha) + math.log(1.0 + 2.0 * math.log(1.0 / alpha)))
    return deviation * math.sqrt((1.0 + n * rho) / (n * n * rho) * math.log((1.0 + n * rho) / alpha**2))
