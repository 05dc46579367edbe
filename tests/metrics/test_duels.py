"""Measures of duels: their confidence sequences hold at all times, and length is regressed out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from everlearn.errors import InputError
from everlearn.metrics import duels


def filled(win: np.ndarray, longer: np.ndarray, expected: float = 0.5) -> duels.Arrays:
    held = duels.start()
    for one, more in zip(win.tolist(), longer.tolist(), strict=True):
        duels.update(held, one, expected, more)
    return held


@pytest.mark.parametrize("truth", [0.5, 0.7])
def test_the_interval_of_the_win_holds_at_all_times(truth: float) -> None:
    random, missed = np.random.default_rng(0), 0
    for _ in range(200):
        held, win = duels.start(), (random.random(300) < truth) * 1.0
        sums = np.cumsum(win)
        for n in range(1, 301):
            held["duel_sums"][:] = n, sums[n - 1], n * truth
            found = duels.won(held)
            if not found.low <= truth <= found.high:
                missed += 1
                break
            gap = duels.overrated(held)
            assert gap.value == pytest.approx(truth - sums[n - 1] / n)
    assert missed / 200 <= duels.ALPHA
    assert found.high - found.low < 0.25


def test_the_interval_is_robbins_normal_mixture() -> None:
    """The mixture of exp(l S - l^2 n / 8) over l ~ N(0, s^2) reaches 1 / alpha exactly at the edge."""
    held = duels.start()
    held["duel_sums"][:] = 100.0, 60.0, 50.0
    found = duels.won(held)
    excess = 100 * (found.high - found.value)
    rho = (2 * np.log(20) + np.log(1 + 2 * np.log(20))) / 100
    spread = rho / 0.25  # so that n rho = n variance * spread
    grid = np.linspace(-6, 6, 200_001) * np.sqrt(spread)
    density = np.exp(-(grid**2) / (2 * spread)) / np.sqrt(2 * np.pi * spread)
    mixture = np.sum(density * np.exp(grid * excess - grid**2 * 100 * 0.25 / 2)) * (grid[1] - grid[0])
    assert mixture == pytest.approx(20.0, rel=1e-3)


def test_length_is_regressed_out() -> None:
    """Longer answers win by their length alone; at equal length both are as good."""
    random = np.random.default_rng(1)
    longer = 0.8 + 0.5 * random.normal(size=500)
    win = (random.random(500) < 1 / (1 + np.exp(-2.0 * longer))) * 1.0
    held = filled(win, longer)
    assert duels.won(held).low > 0.7
    even = duels.at_equal_length(held)
    assert even.low < 0.5 < even.high
    assert even.value == pytest.approx(0.5, abs=0.12)


def test_the_regression_is_that_of_a_general_optimiser() -> None:
    random = np.random.default_rng(2)
    longer, win = random.normal(size=80), random.choice([0.0, 0.5, 1.0], 80, p=[0.2, 0.2, 0.6])

    def loss(weights: np.ndarray) -> float:
        f = weights[0] + weights[1] * longer
        prior = 0.5 * weights[1] ** 2 + 0.125 * weights[0] ** 2
        return float(np.sum(np.logaddexp(0.0, f) - win * f) + prior)

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    assert duels.at_equal_length(filled(win, longer)).value == pytest.approx(1 / (1 + np.exp(-best[0])), abs=1e-5)


def test_duels_that_are_all_won_have_a_finite_interval() -> None:
    found = duels.at_equal_length(filled(np.ones(40), np.zeros(40)))
    assert 0.5 < found.low < found.value <= found.high <= 1.0


def test_the_oldest_duels_leave_the_regression() -> None:
    held = filled(np.zeros(duels.NEWEST), np.zeros(duels.NEWEST))
    for _ in range(duels.NEWEST):
        duels.update(held, 1.0, 0.5, 0.0)
    assert duels.count(held) == 2 * duels.NEWEST
    assert duels.at_equal_length(held).value > 0.95
    assert duels.won(held).value == 0.5


def test_a_win_is_a_share() -> None:
    with pytest.raises(InputError, match="expected both from 0 to 1"):
        duels.update(duels.start(), 2.0, 0.5, 0.0)
