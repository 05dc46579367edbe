"""The default optimiser: constant cautious steps for the dense part, adaptive ones for the hashed part.

Dense columns are standardised, so one rate fits them all; a constant one follows drift. Hashed entries are
rare or common, so each has its own rate, which falls with its gradients (AdaGrad). One answer to "how far"
covers the whole row (`losses.cautious`), so that no row, however long or extreme, is overshot.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.linear.losses import cautious, slope
from everlearn.linear.part import part
from everlearn.linear.updates import FINITE, TINY, finite, shrunk
from everlearn.records import Floats, Ints, Singles

HASHED = 4.0  # an adaptive rate is this many times the constant one
MOST, SMALL = np.float32(FINITE), np.float32(TINY)


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
    first: int,
    end: int,
    rate: float,
    l1: float,
    l2: float,
    own: Singles,
) -> None:
    """Move all weights of score k by one row; `norm` is the squared length of its dense part, `own` scratch."""
    g = np.float32(weight * slope(loss, p, t, shape))
    reach = rate * norm
    for e in range(first, end):
        v = values[e]
        if abs(v) < math.inf:
            a = np.uint32(indices[e])
            total = min(table[a, k, 1] + (g * v) * (g * v), MOST)
            table[a, k, 1] = total
            own[e - first] = np.float32(HASHED * rate) / math.sqrt(total + SMALL)
            reach += np.float64(own[e - first] * v) * v
    step = cautious(loss, p, t, weight, reach, shape)
    dense_step(weights, k, x, step, rate, l1, l2)
    for e in range(first, end):
        v = np.float64(values[e])
        if abs(v) < math.inf:
            a, pace = np.uint32(indices[e]), np.float64(own[e - first])
            w = np.float64(table[a, k, 0])
            if l1 == 0.0 and l2 == 0.0:
                table[a, k, 0] = finite(w - pace * step * v)
            elif v != 0.0:
                table[a, k, 0] = finite(shrunk(w - pace * (step * v + l2 * w), pace * l1))


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
