"""The default optimiser: constant cautious steps for the dense part, slowly falling ones for the hashed part.

Dense columns are standardised, so one rate fits them all; a constant one follows drift. Hashed entries are rare
or common, so each has a rate of its own, which starts higher and falls with the fourth root of its sum of squared
gradients: halfway between a constant rate, which follows, and AdaGrad's, which settles. Slot 1 is the share of it
that is left. One answer to "how far"
covers the whole row (`losses.cautious`), so that no row, however long or extreme, is overshot.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.linear.inline_kernel import part
from everlearn.families.linear.losses import cautious, slope
from everlearn.families.linear.updates import FINITE, finite, shrunk
from everlearn.records import Floats, Ints, Singles

HASHED = 4.0  # a hashed entry's rate starts at this many times the dense one
STEEP = 1e18  # its square is still a float32
MOST, SMALL = np.float32(FINITE), np.float32(0.25)
LEAST = np.float32(1e-6)  # a share does not fall below this
ONE, QUARTER, SECOND = np.float32(1.0), np.float32(1 / 4), np.float32(5 / 32)


@part
def step_auto(
    loss: int,
    p: float,
    t: float,
    weight: float,
    shape: float,
    weights: Floats,
    table: Singles,
    k: int,
    x: Floats,
    norm: float,
    indices: Ints,
    values: Singles,
    rate: float,
    l1: float,
    l2: float,
) -> None:
    """Move all weights of score k by one row; `norm` is the squared length of its dense part.

    The rates are those before this row's gradient, so that they need not wait for its prediction.
    """
    start = np.float32(HASHED * rate)
    reach = rate * norm + float(start) * spread(table, k, indices, values)
    g = np.float32(min(max(weight * slope(loss, p, t, shape), -STEEP), STEEP))
    step = cautious(loss, p, t, weight, reach, shape)
    dense_step(weights, k, x, step, rate, l1, l2)
    move = np.float32(min(max(step, -STEEP), STEEP))
    for e in range(len(indices)):
        v, a = values[e], np.uint32(indices[e])
        share = table[a, k, 1]
        table[a, k, 1] = fallen(share, (g * v) * (g * v))
        if l1 == 0.0 and l2 == 0.0:
            table[a, k, 0] = min(max(table[a, k, 0] - start * share * move * v, -MOST), MOST)
        elif v != 0.0:
            w, own = np.float64(table[a, k, 0]), np.float64(start * share)
            table[a, k, 0] = finite(shrunk(w - own * (step * v + l2 * w), own * l1))


@part
def fallen(share: np.float32, square: np.float32) -> np.float32:
    """A rate's share (1 + G)^(-1/4), once a squared gradient has been added to G.

    That is share * (1 + u)^(-1/4) with u = share^4 * square; where u is small, which it soon is, by its series, to
    a thousandth, for roots and divisions would be half of all the work.

    >>> round(float(fallen(np.float32(1.0), np.float32(15.0))), 6)
    0.5
    """
    u = share * share * share * share * min(square, MOST)
    if u < SMALL:
        return share * (ONE - QUARTER * u + SECOND * u * u)
    return max(share / math.sqrt(math.sqrt(ONE + u)), LEAST)


@part
def spread(table: Singles, k: int, indices: Ints, values: Singles) -> float:
    """Sum of a rate's share times squared value, in two lanes that do not wait for each other."""
    a = b = 0.0
    even = len(values) // 2 * 2
    for e in range(0, even, 2):
        a += np.float64(table[np.uint32(indices[e]), k, 1]) * values[e] * values[e]
        b += np.float64(table[np.uint32(indices[e + 1]), k, 1]) * values[e + 1] * values[e + 1]
    for e in range(even, len(values)):
        a += np.float64(table[np.uint32(indices[e]), k, 1]) * values[e] * values[e]
    return a + b


@part
def dense_step(weights: Floats, k: int, x: Floats, step: float, rate: float, l1: float, l2: float) -> None:
    """Constant-rate descent on the dense weights; without penalties one straight loop."""
    last = len(x) - 1
    move = rate * step
    if l1 == 0.0 and l2 == 0.0:
        for j in range(last + 1):
            weights[0, k, j] = finite(weights[0, k, j] - move * x[j])
        return
    for j in range(last):
        if x[j] != 0.0:
            w = weights[0, k, j]
            weights[0, k, j] = finite(shrunk(w - move * x[j] - rate * l2 * w, rate * l1))
    weights[0, k, last] = finite(weights[0, k, last] - move)
