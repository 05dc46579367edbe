"""Measures of continual learning against Avalanche and examples computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.evaluate.continual import measures

MATRIX = np.array(
    [[0.97, 0.12, 0.08, 0.11], [0.81, 0.93, 0.21, 0.05], [0.86, 0.64, 0.9, 0.3], [0.52, 0.71, 0.77, 0.95]]
)

UNTRAINED = np.array([0.11, 0.09, 0.12, 0.1])


def test_transfer_is_that_of_avalanche() -> None:
    """The values are BWT and ForwardTransfer of avalanche-lib 0.6.0 for these numbers, averaged over tasks."""
    assert measures.backward_transfer(MATRIX) == pytest.approx(-0.26666666666666666)
    assert measures.forward_transfer(MATRIX, UNTRAINED) == pytest.approx(0.10666666666666665)


def test_measures_of_a_matrix_worked_by_hand() -> None:
    assert measures.average_accuracy(MATRIX) == pytest.approx((0.52 + 0.71 + 0.77 + 0.95) / 4)
    assert measures.learning_accuracy(MATRIX) == pytest.approx((0.97 + 0.93 + 0.9 + 0.95) / 4)
    # the best before the last row: .97, .93, .90
    assert measures.forgetting(MATRIX) == pytest.approx((0.45 + 0.22 + 0.13) / 3)
    # task 2 gets better after its own turn; what was best counts, not what came first
    later = np.array([[0.5, 0.0, 0.0], [0.6, 0.7, 0.0], [0.4, 0.8, 0.9]])
    assert measures.forgetting(later) == pytest.approx((0.2 - 0.1) / 2)
    assert measures.backward_transfer(later) == pytest.approx((-0.1 + 0.1) / 2)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_forgetting_is_the_negative_of_backward_transfer_where_each_task_is_best_at_its_turn(n: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).random((n, n))
    np.fill_diagonal(matrix, 1.0)
    assert measures.forgetting(matrix) == pytest.approx(-measures.backward_transfer(matrix))


def test_the_stability_gap_worked_by_hand() -> None:
    points = np.array([10, 12, 15, 20, 22, 30])
    scores = np.array(
        [[0.9, 0.1, 0.1], [0.2, 0.4, 0.1], [0.6, 0.7, 0.1], [0.8, 0.9, 0.1], [0.5, 0.3, 0.6], [0.7, 0.8, 0.95]]
    )
    # task 1 ends at 10: .2 at the worst, right after; task 2 at 20: .3
    assert measures.minimum_accuracy(points, scores, [10, 20, 30]) == pytest.approx(0.25)
    assert measures.worst_case_accuracy(points, scores, [10, 20, 30]) == pytest.approx(0.95 / 3 + 0.25 * 2 / 3)
    seen = np.array([1, 2, 2, 2, 3, 3])
    expected = [0.9, 0.3, 0.65, 0.85, 1.4 / 3, 2.45 / 3]
    np.testing.assert_allclose(measures.seen_accuracy(scores, seen), expected)
    assert measures.anytime_accuracy(scores, seen) == pytest.approx(np.mean(expected))


def test_speed_and_loss_of_plasticity_worked_by_hand() -> None:
    right = np.repeat([True, False, True, False], [400, 600, 100, 900])
    assert measures.learning_speed(right, [0, 1000]) == pytest.approx((200 / 200 + 100 / 200) / 2)
    line = 0.9 - 0.02 * np.arange(8)
    assert measures.plasticity_slope(line) == pytest.approx(-0.02)


def test_measures_refuse_what_they_are_not_defined_for() -> None:
    for measure in (measures.forgetting, measures.backward_transfer):
        with pytest.raises(InputError, match=r"expected \(T, T\) with T from 2"):
            measure(np.ones((1, 1)))
        with pytest.raises(InputError, match=r"shape \(1, 3\)"):
            measure(np.ones((1, 3)))
    with pytest.raises(InputError, match="at least two tasks"):
        measures.plasticity_slope(np.ones(1))
    with pytest.raises(InputError, match="at least two tasks"):
        measures.minimum_accuracy(np.array([1]), np.ones((1, 1)), [1])
