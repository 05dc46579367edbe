"""The row loops of factorization machines (Rendle 2010), learned by AdaGrad (Duchi, Hazan and Singer 2011).

An answer is the intercept, the weight of each input times its value, and for each pair of inputs the product of their
values and of their vectors of factors. The inputs are standardised numbers and hashed entries. The factors of an input
are 0 until it is first learned, and then begin at small random numbers, which depend on the seed and the input alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.families.kernel_parts import first_fault, inlined, mislabelled, outlined
from everlearn.families.row_loops import HEAVIEST, LARGEST, count_row, count_value, standard, usable, value_of
from everlearn.records import Floats, Singles

RATE, L2, SPREAD, SEED, NUMBERS = range(5)  # settings
WEIGHT, SQUARES = range(2)  # rows of an input: weight and factors, and the sums of squares of their gradients
FURTHEST = 5.0  # running deviations that an input has at most
STEEPEST = 10.0  # the error of a number in deviations, at most
EPSILON = 1e-6

Indices = NDArray[np.int32]


@outlined
def begin(row: Singles, settings: Floats, key: Any) -> None:
    """Draw the factors of an input that was never learned."""
    if row[SQUARES, 0] > 0.0:
        return
    row[SQUARES, 0] = EPSILON
    for f in range(1, row.shape[1]):
        drawn = uniform(int(settings[SEED]), key, f)
        row[WEIGHT, f] = np.float32(settings[SPREAD] * (drawn - 0.5) * math.sqrt(12.0))


@inlined
def add_input(row: Singles, x: float, sums: Floats) -> None:
    """Add an input to the sums float64 (2, factors + 1): weights and factors times x, and factors squared."""
    for f in range(row.shape[1]):
        part = np.float64(row[WEIGHT, f]) * x
        sums[0, f] += part
        sums[1, f] += part * part


@outlined
def score(
    dense_table: Singles, table: Singles, x: Floats, indices: Indices, values: Singles, low: int, high: int,
    sums: Floats,
) -> float:  # fmt: skip
    """Return the score of a row, and write its sums."""
    for f in range(sums.shape[1]):
        sums[0, f] = 0.0
        sums[1, f] = 0.0
    for j in range(len(x)):
        if x[j] != 0.0:
            add_input(dense_table[j], x[j], sums)
    for e in range(low, high):
        add_input(table[indices[e]], value_of(values, e), sums)
    total = sums[0, 0] + np.float64(dense_table[len(x), WEIGHT, 0])
    for f in range(1, sums.shape[1]):
        total += 0.5 * (sums[0, f] * sums[0, f] - sums[1, f])
    return float(total)


@inlined
def step(row: Singles, f: int, slope: float, settings: Floats) -> None:
    """Take a step of AdaGrad on one number of an input."""
    slope += settings[L2] * np.float64(row[WEIGHT, f])
    slope = min(max(slope, -HEAVIEST), HEAVIEST)
    row[SQUARES, f] += np.float32(slope * slope)
    rate = settings[RATE] / math.sqrt(np.float64(row[SQUARES, f]) + 1.0)
    row[WEIGHT, f] -= np.float32(rate * slope)


@inlined
def learn_input(row: Singles, x: float, slope: float, sums: Floats, settings: Floats) -> None:
    """Learn one input of a row with the slope of the loss at its score."""
    step(row, 0, slope * x, settings)
    for f in range(1, row.shape[1]):
        step(row, f, slope * x * (sums[0, f] - np.float64(row[WEIGHT, f]) * x), settings)


@outlined
def learn_row(
    settings: Floats, dense_table: Singles, table: Singles, x: Floats, indices: Indices, values: Singles, low: int,
    high: int, slope: float, sums: Floats,
) -> None:  # fmt: skip
    """Learn a row with the slope of the loss at its score, weight included."""
    for j in range(len(x)):
        if x[j] != 0.0:
            begin(dense_table[j], settings, np.int64(-1 - j))
    for e in range(low, high):
        begin(table[indices[e]], settings, np.int64(indices[e]))
    score(dense_table, table, x, indices, values, low, high, sums)
    step(dense_table[len(x)], 0, slope, settings)
    for j in range(len(x)):
        if x[j] != 0.0:
            learn_input(dense_table[j], x[j], slope, sums, settings)
    for e in range(low, high):
        learn_input(table[indices[e]], value_of(values, e), slope, sums, settings)


@inlined
def target_scale(moments: Floats) -> tuple[float, float]:
    """Return mean and deviation of the numbers to predict, in the last column of the moments."""
    at = moments.shape[1] - 1
    spread = math.sqrt(moments[2, at] / moments[0, at]) if moments[2, at] > 0.0 else 1.0
    return moments[1, at], spread


@inlined
def logistic(score: float) -> float:
    """Return the probability of a score, which is cut to -30 to 30."""
    return 1.0 / (1.0 + math.exp(-min(max(score, -30.0), 30.0)))


@outlined
def answer(settings: Floats, moments: Floats, found: float, out: Singles, i: int) -> None:
    """Write the answer for row i with the score `found`: two probabilities, or the number."""
    if settings[NUMBERS] != 0.0:
        mean, spread = target_scale(moments)
        out[i, 0] = np.float32(min(max(mean + spread * found, -3e38), 3e38))
        return
    p = logistic(found)
    out[i, 0], out[i, 1] = 1.0 - p, p


@outlined
def slope_of(settings: Floats, moments: Floats, found: float, y: float, weight: float) -> float:
    """Return weight x the slope of the loss at a score; a number to predict is counted in the moments first."""
    if settings[NUMBERS] == 0.0:
        return weight * (logistic(found) - y)
    count_value(moments, moments.shape[1] - 1, min(max(y, -LARGEST), LARGEST), weight)
    mean, spread = target_scale(moments)
    return weight * min(max(found - (y - mean) / spread, -STEEPEST), STEEPEST)


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(settings, hashed, dense_table, table, moments, dense, indptr, indices, values, out):  # type: ignore[no-untyped-def]
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        x, sums = np.empty(dense.shape[1]), np.empty((2, table.shape[2]))
        for i in range(len(indptr) - 1):
            for j in range(len(x)):
                x[j] = standard(moments, j, np.float64(dense[i, j]), FURTHEST)
            found = score(dense_table, table, x, indices, values, indptr[i], indptr[i + 1], sums)
            answer(settings, moments, found, out, i)
        return 0

    @exact_kernel
    def learn(settings, hashed, dense_table, table, moments, dense, indptr, indices, values, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if not fault and settings[NUMBERS] == 0.0:
            fault = mislabelled(y, 2)
        if fault:
            return fault
        x, sums = np.empty(dense.shape[1]), np.empty((2, table.shape[2]))
        for i in range(len(indptr) - 1):
            low, high = indptr[i], indptr[i + 1]
            for j in range(len(x)):
                x[j] = standard(moments, j, np.float64(dense[i, j]), FURTHEST)
            found = score(dense_table, table, x, indices, values, low, high, sums)
            answer(settings, moments, found, out, i)
            if not usable(y[i], np.float64(weight[i])):
                continue
            row_weight = min(np.float64(weight[i]), HEAVIEST)
            slope = slope_of(settings, moments, found, y[i], row_weight)
            learn_row(settings, dense_table, table, x, indices, values, low, high, slope, sums)
            count_row(dense, i, moments, row_weight)
        return 0

    return predict, learn
