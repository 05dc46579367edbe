"""Normalised adaptive updates, which need no tuning of the rate, in the manner of Vowpal Wabbit.

Ross, Mineiro & Langford (2013), "Normalized online learning", algorithm 2 (NAG). Each weight keeps the largest value of
its input so far (`scale`) and shrinks when that grows, so that the units of an input do not matter. Its rate is that of
AdaGrad, divided by the scale. `counts` holds the total weight and the sum of squared inputs in units of their scales;
these set the rate common to all weights. The step along the row is importance-invariant (`losses.invariant_step`).
Slot 1 is the sum of squared gradients, slot 2 the scale.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.kernel_parts import inlined
from everlearn.families.linear.losses import invariant_step, slope
from everlearn.families.linear.updates import TINY, finite, shrunk
from everlearn.records import Floats, Ints, Singles


@inlined
def rescaled(w: float, v: float, scale: float) -> float:
    """Return the weight after its input reached |v|: unchanged up to the old scale, smaller beyond it."""
    return w if abs(v) <= scale else w * scale / abs(v)


@inlined
def score_rescaled(weights: Floats, table: Singles, k: int, x: Floats, indices: Ints, values: Singles) -> float:
    """Return score k of a row, with the weights rescaled for its values."""
    total = 0.0
    for j in range(len(x)):
        total += rescaled(weights[0, k, j], x[j], weights[2, k, j]) * x[j]
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        total += rescaled(np.float64(table[a, k, 0]), v, np.float64(table[a, k, 2])) * v
    return total


@inlined
def weight_rate(v: float, total: float, scale: float, common_rate: float) -> float:
    """Return the rate of one weight: `common_rate` / (scale * root of the squared gradients); 0 without a gradient."""
    return common_rate / (scale * math.sqrt(total)) if total > TINY * TINY and v != 0.0 else 0.0


@inlined
def rescale_weights(
    weights: Floats,
    table: Singles,
    counts: Floats,
    x: Floats,
    indices: Ints,
    values: Singles,
    weight: float,
) -> float:
    """Update scales, and weights with them, for one row; return the factor of the rate common to all weights."""
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


@inlined
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
    common_rate: float,
    l1: float,
    l2: float,
) -> None:
    """Update all weights of score k from one row; `common_rate` is the rate times that factor."""
    g = slope(loss, p, t, shape)
    reach = 0.0
    for j in range(len(x)):
        weights[1, k, j] = finite(weights[1, k, j] + weight * (g * x[j]) ** 2)
        reach += weight_rate(x[j], weights[1, k, j], weights[2, k, j], common_rate) * x[j] * x[j]
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        table[a, k, 1] = finite(table[a, k, 1] + weight * (g * v) ** 2)
        reach += weight_rate(v, table[a, k, 1], table[a, k, 2], common_rate) * v * v
    step = invariant_step(loss, p, t, weight, reach, shape)
    last = len(x) - 1
    for j in range(len(x)):
        rate = weight_rate(x[j], weights[1, k, j], weights[2, k, j], common_rate)
        p1 = l1 if j < last else 0.0
        p2 = l2 if j < last else 0.0
        w = weights[0, k, j]
        weights[0, k, j] = finite(shrunk(w - rate * (step * x[j] + p2 * w), rate * p1))
    for e in range(len(indices)):
        v, a = np.float64(values[e]), np.uint32(indices[e])
        rate = weight_rate(v, table[a, k, 1], table[a, k, 2], common_rate)
        w = np.float64(table[a, k, 0])
        table[a, k, 0] = finite(shrunk(w - rate * (step * v + l2 * w), rate * l1))
