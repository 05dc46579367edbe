"""Reliability of annotators against simulations with known truth, and the bound on false naming."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from everlearn.errors import InputError
from everlearn.families.preference import annotators, first_come, reward
from everlearn.families.preference.annotators import GOOD, INVERTED, RANDOM
from everlearn.records import Arrays, Floats

TRUE = np.array([1.0, 0.95, 0.9, 0.85, 0.5, 0.1])  # number 0 is unused


def simulated(seed: int, n: int, rates: Floats, sharp: float = 2.0) -> Arrays:
    """Return a table after n labels of each annotator, whose true preferences a calibrated model predicted."""
    random = np.random.default_rng(seed)
    table = annotators.start(len(rates))
    for who, rate in enumerate(rates[1:], 1):
        p = 1 / (1 + np.exp(-sharp * random.normal(size=n)))
        label = (random.random(n) < p) ^ (random.random(n) > rate)
        annotators.update(table, np.full(n, who), label.astype(np.float64), p)
    return table


def test_rates_are_recovered_and_the_bad_are_named() -> None:
    table = simulated(0, 2000, TRUE)
    np.testing.assert_allclose(annotators.reliability(table)[1:], TRUE[1:], atol=0.05)
    assert annotators.named(table)[1:].tolist() == [GOOD, GOOD, GOOD, RANDOM, INVERTED]


def test_the_bound_on_false_naming_holds_at_any_time() -> None:
    """Ask after every label of 400 annotators at the border of each hypothesis; count those named even once."""
    level, n = 0.05, 400
    random = np.random.default_rng(1)
    for rate, bound in ((0.5, INVERTED), (annotators.USEFUL, RANDOM)):
        table, caught = annotators.start(n), np.zeros(n, np.bool_)
        for _ in range(150):
            p = random.uniform(0.06, 0.94, n)
            label = (random.random(n) < p) ^ (random.random(n) > rate)
            annotators.update(table, np.arange(n), label.astype(np.float64), p)
            found = annotators.named(table, level)
            caught |= found >= bound if bound == RANDOM else found == INVERTED
        assert caught.mean() <= level


def test_gold_questions_name_an_inverted_annotator_soon() -> None:
    random = np.random.default_rng(2)
    needed = []
    for _ in range(200):
        table, asked = annotators.start(2), 0
        while annotators.named(table)[1] != INVERTED:
            annotators.gold(table, np.array([1]), random.random(1) < 0.1)
            asked += 1
        needed.append(asked)
    assert np.median(needed) <= 15


def test_the_grouping_of_judgements_does_not_matter_and_their_order_not_to_the_evidence() -> None:
    random = np.random.default_rng(3)
    who, label, p = random.integers(1, 5, 200), random.integers(2, size=200) * 1.0, random.random(200)
    seconds = random.exponential(5, 200)
    whole, single = annotators.start(5), annotators.start(5)
    annotators.update(whole, who, label, p, seconds)
    for at in range(200):
        rows = slice(at, at + 1)
        annotators.update(single, who[rows], label[rows], p[rows], seconds[rows])
    for name, array in whole.items():
        assert array.tobytes() == single[name].tobytes()
    turned = annotators.start(5)
    annotators.update(turned, who[::-1], label[::-1], p[::-1], seconds[::-1])
    np.testing.assert_allclose(turned["evidence"], whole["evidence"], atol=1e-9)


def test_evidence_of_skill_is_an_e_value_at_any_time() -> None:
    """With labels at random, few runs ever reach log(1 / level); a calibrated model with skill gains all the time."""
    random, ever, skilled = np.random.default_rng(7), [], []
    for _ in range(300):
        tables, most = (annotators.start(2), annotators.start(2)), 0.0
        for _ in range(60):
            p = 1 / (1 + np.exp(-2.0 * random.normal(size=1)))
            annotators.update(tables[0], np.array([1]), random.integers(2, size=1) * 1.0, p)
            annotators.update(tables[1], np.array([1]), (random.random(1) < p) * 1.0, p)
            most = max(most, annotators.skill(tables[0]))
        ever.append(most)
        skilled.append(annotators.skill(tables[1]))
    assert np.mean(np.array(ever) >= np.log(10)) <= 0.1
    assert np.mean(skilled) > 8.0


def world(seed: int, fitted: bool, downweigh: bool = True, n: int = 1000) -> tuple[Arrays, float]:
    """Learn from five annotators in a linear world; return their table and the reward's correlation with the truth."""
    random = np.random.default_rng(seed)
    width = 24
    x = (random.normal(size=(2, n, width)) / np.sqrt(width)).astype(np.float32)
    true = 3.0 * random.normal(size=width)
    logit = (x[0] - x[1]) @ true
    who = random.integers(1, 6, n)
    label = (random.random(n) < 1 / (1 + np.exp(-logit))) ^ (random.random(n) > TRUE[who])
    judged = reward.pairs(x[0], x[1], label * 1.0)._replace(who=who)
    head, table = reward.start(width), annotators.start(6)
    for begin in range(0, n, 100):
        part = reward.taken(judged, slice(begin, begin + 50))
        if fitted:
            reward.append(head, part)
            reward.fit(head)
        annotators.update(table, part.who, part.label, reward.predict(head, part))
        if not fitted:
            reward.append(head, part)
            reward.fit(head, annotators.reliability(table) if downweigh else None)
    fresh = random.normal(size=(1000, width))
    return table, float(np.corrcoef(fresh @ head["weights"].sum(0), fresh @ true)[0, 1])


