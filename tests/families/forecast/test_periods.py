"""Periods and seasons, against the calendar of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn._jit import exact_kernel
from everlearn.families.forecast.model import build
from everlearn.families.forecast.periods import FIRST, MONTHS, PERIOD, SECOND, months
from everlearn.records import Ints
from tests.support.timed_rows import timed


@exact_kernel
def all_months(minutes: Ints) -> Ints:
    found = np.empty(len(minutes), np.int64)
    for i in range(len(minutes)):
        found[i] = months(minutes[i])
    return found


def test_months_are_those_of_the_calendar() -> None:
    days = np.random.default_rng(0).integers(-700_000, 2_000_000, 5000)
    expected = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) + 1970 * 12
    assert (all_months(days * 1440 + 717) == expected).all()


@pytest.mark.parametrize(
    ("step", "known"),
    [
        ("5m", (5, 0, 288, 288)),  # two weeks of five minutes are more than the history
        ("1h", (60, 0, 24, 168)),
        ("30m", (30, 0, 48, 336)),
        ("1D", (1440, 0, 7, 7)),
        ("7D", (10080, 0, 52, 52)),
        ("1M", (None, 1, 12, 12)),
        ("3M", (None, 3, 4, 4)),
    ],
)
def test_period_and_seasons_are_found_from_the_first_rows(step: str, known: tuple[int | None, int, int, int]) -> None:
    count, unit = int(step[:-1]), step[-1]
    start = np.datetime64("2024-01-01", "M" if unit == "M" else "m")
    at = (start + np.arange(12) * np.timedelta64(count, unit)).astype("datetime64[m]")
    at = np.delete(at, 4)  # a row that is missing
    model = build({"family": "forecast", "task": "regression", "dense": 5, "clock": 0})
    rows = timed(at, np.arange(len(at), dtype=float))
    model.learn(rows.batch, rows.y, rows.weight)
    clock = model.arrays["clock"]
    found = clock[[PERIOD, MONTHS, FIRST, SECOND]].tolist()
    assert found[1:] == list(known[1:])
    assert known[0] in (None, found[0])
