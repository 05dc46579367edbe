"""Which concept a row has: closed forms of sudden, gradual, recurring and incremental drift."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.stream.generated.schedule import planned, stretches


def test_sudden_drift_happens_at_the_row() -> None:
    found = stretches(planned("sudden", 100, 3, (20, 50), None), 0, 0, 100)
    assert found.now.tolist() == [0] * 20 + [1] * 30 + [2] * 50


def test_recurring_concepts_come_again() -> None:
    found = stretches(planned("recurring", 100, 2, (10, 20, 30, 40), None), 0, 0, 50)
    assert found.now.tolist() == [0] * 10 + [1] * 10 + [0] * 10 + [1] * 10 + [0] * 10


def test_gradual_drift_follows_the_sigmoid_of_moa() -> None:
    schedule = planned("gradual", 4000, 2, (2000,), 800)
    shares = np.mean([stretches(schedule, seed, 0, 4000).now for seed in range(400)], axis=0)
    expected = 1 / (1 + np.exp(-4 * (np.arange(4000) - 2000) / 800))
    assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / 400)
    assert np.abs(shares - expected).mean() < 0.02


def test_incremental_drift_moves_evenly() -> None:
    found = stretches(planned("incremental", 1000, 2, (500,), 200), 0, 0, 1000)
    assert (found.now[:400] == 0).all()
    assert found.share[399:601:50].tolist() == pytest.approx([0, 0.245, 0.495, 0.745, 0.995])
    assert (found.now[600:] == 1).all()
    assert (found.share[600:] == 0).all()


def test_rows_do_not_depend_on_where_reading_begins() -> None:
    for drift, width in (("gradual", 100), ("incremental", 100), ("recurring", 50)):
        schedule = planned(drift, 600, 2, (), width)
        whole, part = stretches(schedule, 3, 0, 600), stretches(schedule, 3, 217, 150)
        for one, other in zip(whole, part, strict=True):
            assert (one[217:367] == other).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("suden", 100, 2, (), None), "did you mean 'sudden'"),
        (("sudden", 100, 2, (10, 20), None), "got 2 for 2 concepts; expected 1"),
        (("sudden", 100, 3, (50, 20), None), "ascending"),
        (("sudden", 100, 2, (50,), 10), "expected 0"),
        (("gradual", 100, 2, (50,), (1, 2)), "one number for all"),
        (("incremental", 100, 3, (40, 60), 30), "overlap"),
        (("none", 100, 2, (), None), "one concept"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(*arguments)
