"""The row loops of online k-means (MacQueen 1967), with centres that forget.

The first rows are kept; centres are drawn among them by k-means++ (Arthur and Vassilvitskii 2007) and moved by ten
rounds of Lloyd's, eight times, and those with the least error stay. From then on each row moves its nearest centre
towards itself, by its share of the fading weight of the cluster. A centre that hardly any row comes to is moved to
split the cluster with the largest error. Distances are in running deviations; a missing number adds nothing. Hashed
entries are added, with signs, to a few further columns (Weinberger et al. 2009), which are not scaled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.families.kernel_parts import first_fault, inlined, outlined
from everlearn.families.row_loops import HEAVIEST, LARGEST, count_row, value_of
from everlearn.records import Floats, Ints, Singles

FADE, SEED = range(2)  # settings
ERROR, WEIGHT = range(2)  # state: fading sum of squared distances to the nearest centre, and of weights
HASHED_COLUMNS = 32
ROUNDS, DRAWS = 10, 8  # of Lloyd's, for each of the draws of first centres
IDLE = 0.05  # part of the mean weight of a cluster, below which its centre is moved
MOST_DISTANCE = 1e12  # squared distance of a row, at most

Indices = NDArray[np.int32]


@outlined
def read_row(
    dense: Singles, i: int, indices: Indices, values: Singles, low: int, high: int, moments: Floats, x: Floats
) -> None:
    """Write the columns of row i, NaN where missing; a number is at most ten running deviations from the mean."""
    columns = dense.shape[1]
    for j in range(columns):
        v = np.float64(dense[i, j])
        x[j] = v if abs(v) <= LARGEST else math.nan
        if moments[2, j] > 0.0:
            far = 10.0 * math.sqrt(moments[2, j] / moments[0, j])
            x[j] = min(max(x[j], moments[1, j] - far), moments[1, j] + far)
    for j in range(columns, len(x)):
        x[j] = 0.0
    for e in range(low, high):
        mixed = (np.int64(indices[e]) * 2654435761) >> 5
        x[columns + (mixed >> 1) % HASHED_COLUMNS] += value_of(values, e) * (1.0 if mixed & 1 else -1.0)


@inlined
def scales(moments: Floats, scale: Floats) -> None:
    """Write one over the variance of each column; 0 for a column that has none, 1 for one of hashed entries."""
    for j in range(len(scale)):
        scale[j] = 1.0
        if j < moments.shape[1]:
            scale[j] = moments[0, j] / moments[2, j] if moments[2, j] > 0.0 else 0.0


@inlined
def squared(x: Floats, centre: Floats, scale: Floats) -> float:
    """Return the squared distance of a row from a centre."""
    total = 0.0
    for j in range(len(x)):
        away = x[j] - centre[j]
        if abs(away) < math.inf:
            total += away * away * scale[j]
    return total


@outlined
def nearest(x: Floats, centres: Floats, scale: Floats, distance: Floats) -> int:
    """Write the squared distances of a row from all centres, and return the nearest."""
    best = 0
    for c in range(len(centres)):
        distance[c] = squared(x, centres[c], scale)
        if distance[c] < distance[best]:
            best = c
    return best


@inlined
def move(centre: Floats, x: Floats, share: float) -> None:
    """Move a centre towards a row."""
    for j in range(len(x)):
        away = x[j] - centre[j]
        if abs(away) < math.inf:
            centre[j] += share * away


@outlined
def place_centres(settings: Floats, draw: int, first: Floats, scale: Floats, centres: Floats) -> None:
    """Draw centres among the first rows, each with a probability by its squared distance from those drawn before."""
    n, columns = first.shape
    least = np.full(n, math.inf)
    place = int(uniform(int(settings[SEED]), draw, 0) * n)
    for c in range(len(centres)):
        for j in range(columns):
            centres[c, j] = first[place, j] if abs(first[place, j]) < math.inf else 0.0
        total = 0.0
        for i in range(n):
            least[i] = min(least[i], squared(first[i], centres[c], scale))
            total += least[i]
        drawn = uniform(int(settings[SEED]), draw, c + 1) * total
        place = 0
        while place < n - 1 and drawn >= least[place]:
            drawn -= least[place]
            place += 1


@outlined
def settle(first: Floats, weights: Floats, scale: Floats, centres: Floats, counts: Floats) -> float:
    """Move centres by rounds of Lloyd's, and return the sum of weighted squared distances to the nearest."""
    n, k = len(first), len(centres)
    distance, owner, error = np.empty(k), np.zeros(n, np.int64), 0.0
    for _ in range(ROUNDS):
        for i in range(n):
            owner[i] = nearest(first[i], centres, scale, distance)
        for c in range(k):
            counts[c] = 0.0
        for i in range(n):
            c = owner[i]
            counts[c] += weights[i]
            move(centres[c], first[i], weights[i] / counts[c])
    for i in range(n):
        error += weights[i] * distance_of(first[i], centres, scale, distance)
    return error


@inlined
def distance_of(x: Floats, centres: Floats, scale: Floats, distance: Floats) -> float:
    """Return the squared distance of a row to the nearest centre."""
    best = nearest(x, centres, scale, distance)
    return float(distance[best])


