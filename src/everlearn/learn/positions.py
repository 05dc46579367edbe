"""Positions of the values that drift detectors have counted, exact for new ones and coarser for old ones.

A detector says how many values ago a change began; the replay memory knows its rows by their positions in the log or
in a file. Every position is kept at level 0, every second one at level 1, every fourth one at level 2 and so on, the
newest `_KEPT` of each level. So any number of values fits in 10 KiB, and a change k values ago is found to within
k / 15 values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn import drift
from everlearn._jit import exact_kernel
from everlearn.records import Arrays, Floats, Ints
from everlearn.spec import DriftSpec

_LEVELS, _KEPT = 40, 32
COUNT, CHANGED = range(2)  # in `counts`: values so far, and values before the last change (-1: none)


def start() -> Arrays:
    """Return the state before any value: `positions` int64 (40, 32) and `counts` int64 (2,)."""
    return {"positions": np.zeros((_LEVELS, _KEPT), np.int64), "counts": np.array([0, -1], np.int64)}


def add(arrays: Arrays, positions: Ints) -> None:
    """Add the positions of n values, int64 (n,), in stream order; n at once leave the bytes of n calls."""
    _add(arrays["positions"], arrays["counts"], np.ascontiguousarray(positions, np.int64))


def at(arrays: Arrays, ago: int) -> int:
    """Return the position of the value `ago` values before the end (1: the newest), or of the next one that is kept.

    It is not older than asked. The first value stands for all before it, and position 0 for none at all.

    >>> arrays = start()
    >>> add(arrays, np.arange(1, 1001))
    >>> at(arrays, 1), at(arrays, 32), at(arrays, 100), at(arrays, 5000)
    (1000, 969, 901, 1)
    """
    count = int(arrays["counts"][COUNT])
    wanted = max(0, count - ago)  # the index of that value, counted from 0
    for level in range(_LEVELS):
        step = 1 << level
        index = -(-wanted // step) * step
        if index >= count:
            break
        if ((count - 1) >> level) - (index >> level) < _KEPT:
            return int(arrays["positions"][level, (index >> level) % _KEPT])
    return int(arrays["positions"][0, (count - 1) % _KEPT]) if count else 0


class Change(NamedTuple):
    """A drift: the number of values up to its report, and of those before the change behind it."""

    reported: int
    before: int


def change(
    arrays: Arrays, detector: Arrays, spec: DriftSpec, values: Floats, levels: NDArray[np.int8], first: int
) -> Change | None:
    """Return the last drift that a detector has reported on `values`, whose `levels` it returned; None if unknown.

    `first` is the number of values that were shown before these and are not added to `arrays` yet, as these are. A
    detector skips values that are not finite, so what it counts is scaled by the share of the values that it took.
    """
    ago = drift.since(detector, spec)
    if ago is None:
        return None
    drifted = int(np.flatnonzero(levels == 2)[-1])
    later = int(np.isfinite(values[drifted + 1 :]).sum())
    seen = int(drift.state(detector, spec)["seen"]) - later
    reported = int(arrays["counts"][COUNT]) + first + drifted + 1
    return Change(reported, max(0, reported - (ago - later) * reported // max(1, seen)))


def note_change(arrays: Arrays, changes: Sequence[Change | None]) -> None:
    """Note the newest of several drifts; of those reported together, the one whose change is the oldest."""
    known = [found for found in changes if found is not None]
    if known:
        arrays["counts"][CHANGED] = max(known, key=lambda found: (found.reported, -found.before)).before


def changed(arrays: Arrays) -> int | None:
    """Return the position of the first value after the last change; None if there was none, or `arrays` is empty."""
    if not arrays or arrays["counts"][CHANGED] < 0:
        return None
    return at(arrays, int(arrays["counts"][COUNT] - arrays["counts"][CHANGED]))


@exact_kernel
def _add(kept: Ints, counts: Ints, positions: Ints) -> None:
    for position in positions:
        index = counts[COUNT]
        level = 0
        while level < kept.shape[0] and index % (1 << level) == 0:
            kept[level, (index >> level) % kept.shape[1]] = position
            level += 1
        counts[COUNT] += 1
