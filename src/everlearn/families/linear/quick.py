"""The quick optimiser: constant rates for dense columns, slowly falling rates for hashed entries.

Dense columns are standardised, so one rate fits all of them; a constant rate follows drift. Hashed entries are rare or
common, so each entry has its own rate. It starts higher and falls with the fourth root of the sum of squared gradients:
halfway between a constant rate, which follows, and AdaGrad's, which settles. Slot 1 of an entry is the share of its
first rate that is left. One step size covers the whole row (`losses.cautious_step`), so that no row overshoots.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import inlined
from everlearn.families.linear.losses import cautious_step, slope
from everlearn.families.linear.updates import LARGEST_WEIGHT, finite, shrunk
from everlearn.records import Floats, Ints, Singles

HASHED_RATE = 4.0  # the first rate of a hashed entry, in dense rates
LARGEST_GRADIENT = 1e18  # the square still fits a float32
LARGEST, SERIES_BELOW = np.float32(LARGEST_WEIGHT), np.float32(0.25)
SMALLEST_SHARE = np.float32(1e-6)  # the least share of a rate that is left
ONE, QUARTER, SECOND = np.float32(1.0), np.float32(1 / 4), np.float32(5 / 32)


@inlined
def step_quick(
    loss: int,
    p: float,
    t: float,
    weight: float,
    shape: float,
    weights: Floats,
    table: Singles,
    k: int,
    x: Floats,
    squared_norm: float,
    indices: Ints,
    values: Singles,
    rate: float,
    l1: float,
    l2: float,
) -> None:
    """Update all weights of score k from one row; `squared_norm` is the squared length of its dense columns.

    The rates are those before the gradient of this row, so that they do not depend on its prediction.
    """
    start = np.float32(HASHED_RATE * rate)
    reach = rate * squared_norm + float(start) * hashed_reach(table, k, indices, values)
    g = np.float32(min(max(weight * slope(loss, p, t, shape), -LARGEST_GRADIENT), LARGEST_GRADIENT))
    step = cautious_step(loss, p, t, weight, reach, shape)
    descend_dense(weights, 0, k, x, step, rate, l1, l2)
    move = np.float32(min(max(step, -LARGEST_GRADIENT), LARGEST_GRADIENT))
    for e in range(len(indices)):
        step_entry(table, np.uint32(indices[e]), k, values[e], g, step, move, start, l1, l2)


@inlined
def step_entry(
    table: Singles,
    a: np.uint32,
    k: int,
    v: np.float32,
    g: np.float32,
    step: float,
    move: np.float32,
    start: np.float32,
    l1: float,
    l2: float,
) -> None:
    """Update one hashed entry from the slope `g` of its score.

    `move` is the step as a float32, `start` the first rate.
    """
    share = table[a, k, 1]
    table[a, k, 1] = next_share(share, (g * v) * (g * v))
    if l1 == 0.0 and l2 == 0.0:
        table[a, k, 0] = min(max(table[a, k, 0] - start * share * move * v, -LARGEST), LARGEST)
    elif v != 0.0:
        w, entry_rate = np.float64(table[a, k, 0]), np.float64(start * share)
        table[a, k, 0] = finite(shrunk(w - entry_rate * (step * v + l2 * w), entry_rate * l1))


@inlined
def next_share(share: np.float32, square: np.float32) -> np.float32:
    """Return the share (1 + G)^(-1/4) of a rate after a squared gradient is added to G.

    This is share * (1 + u)^(-1/4) with u = share^4 * square. Where u is small, which is the common case, a series gives
    it to a thousandth; roots and divisions would be half of all the work.

    >>> round(float(next_share(np.float32(1.0), np.float32(15.0))), 6)
    0.5
    """
    u = share * share * share * share * min(square, LARGEST)
    if u < SERIES_BELOW:
        return share * (ONE - QUARTER * u + SECOND * u * u)
    return max(share / math.sqrt(math.sqrt(ONE + u)), SMALLEST_SHARE)


@inlined
def hashed_reach(table: Singles, k: int, indices: Ints, values: Singles) -> float:
    """Sum share of the rate times squared value over entries, in two independent lanes."""
    a = b = 0.0
    even = len(values) // 2 * 2
    for e in range(0, even, 2):
        a += np.float64(table[np.uint32(indices[e]), k, 1]) * values[e] * values[e]
        b += np.float64(table[np.uint32(indices[e + 1]), k, 1]) * values[e + 1] * values[e + 1]
    for e in range(even, len(values)):
        a += np.float64(table[np.uint32(indices[e]), k, 1]) * values[e] * values[e]
    return a + b


@inlined
def descend_dense(
    weights: Floats, slot: int, k: int, x: Floats, step: float, rate: float, l1: float, l2: float
) -> None:
    """Update the dense weights of a slot at one rate; one plain loop without penalties."""
    last = len(x) - 1
    move = rate * step
    if l1 == 0.0 and l2 == 0.0:
        for j in range(last + 1):
            weights[slot, k, j] = finite(weights[slot, k, j] - move * x[j])
        return
    for j in range(last):
        if x[j] != 0.0:
            w = weights[slot, k, j]
            weights[slot, k, j] = finite(shrunk(w - move * x[j] - rate * l2 * w, rate * l1))
    weights[slot, k, last] = finite(weights[slot, k, last] - move)
