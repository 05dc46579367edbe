"""Importance weights: shares of a bound that is fixed before each row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.gate import weights
from everlearn.records import Floats

POSITIVE = st.floats(1e-6, 1e6)


def shares(given: list[float]) -> list[float]:
    state = np.zeros(weights.COLUMNS)
    return [float(weights.share(state, weight)) for weight in given]


def by_hand(given: list[float]) -> list[float]:
    """The definition, from the list of all weights before each one."""
    found = []
    for i, weight in enumerate(given):
        bound = min(10.0 * np.mean(given[:i]), max(given[:i])) if i else 1.0
        found.append(min(weight, bound) / bound)
    return found


@given(st.lists(POSITIVE, min_size=1, max_size=40))
def test_a_share_is_the_weight_over_the_bound_of_the_weights_before_it(given: list[float]) -> None:
    assert shares(given) == pytest.approx(by_hand(given), rel=1e-9)


@given(POSITIVE, st.integers(2, 50))
def test_equal_weights_have_the_share_1_in_any_unit(weight: float, rows: int) -> None:
    assert shares([weight] * rows)[1:] == pytest.approx([1.0] * (rows - 1), rel=1e-12)
    assert shares([1.0] * rows) == [1.0] * rows


def test_weights_above_ten_times_the_mean_are_counted_as_clipped() -> None:
    state = np.zeros(weights.COLUMNS)
    for weight in (1.0, 1.0, 9.0, 1000.0, 1.0, 1000.0):
        weights.share(state, weight)
    assert state[weights.CLIPPED] == 1  # the first 1000; the second is below ten times the mean by then
    assert state[weights.COUNT] == 6


def test_the_state_after_rows_of_weight_1_is_that_of_these_rows() -> None:
    state = np.zeros(weights.COLUMNS)
    for _ in range(7):
        weights.share(state, 1.0)
    known = [weights.COUNT, weights.TOTAL, weights.HIGHEST, weights.CLIPPED]
    assert state[known].tolist() == weights.after(7)[known].tolist()
    assert weights.after(0).tolist() == [0.0] * weights.COLUMNS


def steadied(values: Floats, weight: Floats) -> Floats:
    return weights.steadied(np.zeros(weights.COLUMNS), values, weight)


def test_steadied_values_have_the_weighted_mean() -> None:
    draw = np.random.default_rng(3)
    weight = np.append(5.0, draw.choice([1.0, 5.0], 1000))
    values = draw.random(1001) + 0.4 * (weight == 1.0)
    weighted = float(np.average(values, weights=weight))
    assert steadied(values, weight)[500:].mean() == pytest.approx(weighted, abs=0.02)
    assert abs(values[500:].mean() - weighted) > 0.1


def test_rows_of_hardly_any_weight_stay_at_the_mean() -> None:
    values, weight = np.repeat([0.2, 1.0], 500), np.repeat([1.0, 1e-6], 500)
    result = steadied(values, weight)
    assert result[:500].tolist() == [0.2] * 500
    assert result[500:] == pytest.approx([0.2] * 500, abs=1e-5)


def test_values_that_are_not_finite_pass_and_leave_no_trace() -> None:
    state = np.zeros(weights.COLUMNS)
    before = weights.steadied(state, np.array([0.3, 0.5]), np.array([1.0, 0.5]))
    held = state.copy()
    assert np.isnan(weights.steadied(state, np.array([np.nan]), np.array([7.0]))).all()
    assert state.tobytes() == held.tobytes()
    assert before.tolist() == [0.3, 0.4]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([1.0, -0.5], r"loss: weight -0\.5 at index 1; expected a finite number from 0"),
        ([np.nan, 1.0], "weight nan at index 0"),
        ([1.0, np.inf], "weight inf at index 1"),
        ([1.0], r"weights of shape \(1,\); expected \(2,\)"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(given: list[float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        weights.checked(np.array(given), 2, "loss")
