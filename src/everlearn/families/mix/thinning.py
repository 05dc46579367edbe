"""Thinning: which members of a mix rest, because they add less to its answers than their operations cost.

A dear member is one whose family counts its operations (`operations()` of a model, about one for a nanosecond). For
each set of dear members that may rest, a bank is a stacker over the others (`everlearn.families.mix.stacking`). All
banks whose members spoke learn a row, so paired differences of their losses on the same rows show what a member
adds. The mean difference of about the last 4,096 measured rows is compared with the price of the member's operations.

A member that rests learns the first `ATTENDED` rows of each `PERIOD` rows that the mix learns. There it is measured,
and its trees and detectors keep up. It returns when what it would add exceeds its price, and all members return when
the loss of the answers jumps. A rest that lasts long ends with a trial: trees may need more rows than a resting member
learns. Decisions fall between periods, from arrays alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.families.mix.stacking import ROWS, count_pace
from everlearn.records import Arrays, Floats, Ints, Singles

PRICE = 0.1  # log loss for a million operations a row
PERIOD, ATTENDED = 1024, 128  # rows between decisions; rows of each period that a resting member learns
MOST_DEAR = 3  # members that may rest: banks double with each
LEAST_RESTS, LEAST_RETURNS = 2000.0, 128.0  # measured rows before a member rests, and before it returns
EVIDENCE = 2.0  # standard errors below the price before a member rests
RETURNS = 1.0  # standard errors above the price before it returns
NEWEST = 1.0 / 4096.0  # weight of the newest row in what a member adds, at least
PATIENCE = 8192.0  # rows of the first rest of a member; each further one may be twice as long
JUMP = 4.0  # standard deviations by which the mean loss of a period jumps
CALM_PERIODS = 4.0  # periods before a jump can be seen
CALM = 0.1  # weight of a new period in their mean

SEEN, MEAN, VARIANCE, GAINS = range(4)  # of "gains", for each dear member: measured rows, what it adds, its variance
SINCE, LONGEST, TRIALS = range(3)  # of "trials", for each: row at which it began to rest, rows that it may rest
LOSS, WEIGHT, PERIODS, USUAL, SPREAD, WATCHED = range(6)  # of "watched": of this period, and of those before


def seats(members: int, dear: Sequence[int]) -> Ints:
    """Return the members of each bank, int64 (banks, 1 + members): their number, their places, then zeros.

    Bank b lacks dear member d if b has the bit 1 << d.

    >>> seats(3, [1]).tolist()
    [[3, 0, 1, 2], [2, 0, 2, 0]]
    """
    found = np.zeros((1 << len(dear), 1 + members), np.int64)
    for bank in range(len(found)):
        absent = {place for bit, place in enumerate(dear) if bank >> bit & 1}
        who = [place for place in range(members) if place not in absent]
        found[bank, 0], found[bank, 1 : 1 + len(who)] = len(who), who
    return found


def start_thinning(dear: int) -> Arrays:
    """Return the arrays of a mix in which no member rests yet, for a number of members that may.

    >>> {name: array.shape for name, array in start_thinning(2).items()}  # doctest: +NORMALIZE_WHITESPACE
    {'counts': (2,), 'absent': (1,), 'gains': (2, 3), 'trials': (2, 2), 'watched': (5,), 'rested': (2,)}
    """
    return {
        "counts": np.array([0.0, 1.0]),  # rows learned, and their mean weight
        "absent": np.zeros(1, np.int64),  # the bank that answers
        "gains": np.zeros((dear, GAINS)),
        "trials": np.tile([0.0, PATIENCE], (dear, 1)),
        "watched": np.zeros(WATCHED),
        "rested": np.zeros(dear),  # rows that each member did not learn
    }


def attended(rows: int) -> bool:
    """Return True if resting members learn the row after so many rows."""
    return rows % PERIOD < ATTENDED


def last_row(rows: int, resting: bool, usable: NDArray[np.bool_]) -> int:
    """Return the end of the first rows of a batch during which the same members learn, at least 1 if it has rows.

    The mix has learned `rows` rows. `usable` are the rows of the batch that it will learn.

    >>> last_row(1020, True, np.ones(300, bool)), last_row(1024, True, np.ones(300, bool))
    (4, 128)
    >>> last_row(1024, False, np.ones(300, bool)), last_row(1020, True, np.arange(300) % 2 == 1)
    (300, 8)
    """
    now, n = rows % PERIOD, len(usable)
    more = (ATTENDED if resting and now < ATTENDED else PERIOD) - now
    if more > n:
        return n
    counted = np.flatnonzero(usable)
    return int(counted[more - 1]) + 1 if more <= len(counted) else n


@exact_kernel
def measure(
    losses: Floats, y: Floats, weight: Singles, absent: int, counts: Floats, gains: Floats, watched: Floats
) -> None:
    """Count n rows, and what each dear member adds to the answers of bank `absent`.

    `losses` float64 (banks, n) are those of each bank, NaN where it did not learn. The other arrays are those of
    `start_thinning`.
    """
    for i in range(len(y)):
        if not (math.isfinite(y[i]) and math.isfinite(weight[i]) and weight[i] > 0.0):
            continue
        pace, here = count_pace(weight[i], counts), losses[absent, i]
        if not math.isfinite(here):
            continue
        watched[LOSS] += pace * here
        watched[WEIGHT] += pace
        for d in range(len(gains)):
            there = losses[absent ^ (1 << d), i]
            if not math.isfinite(there):
                continue
            added = here - there if absent & (1 << d) else there - here
            gains[d, SEEN] += 1.0
            rate = min(max(1.0 / gains[d, SEEN], NEWEST) * pace, 1.0)
            away = added - gains[d, MEAN]
            gains[d, MEAN] += rate * away
            gains[d, VARIANCE] = (1.0 - rate) * (gains[d, VARIANCE] + rate * away * away)


def decide(arrays: Arrays, prices: Floats, fewest: int) -> None:
    """Let a member rest or return, after the last row of a period; at most one of them, or all after a jump.

    `prices` float64 (dear,) are what each member must add. `fewest` is the number of members that are not dear.
    """
    absent, gains, trials = int(arrays["absent"][0]), arrays["gains"], arrays["trials"]
    rows, bits = arrays["counts"][ROWS], 1 << np.arange(len(gains))
    rests = (absent & bits) > 0
    seen = np.maximum(gains[:, SEEN], 1.0)
    errors = np.sqrt(gains[:, VARIANCE] * np.maximum(1.0 / seen, NEWEST / (2.0 - NEWEST)))
    missed = rests & (seen >= LEAST_RETURNS) & (gains[:, MEAN] - RETURNS * errors > prices)
    due = rests & (rows - trials[:, SINCE] >= trials[:, LONGEST])
    idle = ~rests & (seen >= LEAST_RESTS) & (gains[:, MEAN] + EVIDENCE * errors < prices)
    chosen = absent
    if _jumped(arrays["watched"]):
        chosen = 0
        trials[:, LONGEST] = PATIENCE
    elif missed.any():
        d = int(np.argmax(np.where(missed, gains[:, MEAN] - prices, -np.inf)))
        chosen ^= int(bits[d])
        trials[d, LONGEST] = PATIENCE
    elif due.any():
        d = int(np.argmax(due))
        chosen ^= int(bits[d])
        trials[d, LONGEST] *= 2.0
    elif idle.any() and fewest + (~rests).sum() > 1:
        d = int(np.argmax(np.where(idle, prices - gains[:, MEAN], -np.inf)))
        chosen ^= int(bits[d])
        trials[d, SINCE] = rows
    if chosen != absent:
        arrays["absent"][0] = chosen
        gains[((chosen ^ absent) & bits) > 0] = 0.0
        gains[:, SEEN] = np.minimum(gains[:, SEEN], LEAST_RESTS / 2.0)  # what the others add may change


def _jumped(watched: Floats) -> bool:
    """Return True if the mean loss of this period is far above that of those before; count it, and begin a new one."""
    if watched[WEIGHT] == 0.0:
        return False
    mean = watched[LOSS] / watched[WEIGHT]
    away = mean - watched[USUAL]
    jumped = watched[PERIODS] >= CALM_PERIODS and away > JUMP * math.sqrt(watched[SPREAD])
    watched[PERIODS] += 1.0
    rate = max(1.0 / watched[PERIODS], CALM)
    watched[USUAL] += rate * away
    watched[SPREAD] = (1.0 - rate) * (watched[SPREAD] + rate * away * away)
    watched[[LOSS, WEIGHT]] = 0.0
    return bool(jumped)


def learned_rows(arrays: Arrays) -> int:
    """Return the number of rows that the mix learned."""
    return int(arrays["counts"][ROWS])
