"""The reward model: what each action is expected to earn in a row, and what a row and its reward teach.

The reward of action a, scaled to [0, 1], is a linear function of the standardised columns and the hashed entries, with
weights for each action. Where actions have features, a linear function of these is added, with weights that all actions
share; it has an intercept, so that an action that was never served begins at what actions earn on average. Each block
of weights has a covariance, in units of the noise: a matrix for each action where there are few columns, its diagonal
elsewhere. One row is one step of a Kalman filter with a block-diagonal covariance. For full blocks this is recursive
least squares; for diagonals, AROW (Crammer, Kulesza & Dredze 2009, "Adaptive regularization of weight vectors") for
numbers.

A covariance forgets only in the direction of the row that is learned (Kulhavy 1987, "Restricted exponential forgetting
in real-time identification"): with z the variance of the row's score, the covariance P loses
(f - (1 - f) / z) / (f (1 + z)) of Px x'P. So the information along x fades by the factor f, and directions that no row
excites are left as they are. The covariance of an action that is not served grows with the rows that others get, up to
its first size, so that an action that has become better is found again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, outlined
from everlearn.records import Floats, Singles

Cube = NDArray[np.float64]
Table = NDArray[np.float32]
Entries = NDArray[np.int32]

# Positions in the array of settings that kernels take.
FORGET, FORGET_DIAGONAL, LARGEST, HEAVIEST, PRIOR, EXPLORE, LEARN, EPSILON = range(8)
DECAY, GAMMA, GAMMA_POWER, ALPHA, LOW, HIGH, FLOOR, HORIZON = range(8, 16)
MTR, IPS, DR = range(3)

# Positions in the array `counts`.
ROWS, RESIDUAL, RESIDUAL_WEIGHT, LAST = range(4)  # from LAST: the count of rows when each action was last learned

SCORES, DIRECT = range(2)  # the first axis of weights: what the policy compares, and the direct model of "dr"

SETTLED_AFTER = 100.0  # values counted before mean and deviation bound the next value
LARGEST_VALUE = 100.0  # deviations that a value counts as at most
LARGEST_DEVIATION = 4.0  # standardised values are cut here
MOST_STALE = 10.0  # horizons that an action counts as stale at most
FRESH = 1.1  # growth of a covariance that is not worth the work
LEAST_VARIANCE = 1e-9  # of a weight with a diagonal covariance


class State(NamedTuple):
    """The arrays of a model, as kernels take them; see `everlearn.families.bandit.model.Bandit`."""

    weights: Cube
    covariance: NDArray[np.float64]
    table: Table
    shared: Floats
    shared_covariance: Cube
    moments: Floats
    counts: Floats


class Work(NamedTuple):
    """What kernels write about one row on the way."""

    x: Floats
    features: Floats
    shared: Floats
    gain: Floats
    shared_gain: Floats
    values: Floats
    deviations: Floats
    available: NDArray[np.bool_]
    p: Floats


@inlined
def workspace(state: State) -> Work:
    """Return room for one row."""
    actions, columns = state.weights.shape[1], state.weights.shape[2]
    m, wide = state.moments.shape[1] - columns + 1, state.shared.shape[1]
    return Work(
        np.zeros(columns),
        np.zeros((actions, m)),
        np.zeros(wide),
        np.zeros(columns),
        np.zeros(wide),
        np.zeros(actions),
        np.zeros(actions),
        np.zeros(actions, np.bool_),
        np.zeros(actions),
    )


@inlined
def standardize(v: float, moments: Floats, j: int) -> float:
    """Return a value in running deviations from the mean, as if it were counted already; 0 for a missing one."""
    if not abs(v) < math.inf:
        return 0.0
    n = moments[0, j] + 1.0
    delta = v - moments[1, j]
    mean = moments[1, j] + delta / n
    m2 = moments[2, j] + delta * (v - mean)
    z = (v - mean) * math.sqrt(n / m2) if m2 > 0.0 else 0.0
    return min(max(z, -LARGEST_DEVIATION), LARGEST_DEVIATION)


@inlined
def count_value(v: float, moments: Floats, j: int) -> None:
    """Add a value to the moments of its column (Welford 1962), within `LARGEST_VALUE` deviations of the mean."""
    if not abs(v) < math.inf:
        return
    n, delta = moments[0, j], v - moments[1, j]
    if n >= SETTLED_AFTER and moments[2, j] > 1e-12 * n * moments[1, j] * moments[1, j]:
        most = LARGEST_VALUE * math.sqrt(moments[2, j] / n)
        delta = min(max(delta, -most), most)
    moments[0, j] = n + 1.0
    moments[1, j] += delta / (n + 1.0)
    moments[2, j] += delta * delta * n / (n + 1.0)


@inlined
def encode(dense: Singles, i: int, columns: int, actions: int, moments: Floats, x: Floats, features: Floats) -> None:
    """Write the inputs of row i: `x` its standardised columns and 1, `features` (actions, m) those of the actions."""
    for j in range(columns):
        x[j] = standardize(np.float64(dense[i, j]), moments, j)
    x[columns] = 1.0
    m = features.shape[1]
    for a in range(actions):
        for j in range(m):
            v = np.float64(dense[i, columns + a * (1 + m) + 1 + j])
            features[a, j] = standardize(v, moments, columns + j)


@inlined
def offered(dense: Singles, i: int, columns: int, actions: int, m: int, available: NDArray[np.bool_]) -> int:
    """Write which actions are on offer in row i, and count them; without any, all of them are."""
    count = 0
    for a in range(actions):
        available[a] = dense[i, columns + a * (1 + m)] > 0.0
        count += available[a]
    if count == 0:
        available[:] = True
        return actions
    return count


@inlined
def served(dense: Singles, i: int, actions: int) -> int:
    """Return the index of the action that row i was served; -1 where it has none."""
    v = dense[i, dense.shape[1] - 2]
    if v >= 0.0 and v < actions and v == math.floor(v):
        return int(v)
    return -1


@inlined
def chance(dense: Singles, i: int) -> float:
    """Return the probability with which the action of row i was chosen; 0 where it is unknown."""
    p = np.float64(dense[i, dense.shape[1] - 1])
    return p if 0.0 < p <= 1.0 else 0.0


@inlined
def cross(features: Floats, a: int, x: Floats, shared: Floats) -> None:
    """Write the inputs with weights that actions share: 1, the action's features, their products with columns."""
    m = features.shape[1]
    if m == 0:
        return
    shared[0] = 1.0
    for j in range(m):
        shared[1 + j] = features[a, j]
    if len(shared) > 1 + m:
        at = 1 + m
        for j in range(m):
            for other in range(len(x) - 1):
                shared[at] = features[a, j] * x[other]
                at += 1


