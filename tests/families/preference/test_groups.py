"""Detectors of drift by group: false alarms, delay, and the independence of groups."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import InputError
from everlearn.families.preference import groups, reward


def predicted(random: np.random.Generator, n: int) -> np.ndarray:
    return 1 / (1 + np.exp(-2.5 * random.normal(size=n)))


def test_false_alarms_are_further_apart_than_the_threshold() -> None:
    random = np.random.default_rng(0)
    n, detectors = 120_000, groups.start(200)
    p = predicted(random, n)
    label = (random.random(n) < p) * 1.0
    groups.update(detectors, np.arange(n) % 200, label, p)
    assert n / max(detectors["groups"][:, groups.ALARMS].sum(), 1) >= groups.THRESHOLD


def test_a_group_whose_preferences_turn_is_found_soon_and_alone() -> None:
    random = np.random.default_rng(1)
    delays, estimates = [], []
    for _ in range(50):
        detectors = groups.start(4)
        group, p = np.arange(3000) % 4, predicted(random, 3000)
        turned = (group == 2) & (np.arange(3000) >= 2000)
        label = (random.random(3000) < np.where(turned, 1 - p, p)) * 1.0
        groups.update(detectors, group[:2000], label[:2000], p[:2000])
        before = detectors["groups"][:, groups.ALARMS].copy()
        groups.update(detectors, group[2000:], label[2000:], p[2000:])
        assert (detectors["groups"][:, groups.ALARMS] - before)[[0, 1, 3]].sum() <= 1
        alone, rows, none = groups.start(1), np.flatnonzero(turned), np.zeros(1, np.int64)
        for delay, at in enumerate(rows, 1):
            if alarm := groups.update(alone, none, label[[at]], p[[at]]):
                delays.append(delay)
                estimates.append(delay - alarm[0])
                break
    assert np.median(delays) <= 15
    assert np.median(estimates) <= 2


def test_the_statistic_is_the_largest_product_over_starting_points() -> None:
    random = np.random.default_rng(2)
    p, label = predicted(random, 60), random.integers(2, size=60) * 1.0
    right = np.clip(np.where(label > 0.5, p, 1 - p), groups.CLIP, 1 - groups.CLIP)
    factors = 1 - groups.BETS + groups.BETS * ((1 - right) / right)[:, None]
    detectors = groups.start(1)
    for at in range(60):
        if groups.update(detectors, np.array([0]), label[at : at + 1], p[at : at + 1]):
            break
        brute = np.max([np.prod(factors[first : at + 1], 0) for first in range(at + 1)], 0)
        assert np.exp(detectors["log_evidence"][0]) == pytest.approx(brute)


def test_an_alarm_is_counted_and_starts_again() -> None:
    detectors = groups.start(3)
    assert groups.update(detectors, np.array([1] * 3), np.ones(3), np.full(3, 0.01)) == {1: 3}
    assert detectors["groups"][1].tolist() == [3, 1, 3]
    assert not detectors["log_evidence"][1].any()


def test_unusable_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="proba: got a value outside"):
        groups.update(groups.start(1), np.array([0]), np.ones(1), np.array([1.5]))


# ---- half of the groups negated --------------------------------------------------------------------------------------

WIDTH, GROUPS, ROUND = 12, 8, 32


def agreement_after(seed: int, react: bool, labels: int = 960, turns: int = 480) -> tuple[float, float, set[int]]:
    """Teach a head alone, with half of the groups negated halfway; return how often it agrees with what holds now.

    Returned for the groups that turned and for the others, with the groups that had an alarm after the change.
    """
    random = np.random.default_rng(seed)
    truth, named = random.normal(size=(GROUPS, WIDTH)), set[int]()
    head, detectors = reward.start(WIDTH, groups=GROUPS, variance=1.0, window=1024), groups.start(GROUPS)
    for begin in range(0, labels, ROUND):
        signs = np.where((np.arange(GROUPS) < GROUPS // 2) & (begin >= turns), -1.0, 1.0)
        group = np.arange(ROUND) % GROUPS
        x, y = random.normal(size=(2, ROUND, WIDTH)).astype(np.float32)
        logit = 1.5 * signs[group] * np.einsum("nd,nd->n", x - y, truth[group])
        label = (random.random(ROUND) < 1 / (1 + np.exp(-logit))) * 1.0
        pairs = reward.pairs(x, y, label, group)
        alarms = groups.update(detectors, group, label, reward.predict(head, pairs))
        reward.append(head, pairs)
        for one, newest in alarms.items():
            named |= {one} if begin >= turns else {-1}
            if react:
                reward.forget(head, one, newest)
        reward.fit(head)
    held = np.repeat(np.arange(GROUPS), 500)
    x, y = random.normal(size=(2, len(held), WIDTH)).astype(np.float32)
    right = np.einsum("nd,nd->n", x - y, truth[held]) * signs[held] > 0
    agrees = (reward.predict(head, reward.pairs(x, y, right * 1.0, held)) > 0.5) == right
    turned = held < GROUPS // 2
    return float(agrees[turned].mean()), float(agrees[~turned].mean()), named


def test_half_of_the_groups_negated_are_named_alone_and_won_back() -> None:
    runs = {react: [agreement_after(seed, react) for seed in range(2)] for react in (True, False)}
    for turned, stable, named in runs[True]:
        assert named == set(range(GROUPS // 2))
        assert turned > 0.8
        assert stable > 0.85
    won = [np.mean([turned for turned, _, _ in runs[react]]) for react in (True, False)]
    assert won[0] > won[1] + 0.1
