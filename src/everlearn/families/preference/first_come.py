"""First-come tables: numbers for digests, in arrays of fixed capacity.

Annotators, groups and kinds of sources reach a model as 48-bit digests. A table gives each new digest the next free
number, from 1 on. Number 0 stands for "none" and for digests that came after the table was full; those are counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Arrays, Ints

DIGESTS, COUNTS = "digests", "counts"
TAKEN, OVERFLOW = range(2)  # columns of "counts"
_HALF = 1 << 24


def start(capacity: int) -> Arrays:
    """Return the arrays of an empty table for numbers 0 to `capacity` - 1.

    Raises `InputError` for a capacity below 2, since number 0 names no digest.

    >>> sorted((name, a.shape) for name, a in start(64).items())
    [('counts', (2,)), ('digests', (64,))]
    """
    if capacity < 2:
        raise InputError(f"capacity: got {capacity}; expected at least 2. Number 0 is reserved.")
    return {DIGESTS: np.zeros(capacity, np.int64), COUNTS: np.zeros(2, np.int64)}


def joined(low: NDArray[np.float32], high: NDArray[np.float32]) -> Ints:
    """Return 48-bit digests, int64 (n,), from their two halves of 24 bits, which float32 holds exactly.

    >>> joined(np.float32([5.0]), np.float32([1.0])).tolist()
    [16777221]
    """
    return low.astype(np.int64) + high.astype(np.int64) * _HALF


def numbers(table: Arrays, digests: Ints) -> Ints:
    """Return the number of each digest, int64 (n,), without adding any. Unknown digests and digest 0 have number 0.

    >>> numbers(start(4), np.array([7]))
    array([0])
    """
    held = table[DIGESTS][1 : 1 + int(table[COUNTS][TAKEN])]
    same = digests[:, None] == held[None, :]
    return np.where(same.any(1) & (digests != 0), same.argmax(1) + 1 if held.size else 0, 0).astype(np.int64)


def admit(table: Arrays, digests: Ints) -> Ints:
    """Return the number of each digest, int64 (n,), and give new digests the next free numbers in order.

    A new digest that finds the table full counts as overflow at each of its rows, and gets number 0.

    >>> table = start(3)
    >>> admit(table, np.array([70, 0, 90, 70, 50])).tolist(), table["counts"].tolist()
    ([1, 0, 2, 1, 0], [2, 1])
    """
    counts, held = table[COUNTS], table[DIGESTS]
    for digest in dict.fromkeys(digests.tolist()):
        if digest and counts[TAKEN] + 1 < len(held) and not np.any(held[1 : 1 + counts[TAKEN]] == digest):
            counts[TAKEN] += 1
            held[counts[TAKEN]] = digest
    found = numbers(table, digests)
    counts[OVERFLOW] += int(np.sum((found == 0) & (digests != 0)))
    return found
