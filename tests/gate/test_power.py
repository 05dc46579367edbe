"""What a validation can see: against scipy's sums, the formula for normal differences, and simulated validations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from everlearn import gate
from everlearn.errors import ConfigError
from everlearn.gate.power import _critical, _tail, needed, power, visible
from everlearn.spec import GateSpec


@pytest.mark.parametrize("m", [0, 1, 5, 30, 1000, 30_000])
@pytest.mark.parametrize("p", [0.0, 0.02, 0.5, 0.7, 1.0])
def test_tails_are_those_of_the_binomial(m: int, p: float) -> None:
    for least in {0, 1, m // 3, int(m * p), int(m * p) + 1, m, m + 1}:
        assert _tail(m, p, least) == pytest.approx(stats.binom.sf(least - 1, m, p), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_critical_numbers_are_the_least_that_keep_alpha(alpha: float) -> None:
    for m in (1, 4, 5, 30, 777, 5000):
        least = _critical(m, alpha)
        assert stats.binom.sf(least - 1, m, 0.5) <= alpha < stats.binom.sf(least - 2, m, 0.5)


@pytest.mark.parametrize(("n", "points", "disagreement"), [(500, 1.0, 0.06), (500, 0.0, 0.06), (1000, 3.0, 0.2)])
def test_exact_power_is_the_sum_over_all_numbers_of_disagreements(n: int, points: float, disagreement: float) -> None:
    m = np.arange(n + 1)
    critical = np.array([stats.binom.isf(0.05, k, 0.5) + 1 if k else 1 for k in m])
    wins = stats.binom.sf(critical - 1, m, 0.5 + points / 200 / disagreement)
    expected = (stats.binom.pmf(m, n, disagreement) * wins).sum()
    assert power(n, points, disagreement=disagreement, test="exact") == pytest.approx(expected, rel=1e-9)


def test_the_exact_test_keeps_alpha_and_looking_at_the_better_score_does_not() -> None:
    """The main figures of the gate: updates that are not better, on 500 rows of which 6 % disagree."""
    assert power(500, 0.0, test="exact") == pytest.approx(0.036, abs=0.001)
    wins = stats.binom.sf(np.arange(501) // 2, np.arange(501), 0.5)  # more wins than losses
    assert (stats.binom.pmf(np.arange(501), 500, 0.06) * wins).sum() == pytest.approx(0.46, abs=0.02)


@pytest.mark.parametrize(("points", "said"), [(1.0, 3700), (2.0, 930), (0.5, 14_800)])
def test_needed_examples_are_near_the_formula_for_normal_differences(points: float, said: int) -> None:
    difference, z = points / 100, stats.norm.isf(0.05) + stats.norm.ppf(0.8)
    formula = z**2 * (0.06 - difference**2) / difference**2
    assert formula == pytest.approx(said, rel=0.01)
    assert formula <= needed(points, test="exact") <= 1.1 * formula


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize(("points", "disagreement"), [(1.0, 0.06), (2.0, 0.06), (5.0, 0.3)])
def test_the_gate_needs_three_to_four_times_as_many(points: float, disagreement: float, alpha: float) -> None:
    exact = needed(points, disagreement, alpha, test="exact")
    assert 2.5 * exact <= needed(points, disagreement, alpha) <= 4.2 * exact


@pytest.mark.parametrize(("points", "disagreement"), [(3.0, 0.06), (5.0, 0.1), (8.0, 0.3)])
def test_validations_of_known_truth_are_accepted_as_often_as_said(points: float, disagreement: float) -> None:
    """300 validations with other random numbers, with the rows of both models in one table."""
    examples = needed(points, disagreement)
    stated = power(examples, points, disagreement=disagreement)
    assert stated >= 0.8 > power(examples - 100, points, disagreement=disagreement)
    better, worse = 0.5 * (disagreement + points / 100), 0.5 * (disagreement - points / 100)
    random, accepted, spec = np.random.default_rng(5), 0, GateSpec(loss="error")
    for _ in range(300):
        which = random.choice(3, size=examples, p=[better, worse, 1 - better - worse])
        arrays = gate.start(spec, guard=False)
        for begin in range(0, examples, 100):
            part = which[begin : begin + 100]
            gate.update(arrays, spec, (part == 0).astype(float), (part == 1).astype(float))
            if gate.verdict(arrays, spec).action == "promote":
                accepted += 1
                break
    error = (stated * (1 - stated) * (1 / 300 + 1 / 400)) ** 0.5
    assert accepted / 300 == pytest.approx(stated, abs=3 * error)


def test_power_grows_with_what_is_to_be_seen_and_with_examples() -> None:
    for test in ("gate", "exact"):
        by_points = [power(1000, points, test=test) for points in (0.0, 1.0, 3.0, 5.0)]
        assert by_points == sorted(by_points)
        assert by_points[0] <= 0.05
        assert by_points[-1] > 0.9
        by_examples = [power(examples, 3.0, test=test) for examples in (0, 500, 1000, 2000)]
        assert by_examples == sorted(by_examples)
        assert by_examples[0] == 0.0


def test_what_is_visible_is_seen_and_a_little_less_is_not() -> None:
    seen = visible(2000)
    assert power(2000, seen) >= 0.8 > power(2000, seen - 0.06)
    assert visible(500) == math.inf  # 6 points are all there is between two that disagree on 6 % of the rows
    assert visible(500, disagreement=0.2) < 20.0


def test_a_gate_that_may_not_speak_yet_accepts_nothing() -> None:
    assert power(400, 5.0, minimum=500) == 0.0 < power(400, 5.0, minimum=100)


@pytest.mark.parametrize(
    ("points", "disagreement", "alpha", "wanted"),
    [
        (7.0, 0.06, 0.05, 0.8),
        (-1.0, 0.06, 0.05, 0.8),
        (1.0, 0.0, 0.05, 0.8),
        (1.0, 0.06, 0.0, 0.8),
        (1.0, 0.06, 0.5, 0.8),
        (1.0, 0.06, 0.7, 0.8),
        (1.0, 0.06, 0.05, 1.0),
        (0.0, 0.06, 0.05, 0.8),
        (0.001, 0.06, 0.05, 0.8),
    ],
)
def test_what_cannot_be_is_refused(points: float, disagreement: float, alpha: float, wanted: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        needed(points, disagreement, alpha, wanted)


def test_a_power_that_the_gate_does_not_reach_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="of 400 simulated streams of 58330 examples the gate accepts 39[0-9], .* needs 400"
    ):
        needed(1.0, 0.06, alpha=0.49, power=0.999, minimum=30)
