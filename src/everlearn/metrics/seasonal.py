"""The seasonal naive baseline: the label known at the same time one day, or one week, ago.

The usual yardstick for data with a daily or weekly rhythm (Hyndman and Athanasopoulos, "Forecasting: principles and
practice", 3rd edition, section 5.2). It knows only labels that were known at the prediction.

Time is counted in steps of five minutes. A season ago means: the step one season before the row's own or the nearest
earlier one with a label, at most an hour earlier. Of several labels of one step, the last to become known counts. The
season is the one whose labels were nearer to the labels so far, by absolute error or by errors, where both had one. In
a stream with one time of day only (daily data) it is the week. Where one season ago no label is known, the baseline
takes the other season, else the last known label.

The labels of the last two weeks are in arrays of fixed size, 4032 steps.
"""

from __future__ import annotations

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.records import Arrays, Floats, Ints, Singles, Task

NAME = "seasonal"

_STEP = 5  # minutes
_DAY, _WEEK = 1_440 // _STEP, 10_080 // _STEP
_SLOTS = 2 * _WEEK
_SLACK = 60 // _STEP
_EMPTY = -(1 << 31)
_WEIGHT, _DAILY, _WEEKLY, _LAST = range(4)  # in `season`: compared weight, its errors by season, last known label
_PHASE, _VARIES = range(2)  # in `phases`: the time of day of the first label, and 1 if another one had another


def start() -> Arrays:
    """Return the state before any label, 48 KiB: `step` int32 and `label` float64 of each slot, and small sums."""
    return {
        "season_step": np.full(_SLOTS, _EMPTY, np.int32),
        "season_label": np.full(_SLOTS, np.nan),
        "season": np.array([0.0, 0.0, 0.0, np.nan]),
        "season_phases": np.array([-1, 0], np.int64),
    }


def answers(
    arrays: Arrays, task: Task, classes: int, y: Floats, weight: Singles, at: Ints, known: Ints, when: Ints
) -> Singles:
    """Return the answers to n rows, float32 (n, classes) or (n, 1), NaN before the first label, and learn m labels.

    `y` float64 (m,), `weight` float32 (m,) and `at` int64 (m,) are labels in the order in which they became known, with
    the minutes since 1970 of their rows; `schema.moments.UNKNOWN` or any minute outside int32 steps is no time.
    `known` int64 (n,), ascending, is how many of them were known when each row was predicted, and `when` int64 (n,) the
    minutes of these rows. A label that is unusable, or without weight, is passed over.

    >>> state, hour, week = start(), 60, 7 * 24 * 60
    >>> y, at = np.arange(8.0 * 24), np.arange(8 * 24) * hour
    >>> ones, after = np.ones(len(y), np.float32), np.array([len(y)])
    >>> answers(state, "regression", 0, y, ones, at, after, at[-1:] + hour).tolist()  # a day ago is nearer than a week
    [[168.0]]
    """
    found = np.empty(len(known))
    _answer(
        np.ascontiguousarray(y, np.float64),
        np.ascontiguousarray(weight, np.float32),
        np.ascontiguousarray(at, np.int64),
        np.ascontiguousarray(known, np.int64),
        np.ascontiguousarray(when, np.int64),
        0 if task == "regression" else classes,
        arrays["season_step"],
        arrays["season_label"],
        arrays["season"],
        arrays["season_phases"],
        found,
    )
    if task == "regression":
        numbers: Singles = found.astype(np.float32).reshape(-1, 1)
        return numbers
    scores: Singles = (found[:, None] == np.arange(classes)).astype(np.float32)
    scores[np.isnan(found)] = np.nan
    return scores


@exact_kernel
def _step(minute: int) -> int:
    """Return the step of a minute; `_EMPTY` if it is no time."""
    step = minute // _STEP
    return step if abs(step) < 1 << 30 else _EMPTY


@exact_kernel
def _held(steps: Ints, labels: Floats, step: int) -> float:
    """Return the label of a step or of the nearest one within an hour before it; NaN if none is held."""
    for back in range(_SLACK + 1):
        slot = (step - back) % _SLOTS
        if steps[slot] == step - back:
            return float(labels[slot])
    return np.nan


@exact_kernel
def _learn(
    y: float, weight: float, step: int, classes: int, steps: Ints, labels: Floats, season: Floats, phases: Ints
) -> None:
    if not np.isfinite(y) or not 0 < weight < np.inf:
        return
    if classes > 0 and not (0 <= y < classes and y == np.floor(y)):
        return
    season[_LAST] = y
    if step == _EMPTY:
        return
    daily, weekly = _held(steps, labels, step - _DAY), _held(steps, labels, step - _WEEK)
    if not (np.isnan(daily) or np.isnan(weekly)):
        season[_WEIGHT] += weight
        season[_DAILY] += weight * (abs(y - daily) if classes == 0 else (1.0 if y != daily else 0.0))
        season[_WEEKLY] += weight * (abs(y - weekly) if classes == 0 else (1.0 if y != weekly else 0.0))
    phase = step % _DAY
    if phases[_PHASE] < 0:
        phases[_PHASE] = phase
    elif phases[_PHASE] != phase:
        phases[_VARIES] = 1
    slot = step % _SLOTS
    if steps[slot] <= step:
        steps[slot] = step
        labels[slot] = y


@exact_kernel
def _answer(
    y: Floats,
    weight: Singles,
    at: Ints,
    known: Ints,
    when: Ints,
    classes: int,
    steps: Ints,
    labels: Floats,
    season: Floats,
    phases: Ints,
    found: Floats,
) -> None:
    learned = 0
    for row in range(len(known) + 1):
        upto = known[row] if row < len(known) else len(y)
        for i in range(learned, upto):
            _learn(y[i], np.float64(weight[i]), _step(at[i]), classes, steps, labels, season, phases)
        learned = max(learned, upto)
        if row == len(known):
            break
        found[row] = season[_LAST]
        step = _step(when[row])
        if step == _EMPTY:
            continue
        weekly = _held(steps, labels, step - _WEEK)
        if phases[_VARIES] == 0:
            found[row] = season[_LAST] if np.isnan(weekly) else weekly
            continue
        daily = _held(steps, labels, step - _DAY)
        first, other = (daily, weekly) if season[_DAILY] <= season[_WEEKLY] else (weekly, daily)
        if not np.isnan(first):
            found[row] = first
        elif not np.isnan(other):
            found[row] = other