@inlined
def clean(v: np.float32) -> float:
    """Return a hashed value, 0 where it is not finite."""
    return np.float64(v) if abs(v) < math.inf else 0.0


@inlined
def dot(weights: Floats, x: Floats) -> float:
    """Sum weight times input, in four independent lanes."""
    a = b = c = d = 0.0
    whole = len(x) // 4 * 4
    for j in range(0, whole, 4):
        a += weights[j] * x[j]
        b += weights[j + 1] * x[j + 1]
        c += weights[j + 2] * x[j + 2]
        d += weights[j + 3] * x[j + 3]
    for j in range(whole, len(x)):
        a += weights[j] * x[j]
    return (a + b) + (c + d)


@inlined
def variance_along(covariance: Floats, x: Floats, gain: Floats) -> float:
    """Write P x to `gain` and return x'P x; `covariance` is (d, d), or its diagonal (1, d)."""
    d = len(x)
    if covariance.shape[0] == d:
        for j in range(d):
            gain[j] = 0.0
        for other in range(d):
            v = x[other]
            if v != 0.0:
                for j in range(d):
                    gain[j] += covariance[other, j] * v
    else:
        for j in range(d):
            gain[j] = covariance[0, j] * x[j]
    return dot(gain, x)


@inlined
def lost(forget: float, z: float, weight: float) -> float:
    """Return how often P x x'P is subtracted from a covariance (see the head of this file)."""
    found: float = weight * (forget - (1.0 - forget) / z) / (forget * (1.0 + z))
    return found


