"""The default optimiser: two columns of weights, one quick and one settled, and their scores stacked into one.

The quick column learns as `quick` does: it follows drift, and on a stationary noisy stream it never comes to rest. The
settled column is the running mean of the quick one (Polyak & Juditsky 1992, "Acceleration of stochastic approximation
by averaging"): it comes to rest, and follows drift late. A third score needs no weights of columns: the base rate of
the classes so far, or for numbers their mean. With c the scale and a the share, the score is

    base + c * (a * quick + (1 - a) * settled - base)

So the answer is that of one linear model, whose weights are mixed in the same way. Each row moves the share and the
scale by one Newton step each on the loss of that score: the slope along the parameter, over the sum of the curvatures
along it. The sum forgets, with a horizon of `HORIZON` rows (recursive least squares with forgetting; for log loss the
online Newton step of Hazan, Agarwal & Kale 2007, in one dimension). A share of 1 or 0 and a scale of 1 are the columns
alone, and a scale near 0 is the base rate, so none of these is better for long.

`blend` is float64 (4 + 2 * classes,): share, its sum of curvatures, scale, its sum of curvatures, then the weight of
the rows of each class, and the logarithms of these. In `weights`, slot 0 is quick and slot 1 settled. In `table`, slot
0 is quick, slot 1 the share that is left of its rate, slot 2 settled.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import inlined
from everlearn.families.linear.losses import cautious_step, slope
from everlearn.families.linear.quick import HASHED_RATE, LARGEST_GRADIENT, descend_dense, hashed_reach, step_entry
from everlearn.families.linear.settings import HUBER, LOGISTIC, QUANTILE, SOFTMAX
from everlearn.families.linear.updates import finite
from everlearn.records import Floats, Ints, Singles

SHARE, SHARE_CURVATURE, SCALE, SCALE_CURVATURE, COUNTS = range(5)  # positions in `blend`
FIRST_SHARE, FIRST_SCALE = 0.5, 1.0
LEAST_SCALE, LARGEST_SCALE = 0.05, 1.5  # above 0, so that columns can be computed back from what they answer
HORIZON = 2000.0  # rows after which the evidence about share and scale has faded to a third
PRIOR = 5.0  # curvature that keeps both in place while there is little evidence
RECENT = 3.0  # the settled column is a mean with weights that grow with this power of the row (Shamir & Zhang 2013)
LEAST_MIX = np.float32(1e-4)  # the least part of the quick column that enters the settled one in a row


def start(classes: int) -> Floats:
    """Return the array `blend` before the first row: float64 (4 + 2 * classes,).

    >>> start(2).tolist()
    [0.5, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    """
    return np.array([FIRST_SHARE, 0.0, FIRST_SCALE, 0.0] + [1.0] * classes + [0.0] * classes)


@inlined
def prior_score(loss: int, blend: Floats, k: int) -> float:
    """Return score k of the base rate: the log odds of the second class, the logarithm of a count, or 0, the mean."""
    if loss == LOGISTIC:
        odds: float = blend[COUNTS + 3] - blend[COUNTS + 2]
        return odds
    own: float = blend[(len(blend) + COUNTS) // 2 + k] if loss == SOFTMAX else 0.0
    return own


@inlined
def blended(blend: Floats, quick: float, settled: float) -> float:
    """Return a weight of the blend, or a score less the part of the base rate.

    >>> float(blended(np.array([0.25, 0.0, 0.5, 0.0]), 4.0, 8.0))
    3.5
    """
    found: float = blend[SCALE] * (settled + blend[SHARE] * (quick - settled))
    return found


@inlined
def score_blend(
    weights: Floats, table: Singles, k: int, x: Floats, indices: Ints, values: Singles
) -> tuple[float, float]:
    """Return score k of a row by the quick and by the settled weights, each in two independent lanes."""
    a = b = c = d = 0.0
    even = len(x) // 2 * 2
    for j in range(0, even, 2):
        a += weights[0, k, j] * x[j]
        b += weights[0, k, j + 1] * x[j + 1]
        c += weights[1, k, j] * x[j]
        d += weights[1, k, j + 1] * x[j + 1]
    for j in range(even, len(x)):
        a += weights[0, k, j] * x[j]
        c += weights[1, k, j] * x[j]
    quick = settled = 0.0
    for e in range(len(indices)):
        quick += np.float64(table[np.uint32(indices[e]), k, 0]) * values[e]
        settled += np.float64(table[np.uint32(indices[e]), k, 2]) * values[e]
    return (a + b) + quick, (c + d) + settled


@inlined
def step_blend(
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
    rows: float,
) -> None:
    """Update both columns of score k from one row; `p` is what the quick column predicted, `rows` counts this one.

    The settled weight of an entry is a mean over the rows with this entry. Each counts by the information that it had:
    (share of the rate)^4 is one over the sum of squared gradients.
    """
    start = np.float32(HASHED_RATE * rate)
    reach = rate * squared_norm + float(start) * hashed_reach(table, k, indices, values)
    g = np.float32(min(max(weight * slope(loss, p, t, shape), -LARGEST_GRADIENT), LARGEST_GRADIENT))
    step = cautious_step(loss, p, t, weight, reach, shape)
    descend_dense(weights, 0, k, x, step, rate, l1, l2)
    mix = max((1.0 + RECENT) / (rows + RECENT), float(LEAST_MIX))
    for j in range(len(x)):
        weights[1, k, j] += mix * (weights[0, k, j] - weights[1, k, j])
    move = np.float32(min(max(step, -LARGEST_GRADIENT), LARGEST_GRADIENT))
    for e in range(len(indices)):
        a = np.uint32(indices[e])
        step_entry(table, a, k, values[e], g, step, move, start, l1, l2)
        square = table[a, k, 1] * table[a, k, 1]
        table[a, k, 2] += max(square * square, LEAST_MIX) * (table[a, k, 0] - table[a, k, 2])


@inlined
def step_mixture(
    loss: int, parts: Floats, p: Floats, target: float, weight: float, shape: float, blend: Floats
) -> None:
    """Move share and scale by one row, and count its class.

    The rows of `parts` begin with the scores of both columns, `p` (scores,) is what their blend predicted.
    """
    share, scale = blend[SHARE], blend[SCALE]
    if loss == SOFTMAX:
        apart_mean = apart_square = out_mean = out_square = apart_wanted = out_wanted = 0.0
        for k in range(len(p)):
            apart = parts[0, k] - parts[1, k]
            out = parts[1, k] + share * apart - prior_score(loss, blend, k)
            apart_mean += p[k] * apart
            apart_square += p[k] * apart * apart
            out_mean += p[k] * out
            out_square += p[k] * out * out
            if target == k:
                apart_wanted, out_wanted = apart, out
        share_slope, scale_slope = scale * (apart_mean - apart_wanted), out_mean - out_wanted
        share_bend = scale * scale * max(apart_square - apart_mean * apart_mean, 0.0)
        scale_bend = max(out_square - out_mean * out_mean, 0.0)
    else:
        apart = scale * (parts[0, 0] - parts[1, 0])
        out = parts[1, 0] + share * (parts[0, 0] - parts[1, 0]) - prior_score(loss, blend, 0)
        g = slope(loss, p[0], target, shape)
        bend = p[0] * (1.0 - p[0]) if loss == LOGISTIC else 1.0
        if loss == HUBER:
            bend = 1.0 if abs(g) < shape else 0.0
        if loss == QUANTILE:
            bend = shape * (1.0 - shape)  # a kink has no curvature; the mean square of the slope stands in for it
        share_slope, scale_slope, share_bend, scale_bend = g * apart, g * out, bend * apart * apart, bend * out * out
    kept = 1.0 - 1.0 / HORIZON
    blend[SHARE_CURVATURE] = finite(kept * blend[SHARE_CURVATURE] + weight * share_bend)
    blend[SCALE_CURVATURE] = finite(kept * blend[SCALE_CURVATURE] + weight * scale_bend)
    share -= weight * share_slope / (PRIOR + blend[SHARE_CURVATURE])
    scale -= weight * scale_slope / (PRIOR + blend[SCALE_CURVATURE])
    blend[SHARE] = min(max(share, 0.0), 1.0)
    blend[SCALE] = min(max(scale, LEAST_SCALE), LARGEST_SCALE)
    if loss in (LOGISTIC, SOFTMAX):
        seen, logs = COUNTS + int(target), (len(blend) + COUNTS) // 2 + int(target)
        blend[seen] = finite(blend[seen] + weight)
        # A step of log(1 + r), which is 2 * atanh(r / (2 + r)), without the cost of a logarithm where r is small
        few = weight > 0.1 * blend[seen]
        blend[logs] = math.log(blend[seen]) if few else blend[logs] + weight / (blend[seen] - 0.5 * weight)
