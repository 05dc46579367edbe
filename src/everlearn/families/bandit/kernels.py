"""The row loops of the family, compiled when first needed: predict, choose, learn, and play against known labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.families.bandit.explore import LIN_UCB, SQUARE_CB, THOMPSON, draw, probabilities
from everlearn.families.bandit.rows import (
    DIRECT,
    DR,
    EXPLORE,
    FRESH,
    HEAVIEST,
    HIGH,
    IPS,
    LARGEST,
    LAST,
    LEARN,
    LOW,
    PRIOR,
    RESIDUAL,
    RESIDUAL_WEIGHT,
    ROWS,
    SCORES,
    Entries,
    State,
    Work,
    chance,
    count_value,
    cross,
    dot,
    encode,
    offered,
    refresh,
    score,
    served,
    spread,
    staleness,
    step,
    workspace,
)
from everlearn.families.kernel_parts import compiled, first_fault, inlined, outlined, source_hash
from everlearn.records import Floats, Ints, Singles

_STATE = "float64:1 float64:3 float64:4 float32:4 float64:2 float64:3 float64:2 float64:1"
_LEARNED = "float64:1 float64:3! float64:4! float32:4! float64:2! float64:3! float64:2! float64:1!"
_BATCH = "float32:2 int64:1 int32:1 float32:1"


@outlined
def consider(
    settings: Floats,
    state: State,
    work: Work,
    dense: Singles,
    i: int,
    indices: Entries,
    values: Singles,
    uncertain: bool,
) -> int:
    """Write the expected reward of each action of row i, and which are on offer; return the number of these."""
    actions, columns = state.weights.shape[1], state.weights.shape[2] - 1
    encode(dense, i, columns, actions, state.moments, work.x, work.features)
    count = offered(dense, i, columns, actions, work.features.shape[1], work.available)
    noise = state.counts[RESIDUAL] / state.counts[RESIDUAL_WEIGHT]
    for a in range(actions):
        cross(work.features, a, work.x, work.shared)
        work.values[a] = score(state, SCORES, a, work, indices, values)
        if uncertain:
            z = spread(state, SCORES, a, work, indices, values)
            stale = staleness(settings, state.counts, a)
            if stale > FRESH:
                z = max(z, min(z * stale, settings[PRIOR] * dot(work.x, work.x)))
            work.deviations[a] = math.sqrt(max(noise * z, 0.0))
    return count


@outlined
def choose(
    settings: Floats, state: State, work: Work, dense: Singles, i: int, indices: Entries, values: Singles
) -> int:
    """Write the probability of each action of row i to `work.p`; return the best action."""
    kind = int(settings[EXPLORE])
    uncertain = kind in (LIN_UCB, THOMPSON, SQUARE_CB)
    count = consider(settings, state, work, dense, i, indices, values, uncertain)
    return probabilities(settings, state.counts[ROWS], work.values, work.deviations, work.available, count, work.p)


@inlined
def unscaled(settings: Floats, value: float) -> float:
    """Return a reward for a scaled one, within the range of rewards."""
    found: float = settings[LOW] + (settings[HIGH] - settings[LOW]) * min(max(value, 0.0), 1.0)
    return found


@outlined
def teach(
    settings: Floats,
    state: State,
    work: Work,
    dense: Singles,
    i: int,
    indices: Entries,
    values: Singles,
    action: int,
    p: float,
    reward: float,
    weight: float,
) -> None:
    """Learn the reward of the action that row i was served with probability p (0: unknown).

    `work` holds the inputs of the row (see `consider`).
    """
    columns, m = state.weights.shape[2] - 1, work.features.shape[1]
    wide = settings[HIGH] - settings[LOW]
    target = min(max((reward - settings[LOW]) / wide, 0.0), 1.0)
    weight, largest = min(weight, settings[LARGEST]), settings[LARGEST]
    heavy = min(1.0 / p, largest) if p > 0.0 else 1.0
    error = target - min(max(work.values[action], 0.0), 1.0)
    stale = staleness(settings, state.counts, action)
    if stale > FRESH:
        for g in range(state.weights.shape[0]):
            refresh(state.covariance[g, action], stale, settings[PRIOR])
    state.counts[RESIDUAL] += weight * error * error
    state.counts[RESIDUAL_WEIGHT] += weight
    state.counts[ROWS] += 1.0
    state.counts[LAST + action] = state.counts[ROWS]
    learn = int(settings[LEARN])
    if learn in (IPS, DR):
        for a in range(len(work.values)):
            if not (work.available[a] or a == action) or (p == 0.0 and a != action):
                continue
            cross(work.features, a, work.x, work.shared)
            wanted = score(state, DIRECT, a, work, indices, values) if learn == DR else 0.0
            if a == action:
                wanted = wanted + heavy * (target - wanted)
            step(settings, state, SCORES, a, work, indices, values, wanted, weight)
    cross(work.features, action, work.x, work.shared)
    if learn == DR:
        step(settings, state, DIRECT, action, work, indices, values, target, weight)
    elif learn != IPS:
        step(settings, state, SCORES, action, work, indices, values, target, weight * min(heavy, settings[HEAVIEST]))
    for j in range(columns):
        count_value(np.float64(dense[i, j]), state.moments, j)
    for a in range(len(work.values)):
        if work.available[a] or a == action:
            for j in range(m):
                count_value(np.float64(dense[i, columns + a * (1 + m) + 1 + j]), state.moments, columns + j)


@outlined
def predict_rows(
    settings: Floats,
    state: State,
    dense: Singles,
    indptr: Ints,
    indices: Entries,
    values: Singles,
    out: Singles,
    policy: Singles,
    trace: Singles,
) -> int:
    """Write the expected reward of each row, its policy and its trace, where `policy` and `trace` have room."""
    fault = first_fault(state.table.shape[1], indptr, indices, values)
    if fault != 0:
        return fault
    work = workspace(state)
    actions = len(work.p)
    for i in range(len(indptr) - 1):
        entries = slice(indptr[i], indptr[i + 1])
        action = served(dense, i, actions)
        best = choose(settings, state, work, dense, i, indices[entries], values[entries])
        out[i, 0] = unscaled(settings, work.values[action if action >= 0 else best])
        if len(policy) > 0:
            for a in range(actions):
                policy[i, a] = work.p[a]
        if len(trace) > 0:
            total = 0.0
            for a in range(actions):
                total += work.p[a] * unscaled(settings, work.values[a])
            trace[i, 0] = work.p[action] if action >= 0 else 1.0
            trace[i, 1] = total
    return 0


@outlined
def learn_rows(
    settings: Floats,
    state: State,
    dense: Singles,
    indptr: Ints,
    indices: Entries,
    values: Singles,
    y: Floats,
    weight: Singles,
    out: Singles,
) -> int:
    """Predict and then learn each row; return 0, or a fault with nothing written."""
    fault = first_fault(state.table.shape[1], indptr, indices, values)
    if fault != 0:
        return fault
    work = workspace(state)
    for i in range(len(indptr) - 1):
        entries = slice(indptr[i], indptr[i + 1])
        action = served(dense, i, len(work.p))
        consider(settings, state, work, dense, i, indices[entries], values[entries], False)
        if action < 0:
            best = -1
            for a in range(len(work.p)):
                if work.available[a] and (best < 0 or work.values[a] > work.values[best]):
                    best = a
            out[i, 0] = unscaled(settings, work.values[best])
            continue
        out[i, 0] = unscaled(settings, work.values[action])
        if abs(y[i]) < math.inf and weight[i] > 0.0 and weight[i] < math.inf:
            rest = indices[entries], values[entries]
            teach(
                settings, state, work, dense, i, rest[0], rest[1], action, chance(dense, i), y[i], np.float64(weight[i])
            )
    return 0


@outlined
def play_rows(
    settings: Floats,
    state: State,
    dense: Singles,
    indptr: Ints,
    indices: Entries,
    values: Singles,
    y: Floats,
    weight: Singles,
    u: Floats,
    delay: int,
    out: Singles,
) -> int:
    """Draw an action for each row with the number of `u`, and learn its reward `delay` rows later.

    The reward is the highest where the action is the label, else the lowest. `out` (n, 3) gets the action, its
    probability, and the expected reward of the best one.
    """
    fault = first_fault(state.table.shape[1], indptr, indices, values)
    if fault != 0:
        return fault
    work, n = workspace(state), len(indptr) - 1
    for i in range(n + delay):
        if i < n:
            entries = slice(indptr[i], indptr[i + 1])
            best = choose(settings, state, work, dense, i, indices[entries], values[entries])
            action = draw(work.p, u[i])
            out[i, 0], out[i, 1] = action, work.p[action]
            out[i, 2] = unscaled(settings, work.values[best])
        late = i - delay
        if late < 0 or late >= n or not (weight[late] > 0.0):
            continue
        entries = slice(indptr[late], indptr[late + 1])
        if delay > 0:
            consider(settings, state, work, dense, late, indices[entries], values[entries], False)
        action, p = int(out[late, 0]), np.float64(out[late, 1])
        reward = settings[HIGH] if y[late] == action else settings[LOW]
        rest = indices[entries], values[entries]
        teach(settings, state, work, dense, late, rest[0], rest[1], action, p, reward, np.float64(weight[late]))
    return 0


def _sources() -> str:
    """Return a hash of the family's source files, which kernels enclose so that a change compiles them again."""
    return source_hash(Path(__file__).parent, ())


