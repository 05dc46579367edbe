"""The row loops of nearest neighbours: distances to the rows of a window, votes of the closest, and the window.

The squared distance of two rows adds the squared differences of their numbers, in running deviations, and those of
their hashed entries. A missing number counts as the mean. The window holds columns, so that a distance is added to all
rows at once. Votes are counted for each number of neighbours, and the answer is their average, weighted by the
likelihood of the last labels.
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
    usable,
    value_of,
)
from everlearn.records import Floats, Ints, Singles

NUMBERS, NEAREST = range(2)  # settings; the last is the first number of neighbours, others follow
PRIOR = 0.3  # neighbours that the shares of all labels of the window count for
FURTHEST = 10.0  # running deviations from the mean that a number has at most
CLOSE = 0.02  # a neighbour's vote is 1 / (squared distance + this part of the furthest one's)

Indices = NDArray[np.int32]


@inlined
def slot(index: int, size: int) -> int:
    """Return the place of a hashed index in a table of `size` places, a power of two, before it is searched."""
    return ((index * 2654435761) >> 7) & (size - 1)


@outlined
def note_entries(
    indices: Indices, values: Singles, low: int, high: int, most: int, keys: Indices, amounts: Singles
) -> float:
    """Write the first `most` entries of a row to a hash table; return the sum of their squares."""
    size, total = len(keys), 0.0
    for s in range(size):
        keys[s] = -1
        amounts[s] = 0.0
    for e in range(low, min(high, low + most)):
        s = slot(indices[e], size)
        while keys[s] >= 0 and keys[s] != indices[e]:
            s = (s + 1) & (size - 1)
        keys[s] = indices[e]
        before = np.float64(amounts[s])
        amounts[s] += np.float32(value_of(values, e))
        total += np.float64(amounts[s]) ** 2 - before**2
    return total


@outlined
def add_entries(
    found: Indices, amounts: Singles, count: int, keys: Indices, held: Singles, squares: float, distance: Singles
) -> None:
    """Add the squared differences of hashed entries to the distances of the first `count` rows of the window."""
    size = len(keys)
    for w in range(count):
        total = squares
        for e in range(found.shape[1]):
            index = found[w, e]
            if index < 0:
                break
            amount = np.float64(amounts[w, e])
            s = slot(index, size)
            while keys[s] >= 0 and keys[s] != index:
                s = (s + 1) & (size - 1)
            total += amount * (amount - 2.0 * np.float64(held[s])) if keys[s] == index else amount * amount
        distance[w] += np.float32(max(total, 0.0))


@inlined
def add_column(column: Singles, count: int, v: np.float32, scale: np.float32, distance: Singles) -> None:
    """Add the squared differences of one number to the distances of the first `count` rows of the window."""
    for w in range(count):
        away = (column[w] - v) * scale
        distance[w] += away * away


@inlined
def number_of(moments: Floats, j: int, v: float) -> float:
    """Return a number as the window holds it: the mean where it is missing, and not far from the mean."""
    if not abs(v) <= LARGEST:
        v = moments[1, j]
    if moments[2, j] > 0.0:
        far = FURTHEST * math.sqrt(moments[2, j] / moments[0, j])
        v = min(max(v, moments[1, j] - far), moments[1, j] + far)
    return v


@outlined
def measure(
    window: Singles, entries: Indices, amounts: Singles, moments: Floats, count: int, dense: Singles, i: int,
    indices: Indices, values: Singles, low: int, high: int, keys: Indices, held: Singles, distance: Singles,
) -> None:  # fmt: skip
    """Write the squared distances of row i to the first `count` rows of the window."""
    for w in range(count):
        distance[w] = 0.0
    for j in range(dense.shape[1]):
        if moments[2, j] > 0.0:
            scale = math.sqrt(moments[0, j] / moments[2, j])
            v = number_of(moments, j, np.float64(dense[i, j]))
            add_column(window[j], count, np.float32(v), np.float32(scale), distance)
    if entries.shape[1]:
        squares = note_entries(indices, values, low, high, entries.shape[1], keys, held)
        add_entries(entries, amounts, count, keys, held, squares, distance)


@outlined
def nearest(distance: Singles, count: int, newest: int, places: Ints, away: Singles) -> int:
    """Write the places and squared distances of the nearest rows, nearest first, newer ones first among equals.

    Returns how many they are: len(places), or `count` if that is less.
    """
    most, found = len(places), 0
    for step in range(count):
        w = newest - step
        if w < 0:
            w += count
        d = distance[w]
        if found == most and not d < away[most - 1]:
            continue
        at = found if found < most else most - 1
        while at > 0 and d < away[at - 1]:
            away[at], places[at] = away[at - 1], places[at - 1]
            at -= 1
        away[at], places[at] = d, w
        found = min(found + 1, most)
    return found


@outlined
def vote(
    settings: Floats, b: int, found: int, places: Ints, away: Singles, labels: Floats, weights: Singles, votes: Floats
) -> float:
    """Write the votes of the nearest rows for each class, or the sum of their numbers; return the sum of all votes.

    A vote is the weight of its row over its squared distance. The votes of k neighbours of weight 1 add up to k.
    """
    k = min(int(settings[NEAREST + b]), found)
    for c in range(len(votes)):
        votes[c] = 0.0
    if k == 0:
        return 0.0
    nearness, total = 0.0, 0.0
    close = CLOSE * np.float64(away[k - 1]) + 1e-12
    for r in range(k):
        nearness += 1.0 / (np.float64(away[r]) + close)
    for r in range(k):
        part = k / (np.float64(away[r]) + close) / nearness * weights[places[r]]
        total += part
        if settings[NUMBERS] != 0.0:
            votes[0] += part * labels[places[r]]
        else:
            votes[int(labels[places[r]])] += part
    return total


@outlined
def answer(
    settings: Floats, found: int, places: Ints, away: Singles, labels: Floats, weights: Singles, sums: Floats,
    state: Floats, scores: Floats, proba: Floats, out: Singles, i: int,
) -> None:  # fmt: skip
    """Write the answer for row i, and those of each number of neighbours to `scores` float64 (numbers, classes)."""
    banks, classes = scores.shape
    whole = 0.0
    for c in range(len(sums)):
        whole += max(sums[c], 0.0)
    for b in range(banks):
        total = vote(settings, b, found, places, away, labels, weights, scores[b])
        if settings[NUMBERS] != 0.0:
            scores[b, 0] = scores[b, 0] / total if total > 0.0 else 0.0
            continue
        for c in range(classes):
            share = (max(sums[c], 0.0) + 1.0 / classes) / (whole + 1.0)
            scores[b, c] = math.log((scores[b, c] + PRIOR * share) / (total + PRIOR))
    if settings[NUMBERS] == 0.0:
        average(scores, state, 0, proba)
    else:
        least, total, proba[0] = state[0, 0], 0.0, 0.0
        for b in range(1, banks):
            least = min(least, state[b, 0])
        for b in range(banks):
            total += math.exp(least - state[b, 0])
            proba[0] += math.exp(least - state[b, 0]) * scores[b, 0]
        proba[0] = min(max(proba[0] / total, -3e38), 3e38)
    for c in range(classes):
        out[i, c] = proba[c]


@outlined
def store(
    window: Singles, entries: Indices, amounts: Singles, labels: Floats, weights: Singles, sums: Floats, clock: Ints,
    moments: Floats, dense: Singles, i: int, indices: Indices, values: Singles, low: int, high: int, y: float,
    weight: float,
) -> None:  # fmt: skip
    """Put row i in the place of the oldest one."""
    w = clock[0] % len(labels)
    if len(sums):
        if clock[0] >= len(labels):
            sums[int(labels[w])] -= np.float64(weights[w])
        sums[int(y)] += np.float64(np.float32(weight))
    for j in range(dense.shape[1]):
        window[j, w] = number_of(moments, j, np.float64(dense[i, j]))
    for e in range(entries.shape[1]):
        inside = low + e < high
        entries[w, e] = indices[low + e] if inside else -1
        amounts[w, e] = value_of(values, low + e) if inside else 0.0
    labels[w], weights[w] = y, weight
    clock[0] += 1


@inlined
def table_size(entries: int) -> int:
    """Return a power of two, at least four times the entries of a row."""
    size = 4
    while size < 4 * entries:
        size *= 2
    return size


@inlined
def most_neighbours(settings: Floats) -> int:
    """Return the largest number of neighbours."""
    most = 1
    for b in range(NEAREST, len(settings)):
        most = max(most, int(settings[b]))
    return most


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        settings, hashed, window, entries, amounts, labels, weights, sums, moments, state, clock, dense, indptr,
        indices, values, out,
    ):  # fmt: skip
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        places, away = np.empty(most_neighbours(settings), np.int64), np.empty(most_neighbours(settings), np.float32)
        distance, proba = np.empty(len(labels), np.float32), np.empty(out.shape[1])
        keys, held = (
            np.empty(table_size(entries.shape[1]), np.int32),
            np.empty(table_size(entries.shape[1]), np.float32),
        )
        scores, count = np.empty((len(state), out.shape[1])), min(clock[0], len(labels))
        for i in range(len(indptr) - 1):
            measure(window, entries, amounts, moments, count, dense, i, indices, values, indptr[i], indptr[i + 1],
                    keys, held, distance)  # fmt: skip
            found = nearest(distance, count, (clock[0] - 1) % len(labels), places, away)
            answer(settings, found, places, away, labels, weights, sums, state, scores, proba, out, i)
        return 0

    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        settings, hashed, window, entries, amounts, labels, weights, sums, moments, state, clock, dense, indptr,
        indices, values, y, weight, out,
    ):  # fmt: skip
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if not fault and settings[NUMBERS] == 0.0:
            fault = mislabelled(y, out.shape[1])
        if fault:
            return fault
        places, away = np.empty(most_neighbours(settings), np.int64), np.empty(most_neighbours(settings), np.float32)
        distance, proba = np.empty(len(labels), np.float32), np.empty(out.shape[1])
        keys, held = (
            np.empty(table_size(entries.shape[1]), np.int32),
            np.empty(table_size(entries.shape[1]), np.float32),
        )
        scores = np.empty((len(state), out.shape[1]))
        for i in range(len(indptr) - 1):
            low, high, count = indptr[i], indptr[i + 1], min(clock[0], len(labels))
            measure(window, entries, amounts, moments, count, dense, i, indices, values, low, high, keys, held,
                    distance)  # fmt: skip
            found = nearest(distance, count, (clock[0] - 1) % len(labels), places, away)
            answer(settings, found, places, away, labels, weights, sums, state, scores, proba, out, i)
            if not usable(y[i], np.float64(weight[i])):
                continue
            row_weight = min(np.float64(weight[i]), HEAVIEST)
            judge(settings, scores, y[i], row_weight, moments, state)
            count_row(dense, i, moments, row_weight)
            store(window, entries, amounts, labels, weights, sums, clock, moments, dense, i, indices, values, low, high,
                  min(max(y[i], -LARGEST), LARGEST), row_weight)  # fmt: skip
        return 0

    return predict, learn


@outlined
def judge(settings: Floats, scores: Floats, y: float, weight: float, moments: Floats, state: Floats) -> None:
    """Count the loss of each number of neighbours: the log loss, or the error in parts of the mean error."""
    if settings[NUMBERS] == 0.0:
        for b in range(len(state)):
            count_loss(state[b], 0, scores[b, int(y)], weight)
        return
    mean = 0.0
    for b in range(len(state)):
        mean += min(abs(scores[b, 0] - y), LARGEST) / len(state)
    for b in range(len(state)):
        error = min(abs(scores[b, 0] - y), LARGEST) / mean if mean > 0.0 else 1.0
        state[b, 0] = LOSS_KEPT * state[b, 0] + min(weight, 1.0) * error
