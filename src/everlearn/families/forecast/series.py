"""The series of a forecaster: their slots, and the last numbers of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats, Ints

FREE = -(1 << 62)
USED, NEWEST, COUNT, MINUTE, STAMPS = 0, 1, 2, 3, 4  # of a slot: last use, newest period, numbers, newest minute
MEAN, SPREAD, NUMBERS, NOW, LEVELS = 0, 1, 2, 3, 4  # of a slot: mean, variance, rows, newest number
REACH = 3  # periods that a gap is bridged back
STEADY = 5_000.0  # rows over which mean and variance are averaged


@outlined
def key(indices: NDArray[np.int32], start: int, stop: int) -> int:
    """Return the key of a row's series, from its hashed entries in any order."""
    total = np.uint64(0)
    for e in range(start, stop):
        mixed = (np.uint64(indices[e]) + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += mixed ^ (mixed >> np.uint64(31))
    return int(total >> np.uint64(2))


@outlined
def find(keys: Ints, wanted: int) -> int:
    """Return the slot of a key; -1 if it has none."""
    for slot in range(len(keys)):
        if keys[slot] == wanted:
            return slot
    return -1


@outlined
def claim(keys: Ints, stamps: Ints, wanted: int) -> tuple[int, bool]:
    """Return the slot for a key that has none, and True if another series loses it: the one unused for longest."""
    best = 0
    for slot in range(len(keys)):
        if keys[slot] == FREE:
            keys[slot] = wanted
            return slot, False
        if stamps[slot, USED] < stamps[best, USED]:
            best = slot
    keys[best] = wanted
    return best, True


@outlined
def write(values: Floats, present: NDArray[np.uint8], newest: int, period: int, y: float) -> None:
    """Write the number of a period that is newer than `newest`, and clear those in between."""
    history = len(values)
    for gap in range(max(newest + 1, period - history + 1), period):
        present[gap % history] = 0
    values[period % history], present[period % history] = y, 1


@outlined
def look(values: Floats, present: NDArray[np.uint8], newest: int, period: int, otherwise: float) -> float:
    """Return the number of a period, or of one of the 3 periods before it; `otherwise` where none is known."""
    history = len(values)
    for back in range(REACH + 1):
        at = period - back
        if newest - history < at <= newest and present[at % history]:
            return float(values[at % history])
    return otherwise


@outlined
def average(levels: Floats, y: float) -> None:
    """Let a number enter the mean and variance of its series."""
    levels[NUMBERS] += 1.0
    step = 1.0 / min(levels[NUMBERS], STEADY)
    away = y - levels[MEAN]
    levels[MEAN] += step * away
    levels[SPREAD] = (1.0 - step) * (levels[SPREAD] + step * away * away)
    levels[NOW] = y
