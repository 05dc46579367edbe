"""Kernels of the reward head: the one-coin likelihood, and coordinate steps on dual variables."""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.records import Floats, Ints, Singles


@exact_kernel
def _point(f: float, label: float, reliability: float) -> tuple[float, float, float, float]:
    """Return log-likelihood, slope, Fisher information and observed information of one label by its logit."""
    e = math.exp(-abs(f))
    high, low = 1.0 / (1.0 + e), e / (1.0 + e)
    p, rest = (high, low) if f >= 0.0 else (low, high)
    if reliability >= 1.0:  # written out, since p may round to 1
        value = (min(f, 0.0) if label > 0.5 else min(-f, 0.0)) - math.log1p(e)
        return value, label - p, p * rest, p * rest
    q = max(reliability, 0.0)
    first = q * p + (1.0 - q) * rest
    second = q * rest + (1.0 - q) * p
    rise = (2.0 * q - 1.0) * p * rest
    likelihood = max(first if label > 0.5 else second, 1e-300)
    slope = rise / likelihood if label > 0.5 else -rise / likelihood
    return math.log(likelihood), slope, rise * rise / max(first * second, 1e-300), slope * slope - slope * (rest - p)


@exact_kernel
def curve(f: Floats, label: Floats, weight: Floats, reliability: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return log-likelihoods of labels by logits f, their slopes, Fisher and observed information, each (n,).

    The observed information is minus the second derivative, and may be negative where the reliability is below 1.

    >>> value, slope, fisher, observed = curve(np.zeros(1), np.ones(1), np.ones(1), np.array([0.9]))
    >>> float(slope[0].round(3)), float(fisher[0].round(3))
    (0.4, 0.16)
    """
    found = np.empty((4, len(f)))
    for i in range(len(f)):
        one = _point(f[i], label[i], reliability[i])
        for j in range(4):
            found[j, i] = weight[i] * one[j]
    return found[0], found[1], found[2], found[3]


@exact_kernel
def sweep(
    sweeps: int,
    x: Singles,
    terms: Floats,
    group: Ints,
    kind: Ints,
    labels: Floats,
    dual: Floats,
    weights: Floats,
    variance: Floats,
    bias: Floats,
    bias_variance: Floats,
) -> None:
    """Step each dual variable towards the slope of its label's likelihood, newest first, and move the weights with it.

    A step is (slope - dual) / (1 + k * weight / 4), with the label's prior variance k and the largest curvature 1/4, so
    that it cannot overshoot.

    >>> weights, dual = np.zeros((2, 1)), np.zeros(1)
    >>> labels, none = np.ones((3, 1)), np.zeros((1, 3))
    >>> x, zero = np.ones((1, 1), np.float32), np.zeros(1, np.int64)
    >>> sweep(50, x, none, zero, zero, labels, dual, weights, np.full((2, 1), 0.5), np.zeros((1, 3)), none)
    >>> float(dual[0].round(4)), float(weights.sum().round(4))  # w = 1 / (1 + exp(w))
    (0.4011, 0.4011)
    """
    n, d = x.shape
    for _ in range(sweeps):
        for back in range(n):
            i = n - 1 - back
            part, of = 1 + group[i], kind[i]
            f, own = 0.0, 0.0
            for j in range(d):
                f += x[i, j] * (weights[0, j] + weights[part, j])
                own += x[i, j] * x[i, j] * (variance[0, j] + variance[part, j])
            for j in range(terms.shape[1]):
                f += terms[i, j] * bias[of, j]
                own += terms[i, j] * terms[i, j] * bias_variance[of, j]
            weight = labels[1, i]
            _, slope, _, _ = _point(f, labels[0, i], labels[2, i])
            step = (weight * slope - dual[i]) / (1.0 + 0.25 * own * weight)
            dual[i] += step
            for j in range(d):
                weights[0, j] += step * variance[0, j] * x[i, j]
                weights[part, j] += step * variance[part, j] * x[i, j]
            for j in range(terms.shape[1]):
                bias[of, j] += step * bias_variance[of, j] * terms[i, j]
