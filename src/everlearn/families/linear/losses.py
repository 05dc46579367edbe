"""Losses: the slope at a score, and the size of a step along a row.

A score m is one linear output. For logistic and softmax, `p` is the probability of the class of the score, and `t` is 1
if that class is the label, else 0. For the other losses p is m itself and t the number to predict.
"""

from __future__ import annotations

import math

from everlearn._jit import inlined
from everlearn.families.linear.settings import ABSOLUTE, HUBER, LOGISTIC, QUANTILE, SOFTMAX, SQUARED

LARGEST_SLOPE = 1e12  # bound of slopes, so that a diverging regression stays finite
NEWTON_STEPS = 8  # iterations; the equation is convex and they start above the root, so they converge


@inlined
def sigmoid(m: float) -> float:
    """Return 1 / (1 + exp(-m)), without overflow on either side.

    >>> round(float(sigmoid(0.0)), 3), float(sigmoid(-1e6)), float(sigmoid(1e6))
    (0.5, 0.0, 1.0)
    """
    return 1.0 / (1.0 + math.exp(-m))


@inlined
def slope(loss: int, p: float, t: float, shape: float) -> float:
    """Return the derivative of the loss by the score; `shape` is the parameter of "quantile" or "huber".

    Squared is (m - t)^2 / 2; absolute |m - t|; quantile is the pinball loss (Koenker & Bassett 1978);
    huber is quadratic up to delta and linear beyond (Huber 1964).

    >>> float(slope(HUBER, 5.0, 2.0, 1.5))
    1.5
    """
    residual = p - t
    if loss == HUBER:
        return min(max(residual, -shape), shape)
    if loss == ABSOLUTE:
        return 1.0 if residual > 0.0 else (-1.0 if residual < 0.0 else 0.0)
    if loss == QUANTILE:
        return 1.0 - shape if residual > 0.0 else (-shape if residual < 0.0 else 0.0)
    return min(max(residual, -LARGEST_SLOPE), LARGEST_SLOPE)


@inlined
def cautious_step(loss: int, p: float, t: float, weight: float, reach: float, shape: float) -> float:
    """Return the size of a step along a row that never overshoots; the score moves by `reach` times the step.

    The step is `weight * slope`, divided by 1 + weight * reach * (largest curvature of the loss): the implicit step of
    Kulis & Bartlett (2010), with the loss replaced by its quadratic upper bound. It is the plain step where the reach
    is small, and cannot overshoot where it is large, at any rate. For losses with a kink it stops at the target.

    >>> round(float(cautious_step(SQUARED, 0.0, 1.0, 1.0, 1e9, 0.0)) * 1e9, 3)
    -1.0
    """
    step = weight * slope(loss, p, t, shape)
    if loss in (ABSOLUTE, QUANTILE):
        furthest = abs(p - t)
        return step if abs(step) * reach <= furthest else (p - t) / reach
    curvature = 0.25 if loss in (LOGISTIC, SOFTMAX) else 1.0
    return step / (1.0 + weight * reach * curvature)


@inlined
def invariant_step(loss: int, p: float, t: float, weight: float, reach: float, shape: float) -> float:
    """Return the limit of infinitely many small steps along a row whose importances add up to `weight`.

    Karampatziakis & Langford (2011), "Online importance weight aware updates", table 1: two updates of weight 1 equal
    one of weight 2. The score moves by `reach` times the step.

    >>> round(float(invariant_step(SQUARED, 0.0, 1.0, 1e9, 2.0, 0.0)) * 2.0, 3)
    -1.0
    """
    if reach <= 0.0:
        return weight * slope(loss, p, t, shape)
    residual = p - t
    if loss == SQUARED:
        return max(min(residual, LARGEST_SLOPE), -LARGEST_SLOPE) * -math.expm1(-weight * reach) / reach
    if loss == HUBER:
        outside = max(abs(residual) - shape, 0.0)  # first straight down to delta, then as for squared
        linear = min(weight, outside / (shape * reach))
        rest = min(abs(residual), shape) * -math.expm1(-(weight - linear) * reach) / reach
        return math.copysign(linear * shape + rest, residual)
    if loss in (ABSOLUTE, QUANTILE):
        step = weight * slope(loss, p, t, shape)
        return step if abs(step) * reach <= abs(residual) else residual / reach
    return _invariant_logistic_step(p, t, weight * reach) / reach


@inlined
def _invariant_logistic_step(p: float, t: float, push: float) -> float:
    """Return the move of the logit: z + exp(z) grows by `push`, where z is the margin on the true side."""
    right = min(max(p if t > 0.5 else 1.0 - p, 1e-300), 1.0 - 1e-16)
    z = math.log(right) - math.log1p(-right)
    total = z + math.exp(z) + push
    new = min(total, math.log(total)) if total > 1.0 else total  # above the root on either branch
    for _ in range(NEWTON_STEPS):
        e = math.exp(new)
        new -= (new + e - total) / (1.0 + e)
    moved = max(new - z, 0.0)
    return -moved if t > 0.5 else moved
