"""Recall at a share of alerts: a binary model that may raise the alarm for a share q of all rows.

A row is an alert if its score lies above the 1 - q quantile of the last 10,000 scores before it. So the threshold
follows the scores, and is known before the label. `recall_at_share` is the share of the positive weight that such
alerts catch, and `precision_at_share` the share of their weight that is positive.

The last scores wait in a ring, and are counted in buckets over the bits of the score, 256 to an octave of the rarer
outcome from 2**-33 to one half. So a threshold of .00001 is as sharp as one of .4: to one part in 256 to 512. Scores in
the bucket of the quantile are no alerts, as equal scores are not. Where more than 1 - q of all scores share a bucket
with the highest ones, nothing is an alert, and `alert_share` shows it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare
from everlearn.errors import ConfigError
from everlearn.metrics.judging import Bits
from everlearn.metrics.recent import HIGH, LABEL, LOW, WEIGHT
from everlearn.records import Arrays, Floats, Ints

Smalls = NDArray[np.int16]

SHARE = 0.01  # of all rows, at which recall is reported
LEAST = 1e-4  # smallest share: one score in the ring

_RING = 10_000
_SHIFT = 15  # bits of a float32 within a bucket: 256 buckets to an octave
_LOWEST = 94 << 23  # the bits of 2**-33
_HALF = 32 * 256  # buckets on each side of one half
_SEEN, _FROM, _TOP, _ABOVE = range(
    4
)  # in alert_state: scores seen, the first row with a threshold, bucket, count above
_MASS, _ALERTS, _POSITIVE, _CAUGHT, _Q = range(5)  # in alert_sums: weights, and the share
_NOTHING = np.zeros(0, np.int16), np.zeros(0, np.int16), np.zeros(0, np.int64), np.zeros(0)


def start(share: float = SHARE) -> Arrays:
    """Return the arrays before any score.

    `alert_scores` int16 (10000,) are the buckets of the last scores, `alert_counts` int16 (16385,) the scores in each
    bucket, `alert_state` int64 (4,), and `alert_sums` float64 (5,). Raises `ConfigError` for a
    share outside [0.0001, 1).
    """
    if not LEAST <= share < 1:
        raise ConfigError(f"metrics.share: got {share}; expected a number of at least {LEAST:g} and below 1")
    state = np.zeros(4, np.int64)
    state[_FROM], state[_TOP] = math.ceil(1 / share - 1e-9), 2 * _HALF
    sums = np.zeros(5)
    sums[_Q] = share
    return {
        "alert_scores": np.zeros(_RING, np.int16),
        "alert_counts": np.zeros(2 * _HALF + 1, np.int16),
        "alert_state": state,
        "alert_sums": sums,
    }


def held(arrays: Arrays) -> tuple[Smalls, Smalls, Ints, Floats]:
    """Return the arrays in the order of the kernels; empty ones where alerts are not counted."""
    if "alert_sums" not in arrays:
        return _NOTHING
    return arrays["alert_scores"], arrays["alert_counts"], arrays["alert_state"], arrays["alert_sums"]


def share(arrays: Arrays) -> float:
    """Return the share that the arrays were started with; 0 where alerts are not counted."""
    return float(arrays["alert_sums"][_Q]) if "alert_sums" in arrays else 0.0


def report(sums: Floats) -> dict[str, float]:
    """Return `recall_at_share`, `precision_at_share` and `alert_share`, as far as they are defined."""
    found: dict[str, float] = {}
    if sums[_POSITIVE] > 0:
        found["recall_at_share"] = float(sums[_CAUGHT] / sums[_POSITIVE])
    if sums[_ALERTS] > 0:
        found["precision_at_share"] = float(sums[_CAUGHT] / sums[_ALERTS])
    if sums[_MASS] > 0:
        found["alert_share"] = float(sums[_ALERTS] / sums[_MASS])
    return found


@bare
def bucket_of(low: int, high: int) -> int:
    """Return the bucket of a score; `low` and `high` are the bits of the scores of class 0 and class 1."""
    # The outcome that is not the rarer one is at _HALF, so one of the two terms gives the bucket.
    rare = min(max(np.int32(high) - np.int32(_LOWEST), np.int32(0)) >> np.int32(_SHIFT), np.int32(_HALF))
    other = min(max(np.int32(low) - np.int32(_LOWEST), np.int32(0)) >> np.int32(_SHIFT), np.int32(_HALF))
    return int(rare + np.int32(_HALF) - other)


@bare
def add(
    ints: Bits, floats: Floats, first: int, end: int, ring: Smalls, counts: Smalls, state: Ints, sums: Floats
) -> None:
    """Add the rows first..end-1 of the ring of `recent`, in order."""
    seen, top, above, q = state[_SEEN], state[_TOP], state[_ABOVE], sums[_Q]
    size = len(ring)
    mass, alerts, positive, caught = sums[_MASS], sums[_ALERTS], sums[_POSITIVE], sums[_CAUGHT]
    at, start, allowed = seen % size, state[_FROM], min(int(q * min(seen, size) + 1e-9), max(min(seen, size) - 1, 0))
    low, high, label, weight = (
        ints[LOW][first:end],
        ints[HIGH][first:end],
        ints[LABEL][first:end],
        floats[WEIGHT][first:end],
    )
    buckets = np.empty(end - first, np.int16)
    for row in range(end - first):
        buckets[row] = bucket_of(low[row], high[row])
    for row in range(end - first):
        bucket, w = np.int64(buckets[row]), weight[row]
        if seen >= start:
            mass += w
            positive += w * (label[row] == 1)
            if bucket > top:
                alerts += w
                caught += w * (label[row] == 1)
        if seen >= size:
            old = np.int64(ring[at])
            counts[old] -= 1
            above -= old > top
        else:
            allowed = min(int(q * (seen + 1) + 1e-9), seen)
        ring[at] = bucket
        counts[bucket] += 1
        above += bucket > top
        seen += 1
        at = at + 1 if at + 1 < size else 0
        # `top` is the bucket of the quantile: at most q of the scores are above it, with those in it there are more.
        if above > allowed:
            top, above = _up(counts, top, above, allowed)
        elif above + counts[top] <= allowed:
            top, above = _down(counts, top, above, allowed)
    state[_SEEN], state[_TOP], state[_ABOVE] = seen, top, above
    sums[_MASS], sums[_ALERTS], sums[_POSITIVE], sums[_CAUGHT] = mass, alerts, positive, caught


@bare
def _up(counts: Smalls, top: int, above: int, allowed: int) -> tuple[int, int]:
    """Move the bucket of the quantile up, until at most `allowed` scores are above it; return it, and their number."""
    while above > allowed:
        top += 1
        above -= counts[top]
    return top, above


@bare
def _down(counts: Smalls, top: int, above: int, allowed: int) -> tuple[int, int]:
    """Move the bucket of the quantile down, while no more than `allowed` scores would be above it."""
    while above + counts[top] <= allowed:
        above += counts[top]
        top -= 1
    return top, above
