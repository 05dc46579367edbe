"""Importance weights as shares of a bound.

The gate multiplies each difference by a share: the weight of its row over a bound. The bound is fixed before the row,
since a bet on a row whose weight decides the bound would not be fair. It is ten times the mean of the weights so far,
or the highest of them if that is lower: equal weights have the share 1, whatever their unit. What exceeds the bound is
clipped. The first row has the bound 1.
"""

from __future__ import annotations

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.errors import InputError
from everlearn.records import Floats, Singles

MOST = 10.0  # a weight counts as at most this many times the mean of those before it
MEMORY = 1000.0  # rows of share 1 behind the mean of `steadied`

COUNT, TOTAL, HIGHEST, SHARES, CLIPPED, MEAN, COLUMNS = range(7)  # columns of the state


@exact_kernel
def share(state: Floats, weight: float) -> float:
    """Return the share in (0, 1] of a weight above 0, and count the weight in `state`, float64 (COLUMNS,).

    `CLIPPED` counts the weights above ten times the mean. `SHARES` and `MEAN` are left to the caller.

    >>> state = np.zeros(COLUMNS)
    >>> [float(share(state, weight)) for weight in (0.5, 2.0, 1.0, 2.0)]
    [0.5, 1.0, 0.5, 1.0]
    """
    bound = 1.0
    if state[COUNT] > 0.0:
        limit = MOST * state[TOTAL] / state[COUNT]
        state[CLIPPED] += weight > limit
        bound = min(limit, state[HIGHEST])
    state[COUNT] += 1.0
    state[TOTAL] += weight
    state[HIGHEST] = max(state[HIGHEST], weight)
    return min(weight / bound, 1.0)


@exact_kernel
def steadied(state: Floats, values: Floats, weight: Floats) -> Floats:
    """Return n values, each drawn towards the weighted mean of those before it by what its share lacks to 1.

    The results have the weighted mean of the values, in a sequence where each counts alike, as for a drift detector. A
    value of share 1 stays as it is. `weight`, float64 (n,), is above 0. Values that are not finite are no part of the
    mean.

    >>> state = np.zeros(COLUMNS)
    >>> steadied(state, np.array([0.5, 0.5, 0.9]), np.array([1.0, 1.0, 0.25])).tolist()
    [0.5, 0.5, 0.6]
    """
    result = values.copy()
    for i in range(len(values)):
        if not np.isfinite(values[i]):
            continue
        part = share(state, weight[i])
        away = values[i] - state[MEAN]
        if part < 1.0 and state[SHARES] > 0.0:
            result[i] = state[MEAN] + part * away
        state[SHARES] = min(state[SHARES] + part, MEMORY)
        state[MEAN] += part / state[SHARES] * away
    return result


def after(rows: int) -> Floats:
    """Return the state after `rows` rows of weight 1, float64 (COLUMNS,); their mean is unknown."""
    state: Floats = np.zeros(COLUMNS)
    state[[COUNT, TOTAL, SHARES]] = rows
    state[HIGHEST] = 1.0 if rows > 0 else 0.0
    return state


def checked(weight: Floats | Singles, rows: int, name: str) -> Floats:
    """Return weights as float64 (n,). Raises `InputError` for another shape, or a weight that is negative or infinite.

    `rows` is n; `name` says in messages what the weights belong to.
    """
    given: Floats = np.ascontiguousarray(weight, np.float64)
    if given.shape != (rows,):
        raise InputError(f"{name}: got weights of shape {given.shape}; expected ({rows},), one for each pair")
    if (wrong := _first_wrong(given)) >= 0:
        raise InputError(f"{name}: weight {given[wrong]:g} at index {wrong}; expected a finite number from 0")
    return given


@exact_kernel
def _first_wrong(weight: Floats) -> int:
    for i in range(len(weight)):
        if not 0.0 <= weight[i] < np.inf:
            return i
    return -1


@exact_kernel
def all_one(weight: Floats) -> bool:
    """Return True if every weight is 1."""
    found = True
    for i in range(len(weight)):
        found &= weight[i] == 1.0
    return found
