"""The default optimiser: constant cautious steps for the dense part, adaptive ones for the hashed part.

Dense columns are standardised, so one rate fits them all; a constant one follows drift. Hashed entries are
rare or common, so each has its own rate, which falls with its gradients (AdaGrad). One answer to "how far"
covers the whole row (`losses.cautious`), so that no row, however long or extreme, is overshot.
"""

from __future__ import annotations

import math

from everlearn._jit import exact_kernel
from everlearn.linear.losses import cautious, slope
from everlearn.linear.updates import TINY, finite, shrunk
from everlearn.records import Floats, Ints, Singles

HASHED = 4.0  # an adaptive rate is this many times the constant one


@exact_kernel
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
) -> None:
    """Move all weights of score k by one row; `norm` is the squared length of its dense part."""
    g = weight * slope(loss, p, t, shape)
    reach = rate * norm
    for e in range(first, end):
        v = float(values[e])
        if abs(v) < math.inf:
            a = indices[e]
            total = finite(table[a, k, 1] + g * v * g * v)
            table[a, k, 1] = total
            reach += HASHED * rate / math.sqrt(total + TINY) * v * v
    step = cautious(loss, p, t, weight, reach, shape)
    dense_step(weights, k, x, step, rate, l1, l2)
    for e in range(first, end):
        v = float(values[e])
        if v != 0.0 and abs(v) < math.inf:
            a = indices[e]
            own = HASHED * rate / math.sqrt(table[a, k, 1] + TINY)
            w = float(table[a, k, 0])
            table[a, k, 0] = finite(shrunk(w - own * (step * v + l2 * w), own * l1))


@exact_kernel
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
