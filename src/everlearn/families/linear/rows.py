"""The row loops of the family: predict, learn and explain rows, one after another.

Sums are taken in the order in which they are written (no regrouping). So the score of a row has the same bits when it
is predicted and when it is learned, alone and among others.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn import _jit
from everlearn._jit import merged
from everlearn.families.batches import BAD_INDEX, BAD_LABEL, BAD_ROWS, FAULT_KINDS
from everlearn.families.kernel_parts import inlined
from everlearn.families.linear.blend import (
    SCALE,
    SCALE_CURVATURE,
    SHARE_CURVATURE,
    blended,
    prior_score,
    score_blend,
    step_blend,
    step_mixture,
)
from everlearn.families.linear.checkpoints import BLOCK, ROWS, end_block
from everlearn.families.linear.losses import sigmoid, slope
from everlearn.families.linear.normalized import rescale_weights, rescaled, score_rescaled, step_normalized
from everlearn.families.linear.quick import descend_dense, step_quick
from everlearn.families.linear.settings import (
    BLEND,
    CLIP,
    HUBER,
    L1,
    L2,
    LOGISTIC,
    LOSS,
    LOSS_PARAMETER,
    NORMALIZED,
    QUICK,
    RATE,
    SCALE_TARGET,
    SGD,
    SOFTMAX,
    STANDARDIZE,
)
from everlearn.families.linear.updates import step_dense, step_hashed
from everlearn.records import Floats, Ints, Singles

NOT_FINITE = -1  # some hashed values are not finite; call again with 0 in their place
SETTLED_AFTER = 100.0  # values counted before mean and deviation bound the next value
CONSTANT_VARIANCE = 1e-12  # a smaller variance, in squared means, may be rounding
LARGEST_DEVIATION = 4.0  # standardised values are cut here: rare values and outliers
LARGEST_TARGET = 1e100  # targets are cut here, so that sums of their squares stay finite
LARGEST_PREDICTION = 3.4e38  # predictions are float32


@inlined
def first_fault(hashed: int, indptr: Ints, indices: Ints, values: Singles) -> int:
    """Return the fault of the first row that points outside its entries or the hash space, or `NOT_FINITE`; 0 if
    there is none."""
    n = len(indptr) - 1
    if n < 0 or indptr[0] < 0 or indptr[n] > min(len(indices), len(values)):
        return BAD_ROWS
    for i in range(n):
        if indptr[i + 1] < indptr[i]:
            return i * FAULT_KINDS + BAD_ROWS
    outside = 0
    for index in indices[indptr[0] : indptr[n]]:
        outside += (index < 0) | (index >= hashed)
    if outside > 0:
        for i in range(n):
            for index in indices[indptr[i] : indptr[i + 1]]:
                if index < 0 or index >= hashed:
                    return i * FAULT_KINDS + BAD_INDEX
    unclean = 0
    for v in values[indptr[0] : indptr[n]]:
        unclean += not abs(v) < math.inf
    return NOT_FINITE if unclean > 0 else 0


@inlined
def mislabelled(y: Floats, classes: int) -> int:
    """Return the fault of the first row with a finite label that is not a class; 0 if there is none."""
    for i in range(len(y)):
        if abs(y[i]) < math.inf and not (y[i] >= 0.0 and y[i] < classes and y[i] == math.floor(y[i])):
            return i * FAULT_KINDS + BAD_LABEL
    return 0


@inlined
def welford(v: float, n: float, mean: float, m2: float) -> tuple[float, float, float]:
    """Return count, mean and sum of squared deviations with one more value (Welford 1962)."""
    delta = v - mean
    mean += delta / (n + 1.0)
    return n + 1.0, mean, m2 + delta * (v - mean)


@_jit.inlined  # Python calls it, in the example
def bounded(v: float, n: float, mean: float, m2: float, clip: float) -> float:
    """Return the value within `clip` running deviations of the mean, so that one extreme value does no lasting harm.

    >>> float(bounded(1e30, 400.0, 0.0, 400.0, 100.0)), float(bounded(1e30, 99.0, 0.0, 99.0, 100.0))
    (100.0, 1e+30)
    """
    delta = v - mean
    if n >= SETTLED_AFTER and delta * delta * n > clip * clip * m2 and m2 > CONSTANT_VARIANCE * n * mean * mean:
        return mean + math.copysign(clip * math.sqrt(m2 / n), delta)
    return v


@inlined
def standardized(v: float, n: float, mean: float, m2: float) -> float:
    """Return the value in deviations from the mean, cut at `LARGEST_DEVIATION`; 0 while the column is constant."""
    z = (v - mean) * math.sqrt(n / m2) if m2 > 0.0 else 0.0
    return min(max(z, -LARGEST_DEVIATION), LARGEST_DEVIATION)


@inlined
def encode(dense: Singles, i: int, standardizes: bool, moments: Floats, x: Floats) -> None:
    """Write the inputs of row i: columns standardised as if the row were counted, products of pairs, 1 at the end."""
    for j in range(dense.shape[1]):
        v: float = np.float64(dense[i, j])
        known = abs(v) < math.inf
        if standardizes:
            n, mean, m2 = welford(v, moments[0, j], moments[1, j], moments[2, j])
            v = standardized(v, n, mean, m2)
        x[j] = v if known else 0.0
    append_products(dense.shape[1], x)


@inlined
def count_row(dense: Singles, i: int, moments: Floats, clip: float) -> None:
    """Add row i to the moments of its columns; missing values are not counted."""
    for j in range(dense.shape[1]):
        v: float = np.float64(dense[i, j])
        if abs(v) < math.inf:
            v = bounded(v, moments[0, j], moments[1, j], moments[2, j], clip)
            n, mean, m2 = welford(v, moments[0, j], moments[1, j], moments[2, j])
            moments[0, j], moments[1, j], moments[2, j] = n, mean, m2


@inlined
def append_products(columns: int, x: Floats) -> None:
    """Write the products of pairs, if `x` has room for them, and the 1 of the intercept."""
    at = columns
    if len(x) > columns + 1:
        for j in range(columns):
            for other in range(j + 1, columns):
                x[at] = x[j] * x[other]
                at += 1
    x[at] = 1.0


@inlined
def dot(weights: Floats, k: int, x: Floats) -> float:
    """Sum weight times column, in four independent lanes."""
    a = b = c = d = 0.0
    whole = len(x) // 4 * 4
    for j in range(0, whole, 4):
        a += weights[0, k, j] * x[j]
        b += weights[0, k, j + 1] * x[j + 1]
        c += weights[0, k, j + 2] * x[j + 2]
        d += weights[0, k, j + 3] * x[j + 3]
    for j in range(whole, len(x)):
        a += weights[0, k, j] * x[j]
    return (a + b) + (c + d)


@inlined
def dot_hashed(table: Singles, k: int, indices: Ints, values: Singles) -> float:
    """Sum weight times value, in two independent lanes."""
    a = b = 0.0
    even = len(indices) // 2 * 2
    for e in range(0, even, 2):
        a += np.float64(table[np.uint32(indices[e]), k, 0]) * values[e]
        b += np.float64(table[np.uint32(indices[e + 1]), k, 0]) * values[e + 1]
    for e in range(even, len(indices)):
        a += np.float64(table[np.uint32(indices[e]), k, 0]) * values[e]
    return a + b


@inlined
def score(
    kind: int,
    loss: int,
    weights: Floats,
    table: Singles,
    blend: Floats,
    x: Floats,
    indices: Ints,
    values: Singles,
    m: Floats,
    parts: Floats,
) -> None:
    """Write the linear scores of one row to `m`, and those of the columns of a blend to the first rows of `parts`."""
    for k in range(len(m)):
        if kind == BLEND:
            parts[0, k], parts[1, k] = score_blend(weights, table, k, x, indices, values)
            m[k] = (1.0 - blend[SCALE]) * prior_score(loss, blend, k) + blended(blend, parts[0, k], parts[1, k])
        elif kind == NORMALIZED:
            m[k] = score_rescaled(weights, table, k, x, indices, values)
        else:
            m[k] = dot(weights, k, x) + dot_hashed(table, k, indices, values)


@inlined
def respond(loss: int, m: Floats, p: Floats) -> None:
    """Write the values that slopes are taken at to `p`: the probabilities of scores, or the scores themselves."""
    if loss == LOGISTIC:
        p[0] = sigmoid(m[0])
    elif loss == SOFTMAX:
        highest = m[0]
        for k in range(1, len(m)):
            highest = max(highest, m[k])
        total = 0.0
        for k in range(len(m)):
            p[k] = math.exp(m[k] - highest)
            total += p[k]
        for k in range(len(m)):
            p[k] /= total
    else:
        p[0] = m[0]


@inlined
def predict_row(loss: int, m: Floats, centre: float, spread: float, out: Singles, i: int, p: Floats) -> None:
    """Write the prediction of row i to `out`, and the values that slopes are taken at to `p`."""
    respond(loss, m, p)
    if loss == LOGISTIC:
        out[i, 0] = 1.0 - p[0]
        out[i, 1] = p[0]
    elif loss == SOFTMAX:
        for k in range(len(m)):
            out[i, k] = p[k]
    else:
        out[i, 0] = min(max(centre + spread * m[0], -LARGEST_PREDICTION), LARGEST_PREDICTION)


@inlined
def target_scale(scales_target: bool, moments: Floats) -> tuple[float, float]:
    """Return mean and deviation of the targets so far, which scores are relative to; 0 and 1 if they are not."""
    if not scales_target:
        return 0.0, 1.0
    n, mean, m2 = moments[0, -1], moments[1, -1], moments[2, -1]
    return mean, (math.sqrt(m2 / n) if m2 > 0.0 else 1.0)


@inlined
def squared_length(x: Floats) -> float:
    """Sum squares, in four independent lanes."""
    a = b = c = d = 0.0
    whole = len(x) // 4 * 4
    for j in range(0, whole, 4):
        a += x[j] * x[j]
        b += x[j + 1] * x[j + 1]
        c += x[j + 2] * x[j + 2]
        d += x[j + 3] * x[j + 3]
    for j in range(whole, len(x)):
        a += x[j] * x[j]
    return (a + b) + (c + d)


@inlined
def explain_row(
    kind: int,
    settings: Floats,
    weights: Floats,
    table: Singles,
    moments: Floats,
    blend: Floats,
    dense: Singles,
    indices: Ints,
    values: Singles,
    terms: Floats,
) -> int:
    """Write what each column of row 0, then each of its entries, adds to each score: (scores, columns + entries)."""
    fault = first_fault(table.shape[0], np.array([0, len(indices)]), indices, values)
    if fault != 0:
        return fault
    columns = weights.shape[2]
    x = np.zeros(columns)
    encode(dense, 0, settings[STANDARDIZE] != 0.0, moments, x)
    for k in range(weights.shape[1]):
        for j in range(columns):
            w = weights[0, k, j]
            if kind == BLEND:
                w = blended(blend, w, weights[1, k, j])
            elif kind == NORMALIZED:
                w = rescaled(w, x[j], weights[2, k, j])
            terms[k, j] = w * x[j]
        if kind == BLEND:
            terms[k, columns - 1] += (1.0 - blend[SCALE]) * prior_score(int(settings[LOSS]), blend, k)
        for e in range(len(indices)):
            v, entry = np.float64(values[e]), table[np.uint32(indices[e]), k]
            w = np.float64(entry[0])
            if kind == BLEND:
                w = blended(blend, w, np.float64(entry[2]))
            elif kind == NORMALIZED:
                w = rescaled(w, v, np.float64(entry[2]))
            terms[k, columns + e] = w * v
    return 0


@merged
def predict_rows(
    kind: int,
    settings: Floats,
    weights: Floats,
    table: Singles,
    moments: Floats,
    blend: Floats,
    dense: Singles,
    indptr: Ints,
    indices: Ints,
    values: Singles,
    out: Singles,
) -> int:
    """Write the prediction of each row to `out`; return 0, or a fault with nothing written."""
    fault = first_fault(table.shape[0], indptr, indices, values)
    if fault != 0:
        return fault
    loss, standardizes = int(settings[LOSS]), settings[STANDARDIZE] != 0.0
    centre, spread = target_scale(settings[SCALE_TARGET] != 0.0, moments)
    x, m, p = np.zeros(weights.shape[2]), np.empty(weights.shape[1]), np.empty(weights.shape[1])
    parts = np.empty((3, len(m)))
    for i in range(len(indptr) - 1):
        encode(dense, i, standardizes, moments, x)
        entries = slice(indptr[i], indptr[i + 1])
        score(kind, loss, weights, table, blend, x, indices[entries], values[entries], m, parts)
        predict_row(loss, m, centre, spread, out, i, p)
    return 0


@merged
def learn_rows(
    optimizer: int,
    settings: Floats,
    weights: Floats,
    table: Singles,
    moments: Floats,
    counts: Floats,
    blend: Floats,
    dense: Singles,
    indptr: Ints,
    indices: Ints,
    values: Singles,
    y: Floats,
    weight: Singles,
    out: Singles,
) -> int:
    """Write the prediction of each row to `out`, then learn it; return 0, or a fault with nothing learned."""
    loss, clip = int(settings[LOSS]), settings[CLIP]
    standardizes, scales_target = settings[STANDARDIZE] != 0.0, settings[SCALE_TARGET] != 0.0
    fault = first_fault(table.shape[0], indptr, indices, values)
    if fault == 0 and loss in (LOGISTIC, SOFTMAX):
        fault = mislabelled(y, out.shape[1])
    if fault != 0:
        return fault
    forgets = standardizes and moments.shape[0] == ROWS
    x, m, p = np.zeros(weights.shape[2]), np.empty(weights.shape[1]), np.empty(weights.shape[1])
    parts = np.empty((3, len(m)))
    row_indices, row_values = indices[:0], values[:0]
    for i in range(len(indptr) - 1):
        row_weight = np.float64(weight[i])
        if len(indices) > 0:
            row_indices, row_values = indices[indptr[i] : indptr[i + 1]], values[indptr[i] : indptr[i + 1]]
        learned = row_weight > 0.0 and row_weight < math.inf and abs(y[i]) < math.inf
        encode(dense, i, standardizes, moments, x)
        if learned and standardizes:
            count_row(dense, i, moments, clip)
        score(optimizer, loss, weights, table, blend, x, row_indices, row_values, m, parts)
        centre, spread = target_scale(scales_target, moments)
        if optimizer == BLEND:  # here, since exponentials cost ten times as much between vectorised loops
            respond(loss, parts[0], parts[2])
        predict_row(loss, m, centre, spread, out, i, p)
        if learned:
            target = min(max(y[i], -LARGEST_TARGET), LARGEST_TARGET)
            if loss not in (LOGISTIC, SOFTMAX) and (scales_target or clip < math.inf):
                target = bounded(target, moments[0, -1], moments[1, -1], moments[2, -1], clip)
                centre, spread = count_target(target, scales_target, moments)
                target = (target - centre) / spread
            counts[0] += 1.0
            shape = settings[LOSS_PARAMETER] / spread if loss == HUBER else settings[LOSS_PARAMETER]
            learn_row(optimizer, settings, weights, table, counts, blend, x, row_indices, row_values, parts, p, target,
                      min(row_weight, clip), shape)  # fmt: skip
            if forgets and np.int64(counts[0]) % BLOCK == 0 and end_block(moments) and optimizer == BLEND:
                blend[SHARE_CURVATURE] = blend[SCALE_CURVATURE] = 0.0  # learned from inputs of a bad stretch
    return 0


@inlined
def count_target(y: float, scales_target: bool, moments: Floats) -> tuple[float, float]:
    """Add a target to its moments, the last column; return the new mean and deviation, as `target_scale`."""
    moments[0, -1], moments[1, -1], moments[2, -1] = welford(y, moments[0, -1], moments[1, -1], moments[2, -1])
    return target_scale(scales_target, moments)


@merged
def learn_row(
    optimizer: int,
    settings: Floats,
    weights: Floats,
    table: Singles,
    counts: Floats,
    blend: Floats,
    x: Floats,
    indices: Ints,
    values: Singles,
    parts: Floats,
    p: Floats,
    target: float,
    weight: float,
    shape: float,
) -> None:
    """Update the weights of every score from one row with the predictions `p`.

    In the rows of `parts` are the quick scores of a blend, its settled scores, and what the quick ones predict.
    """
    loss, rate, l1, l2 = int(settings[LOSS]), settings[RATE], settings[L1], settings[L2]
    squared_norm = squared_length(x) if optimizer in (BLEND, QUICK) else 0.0
    common_rate = rate
    if optimizer == BLEND:
        step_mixture(loss, parts, p, target, weight, shape, blend)
    elif optimizer == NORMALIZED:
        common_rate *= rescale_weights(weights, table, counts, x, indices, values, weight)
    for k in range(len(p)):
        t = (1.0 if target == k else 0.0) if loss == SOFTMAX else target
        if optimizer == BLEND:
            step_blend(
                loss,
                parts[2, k],
                t,
                weight,
                shape,
                weights,
                table,
                k,
                x,
                squared_norm,
                indices,
                values,
                rate,
                l1,
                l2,
                counts[0],
            )
        elif optimizer == QUICK:
            step_quick(loss, p[k], t, weight, shape, weights, table, k, x, squared_norm, indices, values, rate, l1, l2)
        elif optimizer == NORMALIZED:
            step_normalized(loss, p[k], t, weight, shape, weights, table, k, x, indices, values, common_rate, l1, l2)
        else:
            g = weight * slope(loss, p[k], t, shape)
            if optimizer == SGD and l1 == 0.0 and l2 == 0.0:
                descend_dense(weights, 0, k, x, g, rate, l1, l2)
            else:
                step_dense(optimizer, weights, k, x, g, counts[0], rate, l1, l2)
            step_hashed(optimizer, table, k, indices, values, g, counts[0], rate, l1, l2)
