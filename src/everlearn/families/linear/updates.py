"""Optimisers: the update of one weight and its optimiser state from one gradient, and the loops over a row.

`weights`, of dense columns, are float64 (1 + slots, scores, columns). `table`, of hashed entries, is float32
(hash space, scores, 1 + slots), so that all numbers of an entry share a cache line. Slot 0 is the weight. The
intercept, the last dense column, is never penalised. A row does not change the weights of columns that are 0 in it.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import inlined
from everlearn.families.linear.settings import ADAGRAD, ADAM, FTRL, SGD
from everlearn.records import Floats, Ints, Singles

LARGEST_WEIGHT = 1e30  # bound of stored numbers, so that no sequence of inputs makes an infinity
TINY = 1e-8  # keeps divisors above zero
DECAY_1, DECAY_2 = 0.9, 0.999  # of Adam's running means of gradients and of their squares
BETA = 1.0  # FTRL's smoothing of early steps


@inlined
def finite(value: float) -> float:
    """Return the value within the bound of stored numbers."""
    return min(max(value, -LARGEST_WEIGHT), LARGEST_WEIGHT)


@inlined
def shrunk(w: float, threshold: float) -> float:
    """Return the weight moved towards 0 by `threshold`, and not past it: the proximal step of an L1 penalty.

    >>> float(shrunk(-3.0, 1.0)), float(shrunk(0.5, 1.0))
    (-2.0, 0.0)
    """
    return math.copysign(max(abs(w) - threshold, 0.0), w)


@inlined
def sgd(w: float, g: float, rate: float, l1: float, l2: float) -> float:
    """Return the weight after stochastic gradient descent (Robbins & Monro 1951) at a constant rate.

    >>> float(sgd(1.0, 2.0, 0.1, 0.0, 0.0))
    0.8
    """
    return finite(shrunk(w - rate * (g + l2 * w), rate * l1))


@inlined
def adagrad(w: float, total: float, g: float, rate: float, l1: float, l2: float) -> tuple[float, float]:
    """Return weight and sum after AdaGrad (Duchi, Hazan & Singer 2011): the rate falls with the root of the sum.

    >>> w, total = adagrad(0.0, 0.0, -2.0, 0.1, 0.0, 0.0)
    >>> round(float(w), 6), float(total)
    (0.1, 4.0)
    """
    g += l2 * w
    total = finite(total + g * g)
    weight_rate = rate / math.sqrt(total + TINY)
    return finite(shrunk(w - weight_rate * g, weight_rate * l1)), total


@inlined
def bias_corrections(steps: float) -> tuple[float, float]:
    """Return the two bias corrections of Adam after `steps` rows."""
    return 1.0 - DECAY_1**steps, 1.0 - DECAY_2**steps


@inlined
def adam(
    w: float, mean: float, square: float, g: float, corrections: tuple[float, float], rate: float, l1: float, l2: float
) -> tuple[float, float, float]:
    """Return weight and means after Adam (Kingma & Ba 2015, algorithm 1); `corrections` are those of the two means.

    >>> round(float(adam(0.0, 0.0, 0.0, 5.0, bias_corrections(1.0), 0.1, 0.0, 0.0)[0]), 6)
    -0.1
    """
    g += l2 * w
    mean = finite(DECAY_1 * mean + (1.0 - DECAY_1) * g)
    square = finite(DECAY_2 * square + (1.0 - DECAY_2) * g * g)
    unbiased = mean / corrections[0]
    weight_rate = rate / (math.sqrt(square / corrections[1]) + TINY)
    return finite(shrunk(w - weight_rate * unbiased, weight_rate * l1)), mean, square


@inlined
def ftrl(w: float, z: float, total: float, g: float, rate: float, l1: float, l2: float) -> tuple[float, float, float]:
    """Return weight, z and sum after FTRL-Proximal (McMahan et al. 2013, algorithm 1); |z| within l1 makes a weight 0.

    >>> float(ftrl(0.0, 0.0, 0.0, 0.5, 0.1, 1.0, 0.0)[0])
    0.0
    """
    grown = finite(total + g * g)
    z = finite(z + g - (math.sqrt(grown) - math.sqrt(total)) / rate * w)
    if abs(z) <= l1:
        return 0.0, z, grown
    return finite(-shrunk(z, l1) / ((BETA + math.sqrt(grown)) / rate + l2)), z, grown


@inlined
def step_dense(
    optimizer: int, weights: Floats, k: int, x: Floats, slope: float, steps: float, rate: float, l1: float, l2: float
) -> None:
    """Update the dense weights of score k from the slope of one row."""
    last = len(x) - 1
    corrections = bias_corrections(steps) if optimizer == ADAM else (1.0, 1.0)
    for j in range(last + 1):
        if x[j] != 0.0:
            g = slope * x[j]
            p1 = l1 if j < last else 0.0
            p2 = l2 if j < last else 0.0
            w = weights[0, k, j]
            if optimizer == SGD:
                w = sgd(w, g, rate, p1, p2)
            elif optimizer == ADAGRAD:
                w, weights[1, k, j] = adagrad(w, weights[1, k, j], g, rate, p1, p2)
            elif optimizer == ADAM:
                mean, square = weights[1, k, j], weights[2, k, j]
                w, weights[1, k, j], weights[2, k, j] = adam(w, mean, square, g, corrections, rate, p1, p2)
            elif optimizer == FTRL:
                z, total = weights[1, k, j], weights[2, k, j]
                w, weights[1, k, j], weights[2, k, j] = ftrl(w, z, total, g, rate, p1, p2)
            weights[0, k, j] = w


@inlined
def step_hashed(
    optimizer: int,
    table: Singles,
    k: int,
    indices: Ints,
    values: Singles,
    slope: float,
    steps: float,
    rate: float,
    l1: float,
    l2: float,
) -> None:
    """Update the hashed weights of score k from the slope of one row."""
    corrections = bias_corrections(steps) if optimizer == ADAM else (1.0, 1.0)
    for e in range(len(indices)):
        v = np.float64(values[e])
        if v != 0.0:
            a = np.uint32(indices[e])
            g = slope * v
            w: float = np.float64(table[a, k, 0])
            if optimizer == SGD:
                w = sgd(w, g, rate, l1, l2)
            elif optimizer == ADAGRAD:
                w, table[a, k, 1] = adagrad(w, table[a, k, 1], g, rate, l1, l2)
            elif optimizer == ADAM:
                w, table[a, k, 1], table[a, k, 2] = adam(
                    w, table[a, k, 1], table[a, k, 2], g, corrections, rate, l1, l2
                )
            elif optimizer == FTRL:
                w, table[a, k, 1], table[a, k, 2] = ftrl(w, table[a, k, 1], table[a, k, 2], g, rate, l1, l2)
            table[a, k, 0] = w