# The arrays of a model are w, c, h, s, sc, m and n: weights, covariance, hashed, shared, shared covariance, moments and
# counts. A batch is x, p, i and v: dense, indptr, indices and values.


def _predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(settings, w, c, h, s, sc, m, n, x, p, i, v, out, policy, trace):  # type: ignore[no-untyped-def]
        _ = sources
        return predict_rows(settings, State(w, c, h, s, sc, m, n), x, p, i, v, out, policy, trace)

    return predict


def _learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(settings, w, c, h, s, sc, m, n, x, p, i, v, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        return learn_rows(settings, State(w, c, h, s, sc, m, n), x, p, i, v, y, weight, out)

    return learn


def _player(sources: str) -> Callable[..., int]:
    @exact_kernel
    def play(settings, w, c, h, s, sc, m, n, x, p, i, v, y, weight, u, delay, out):  # type: ignore[no-untyped-def]
        _ = sources
        return play_rows(settings, State(w, c, h, s, sc, m, n), x, p, i, v, y, weight, u, delay, out)

    return play


@cache
def predictor() -> Callable[..., int]:
    """Return the kernel that predicts: settings, the arrays of the model, a batch, out, policy, trace; a fault or 0."""
    return compiled(_predictor(_sources()), f"{_STATE} {_BATCH} float32:2! float32:2! float32:2!")


@cache
def learner() -> Callable[..., int]:
    """Return the kernel that learns: settings, the arrays of the model, a batch, y, weight, out; a fault or 0."""
    return compiled(_learner(_sources()), f"{_LEARNED} {_BATCH} float64:1 float32:1 float32:2!")


@cache
def player() -> Callable[..., int]:
    """Return the kernel that plays: as that of `learner`, with u and delay before out."""
    return compiled(_player(_sources()), f"{_LEARNED} {_BATCH} float64:1 float32:1 float64:1 int float32:2!")