def test_predictions_from_before_learning_name_the_inverted_and_improve_the_reward() -> None:
    found = [world(seed, fitted=False) for seed in range(3)]
    for table, _ in found:
        assert annotators.named(table)[1:4].tolist() == [GOOD] * 3
        assert annotators.named(table)[5] == INVERTED
    naive = [world(seed, fitted=False, downweigh=False)[1] for seed in range(3)]
    assert np.mean([closeness for _, closeness in found]) > np.mean(naive) + 0.02


def test_the_fitted_model_believes_everyone() -> None:
    """The trap: with few labels for its size, the fitted head explains also what the inverted annotator says."""
    before, after = (world(0, fitted, downweigh=False, n=150)[0] for fitted in (False, True))
    assert annotators.reliability(after)[5] > annotators.reliability(before)[5] + 0.1


def test_agreement_and_its_interval() -> None:
    random = np.random.default_rng(4)
    table = annotators.start(6)
    first, second = np.full(300, 5), random.integers(1, 4, 300)
    same = random.random(300) < 0.7
    annotators.agreed(table, first, second, same)
    share, low, high = annotators.agreement(table, np.array([5]), np.array([1, 2, 3]))
    oracle = binomtest(int(same.sum()), 300).proportion_ci(method="wilson")
    assert share == same.mean()
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    share, low, high = annotators.agreement(table, np.array([1]), np.array([2]))
    assert np.isnan(share)
    assert (low, high) == (0.0, 1.0)


def test_speed() -> None:
    table = annotators.start(3)
    given = np.array([0.2, 3.0, 0.0, 9.0, 0.9])
    annotators.update(table, np.array([1, 1, 1, 2, 2]), np.ones(5), np.full(5, 0.5), given)
    mean, hasty = annotators.seconds(table)
    assert mean[1:].tolist() == pytest.approx([np.sqrt(0.6), np.sqrt(8.1)])
    assert hasty[1:].tolist() == [0.5, 0.5]
    assert np.isnan(mean[0])


def test_annotators_are_numbered_as_they_come_and_overflow_is_counted() -> None:
    table = annotators.start(3)
    assert first_come.admit(table, np.array([900, 800, 700])).tolist() == [1, 2, 0]
    assert table["counts"].tolist() == [2, 1]


def test_unusable_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="proba: got a value outside"):
        annotators.update(annotators.start(2), np.array([1]), np.ones(1), np.array([np.nan]))
