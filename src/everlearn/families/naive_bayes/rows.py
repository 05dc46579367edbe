"""The row loops of naive Bayes: predict, count, and learn how far the likelihoods can be trusted.

The logarithm of the joint probability of a class is that of its share, plus that of the density of each number, plus
value x log of the share of each hashed entry among all entries of the class (the multinomial model of McCallum and
Nigam 1998). Features are not independent, so the sum is too large: it is multiplied by a temper, which is learned from
the log loss. Counts come in banks: one counts all rows alike, and in one older rows count less, since each new row
weighs 1 / (1 - fade) more. The answer is the average of the banks, weighted by the likelihood of the last labels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.families.kernel_parts import first_fault, inlined, mislabelled, outlined
from everlearn.families.row_loops import (
    HEAVIEST,
    LARGEST,
    average,
    count_loss,
    count_value,
    learn_temper,
    usable,
    value_of,
)
from everlearn.records import Floats, Singles

FADE, SHRINK, SMOOTHING = range(3)  # settings
# State of a bank: weight of the next row; logarithm of the temper; squares of its gradients; log loss of late.
SCALE, TEMPER, STEPS, LOSS = range(4)
LOW, HIGH, VALUES = 3, 4, 5  # rows of `moments` after weight, mean and squares: two values, and how many were seen
SWOLLEN = 1e9  # the weight of a row at which all counts are divided by it
FACTORS = 8  # of a product before its logarithm is taken
MOST = 0.7  # logarithm of the largest temper

Indices = NDArray[np.int32]


@outlined
def add_numbers(
    settings: Floats, columns: Floats, moments: Floats, scale: float, dense: Singles, i: int, scores: Floats
) -> None:
    """Add the logarithm of the density of each number of row i in each class.

    The variance of a class is drawn towards that of the stream by `shrink` rows, the share of a value likewise. Factors
    of a few columns are multiplied before their logarithm is taken.
    """
    shrink, most = settings[SHRINK] * scale, max(settings[SHRINK] * scale, scale)
    for k in range(len(scores)):
        squares, logs, product, held = 0.0, 0.0, 1.0, 0
        for j in range(dense.shape[1]):
            v = np.float64(dense[i, j])
            if not abs(v) <= LARGEST or not moments[2, j] > 0.0:
                continue
            n, mean = columns[k, 0, j], columns[k, 1, j]
            if moments[VALUES, j] == 2.0:
                high, low = moments[HIGH, j], moments[LOW, j]
                if v != low and v != high:
                    continue
                whole = (moments[1, j] - low) / (high - low)
                share = ((mean - low) / (high - low) * n + whole * most) / (n + most) if n > 0.0 else whole
                share = min(max(share, 1e-6), 1.0 - 1e-6)
                share = share if v == high else 1.0 - share
                product *= share * share
            else:
                spread = moments[2, j] / moments[0, j]
                variance = max((columns[k, 2, j] + shrink * spread) / (n + shrink), 1e-9 * spread)
                away = v - mean if n > 0.0 else v - moments[1, j]
                squares += min(away * away / variance, 1e4)
                product *= spread / variance
            held += 1
            if held == FACTORS:
                logs += math.log(product)
                product, held = 1.0, 0
        scores[k] += 0.5 * (logs + math.log(product) - squares)


@outlined
def joint(
    settings: Floats, counts: Floats, columns: Floats, moments: Floats, table: Singles, totals: Floats, state: Floats,
    dense: Singles, indices: Indices, values: Singles, i: int, low: int, high: int, scores: Floats,
) -> None:  # fmt: skip
    """Write the logarithms of the joint probabilities of row i, float64 (classes,), up to a constant."""
    classes, smoothing = len(scores), settings[SMOOTHING] * state[SCALE]
    for k in range(classes):
        scores[k] = math.log(counts[k] + state[SCALE] / classes)
    add_numbers(settings, columns, moments, state[SCALE], dense, i, scores)
    for e in range(low, high):
        v = value_of(values, e)
        if v > 0.0:
            for k in range(classes):
                part = np.float64(table[indices[e], k]) + smoothing
                scores[k] += v * math.log(part / (totals[k] + smoothing * max(totals[classes], 1.0)))


@inlined
def tempered(scores: Floats, state: Floats) -> None:
    """Multiply scores by the temper, below the highest."""
    highest = scores[0]
    for k in range(1, len(scores)):
        highest = max(highest, scores[k])
    temper = math.exp(state[TEMPER])
    for k in range(len(scores)):
        scores[k] = temper * (scores[k] - highest)


@inlined
def count_class_value(columns: Floats, k: int, j: int, v: float, weight: float) -> None:
    """Count a value in the moments of column j in class k."""
    columns[k, 0, j] += weight
    away = v - columns[k, 1, j]
    columns[k, 1, j] += away * weight / columns[k, 0, j]
    columns[k, 2, j] += weight * away * (v - columns[k, 1, j])


@outlined
def count_numbers(columns: Floats, moments: Floats, dense: Singles, i: int, y: int, weight: float) -> None:
    """Count the numbers of row i in its class and in the stream, and how many values each column had."""
    for j in range(dense.shape[1]):
        v = np.float64(dense[i, j])
        if not abs(v) <= LARGEST:
            continue
        if moments[VALUES, j] == 0.0:
            moments[LOW, j], moments[VALUES, j] = v, 1.0
        elif moments[VALUES, j] == 1.0 and v != moments[LOW, j]:
            moments[HIGH, j], moments[VALUES, j] = v, 2.0
        elif moments[VALUES, j] == 2.0 and v != moments[LOW, j] and v != moments[HIGH, j]:
            moments[VALUES, j] = 3.0
        if moments[0, j] > 0.0 and moments[2, j] > 0.0:
            far = HEAVIEST * math.sqrt(moments[2, j] / moments[0, j])
            v = min(max(v, moments[1, j] - far), moments[1, j] + far) if moments[VALUES, j] > 2.0 else v
        count_value(moments, j, v, weight)
        count_class_value(columns, y, j, v, weight)


@outlined
def rescale(counts: Floats, columns: Floats, moments: Floats, table: Singles, totals: Floats, state: Floats) -> None:
    """Divide all counts by the weight of the next row, which is 1 again."""
    factor = 1.0 / state[SCALE]
    state[SCALE] = 1.0
    for k in range(len(counts)):
        counts[k] *= factor
        totals[k] *= factor
        for j in range(columns.shape[2]):
            columns[k, 0, j] *= factor
            columns[k, 2, j] *= factor
    for j in range(moments.shape[1]):
        moments[0, j] *= factor
        moments[2, j] *= factor
    for index in range(table.shape[0]):
        for k in range(table.shape[1]):
            table[index, k] *= np.float32(factor)


@outlined
def count_entries(
    table: Singles, totals: Floats, indices: Indices, values: Singles, low: int, high: int, y: int, weight: float
) -> None:
    """Count hashed entries in class y; the last of `totals` is the number of entries that were ever seen."""
    for e in range(low, high):
        v = value_of(values, e)
        if not v > 0.0:
            continue
        fresh = True
        for k in range(table.shape[1]):
            fresh = fresh and table[indices[e], k] == 0.0
        if fresh:
            totals[len(totals) - 1] += 1.0
        table[indices[e], y] += np.float32(v * weight)
        totals[y] += v * weight


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        settings, hashed, counts, columns, moments, table, totals, state, dense, indptr, indices, values, out
    ):
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        banks, classes = counts.shape
        scores, proba = np.empty((banks, classes)), np.empty(classes)
        for i in range(len(indptr) - 1):
            for b in range(banks):
                joint(settings, counts[b], columns[b], moments[b], table[b], totals[b], state[b], dense, indices,
                      values, i, indptr[i], indptr[i + 1], scores[b])  # fmt: skip
                tempered(scores[b], state[b])
            average(scores, state, LOSS, proba)
            for k in range(classes):
                out[i, k] = proba[k]
        return 0

    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        settings, hashed, counts, columns, moments, table, totals, state, dense, indptr, indices, values, y, weight, out
    ):
        _ = sources
        banks, classes = counts.shape
        fault = first_fault(hashed, indptr, indices, values)
        if not fault:
            fault = mislabelled(y, classes)
        if fault:
            return fault
        scores, proba, logs = np.empty((banks, classes)), np.empty(classes), np.empty((banks, classes))
        for i in range(len(indptr) - 1):
            for b in range(banks):
                joint(settings, counts[b], columns[b], moments[b], table[b], totals[b], state[b], dense, indices,
                      values, i, indptr[i], indptr[i + 1], scores[b])  # fmt: skip
                tempered(scores[b], state[b])
                for k in range(classes):
                    logs[b, k] = scores[b, k]
            average(scores, state, LOSS, proba)
            for k in range(classes):
                out[i, k] = proba[k]
            if not usable(y[i], np.float64(weight[i])):
                continue
            k, row_weight = int(y[i]), min(np.float64(weight[i]), HEAVIEST)
            for b in range(banks):
                count_loss(state[b], LOSS, scores[b, k], row_weight)
                learn_temper(logs[b], k, row_weight, state[b], TEMPER, MOST)
                fading = settings[FADE] if b == banks - 1 else 0.0
                learn_row(fading, counts[b], columns[b], moments[b], table[b], totals[b], state[b], dense, indices,
                          values, i, indptr[i], indptr[i + 1], k, row_weight)  # fmt: skip
        return 0

    return predict, learn


@outlined
def learn_row(
    fading: float, counts: Floats, columns: Floats, moments: Floats, table: Singles, totals: Floats, state: Floats,
    dense: Singles, indices: Indices, values: Singles, i: int, low: int, high: int, y: int, weight: float,
) -> None:  # fmt: skip
    """Count row i of class y in one bank, whose next row weighs 1 / (1 - fading) more."""
    weight *= state[SCALE]
    counts[y] += weight
    count_numbers(columns, moments, dense, i, y, weight)
    count_entries(table, totals, indices, values, low, high, y, weight)
    state[SCALE] /= 1.0 - fading
    if state[SCALE] > SWOLLEN:
        rescale(counts, columns, moments, table, totals, state)