@outlined
def begin(
    settings: Floats, first: Floats, weights: Floats, moments: Floats, centres: Floats, counts: Floats, errors: Floats,
    state: Floats,
) -> None:  # fmt: skip
    """Place the centres by the first rows: of several draws, that with the least error."""
    scale, tried, sizes = np.empty(first.shape[1]), np.empty(centres.shape), np.empty(len(counts))
    scales(moments, scale)
    state[ERROR], state[WEIGHT] = math.inf, 0.0
    for draw in range(DRAWS):
        place_centres(settings, draw, first, scale, tried)
        error = settle(first, weights, scale, tried, sizes)
        if error < state[ERROR]:
            state[ERROR] = error
            for c in range(len(centres)):
                counts[c] = sizes[c]
                for j in range(centres.shape[1]):
                    centres[c, j] = tried[c, j]
    for i in range(len(first)):
        state[WEIGHT] += weights[i]
    for c in range(len(counts)):
        errors[c] = counts[c] * state[ERROR] / state[WEIGHT]


@outlined
def follow(
    settings: Floats, x: Floats, weight: float, distance: Floats, best: int, centres: Floats, counts: Floats,
    errors: Floats, state: Floats,
) -> None:  # fmt: skip
    """Move the nearest centre towards a row, or split its cluster if that is the worst and another centre is idle."""
    kept, total, idle, worst = 1.0 - settings[FADE], 0.0, 0, 0
    for c in range(len(counts)):
        counts[c] *= kept
        errors[c] *= kept
        total += counts[c]
        if counts[c] < counts[idle]:
            idle = c
        if errors[c] > errors[worst]:
            worst = c
    away = min(distance[best], MOST_DISTANCE)
    state[ERROR] = kept * state[ERROR] + weight * away
    state[WEIGHT] = kept * state[WEIGHT] + weight
    far = away * counts[best] > errors[best]  # farther than the mean of its cluster
    if best == worst and best != idle and far and counts[idle] < IDLE * total / len(counts):
        counts[best], errors[best] = 0.5 * counts[best], 0.5 * errors[best]
        counts[idle], errors[idle] = counts[best], errors[best]
        for j in range(len(x)):
            centres[idle, j] = x[j] if abs(x[j]) < math.inf else centres[best, j]
        return
    counts[best] += weight
    errors[best] += weight * away
    move(centres[best], x, weight / counts[best])


@inlined
def shares(distance: Floats, state: Floats, columns: int, ready: bool, out: Singles, i: int) -> None:
    """Write the share of each cluster: that of a mixture of normal densities of one width, the mean distance."""
    k = len(distance)
    if not ready:
        for c in range(k):
            out[i, c] = 1.0 / k
        return
    width = max(state[ERROR] / max(state[WEIGHT], 1e-12) / max(columns, 1), 1e-9)
    least, total = distance[0], 0.0
    for c in range(1, k):
        least = min(least, distance[c])
    for c in range(k):
        total += math.exp(max(0.5 * (least - distance[c]) / width, -700.0))
    for c in range(k):
        out[i, c] = math.exp(max(0.5 * (least - distance[c]) / width, -700.0)) / total


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        settings,
        hashed,
        centres,
        counts,
        errors,
        moments,
        first,
        weights,
        state,
        clock,
        dense,
        indptr,
        indices,
        values,
        out,
    ):
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        x, scale, distance = np.empty(centres.shape[1]), np.empty(centres.shape[1]), np.empty(len(centres))
        scales(moments, scale)
        for i in range(len(indptr) - 1):
            read_row(dense, i, indices, values, indptr[i], indptr[i + 1], moments, x)
            nearest(x, centres, scale, distance)
            shares(distance, state, len(x), clock[0] >= len(first), out, i)
        return 0

    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        settings, hashed, centres, counts, errors, moments, first, weights, state, clock, dense, indptr, indices,
        values, y, weight, out,
    ):  # fmt: skip
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        x, scale, distance = np.empty(centres.shape[1]), np.empty(centres.shape[1]), np.empty(len(centres))
        for i in range(len(indptr) - 1):
            scales(moments, scale)
            read_row(dense, i, indices, values, indptr[i], indptr[i + 1], moments, x)
            best = nearest(x, centres, scale, distance)
            shares(distance, state, len(x), clock[0] >= len(first), out, i)
            row_weight = min(np.float64(weight[i]), HEAVIEST)
            if 0.0 < weight[i] < math.inf:
                count_row(dense, i, moments, row_weight)
                learn_row(settings, x, row_weight, distance, best, centres, counts, errors, moments, first, weights,
                          state, clock)  # fmt: skip
        return 0

    return predict, learn


@outlined
def learn_row(
    settings: Floats, x: Floats, weight: Any, distance: Floats, best: int, centres: Floats, counts: Floats,
    errors: Floats, moments: Floats, first: Floats, weights: Floats, state: Floats, clock: Ints,
) -> None:  # fmt: skip
    """Learn a row; keep it instead, if it is one of the first, and place the centres after the last of these.

    What a kept row lacks is 0, since arrays stay finite.
    """
    at, n = clock[0], len(first)
    clock[0] += 1
    if at >= n:
        follow(settings, x, weight, distance, best, centres, counts, errors, state)
        return
    for j in range(len(x)):
        first[at, j] = x[j] if abs(x[j]) < math.inf else 0.0
    weights[at] = weight
    if at == n - 1:
        begin(settings, first, weights, moments, centres, counts, errors, state)
        for i in range(n):
            for j in range(len(x)):
                first[i, j] = 0.0
