"""Tables in the place of functions of the mathematical library, which cost more and differ between machines."""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import inlined
from everlearn.records import Floats

WIDEST = 5.0  # deviations; the normal distribution is 0 or 1 beyond
NORMAL_STEPS, LOG_BITS = 4096, 11
LOGS = NORMAL_STEPS + 1  # where the logarithms begin in the table
DRAWS = LOGS + (1 << LOG_BITS) + 1  # where the Poisson distribution begins
LARGEST_DRAW = 64
GUIDES = DRAWS + LARGEST_DRAW  # where the first candidates of draws begin
GUIDE_STEPS = 256
SMALLEST, LOG_2 = 2.2250738585072014e-308, math.log(2.0)
LOW_BITS = 23 - LOG_BITS


def tables(rate: float) -> Floats:
    """Return the tables that kernels take: normal distribution, logarithms to base 2, and Poisson with mean `rate`."""
    steps = np.linspace(-WIDEST, WIDEST, NORMAL_STEPS + 1)
    normal = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in steps])
    logs = np.array([math.log2(1.0 + i / (1 << LOG_BITS)) for i in range((1 << LOG_BITS) + 1)])
    shares = [math.exp(-rate)]
    for k in range(1, LARGEST_DRAW):
        shares.append(shares[-1] * rate / k)
    draws = np.cumsum(shares)
    draws[-1] = 2.0  # the last number takes the rest
    guides = np.searchsorted(draws, np.arange(GUIDE_STEPS) / GUIDE_STEPS, side="right")
    return np.concatenate([normal, logs, draws, guides.astype(np.float64)])


@inlined
def normal(z: float, table: Floats) -> float:
    """Return the normal distribution at z, by linear interpolation.

    >>> abs(normal(1.0, tables(6.0)) - 0.8413447) < 1e-6
    True
    """
    at = (z + WIDEST) * (NORMAL_STEPS / (2.0 * WIDEST))
    if not at > 0.0:
        return 0.0
    if at >= NORMAL_STEPS:
        return 1.0
    i = int(at)
    return table[i] + (table[i + 1] - table[i]) * (at - i)  # type: ignore[no-any-return]


@inlined
def information(v: float, table: Floats) -> float:
    """Return v log2 v for a number from 0; 0 below the smallest normal float32.

    >>> abs(information(10.0, tables(6.0)) - 33.2192809) < 1e-5
    True
    """
    if v < 1e-37:
        return 0.0
    bits = np.float32(v).view(np.int32)
    i = LOGS + ((bits >> LOW_BITS) & ((1 << LOG_BITS) - 1))
    rest = (bits & ((1 << LOW_BITS) - 1)) * (1.0 / (1 << LOW_BITS))
    return v * ((bits >> 23) - 127 + table[i] + (table[i + 1] - table[i]) * rest)  # type: ignore[no-any-return]


@inlined
def logarithm(v: float, table: Floats) -> float:
    """Return the natural logarithm of a number above 0, to 1e-7; it is that of the smallest normal number below that.

    >>> abs(logarithm(10.0, tables(6.0)) - 2.30258509) < 1e-7
    True
    """
    bits = np.float64(max(v, SMALLEST)).view(np.int64)
    i = LOGS + ((bits >> (52 - LOG_BITS)) & ((1 << LOG_BITS) - 1))
    rest = (bits & ((1 << (52 - LOG_BITS)) - 1)) * (1.0 / (1 << (52 - LOG_BITS)))
    return LOG_2 * ((bits >> 52) - 1023 + table[i] + (table[i + 1] - table[i]) * rest)  # type: ignore[no-any-return]


@inlined
def draw(u: float, table: Floats) -> float:
    """Return the Poisson number of a uniform one.

    >>> draw(0.0, tables(6.0)), draw(0.5, tables(6.0))
    (0.0, 6.0)
    """
    k = int(table[GUIDES + int(u * GUIDE_STEPS)])
    while u >= table[DRAWS + k]:
        k += 1
    return float(k)
