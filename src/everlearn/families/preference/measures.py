"""Measures at each judged pair: the reward model's error by arm, strangeness, lengths, and labels by kind of source."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.records import Arrays
from everlearn.schema import pairs as columns

STRANGE = 4.0  # an answer above it is out of distribution; see `reward.strangeness`
NEWEST = 256  # labels over which moving averages go
COUNT, ERROR, RECENT = range(3)  # columns of "arms": labels, summed squared errors, their moving average
ANSWERS, ODD, LENGTH = range(3)  # columns of "answers": judged answers; moving averages of out of distribution, length


def start(kinds: int) -> Arrays:
    """Return the arrays before any label, for `kinds` kinds of sources.

    >>> {name: array.shape for name, array in start(16).items()}
    {'arms': (8, 3), 'answers': (3,), 'kinds': (16,), 'trusted': (1,)}
    """
    return {
        "arms": np.zeros((len(columns.ARMS), 3)),
        "answers": np.zeros(3),
        "kinds": np.zeros(kinds),
        "trusted": np.zeros(1),
    }


def update(
    arrays: Arrays, arm: int, error: float, strangeness: float, length: float, kind: int, trusted: bool, weight: float
) -> None:
    """Add one judged pair, in place: the squared error of the prediction, and means over its answers.

    >>> held = start(4)
    >>> update(held, columns.ARMS.index("random"), 0.25, 0.0, 12.0, 1, True, 1.0)
    >>> report(held)["brier"]["random"], report(held)["length"]
    (0.25, 12.0)
    """
    answers = arrays["answers"]
    if arm != columns.UNASKED:
        row = arrays["arms"][arm]
        row[COUNT] += 1.0
        row[ERROR] += error
        row[RECENT] += (error - row[RECENT]) / min(row[COUNT], NEWEST)
    answers[ANSWERS] += 1.0
    answers[ODD] += (float(strangeness > STRANGE) - answers[ODD]) / min(answers[ANSWERS], NEWEST)
    answers[LENGTH] += (length - answers[LENGTH]) / min(answers[ANSWERS], NEWEST)
    arrays["kinds"][kind] += min(weight, 1.0)
    arrays["trusted"] += min(weight, 1.0) if trusted else 0.0


def report(arrays: Arrays) -> dict[str, Any]:
    """Return the measures as plain values; None for an arm without labels.

    `brier` holds the recent error on fresh pairs ("random"), on old ones that were asked again ("again") and on duels.
    `strange` is the recent share of pairs whose answers are out of distribution, `length` their recent mean length.
    """
    arms = {arm: arrays["arms"][columns.ARMS.index(arm)] for arm in ("random", "again", "duel")}
    known = bool(arrays["answers"][ANSWERS])
    return {
        "brier": {arm: float(row[RECENT]) if row[COUNT] else None for arm, row in arms.items()},
        "strange": float(arrays["answers"][ODD]) if known else None,
        "length": float(arrays["answers"][LENGTH]) if known else None,
        "trusted": float(arrays["trusted"][0]),
    }
