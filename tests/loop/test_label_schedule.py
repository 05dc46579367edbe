"""The schedule of late labels: no label early, none late by more than a tenth, against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.loop.label_schedule import LabelSchedule


def played(
    times: list[float], dues: list[float], schedule: LabelSchedule[int], rows: bool
) -> tuple[list[int], list[int]]:
    """Return how many labels each row had before it, by row, and how many rows came before each label; -1: never."""
    known: list[int] = []
    place = [-1] * len(times)

    def close(at: float) -> None:
        group, came = schedule.close(at)
        known.extend(group)
        for _, row in came:
            place[row] = len(known)

    for row, (at, due) in enumerate(zip(times, dues, strict=True)):
        if schedule.closes(at):
            close(at - 1 if rows else at)
        schedule.add(row, at, due)
    close(math.inf)
    return known, place


@pytest.mark.parametrize("delay", [0, 1, 5, 9, 10, 25, 100, 399])
def test_a_label_comes_after_its_delay_and_at_most_a_tenth_later(delay):
    rows = 1000
    times = [float(row) for row in range(rows)]
    known, place = played(times, [at + delay for at in times], LabelSchedule(), rows=True)
    assert known == list(range(rows))  # each row is predicted once, in order
    for row in range(rows):
        first = row + delay + 1  # the rows that are predicted before the label comes, at the earliest
        assert min(first, rows) <= place[row] <= first + delay // 10


def test_times_with_gaps_ties_and_labels_that_never_come():
    draw = np.random.default_rng(0)
    times = np.sort(draw.integers(0, 5000, 2000)).astype(float).tolist()
    waits = draw.exponential(300.0, 2000)
    dues = [
        at + wait if never > 0.2 else math.inf for at, wait, never in zip(times, waits, draw.random(2000), strict=True)
    ]
    known, place = played(times, dues, LabelSchedule(), rows=False)
    assert known == list(range(2000))
    for row, (at, due) in enumerate(zip(times, dues, strict=True)):
        if due == math.inf:
            assert place[row] == -1
            continue
        before = times[place[row] - 1]  # the last row that was predicted without the label
        assert before <= due + (due - at) / 10
        assert place[row] == 2000 or times[place[row]] >= due


def test_groups_are_short_beside_the_delay_and_the_window():
    schedule = LabelSchedule[int]()
    schedule.add(0, 0.0, 1000.0)
    assert not schedule.closes(100.0)
    assert schedule.closes(101.0)
    windowed = LabelSchedule[int](window=50.0)
    windowed.add(0, 0.0, math.inf)
    assert not windowed.closes(5.0)
    assert windowed.closes(6.0)
