"""The two row loops of the family: predict rows, and learn rows; one row after another, in order.

Every sum is taken in the order in which it is written (no regrouping), so a row's score has the same bits
whether it is predicted or learned, alone or among others.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn.families.linear.auto import dense_step, step_auto
from everlearn.families.linear.inline_kernel import part
from everlearn.families.linear.losses import sigmoid, slope
from everlearn.families.linear.normalized import absorb, dot_rescaled, rescaled, step_normalized
from everlearn.families.linear.settings import AUTO, HUBER, LOGISTIC, NORMALIZED, SGD, SOFTMAX
from everlearn.families.linear.updates import step_dense, step_hashed
from everlearn.records import Floats, Ints, Singles

UNCLEAN = -1  # some values are not finite: to be called again with 0 for them
BAD_INDEX, BAD_LABEL, BAD_ROWS = 1, 2, 3  # why rows are refused
FAULTS = 4  # a refusal is row * FAULTS + why; 0 is none
SETTLED = 100.0  # values that a mean and a deviation are of, before they bound what one more may do to them
CONSTANT = 1e-12  # a variance in squared means below which a column has not varied: roundings look like this
WIDEST = 4.0  # deviations: a rare column's rare values, and outliers, are not louder than this
FURTHEST = 1e100  # numbers to predict are cut here, so that sums of their squares stay finite
BIGGEST = 3.4e38  # predictions are float32


@part
def refusal(hashed: int, indptr: Ints, indices: Ints, values: Singles) -> int:
    """Why no row can be scored: the first that points outside its entries or outside the hash space, or any entry
    that is not finite; 0 if all is well."""
    n = len(indptr) - 1
    if n < 0 or indptr[0] < 0 or indptr[n] > min(len(indices), len(values)):
        return BAD_ROWS
    for i in range(n):
        if indptr[i + 1] < indptr[i]:
            return i * FAULTS + BAD_ROWS
    outside = 0
    for index in indices[indptr[0] : indptr[n]]:
        outside += (index < 0) | (index >= hashed)
    if outside > 0:
        for i in range(n):
            for index in indices[indptr[i] : indptr[i + 1]]:
                if index < 0 or index >= hashed:
                    return i * FAULTS + BAD_INDEX
    unclean = 0
    for v in values[indptr[0] : indptr[n]]:
        unclean += not abs(v) < math.inf
    return UNCLEAN if unclean > 0 else 0


@part
def mislabelled(y: Floats, classes: int) -> int:
    """The first row whose label is a number but not a class; NaN and infinity are no labels at all."""
    for i in range(len(y)):
        if abs(y[i]) < math.inf and not (y[i] >= 0.0 and y[i] < classes and y[i] == math.floor(y[i])):
            return i * FAULTS + BAD_LABEL
    return 0


@part
def welford(v: float, n: float, mean: float, m2: float) -> tuple[float, float, float]:
    """Count, mean and sum of squared deviations with one more value (Welford 1962)."""
    delta = v - mean
    mean += delta / (n + 1.0)
    return n + 1.0, mean, m2 + delta * (v - mean)


@part
def nearer(v: float, n: float, mean: float, m2: float, clip: float) -> float:
    """The value, at most `clip` running deviations from the mean, lest one absurd value end all learning.

    >>> float(nearer(1e30, 400.0, 0.0, 400.0, 100.0)), float(nearer(1e30, 99.0, 0.0, 99.0, 100.0))
    (100.0, 1e+30)
    """
    delta = v - mean
    if n >= SETTLED and delta * delta * n > clip * clip * m2 and m2 > CONSTANT * n * mean * mean:
        return mean + math.copysign(clip * math.sqrt(m2 / n), delta)
    return v


@part
def scaled(v: float, n: float, mean: float, m2: float) -> float:
    """The value in deviations from the mean, cut at `WIDEST`; 0 while the column has not varied."""
    z = (v - mean) * math.sqrt(n / m2) if m2 > 0.0 else 0.0
    return min(max(z, -WIDEST), WIDEST)


@part
def encode(dense: Singles, i: int, standardize: bool, moments: Floats, x: Floats) -> None:
    """Write row i as the model sees it: scaled as if the row had been counted, pairs multiplied, intercept last."""
    for j in range(dense.shape[1]):
        v: float = np.float64(dense[i, j])
        known = abs(v) < math.inf
        if standardize:
            n, mean, m2 = welford(v, moments[0, j], moments[1, j], moments[2, j])
            v = scaled(v, n, mean, m2)
        x[j] = v if known else 0.0
    multiply(dense.shape[1], x)


@part
def count(dense: Singles, i: int, moments: Floats, clip: float) -> None:
    """Add row i to the moments of its columns; missing values leave them as they are."""
    for j in range(dense.shape[1]):
        v: float = np.float64(dense[i, j])
        if abs(v) < math.inf:
            v = nearer(v, moments[0, j], moments[1, j], moments[2, j], clip)
            n, mean, m2 = welford(v, moments[0, j], moments[1, j], moments[2, j])
            moments[0, j], moments[1, j], moments[2, j] = n, mean, m2


@part
def multiply(columns: int, x: Floats) -> None:
    """Fill the pairs, where there is room for them, and the intercept."""
    at = columns
    if len(x) > columns + 1:
        for j in range(columns):
            for other in range(j + 1, columns):
                x[at] = x[j] * x[other]
                at += 1
    x[at] = 1.0


@part
def dot(weights: Floats, k: int, x: Floats) -> float:
    """Sum of weight times column, in four lanes that do not wait for each other."""
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


@part
def dot_hashed(table: Singles, k: int, indices: Ints, values: Singles) -> float:
    """Sum of weight times value, in two lanes."""
    a = b = 0.0
    even = len(indices) // 2 * 2
    for e in range(0, even, 2):
        a += np.float64(table[np.uint32(indices[e]), k, 0]) * values[e]
        b += np.float64(table[np.uint32(indices[e + 1]), k, 0]) * values[e + 1]
    for e in range(even, len(indices)):
        a += np.float64(table[np.uint32(indices[e]), k, 0]) * values[e]
    return a + b


@part
def margins(
    normalized: bool,
    weights: Floats,
    table: Singles,
    x: Floats,
    indices: Ints,
    values: Singles,
    m: Floats,
) -> None:
    """The linear scores of one row."""
    for k in range(len(m)):
        if normalized:
            m[k] = dot_rescaled(weights, table, k, x, indices, values)
        else:
            m[k] = dot(weights, k, x) + dot_hashed(table, k, indices, values)


@part
def answer(loss: int, m: Floats, centre: float, spread: float, out: Singles, i: int, p: Floats) -> None:
    """Turn scores into what is answered (row i of `out`), and into what the slopes are taken of (`p`)."""
    if loss == LOGISTIC:
        p[0] = sigmoid(m[0])
        out[i, 0] = 1.0 - p[0]
        out[i, 1] = p[0]
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
            out[i, k] = p[k]
    else:
        p[0] = m[0]
        out[i, 0] = min(max(centre + spread * m[0], -BIGGEST), BIGGEST)


@part
def target_scale(scaled_target: bool, moments: Floats) -> tuple[float, float]:
    """Mean and deviation of the numbers seen so far, which scores are relative to; 0 and 1 where they are not."""
    if not scaled_target:
        return 0.0, 1.0
    n, mean, m2 = moments[0, -1], moments[1, -1], moments[2, -1]
    return mean, (math.sqrt(m2 / n) if m2 > 0.0 else 1.0)


@part
def length(x: Floats) -> float:
    """Sum of squares, in four lanes."""
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


@part
def explain_row(
    normalized: bool,
    dials: Floats,
    weights: Floats,
    table: Singles,
    moments: Floats,
    dense: Singles,
    indices: Ints,
    values: Singles,
    terms: Floats,
) -> int:
    """Write what each column of row 0, and then each entry, adds to each score: (scores, columns + entries)."""
    refused = refusal(table.shape[0], np.array([0, len(indices)]), indices, values)
    if refused != 0:
        return refused
    columns = weights.shape[2]
    x = np.zeros(columns)
    encode(dense, 0, dials[6] != 0.0, moments, x)
    for k in range(weights.shape[1]):
        for j in range(columns):
            w = weights[0, k, j]
            terms[k, j] = (rescaled(w, x[j], weights[2, k, j]) if normalized else w) * x[j]
        for e in range(len(indices)):
            v, own = np.float64(values[e]), table[np.uint32(indices[e]), k]
            w = np.float64(own[0])
            terms[k, columns + e] = (rescaled(w, v, np.float64(own[2])) if normalized else w) * v
    return 0


@part
def predict_rows(
    normalized: bool,
    dials: Floats,
    weights: Floats,
    table: Singles,
    moments: Floats,
    dense: Singles,
    indptr: Ints,
    indices: Ints,
    values: Singles,
    out: Singles,
) -> int:
    """Score each row into `out`; return 0, or the refusal if a row cannot be read (then nothing is written)."""
    refused = refusal(table.shape[0], indptr, indices, values)
    if refused != 0:
        return refused
    loss, standardize = int(dials[0]), dials[6] != 0.0
    centre, spread = target_scale(dials[7] != 0.0, moments)
    x, m, p = np.zeros(weights.shape[2]), np.empty(weights.shape[1]), np.empty(weights.shape[1])
    for i in range(len(indptr) - 1):
        encode(dense, i, standardize, moments, x)
        entries = slice(indptr[i], indptr[i + 1])
        margins(normalized, weights, table, x, indices[entries], values[entries], m)
        answer(loss, m, centre, spread, out, i, p)
    return 0


@part
def learn_rows(
    optimizer: int,
    dials: Floats,
    weights: Floats,
    table: Singles,
    moments: Floats,
    counts: Floats,
    dense: Singles,
    indptr: Ints,
    indices: Ints,
    values: Singles,
    y: Floats,
    weight: Singles,
    out: Singles,
) -> int:
    """Score each row into `out`, then learn it; return 0, or the refusal if a row cannot be read (then nothing is)."""
    loss, standardize, scaled_target, clip = int(dials[0]), dials[6] != 0.0, dials[7] != 0.0, dials[8]
    refused = refusal(table.shape[0], indptr, indices, values)
    if refused == 0 and loss in (LOGISTIC, SOFTMAX):
        refused = mislabelled(y, out.shape[1])
    if refused != 0:
        return refused
    x, m, p = np.zeros(weights.shape[2]), np.empty(weights.shape[1]), np.empty(weights.shape[1])
    own_indices, own_values = indices[:0], values[:0]
    for i in range(len(indptr) - 1):
        h = np.float64(weight[i])
        if len(indices) > 0:
            own_indices, own_values = indices[indptr[i] : indptr[i + 1]], values[indptr[i] : indptr[i + 1]]
        learned = h > 0.0 and h < math.inf and abs(y[i]) < math.inf
        encode(dense, i, standardize, moments, x)
        if learned and standardize:
            count(dense, i, moments, clip)
        margins(optimizer == NORMALIZED, weights, table, x, own_indices, own_values, m)
        centre, spread = target_scale(scaled_target, moments)
        answer(loss, m, centre, spread, out, i, p)
        if learned:
            target = min(max(y[i], -FURTHEST), FURTHEST)
            if loss not in (LOGISTIC, SOFTMAX) and (scaled_target or clip < math.inf):
                target = nearer(target, moments[0, -1], moments[1, -1], moments[2, -1], clip)
                centre, spread = count_target(target, scaled_target, moments)
                target = (target - centre) / spread
            counts[0] += 1.0
            shape = dials[5] / spread if loss == HUBER else dials[5]
            learn_row(
                optimizer,
                dials,
                weights,
                table,
                counts,
                x,
                own_indices,
                own_values,
                p,
                target,
                min(h, clip),
                shape,
            )
    return 0


@part
def count_target(y: float, scaled_target: bool, moments: Floats) -> tuple[float, float]:
    """Add a number to predict to its moments, the last column; return the new mean and deviation, as `target_scale`."""
    moments[0, -1], moments[1, -1], moments[2, -1] = welford(y, moments[0, -1], moments[1, -1], moments[2, -1])
    return target_scale(scaled_target, moments)


@part
def learn_row(
    optimizer: int,
    dials: Floats,
    weights: Floats,
    table: Singles,
    counts: Floats,
    x: Floats,
    indices: Ints,
    values: Singles,
    p: Floats,
    target: float,
    weight: float,
    shape: float,
) -> None:
    """Move the weights of every score by one row that has been answered with `p`."""
    loss, rate, l1, l2 = int(dials[0]), dials[2], dials[3], dials[4]
    norm = length(x) if optimizer == AUTO else 0.0
    common = rate
    if optimizer == NORMALIZED:
        common *= absorb(weights, table, counts, x, indices, values, weight)
    for k in range(len(p)):
        t = (1.0 if target == k else 0.0) if loss == SOFTMAX else target
        if optimizer == AUTO:
            step_auto(loss, p[k], t, weight, shape, weights, table, k, x, norm, indices, values, rate, l1, l2)
        elif optimizer == NORMALIZED:
            step_normalized(loss, p[k], t, weight, shape, weights, table, k, x, indices, values, common, l1, l2)
        else:
            g = weight * slope(loss, p[k], t, shape)
            if optimizer == SGD and l1 == 0.0 and l2 == 0.0:
                dense_step(weights, k, x, g, rate, l1, l2)
            else:
                step_dense(optimizer, weights, k, x, g, counts[0], rate, l1, l2)
            step_hashed(optimizer, table, k, indices, values, g, counts[0], rate, l1, l2)
