"""Normalised adaptive updates that need no tuning of the rate, in the manner of Vowpal Wabbit.

Ross, Mineiro & Langford (2013), "Normalized online learning", algorithm 2 (NAG): each weight knows the largest
value its input ever had (`scale`), and shrinks when that grows, so that the units of an input do not matter; its
rate is AdaGrad's, divided by the scale; and `counts` keep the total weight and the sum of squared inputs in units
of their scales, which set the common pace. The step along the row is importance-invariant (`losses.invariant`).
Slots: 1 is the sum of squared gradients, 2 the scale.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.linear.inline_kernel import part
from everlearn.families.linear.losses import invariant, slope
from everlearn.families.linear.updates import TINY, finite, shrunk
from everlearn.records import Floats, Ints, Singles


@part
def rescaled(w: float, v: float, scale: float) -> float:
    """The weight as it must be once its input has reached |v|: unchanged up to the old scale, smaller beyond."""
    return w if abs(v) <= scale else w * scale / abs(v)


@part
def dot_rescaled(weights: Floats, table: Singles, k: int, x: Floats, indices: Ints, values: Singles) -> float:
    """Score k of a row, with the weights as they must be for it."""
    total = 0.0
    for j in range(len(x)):
        total += rescaled(weights[0, k, j], x[j], weights[2, k, j]) * x[j]
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        total += rescaled(np.float64(table[a, k, 0]), v, np.float64(table[a, k, 2])) * v
    return total


@part
def pace(v: float, total: float, scale: float, common: float) -> float:
    """Rate of one weight: `common` / (scale * root of the sum of squared gradients); 0 while there is no gradient."""
    return common / (scale * math.sqrt(total)) if total > TINY * TINY and v != 0.0 else 0.0


@part
def absorb(
    weights: Floats,
    table: Singles,
    counts: Floats,
    x: Floats,
    indices: Ints,
    values: Singles,
    weight: float,
) -> float:
    """Let the scales, and the weights with them, follow one row; return the pace that is common to all weights."""
    for k in range(weights.shape[1]):
        for j in range(len(x)):
            weights[0, k, j] = rescaled(weights[0, k, j], x[j], weights[2, k, j])
            weights[2, k, j] = finite(max(weights[2, k, j], abs(x[j])))
        for e in range(len(indices)):
            v, a = np.float64(values[e]), np.uint32(indices[e])
            table[a, k, 0] = rescaled(table[a, k, 0], v, table[a, k, 2])
            table[a, k, 2] = finite(max(np.float64(table[a, k, 2]), abs(v)))
    squares = 0.0
    for j in range(len(x)):
        if x[j] != 0.0:
            squares += (x[j] / weights[2, 0, j]) ** 2
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        if v != 0.0:
            squares += (v / np.float64(table[a, 0, 2])) ** 2
    counts[1] = finite(counts[1] + weight)
    counts[2] = finite(counts[2] + weight * squares)
    return math.sqrt(counts[1] / counts[2]) if counts[2] > 0.0 else 0.0


@part
def step_normalized(
    loss: int,
    p: float,
    t: float,
    weight: float,
    shape: float,
    weights: Floats,
    table: Singles,
    k: int,
    x: Floats,
    indices: Ints,
    values: Singles,
    common: float,
    l1: float,
    l2: float,
) -> None:
    """Move all weights of score k by one row; `common` is the rate times the common pace."""
    g = slope(loss, p, t, shape)
    reach = 0.0
    for j in range(len(x)):
        weights[1, k, j] = finite(weights[1, k, j] + weight * (g * x[j]) ** 2)
        reach += pace(x[j], weights[1, k, j], weights[2, k, j], common) * x[j] * x[j]
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        table[a, k, 1] = finite(table[a, k, 1] + weight * (g * v) ** 2)
        reach += pace(v, table[a, k, 1], table[a, k, 2], common) * v * v
    step = invariant(loss, p, t, weight, reach, shape)
    last = len(x) - 1
    for j in range(len(x)):
        own = pace(x[j], weights[1, k, j], weights[2, k, j], common)
        p1 = l1 if j < last else 0.0
        p2 = l2 if j < last else 0.0
        w = weights[0, k, j]
        weights[0, k, j] = finite(shrunk(w - own * (step * x[j] + p2 * w), own * p1))
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        own = pace(v, table[a, k, 1], table[a, k, 2], common)
        w = np.float64(table[a, k, 0])
        table[a, k, 0] = finite(shrunk(w - own * (step * v + l2 * w), own * l1))
