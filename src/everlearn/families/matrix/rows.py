"""The row loops of matrix factorisation (Koren, Bell and Volinsky 2009), and of its losses for choices.

The score of a user and an item is the sum of their biases and the product of their vectors. Ratings are learned by
squared error, answers of two classes by log loss. Where rows are choices, each is compared with items that are drawn
from those known so far: one by one (BPR, Rendle et al. 2009), or all at once in a sampled softmax (Jean et al. 2015).
Users and items share a table, in which each has its row at the hash of its field and value. A row of a table takes
steps of AdaGrad whose sums fade, so that rates do not go to 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.families.factorization.rows import answer, logistic, slope_of
from everlearn.families.kernel_parts import first_fault, inlined, mislabelled, outlined
from everlearn.families.row_loops import HEAVIEST, usable
from everlearn.records import Floats, Ints, Singles

RATE, L2, SPREAD, SEED, NUMBERS, LOSS, NEGATIVES = range(7)  # settings, the first five as those of factorization
PLAIN, BPR, SOFTMAX = range(3)  # losses
WEIGHT, SQUARES = range(2)  # of a row of the table: bias and factors, and fading sums of squares of their gradients
KEPT = 0.999  # of these sums at each step
EPSILON = 1e-6
DRAWS = 1 << 20  # keys of random numbers that a row of the stream has

Indices = NDArray[np.int32]


@inlined
def product(row: Singles, other: Singles) -> float:
    """Return the score of a user and an item, given by their rows of the table."""
    total = np.float64(row[WEIGHT, 0]) + np.float64(other[WEIGHT, 0])
    for f in range(1, row.shape[1]):
        total += np.float64(row[WEIGHT, f]) * np.float64(other[WEIGHT, f])
    return float(total)


@outlined
def begin(row: Singles, settings: Floats, key: Any) -> None:
    """Draw the factors of a user or an item that was never learned."""
    if row[SQUARES, 0] > 0.0:
        return
    row[SQUARES, 0] = EPSILON
    for f in range(1, row.shape[1]):
        drawn = uniform(int(settings[SEED]), key, f)
        row[WEIGHT, f] = np.float32(settings[SPREAD] * (drawn - 0.5) * math.sqrt(12.0))


@inlined
def step(row: Singles, f: int, slope: float, settings: Floats) -> None:
    """Take a step on one number of a row."""
    slope += settings[L2] * np.float64(row[WEIGHT, f])
    slope = min(max(slope, -HEAVIEST), HEAVIEST)
    squares = KEPT * np.float64(row[SQUARES, f]) + slope * slope
    row[SQUARES, f] = np.float32(max(squares, EPSILON))
    row[WEIGHT, f] -= np.float32(settings[RATE] * slope / math.sqrt(squares + 1.0))


@outlined
def learn_item(settings: Floats, user: Singles, item: Singles, slope: float, back: Floats) -> None:
    """Learn an item with the slope of the loss at its score; add what the user learns to `back` (factors + 1,)."""
    back[0] += slope
    step(item, 0, slope, settings)
    for f in range(1, item.shape[1]):
        back[f] += slope * np.float64(item[WEIGHT, f])
        step(item, f, slope * np.float64(user[WEIGHT, f]), settings)


@inlined
def learn_user(settings: Floats, user: Singles, back: Floats) -> None:
    """Learn a user from the sums of all its items in a row."""
    for f in range(user.shape[1]):
        step(user, f, back[f], settings)
        back[f] = 0.0


@outlined
def draw_items(settings: Floats, table: Singles, user: int, item: int, items: Indices, clock: Ints, drawn: Ints,
               scores: Floats) -> int:  # fmt: skip
    """Draw negatives evenly from the known items other than `item`, with their scores; return how many there are."""
    count, known = 0, clock[1]
    for draw in range(len(drawn)):
        place = int(uniform(int(settings[SEED]) + 1, clock[0] * DRAWS + draw, 0) * known)
        other = items[place]
        if other != item:
            drawn[count] = other
            scores[count] = product(table[user], table[other])
            count += 1
    return count


@outlined
def learn_choice(
    settings: Floats, table: Singles, user: Any, item: Any, items: Indices, clock: Ints, weight: float, drawn: Ints,
    scores: Floats, back: Floats,
) -> None:  # fmt: skip
    """Learn that a user chose an item, against items that are drawn."""
    right = product(table[user], table[item])
    count = draw_items(settings, table, user, item, items, clock, drawn, scores)
    if count == 0:
        return
    if settings[LOSS] == BPR:
        for n in range(count):
            slope = weight * logistic(scores[n] - right) / math.sqrt(count)
            learn_item(settings, table[user], table[drawn[n]], slope, back)
            learn_item(settings, table[user], table[item], -slope, back)
    else:
        highest = right
        for n in range(count):
            highest = max(highest, scores[n])
        total = math.exp(right - highest)
        for n in range(count):
            scores[n] = math.exp(scores[n] - highest)
            total += scores[n]
        learn_item(settings, table[user], table[item], weight * (math.exp(right - highest) / total - 1.0), back)
        for n in range(count):
            learn_item(settings, table[user], table[drawn[n]], weight * scores[n] / total, back)
    learn_user(settings, table[user], back)


@outlined
def note_item(item: Any, known: NDArray[np.bool_], items: Indices, clock: Ints) -> None:
    """Add an item that was chosen to the known ones."""
    if not known[item]:
        known[item] = True
        items[clock[1]] = item
        clock[1] += 1


@inlined
def score_of(table: Singles, indices: Indices, low: int, high: int) -> float:
    """Return the score of a row: of a user and an item, of the one that it has, or 0."""
    if high - low >= 2:
        return product(table[indices[low]], table[indices[low + 1]])
    return np.float64(table[indices[low], WEIGHT, 0]) if high > low else 0.0


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        settings, hashed, table, moments, known, items, clock, dense, indptr, indices, values, out
    ):
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        for i in range(len(indptr) - 1):
            answer(settings, moments, score_of(table, indices, indptr[i], indptr[i + 1]), out, i)
        return 0

    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        settings, hashed, table, moments, known, items, clock, dense, indptr, indices, values, y, weight, out
    ):
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if not fault and settings[NUMBERS] == 0.0:
            fault = mislabelled(y, 2)
        if fault:
            return fault
        negatives = int(settings[NEGATIVES])
        drawn, scores, back = np.empty(negatives, np.int64), np.empty(negatives), np.zeros(table.shape[2])
        for i in range(len(indptr) - 1):
            low, high = indptr[i], indptr[i + 1]
            found = score_of(table, indices, low, high)
            answer(settings, moments, found, out, i)
            if not usable(y[i], np.float64(weight[i])) or high - low < 2:
                continue
            row_weight = min(np.float64(weight[i]), HEAVIEST)
            user, item = np.int64(indices[low]), np.int64(indices[low + 1])
            begin(table[user], settings, user)
            begin(table[item], settings, item)
            chosen = settings[NUMBERS] != 0.0 or y[i] == 1.0
            if settings[LOSS] != PLAIN and chosen:
                learn_choice(settings, table, user, item, items, clock, row_weight, drawn, scores, back)
            else:
                slope = slope_of(settings, moments, found, y[i], row_weight)
                learn_item(settings, table[user], table[item], slope, back)
                learn_user(settings, table[user], back)
            if chosen:
                note_item(item, known, items, clock)
            clock[0] += 1
        return 0

    return predict, learn
