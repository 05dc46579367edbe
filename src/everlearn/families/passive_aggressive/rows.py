"""The row loops of passive-aggressive models (Crammer et al. 2006, "Online passive-aggressive algorithms").

The weights move as little as they can for the row to have its margin: by step x row, where the step is loss / length
("PA"), at most the aggressiveness C ("PA-I"), or loss / (length + 1 / (2 C)) ("PA-II"); length is the squared length of
the row. With more than two classes the right class and the highest wrong one move apart, and the length counts twice.
There is a model for each C, and the answer is their average, weighted by the likelihood of the last labels.
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
    LOSS_KEPT,
    average,
    count_loss,
    count_row,
    count_value,
    learn_temper,
    standard,
    usable,
    value_of,
)
from everlearn.records import Floats, Singles

VARIANT, EPSILON, NUMBERS, AGGRESSIVENESS = range(4)  # settings; the last is that of the first model, others follow
TEMPER, STEPS, LOSS = range(3)  # state of a model: logarithm of the temper, squares of its gradients, loss of late
FURTHEST = 10.0  # running deviations that an input has at most
MOST = 3.0  # logarithm of the largest temper

Indices = NDArray[np.int32]


@outlined
def read_row(dense: Singles, i: int, moments: Floats, x: Floats) -> None:
    """Write the standardised numbers of row i, and 1, to x float64 (dense + 1,)."""
    for j in range(dense.shape[1]):
        x[j] = standard(moments, j, np.float64(dense[i, j]), FURTHEST)
    x[dense.shape[1]] = 1.0


@outlined
def margins_of(
    weights: Floats, table: Singles, x: Floats, indices: Indices, values: Singles, low: int, high: int, margins: Floats
) -> None:
    """Write the margins of a row, float64 (margins,)."""
    for k in range(len(margins)):
        total = 0.0
        for j in range(len(x)):
            total += weights[k, j] * x[j]
        for e in range(low, high):
            total += np.float64(table[indices[e], k]) * value_of(values, e)
        margins[k] = total


@outlined
def move(
    weights: Floats, table: Singles, k: int, step: float, x: Floats, indices: Indices, values: Singles, low: int,
    high: int,
) -> None:  # fmt: skip
    """Add step x row to the weights of margin k."""
    for j in range(len(x)):
        weights[k, j] += step * x[j]
    for e in range(low, high):
        table[indices[e], k] += np.float32(step * value_of(values, e))


@inlined
def step_of(settings: Floats, b: int, loss: float, length: float, weight: float) -> float:
    """Return the step of model b for a loss; the weight of the row multiplies the aggressiveness."""
    c: float = settings[AGGRESSIVENESS + b] * weight
    if settings[VARIANT] == 0.0:
        return min(weight, 1.0) * loss / length
    if settings[VARIANT] == 1.0:
        return min(c, loss / length)
    return loss / (length + 0.5 / c)


@inlined
def length_of(x: Floats, values: Singles, low: int, high: int) -> float:
    """Return the squared length of a row."""
    total = 0.0
    for j in range(len(x)):
        total += x[j] * x[j]
    for e in range(low, high):
        total += value_of(values, e) * value_of(values, e)
    return total


@inlined
def scale_of(moments: Floats) -> float:
    """Return the deviation of the numbers to predict, in the last column of the moments; 1 before two differ."""
    at = moments.shape[1] - 1
    return math.sqrt(moments[2, at] / moments[0, at]) if moments[2, at] > 0.0 else 1.0


@inlined
def scores_of(margins: Floats, state: Floats, scores: Floats) -> None:
    """Write tempered scores, float64 (classes,), the highest of which is 0."""
    temper = math.exp(state[TEMPER])
    if len(margins) == 1:
        scores[0], scores[1] = min(-temper * margins[0], 0.0), min(temper * margins[0], 0.0)
        return
    highest = margins[0]
    for k in range(1, len(margins)):
        highest = max(highest, margins[k])
    for k in range(len(margins)):
        scores[k] = temper * (margins[k] - highest)


@outlined
def correct_class(
    settings: Floats, b: int, weights: Floats, table: Singles, x: Floats, indices: Indices, values: Singles, low: int,
    high: int, margins: Floats, y: int, weight: float,
) -> None:  # fmt: skip
    """Learn one labelled row of classes."""
    length = length_of(x, values, low, high)
    if len(margins) == 1:
        sign = 1.0 if y == 1 else -1.0
        loss = 1.0 - sign * margins[0]
        if loss > 0.0:
            move(weights, table, 0, sign * step_of(settings, b, loss, length, weight), x, indices, values, low, high)
        return
    other = 1 if y == 0 else 0
    for k in range(len(margins)):
        if k != y and margins[k] > margins[other]:
            other = k
    loss = 1.0 - margins[y] + margins[other]
    if loss > 0.0:
        step = step_of(settings, b, loss, 2.0 * length, weight)
        move(weights, table, y, step, x, indices, values, low, high)
        move(weights, table, other, -step, x, indices, values, low, high)


@outlined
def correct_number(
    settings: Floats, b: int, weights: Floats, table: Singles, x: Floats, indices: Indices, values: Singles, low: int,
    high: int, away: float, weight: float,
) -> None:  # fmt: skip
    """Learn one labelled row of a regression that is `away` deviations above the margin."""
    loss = abs(away) - settings[EPSILON]
    if loss > 0.0:
        step = step_of(settings, b, loss, length_of(x, values, low, high), weight)
        move(weights, table, 0, math.copysign(step, away), x, indices, values, low, high)


@outlined
def learn_classes(
    settings: Floats, weights: Floats, table: Singles, state: Floats, x: Floats, indices: Indices, values: Singles,
    low: int, high: int, margins: Floats, scores: Floats, logs: Floats, y: int, weight: float,
) -> None:  # fmt: skip
    """Learn a row of class y in each model; `scores` are its probabilities, and `logs` its tempered scores."""
    for b in range(len(state)):
        count_loss(state[b], LOSS, scores[b, y], weight)
        learn_temper(logs[b], y, weight, state[b], TEMPER, MOST)
        correct_class(settings, b, weights[b], table[b], x, indices, values, low, high, margins[b], y, weight)


@outlined
def learn_number(
    settings: Floats, weights: Floats, table: Singles, state: Floats, moments: Floats, x: Floats, indices: Indices,
    values: Singles, low: int, high: int, margins: Floats, y: float, weight: float,
) -> None:  # fmt: skip
    """Learn a number in each model, in deviations of the numbers to predict from their mean."""
    at = moments.shape[1] - 1
    count_value(moments, at, min(max(y, -LARGEST), LARGEST), weight)
    goal = min(max((y - moments[1, at]) / scale_of(moments), -HEAVIEST), HEAVIEST)
    for b in range(len(state)):
        away = goal - margins[b, 0]
        state[b, LOSS] = LOSS_KEPT * state[b, LOSS] + min(weight, 1.0) * min(abs(away), FURTHEST)
        correct_number(settings, b, weights[b], table[b], x, indices, values, low, high, away, weight)


@outlined
def answer(
    settings: Floats, margins: Floats, moments: Floats, state: Floats, scores: Floats, logs: Floats, proba: Floats,
    out: Singles, i: int,
) -> None:  # fmt: skip
    """Write the answer for row i: the average of the softmax of tempered scores, or of the numbers."""
    models = len(margins)
    if settings[NUMBERS] != 0.0:
        least, total, number = state[0, LOSS], 0.0, 0.0
        for b in range(1, models):
            least = min(least, state[b, LOSS])
        for b in range(models):
            share = math.exp(least - state[b, LOSS])
            total += share
            number += share * margins[b, 0]
        number = moments[1, moments.shape[1] - 1] + number / total * scale_of(moments)
        out[i, 0] = np.float32(min(max(number, -3e38), 3e38))
        return
    for b in range(models):
        scores_of(margins[b], state[b], scores[b])
        for k in range(len(proba)):
            logs[b, k] = scores[b, k]
    average(scores, state, LOSS, proba)
    for k in range(len(proba)):
        out[i, k] = proba[k]


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(settings, hashed, weights, table, moments, state, dense, indptr, indices, values, out):  # type: ignore[no-untyped-def]
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        models, classes = len(state), out.shape[1]
        x, margins, proba = np.empty(dense.shape[1] + 1), np.empty(weights.shape[:2]), np.empty(classes)
        scores, logs = np.empty((models, classes)), np.empty((models, classes))
        for i in range(len(indptr) - 1):
            read_row(dense, i, moments, x)
            for b in range(models):
                margins_of(weights[b], table[b], x, indices, values, indptr[i], indptr[i + 1], margins[b])
            answer(settings, margins, moments, state, scores, logs, proba, out, i)
        return 0

    @exact_kernel
    def learn(settings, hashed, weights, table, moments, state, dense, indptr, indices, values, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if not fault and settings[NUMBERS] == 0.0:
            fault = mislabelled(y, out.shape[1])
        if fault:
            return fault
        models, classes = len(state), out.shape[1]
        x, margins, proba = np.empty(dense.shape[1] + 1), np.empty(weights.shape[:2]), np.empty(classes)
        scores, logs = np.empty((models, classes)), np.empty((models, classes))
        for i in range(len(indptr) - 1):
            low, high = indptr[i], indptr[i + 1]
            read_row(dense, i, moments, x)
            for b in range(models):
                margins_of(weights[b], table[b], x, indices, values, low, high, margins[b])
            answer(settings, margins, moments, state, scores, logs, proba, out, i)
            if not usable(y[i], np.float64(weight[i])):
                continue
            row_weight = min(np.float64(weight[i]), HEAVIEST)
            count_row(dense, i, moments, row_weight)
            if settings[NUMBERS] != 0.0:
                learn_number(settings, weights, table, state, moments, x, indices, values, low, high, margins, y[i],
                             row_weight)  # fmt: skip
            else:
                learn_classes(settings, weights, table, state, x, indices, values, low, high, margins, scores, logs,
                              int(y[i]), row_weight)  # fmt: skip
        return 0

    return predict, learn
