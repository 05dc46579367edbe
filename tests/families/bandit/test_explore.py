"""Probabilities of actions: the formulas of each exploration, and Thompson sampling against drawn posteriors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn._jit import exact_kernel
from everlearn.families.bandit import explore, rows, settings
from everlearn.families.bandit.settings import BanditSettings
from everlearn.records import Floats


@exact_kernel
def given(settings: Any, learned: float, values: Any, deviations: Any, available: Any, p: Any) -> int:
    """Call the compiled part from Python."""
    return explore.probabilities(settings, learned, values, deviations, available, available.sum(), p)


@exact_kernel
def drawn(p: Any, u: float) -> int:
    """Call the compiled part from Python."""
    return explore.draw(p, u)


def chances(kind: Any, values: list[float], deviations: list[float], learned: float, off: int = -1) -> Floats:
    chosen = settings.kernel_settings(BanditSettings(dense=9, actions=len(values), explore=kind))
    available = np.arange(len(values)) != off
    p = np.empty(len(values))
    given(chosen, learned, np.array(values), np.array(deviations), available, p)
    assert p.sum() == pytest.approx(1.0)
    return p


def test_squarecb_weights_gaps_between_upper_bounds() -> None:
    p = chances("squarecb", [0.5, 0.3, 0.1], [0.0, 0.1, 0.0], 99.0)
    gamma = settings.GAMMA_SCALE * 100.0**settings.GAMMA_EXPONENT
    others = [1.0 / (3 + gamma * 0.1), 1.0 / (3 + gamma * 0.4)]
    np.testing.assert_allclose(p, [1.0 - sum(others), *others])


def test_squarecb_counts_only_what_is_on_offer() -> None:
    p = chances("squarecb", [0.5, 0.3, 0.1], [0.0] * 3, 0.0, off=0)
    np.testing.assert_allclose(p[2], 1.0 / (2 + settings.GAMMA_SCALE * 0.2))
    assert p[0] == 0.0


def test_epsilon_falls_to_its_floor() -> None:
    first, late = chances("epsilon", [0.1, 0.9], [0.0] * 2, 0.0), chances("epsilon", [0.1, 0.9], [0.0] * 2, 1e9)
    np.testing.assert_allclose(first[0], settings.EPSILON_DECAY / 2)
    np.testing.assert_allclose(late[0], settings.EPSILON_FLOOR / 2)


def test_linucb_takes_the_highest_bound_and_keeps_a_floor() -> None:
    p = chances("linucb", [0.5, 0.4], [0.0, 0.2], 100.0)
    np.testing.assert_allclose(p, [settings.FLOOR / 2, 1.0 - settings.FLOOR / 2])


@pytest.mark.parametrize("kind", ["squarecb", "epsilon", "linucb", "thompson", "greedy"])
def test_before_the_first_row_every_action_is_as_likely(kind: str) -> None:
    np.testing.assert_allclose(chances(kind, [0.0] * 4, [0.3] * 4, 0.0), 0.25, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "deviations"),
    [
        ([0.5, 0.4, 0.1], [0.1, 0.2, 0.3]),
        ([0.5, 0.49, 0.48, 0.3], [0.001, 0.05, 0.0, 0.2]),
        ([0.2, 0.8], [0.02, 0.02]),
        (list(np.linspace(0, 1, 20)), [0.3] * 20),
    ],
)
def test_thompson_gives_the_chance_that_a_drawn_posterior_is_the_best(
    values: list[float], deviations: list[float]
) -> None:
    draws = np.random.default_rng(0).normal(values, deviations, (400_000, len(values))).argmax(axis=1)
    expected = np.bincount(draws, minlength=len(values)) / len(draws)
    p = (chances("thompson", values, deviations, 0.0) - settings.FLOOR / len(values)) / (1.0 - settings.FLOOR)
    np.testing.assert_allclose(p, expected, atol=0.01)


def test_a_draw_is_the_first_action_whose_cumulated_probability_exceeds_it() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.75])
    assert [drawn(p, u) for u in (0.0, 0.2499, 0.25, 0.999999)] == [1, 1, 3, 3]
    assert drawn(np.array([0.5, 0.5 - 1e-9, 0.0]), 1.0 - 1e-12) == 1  # never one without probability


def test_every_exploration_has_its_number() -> None:
    assert sorted(explore.KINDS.values()) == list(range(5))
    assert rows.HORIZON == 15