@inlined
def shrink(covariance: Floats, gain: Floats, whole: float, diagonal: float) -> None:
    """Subtract the outer product of `gain` from a covariance, `whole` times; `diagonal` times from one that is only a
    diagonal, which stays above 0."""
    d = len(gain)
    if covariance.shape[0] == d:
        for other in range(d):
            v = gain[other]
            if v != 0.0:
                for j in range(d):  # in this order both halves have the same bits; else rounding tears them apart
                    covariance[other, j] -= whole * (v * gain[j])
    else:
        for j in range(d):
            covariance[0, j] = max(covariance[0, j] - diagonal * gain[j] * gain[j], LEAST_VARIANCE)


@inlined
def score(state: State, g: int, a: int, work: Work, indices: Entries, values: Singles) -> float:
    """Return the scaled reward that model g expects of action a, whose shared inputs are in `work`."""
    found = dot(state.weights[g, a], work.x)
    if len(work.shared) > 0:
        found += dot(state.shared[g], work.shared)
    for e in range(len(indices)):
        found += np.float64(state.table[g, np.uint32(indices[e]), a, 0]) * clean(values[e])
    return found


@inlined
def spread(state: State, g: int, a: int, work: Work, indices: Entries, values: Singles) -> float:
    """Return the variance of the score of action a, in units of the noise; write the gains of the dense blocks."""
    found = variance_along(state.covariance[g, a], work.x, work.gain)
    if len(work.shared) > 0:
        found += variance_along(state.shared_covariance[g], work.shared, work.shared_gain)
    for e in range(len(indices)):
        v = clean(values[e])
        found += np.float64(state.table[g, np.uint32(indices[e]), a, 1]) * v * v
    return found


@inlined
def staleness(settings: Floats, counts: Floats, a: int) -> float:
    """Return the factor by which the covariance of an action has grown since it was last learned."""
    return math.exp(min((counts[ROWS] - counts[LAST + a]) / settings[HORIZON], MOST_STALE))


@inlined
def refresh(covariance: Floats, factor: float, prior: float) -> None:
    """Multiply a covariance by a factor, as far as its trace stays within that of the first one."""
    d = covariance.shape[1]
    full = covariance.shape[0] == d
    trace = 0.0
    for j in range(d):
        trace += covariance[j, j] if full else covariance[0, j]
    factor = min(factor, max(prior * d / trace, 1.0))
    for other in range(covariance.shape[0]):
        for j in range(d):
            covariance[other, j] *= factor


@outlined
def step(
    settings: Floats,
    state: State,
    g: int,
    a: int,
    work: Work,
    indices: Entries,
    values: Singles,
    target: float,
    weight: float,
) -> None:
    """Take one step of the filter of model g towards `target` for action a (see the head of this file)."""
    z = weight * spread(state, g, a, work, indices, values)
    if not (z > 0.0 and z < math.inf):
        reset(state.covariance[g, a], settings[PRIOR])  # rounding has spoilt it, after very many rows
        return
    move = weight * (target - score(state, g, a, work, indices, values)) / (1.0 + z)
    whole, diagonal = lost(settings[FORGET], z, weight), lost(settings[FORGET_DIAGONAL], z, weight)
    for j in range(len(work.x)):
        state.weights[g, a, j] += move * work.gain[j]
    shrink(state.covariance[g, a], work.gain, whole, diagonal)
    if len(work.shared) > 0:
        for j in range(len(work.shared)):
            state.shared[g, j] += move * work.shared_gain[j]
        shrink(state.shared_covariance[g], work.shared_gain, whole, diagonal)
    for e in range(len(indices)):
        entry, v = np.uint32(indices[e]), clean(values[e])
        gained = np.float64(state.table[g, entry, a, 1]) * v
        state.table[g, entry, a, 0] += move * gained
        left = state.table[g, entry, a, 1] - diagonal * gained * gained
        state.table[g, entry, a, 1] = max(left, LEAST_VARIANCE)


@inlined
def reset(covariance: Floats, prior: float) -> None:
    """Put a covariance back to its first value."""
    full = covariance.shape[0] == covariance.shape[1]
    for other in range(covariance.shape[0]):
        for j in range(covariance.shape[1]):
            covariance[other, j] = prior if other == j or not full else 0.0
