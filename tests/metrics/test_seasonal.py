"""The seasonal baseline against a search through all labels, for any order of labels, any delay and any cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from everlearn.metrics import seasonal
from everlearn.records import Task

DAY, WEEK = 1_440, 10_080
UNKNOWN = -(1 << 62)


def newest(labels: list[tuple[float, float, int]], minute: int) -> float:
    """Return the label of the latest step in the hour before `minute`; of one step, the last that became known."""
    wanted = minute // 5
    held: dict[int, float] = {}
    for y, _, at in labels:
        if 0 <= wanted - at // 5 <= 12:
            held[at // 5] = y
    return held[max(held)] if held else math.nan


def searched(labels: list[tuple[float, float, int]], when: int, numbers: bool) -> float:
    """Return what the baseline answers after these labels, in the order in which they became known."""
    if not labels:
        return math.nan
    last = labels[-1][0]
    timed = [each for each in labels if each[2] != UNKNOWN]
    if when == UNKNOWN:
        return last
    errors = {DAY: 0.0, WEEK: 0.0}
    for number, (y, weight, at) in enumerate(timed):
        before = {season: newest(timed[:number], at - season) for season in errors}
        if not any(map(math.isnan, before.values())):
            for season, found in before.items():
                errors[season] += weight * (abs(y - found) if numbers else float(y != found))
    seasons = sorted(errors, key=lambda season: (errors[season], season))
    if len({at // 5 % 288 for _, _, at in timed}) < 2:
        seasons = [WEEK]
    found = [newest(timed, when - season) for season in seasons]
    return next((one for one in found if not math.isnan(one)), last)


def stream(name: str, random: np.random.Generator, n: int) -> np.ndarray:
    """Return the minutes of n rows."""
    start = 29_000_000
    match name:
        case "hours":
            return start // 60 * 60 + 60 * np.arange(n)
        case "half hours with gaps":
            return start // 30 * 30 + 30 * np.sort(random.choice(2 * n, n, replace=False))
        case "days":
            return start // DAY * DAY + DAY * np.arange(n)
        case "several at a time":
            return start + 60 * (np.arange(n) // 3)
        case _:
            return start + np.cumsum(random.integers(0, 90, n))


@pytest.mark.parametrize("delay", [0, 1, 40])
@pytest.mark.parametrize("name", ["hours", "half hours with gaps", "days", "several at a time", "any time"])
@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_answers_equal_a_search_through_all_known_labels(task: Task, name: str, delay: int) -> None:
    random, n, classes = np.random.default_rng(len(name) + delay), 500, 0 if task == "regression" else 3
    when = stream(name, random, n)
    when[random.random(n) < 0.05] = UNKNOWN
    weekday = when // DAY % 7
    y = random.integers(0, 3, n) if classes else np.round(weekday * 5.0 + when % DAY / 60 + random.normal(size=n), 2)
    y = np.where(random.random(n) < 0.5, weekday % 3 if classes else y, y).astype(np.float64)
    weight = random.choice([1.0, 0.5, 3.0], n).astype(np.float32)
    weight[random.random(n) < 0.05] = 0.0
    y[random.random(n) < 0.03] = np.nan
    known = np.maximum(np.arange(n) - delay, 0)
    whole, parts = seasonal.start(), seasonal.start()
    got = seasonal.answers(whole, task, classes, y, weight, when, known, when)
    usable = [(float(y[i]), float(weight[i]), int(when[i])) for i in range(n)]
    for i in range(0, n, 7):
        held = [each for each in usable[: known[i]] if math.isfinite(each[0]) and each[1] > 0]
        wanted = searched(held, int(when[i]), not classes)
        if classes:
            expected = [math.nan] * 3 if math.isnan(wanted) else [float(wanted == k) for k in range(3)]
        else:
            expected = [wanted]
        assert got[i].tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True)
    pieces, done = [], 0
    for begin in range(0, n, 23):
        stop = min(n, begin + 23)
        upto = int(known[stop]) if stop < n else n
        args: tuple[Any, ...] = y[done:upto], weight[done:upto], when[done:upto], known[begin:stop] - done
        pieces.append(seasonal.answers(parts, task, classes, *args, when[begin:stop]))
        done = upto
    assert np.concatenate(pieces).tobytes() == got.tobytes()
    assert {name: array.tobytes() for name, array in whole.items()} == {
        name: array.tobytes() for name, array in parts.items()
    }


def test_the_season_is_the_one_that_was_nearer_so_far() -> None:
    """A weekly rhythm of hours: a week ago is right always, a day ago on one of seven."""
    when = 60 * np.arange(24 * 28)
    y = (when // DAY % 7).astype(np.float64)
    args = y, np.ones(len(y), np.float32), when, np.arange(len(y)), when
    found = seasonal.answers(seasonal.start(), "regression", 0, *args)[:, 0]
    assert (found[24 * 8 :] == y[24 * 8 :]).all()
    assert (found[24 : 24 * 7] == y[: 24 * 6]).all()  # no week is known yet


def test_memory_is_fixed() -> None:
    state = seasonal.start()
    before = {name: (array.shape, array.dtype) for name, array in state.items()}
    when = np.arange(200_000) * 7
    ones = np.ones(len(when), np.float32)
    seasonal.answers(state, "regression", 0, when.astype(float), ones, when, np.arange(len(when)), when)
    assert before == {name: (array.shape, array.dtype) for name, array in state.items()}
    assert sum(array.nbytes for array in state.values()) < 50_000
