"""Ranks of scores among the scores before them: what makes "above .99" mean about one row in a hundred.

A sorted sample stands for the past: uniform over the first 16,384 scores, and then of about the last 16,384 (Vitter
1985, algorithm R, with its count stopped there), as in `everlearn.learn.limits`. Ranks are interpolated between
neighbours. Beyond the highest score the rank goes on towards 1, so that the order of the highest scores is kept.
"""

from __future__ import annotations

from everlearn._random import uniform
from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats, Ints

HELD, HORIZON = 1024, 16384
FEW = 100  # scores that cannot tell one row in a hundred; ranks among fewer are halved
_TINY = 1e-12


@outlined
def places(scores: Floats, n: int, score: float) -> tuple[int, int]:
    """Return how many of the first n sorted scores are below `score`, and how many are not above it."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if scores[middle] < score:
            low = middle + 1
        else:
            high = middle
    upper = low
    while upper < n and scores[upper] == score:
        upper += 1
    return low, upper


@outlined
def rank(scores: Floats, n: int, score: float) -> float:
    """Return the rank of a score in (0, 1) among the first n of `scores`, float64 (1024,), sorted.

    Among fewer than 100 scores the rank is halved, and without any it is 1/4, so that no rule takes a row for an
    anomaly yet.
    """
    share = place(scores, n, score)
    return share if n >= FEW else 0.5 * share


@outlined
def place(scores: Floats, n: int, score: float) -> float:
    """Return the rank of a score, not halved; 1/2 without any others."""
    if not n:
        return 0.5
    low, upper = places(scores, n, score)
    if low == n:
        unit = scores[n - 1] - scores[n // 2] + _TINY
        return float(1.0 - 0.5 / (n + 1) * unit / (unit + (score - scores[n - 1])))
    if upper == 0:
        unit = scores[n // 2] - scores[0] + _TINY
        return float(0.5 / (n + 1) * unit / (unit + (scores[0] - score)))
    if low < upper:
        return (0.5 * (low + upper) + 0.5) / (n + 1)
    return float((low + (score - scores[low - 1]) / (scores[low] - scores[low - 1])) / (n + 1))


@outlined
def keep(scores: Floats, seen: Ints, place: int, seed: int, score: float) -> None:
    """Let a score enter the sample; `seen[place]` counts the scores so far."""
    held, count = len(scores), seen[place]
    n = min(count, held)
    gone = n
    seen[place] = count + 1
    if n == held:
        gone = int(uniform(seed, -1, count) * min(count + 1, HORIZON))
        if gone >= held:
            return
    at = places(scores, n, score)[0]
    if gone < at:
        at -= 1
        for i in range(gone, at):
            scores[i] = scores[i + 1]
    else:
        for i in range(gone, at, -1):
            scores[i] = scores[i - 1]
    scores[at] = score
