"""Selectors against brute force and simulation, propensities against frequencies, budgets and switches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import ConfigError
from everlearn.families.preference import choose, reward
from everlearn.families.preference.choose import ACTIVE, RANDOM, SELECTORS

RNG = np.random.default_rng(0)
DRAWS = RNG.normal(size=(5, 8))


@pytest.mark.parametrize("selector", SELECTORS)
def test_probabilities_sum_to_one_and_pair_no_answer_with_itself(selector: str) -> None:
    found = choose.probabilities(DRAWS, selector)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert not np.diag(found).any()


def test_thompson_is_the_law_of_two_independent_draws() -> None:
    counts = np.zeros((5, 5))
    for _ in range(40_000):
        one, other = RNG.integers(8, size=2)
        first = DRAWS[:, one].argmax()
        rest = DRAWS[:, other].copy()
        rest[first] = -np.inf
        counts[first, rest.argmax()] += 1
    np.testing.assert_allclose(choose.probabilities(DRAWS, "thompson"), counts / 40_000, atol=0.01)


def test_information_is_the_mutual_information_of_label_and_draw() -> None:
    for reliability in (1.0, 0.7):
        p = reliability / (1 + np.exp(DRAWS[3] - DRAWS[1])) + (1 - reliability) / (1 + np.exp(DRAWS[1] - DRAWS[3]))
        joint = np.stack([p, 1 - p]) / 8
        product = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
        expected = np.sum(joint * np.log(joint / product))
        assert choose.information(DRAWS, reliability)[1, 3] == pytest.approx(expected)
    assert choose.information(DRAWS, 0.5).max() < 1e-12


@pytest.mark.parametrize("selector", SELECTORS)
def test_propensities_are_the_frequencies_of_arm_and_pair(selector: str) -> None:
    n, seen, stated = 6000, Counter[tuple[int, int, int]](), dict[tuple[int, int, int], float]()
    for at in range(n):
        one = choose.pair(DRAWS, selector, (3, at))
        key = (one.arm, one.first, one.second)
        seen[key] += 1
        stated[key] = one.propensity
    for key, propensity in stated.items():
        assert seen[key] / n == pytest.approx(propensity, abs=4 * np.sqrt(propensity / n))
    share = sum(count for key, count in seen.items() if key[0] == RANDOM) / n
    assert share == pytest.approx(1.0 if selector == "random" else choose.RANDOM_SHARE, abs=0.02)


def test_extremes_are_the_best_and_the_worst_by_the_mean() -> None:
    mean = np.array([0.3, -2.0, 0.1, 5.0, 0.2])
    found = [choose.pair(DRAWS, choose.EXTREMES, (3, at), 0.25, mean=mean) for at in range(200)]
    active = [(one.first, one.second) for one in found if one.arm == ACTIVE]
    assert set(active) == {(3, 1), (1, 3)}  # in both orders, so that the order says nothing
    assert 100 < len(active) < 190
    of_draws = choose.probabilities(DRAWS, choose.EXTREMES)
    best, worst = int(DRAWS.mean(1).argmax()), int(DRAWS.mean(1).argmin())
    assert of_draws[best, worst] == of_draws[worst, best] == 0.5
    nothing = choose.probabilities(np.zeros((3, 4)), choose.EXTREMES)  # no label yet: two different answers
    assert np.trace(nothing) == 0.0
    assert nothing.sum() == 1.0


@pytest.mark.parametrize("selector", SELECTORS)
def test_equal_answers_are_not_compared(selector: str) -> None:
    """Candidates 0, 1 and 3 are equal; their draws are, too."""
    alike, n = np.array([5, 5, 8, 5, 9]), 200
    draws = np.random.default_rng(2).normal(size=(5, 6))[[0, 0, 2, 0, 4]]
    found = [choose.pair(draws, selector, (3, at), 0.3, alike=alike) for at in range(n)]
    assert all(alike[one.first] != alike[one.second] for one in found)
    same = choose.pair(draws, selector, (3, 0), 0.3, alike=np.zeros(5, np.int64))  # nothing else to compare
    assert same.first != same.second
    for one in found[:40]:
        if selector == "random":  # of 20 ordered pairs 6 are of equal answers
            assert one.propensity == pytest.approx(1 / 14)
        elif one.arm == ACTIVE:  # copies of an answer give it no second chance
            assert {one.first, one.second} <= {0, 2, 4}


def test_prompts_are_chosen_in_proportion_to_what_they_teach() -> None:
    draws = np.stack([DRAWS * 0.0, DRAWS * 0.5, DRAWS * 2.0])
    n, seen, stated = 3000, Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for one in choose.questions(draws, "infomax", n, (5,)):
        seen[one.arm, one.prompt] += 1
    worth = np.array([choose.information(one).max() for one in draws])
    for prompt in range(3):
        expected = (1 - choose.RANDOM_SHARE) * worth[prompt] / worth.sum()
        assert seen[ACTIVE, prompt] / n == pytest.approx(expected, abs=0.03)
        assert seen[RANDOM, prompt] / n == pytest.approx(choose.RANDOM_SHARE / 3, abs=0.015)
    for one in choose.questions(draws, "thompson", 200, (6,)):
        inner = choose.probabilities(draws[one.prompt], "thompson" if one.arm == ACTIVE else "random")
        share = (1 - choose.RANDOM_SHARE) * worth[one.prompt] / worth.sum() if one.arm == ACTIVE else 0.125 / 3
        assert one.propensity == pytest.approx(share * inner[one.first, one.second], rel=1e-6)
        stated[one.arm, one.prompt] += 1
    assert len(stated) > 3


def test_the_same_key_makes_the_same_choice() -> None:
    assert choose.questions(DRAWS[None], "thompson", 20, (1, 2)) == choose.questions(
        DRAWS[None], "thompson", 20, (1, 2)
    )
    assert choose.questions(DRAWS[None], "random", 20, (1, 2)) != choose.questions(DRAWS[None], "random", 20, (1, 3))


def correlation_after(selector: str, seed: int, labels: int = 60) -> float:
    """Return how well a head knows a linear world with features of different scales after some labels."""
    random = np.random.default_rng(seed)
    scale, true = np.geomspace(1, 0.1, 12), random.normal(size=12)
    head = reward.start(12, variance=1.0, draws=32, seed=seed)
    for at in range(labels):
        x = (random.normal(size=(12, 12)) * scale).astype(np.float32)
        _, draws = reward.score(head, x, np.zeros(12, np.int64))
        one = choose.pair(draws, selector, (seed, at))
        p = 1 / (1 + np.exp(-(x[one.first] - x[one.second]) @ true))
        pair = reward.pairs(x[[one.first]], x[[one.second]], (random.random(1) < p) * 1.0)
        reward.append(head, pair)
        reward.fit(head)
    x = random.normal(size=(2000, 12)) * scale
    return float(np.corrcoef(x @ head["weights"].sum(0), x @ true)[0, 1])


def test_infomax_learns_more_from_as_many_labels() -> None:
    random, infomax = (np.array([correlation_after(name, seed) for seed in range(8)]) for name in ("random", "infomax"))
    assert (infomax - random).mean() > 0.02


@pytest.mark.parametrize(("scale", "on"), [(1.5, True), (0.05, False)])
def test_a_selector_is_switched_off_where_random_pairs_teach_more(scale: float, on: bool) -> None:
    """Chosen pairs differ either as much as random ones, or so little that their labels are coin flips."""
    random, width, found = np.random.default_rng(7), 6, []
    for _ in range(3):
        true = 2.0 * random.normal(size=width)
        head, arrays = reward.start(width), choose.start()
        for at in range(360):
            arm = at % 4 != 0
            x = ((scale if arm else 1.5) * random.normal(size=(2, 1, width)) / np.sqrt(width)).astype(np.float32)
            label = (random.random(1) < 1 / (1 + np.exp(-(x[0] - x[1]) @ true))) * 1.0
            pair = reward.pairs(x[0], x[1], label)._replace(arm=np.array([int(arm)]))
            if not arm:
                choose.saw(arrays, 0.1, reward.worth_of_arms(head, pair)[0])
            reward.append(head, pair)
            reward.fit(head) if at % 12 == 0 else reward.refine(head)
        found.append(choose.pays(arrays))
    assert found == [on] * 3


def test_the_worth_of_an_arm_is_what_its_labels_add_to_the_likelihood() -> None:
    """With one label in each arm: the log-likelihood with both parts less that without one."""
    x = np.eye(3, dtype=np.float32)
    known = reward.pairs(x[:2], x[1:], np.array([1.0, 0.0]))._replace(arm=np.array([0, 1]))
    head = reward.start(3)
    reward.append(head, known)
    reward.fit(head)
    dual = head["learn/dual"][:2]
    fresh = reward.pairs(x[:1], x[2:], np.ones(1))
    parts = reward.VARIANCE * dual * ((x[:2] - x[1:]) @ (x[0] - x[2]))

    def value(f: float) -> float:
        return float(-np.log1p(np.exp(-f)))

    expected = [value(parts.sum()) - value(parts[1]), value(parts.sum()) - value(parts[0])]
    np.testing.assert_allclose(reward.worth_of_arms(head, fresh)[0], expected, atol=1e-4)


def test_arms_are_compared_on_as_many_labels_of_each_group() -> None:
    """All chosen labels are about group 1, and contradict nothing; without matching, random ones of group 2 counted."""
    x = np.random.default_rng(3).normal(size=(2, 40, 3)).astype(np.float32)
    group, arm = np.repeat([1, 1, 2], [8, 8, 24]), np.repeat([0, 1, 0], [8, 8, 24])
    label = ((x[0] - x[1])[:, 0] > 0) * 1.0
    worth = []
    for rows in (slice(0, 16), slice(0, 40)):
        head = reward.start(3, groups=3, shared=0.999)
        known = reward.pairs(x[0], x[1], label, group)._replace(arm=arm)
        reward.append(head, reward.taken(known, rows))
        head["learn/dual"][:] = 0.1 * (2.0 * head["learn/label"] - 1.0)  # equal pull of each label
        fresh = reward.pairs(x[:1, 0], x[1:, 0], np.ones(1), np.ones(1, np.int64))
        worth.append(reward.worth_of_arms(head, fresh)[0])
    np.testing.assert_allclose(worth[0], worth[1], rtol=1e-12)
    alone = reward.start(3, groups=3)
    reward.append(alone, known._replace(arm=np.where(arm == 0, reward.NO_ARM, arm)))
    assert np.isnan(reward.worth_of_arms(alone, fresh)).all()  # pairs of a file are not the random arm


def test_questions_stop_when_labels_teach_nothing_and_start_again_after_an_alarm() -> None:
    arrays = choose.start()
    for value in np.geomspace(0.5, 1e-4, 300):
        choose.saw(arrays, value, np.array([0.0, np.nan]))
        recent = arrays["information"]
        assert choose.teaches(arrays) == bool((recent < 0.0).any() or recent.mean() >= choose.LEAST)
        assert np.isfinite(recent).all()  # versions are merged
    assert not choose.teaches(arrays)
    choose.again(arrays)
    assert choose.teaches(arrays)


@given(
    st.lists(st.floats(0, 1), max_size=12),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 6)), min_size=1, max_size=4),
)
def test_the_most_valuable_questions_go_to_the_dearest_sources(
    values: list[float], each: list[tuple[float, int]]
) -> None:
    prices, left = np.array([price for price, _ in each]), np.array([count for _, count in each])
    found = choose.route(np.array(values), prices, left)
    assert (found >= 0).sum() == min(len(values), left.sum())
    assert (np.bincount(found[found >= 0], minlength=len(each)) <= left).all()
    for one, source in enumerate(found):
        for other, second in enumerate(found):
            if values[one] > values[other] and second >= 0:
                assert source >= 0
                assert prices[source] >= prices[second]


def test_a_budget_holds_for_an_hour() -> None:
    arrays, prices, budgets = choose.accounts(2), np.array([0.5, 0.1]), np.array([2.0, np.inf])
    asked = 0
    while choose.affordable(arrays, prices, budgets, 100.0 + asked)[0]:
        choose.spend(arrays, 0, 0.5, 100.0 + asked)
        asked += 1
    assert asked == 4
    assert choose.affordable(arrays, prices, budgets, 3599.0)[0] == 0
    assert choose.affordable(arrays, prices, budgets, 3600.0)[0] == 4
    choose.spend(arrays, 0, 0.5, 3600.0)
    assert choose.affordable(arrays, prices, budgets, 3700.0)[0] == 3
    assert arrays["spent"].tolist() == [2.5, 0.0]
    assert arrays["labels"].tolist() == [5, 0]
    choose.credit(arrays, np.array([5, 0]), 0.1)
    choose.credit(arrays, np.array([0, 0]), 0.1)
    assert choose.win_per_unit(arrays)[0] == pytest.approx(0.04)


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="selector: got 'best'; expected one of random, thompson"):
        choose.probabilities(DRAWS, "best")
    with pytest.raises(ConfigError, match="candidates: got 1"):
        choose.pair(DRAWS[:1], "random", (0,))
