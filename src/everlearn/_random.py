"""Random numbers that are functions of counters: the same key always gives the same number."""

from __future__ import annotations

import numpy as np

from everlearn._jit import exact_kernel


@exact_kernel
def uniform(seed: int, first: int, second: int) -> float:
    """Return the number in [0, 1) for the key (seed, first, second).

    Computed by splitmix64, applied once for each part of the key (Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", OOPSLA 2014).

    >>> uniform(0, 1, 2) == uniform(0, 1, 2), uniform(0, 1, 2) == uniform(0, 2, 1)
    (True, False)
    """
    mixed = np.uint64(seed)
    for part in (first, second):
        mixed = (mixed ^ np.uint64(part)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return float(mixed >> np.uint64(11)) * (1.0 / 9007199254740992.0)
