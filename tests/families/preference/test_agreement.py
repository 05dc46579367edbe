"""Intervals and kappa against SciPy and scikit-learn, their coverage, and judges with known leanings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import cohen_kappa_score

from everlearn.errors import InputError
from everlearn.families.preference.agreement import agreement, anytime, length_bias, position_bias, wilson
from everlearn.families.preference.judge import function_judge, judged_all
from everlearn.families.preference.judged_pairs import AnswerPair
from everlearn.families.preference.verdicts import Shown

COUNTS = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.01, 0.05, 0.2]))
def test_wilson_is_that_of_scipy(counts: tuple[int, int], alpha: float) -> None:
    hits, n = counts
    if n:
        expected = stats.binomtest(hits, n).proportion_ci(1 - alpha, "wilson")
        assert wilson(hits, n, alpha) == pytest.approx((expected.low, expected.high), abs=1e-12)
    else:
        assert wilson(hits, n, alpha) == (0.0, 1.0)


@given(COUNTS, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_sequence_ends_where_the_bet_reaches_its_bound(counts: tuple[int, int], alpha: float) -> None:
    hits, n = counts
    low, high = anytime(hits, n, alpha)
    assert 0.0 <= low <= (hits / n if n else 0.5) <= high <= 1.0
    for p in (low, high):
        if 0.0 < p < 1.0:
            log_bet = special.betaln(hits + 1, n - hits + 1) - special.xlogy(hits, p) - special.xlog1py(n - hits, -p)
            assert log_bet == pytest.approx(-math.log(alpha), abs=1e-6)
    assert (low == 0.0) <= (n == 0 or special.betaln(hits + 1, n - hits + 1) < -math.log(alpha) or hits == 0)
    assert low < wilson(hits, n, alpha)[0] + 1e-9 or n < 3


def test_the_bet_is_the_product_of_sequential_predictions() -> None:
    outcomes, p, bet = [1, 1, 0, 1, 1, 1, 0, 1], 0.4, 1.0
    for n, outcome in enumerate(outcomes):
        laplace = (sum(outcomes[:n]) + 1) / (n + 2)
        bet *= (laplace if outcome else 1 - laplace) / (p if outcome else 1 - p)
    hits, n = sum(outcomes), len(outcomes)
    whole = special.beta(hits + 1, n - hits + 1) / (p**hits * (1 - p) ** (n - hits))
    assert whole == pytest.approx(bet)
    low, _ = anytime(hits, n, alpha=1 / bet)  # refuted exactly now
    assert low == pytest.approx(p)


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.97])
def test_the_sequence_holds_at_all_moments_together(truth: float) -> None:
    """Of 1,000 streams of 400 pairs, at most alpha leave the sequence ever; Wilson's interval is left more often."""
    rng = np.random.default_rng(7)
    hits = (rng.random((1000, 400)) < truth).cumsum(1)
    bounds = {n: [anytime(k, n, 0.1) for k in range(n + 1)] for n in range(1, 401, 7)}
    left = np.zeros(1000, bool)
    naive = np.zeros(1000, bool)
    for n, table in bounds.items():
        low, high = np.array(table)[hits[:, n - 1]].T
        left |= (truth < low) | (truth > high)
        close = np.array([wilson(k, n, 0.1) for k in range(n + 1)])[hits[:, n - 1]].T
        naive |= (truth < close[0]) | (truth > close[1])
    assert left.mean() <= 0.1
    assert naive.mean() > 0.25


@given(st.lists(st.tuples(st.sampled_from([0, 1, -1]), st.sampled_from([0, 1, -1])), min_size=1, max_size=80))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    judge, people = np.array(pairs).T
    found = agreement(judge, people)
    assert found.all.share == np.mean(judge == people)
    if len(set(judge) | set(people)) > 1:
        assert found.kappa == pytest.approx(cohen_kappa_score(judge, people), abs=1e-12)
    else:
        assert math.isnan(found.kappa)
    decided = [one == other for one, other in pairs if one >= 0 and other >= 0]
    assert found.decided.pairs == len(decided)
    assert found.low <= found.all.share <= found.high


def test_no_pairs_say_nothing() -> None:
    none = np.zeros(0, np.int64)
    found = agreement(none, none)
    assert (found.all.pairs, found.all.low, found.all.high, found.low, found.high) == (0, 0.0, 1.0, 0.0, 1.0)
    assert math.isnan(found.all.share)
    assert math.isnan(found.kappa)
    assert position_bias([]).turned.pairs == 0
    assert length_bias(none, none.reshape(0, 2)).longer.pairs == 0


def test_wrong_verdicts_are_named() -> None:
    with pytest.raises(InputError, match="judge: got"):
        agreement(np.array([0, 2]), np.array([0, 1]))
    with pytest.raises(InputError, match="people: got 1 verdicts for 2"):
        agreement(np.array([0, 1]), np.array([0]))
    with pytest.raises(InputError, match=r"lengths: got shape \(2,\)"):
        length_bias(np.array([0, 1]), np.array([3, 4]))
    with pytest.raises(InputError, match="3 of 2"):
        wilson(3, 2)


def drawn(share: float, seed: int) -> list[bool]:
    rng = np.random.default_rng(seed)
    return [bool(draw < share) for draw in rng.random(300)]


@pytest.mark.parametrize("toward", ["A", "B"])
def test_a_leaning_to_a_place_is_measured(toward: Shown) -> None:
    partial = drawn(0.3, 3)

    def function(prompt: str, a: str, b: str) -> Shown:
        return toward if partial[int(prompt)] else "A" if a > b else "B"

    pairs = [AnswerPair(str(n), str(n), f"one {n % 7}", f"one {(n + 3) % 7}x") for n in range(300)]
    found = position_bias(judged_all(function_judge("partial", function), pairs))
    assert found.turned.share == np.mean(partial)
    assert found.turned.low < 0.3 < found.turned.high
    assert found.toward_a.share == float(toward == "A")


def test_a_tie_in_one_order_leans_to_the_place_chosen_in_the_other() -> None:
    for shown, share in (("A", 1.0), ("B", 0.0)):
        for order in ("one", "two"):

            def function(prompt: str, a: str, b: str, shown: str = shown, order: str = order) -> Shown:
                return shown if a == order else "tie"  # type: ignore[return-value]

            found = position_bias(judged_all(function_judge("f", function), [AnswerPair("1", "?", "one", "two")]))
            assert (found.turned.share, found.toward_a.share) == (1.0, share)


def test_a_judge_that_loves_length_more_than_people_is_seen() -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(10, 200, (2000, 2))
    quality = rng.normal(size=(2000, 2))
    people = np.argmax(quality, 1)
    fair = np.where(rng.random(2000) < 0.1, 1 - people, people)
    lover = np.argmax(quality + lengths / 100, 1)
    assert (
        length_bias(fair, lengths, people).against_people.low
        < 0.5
        < length_bias(fair, lengths, people).against_people.high
    )
    found = length_bias(lover, lengths, people)
    assert found.against_people.low > 0.9
    assert found.longer.low > 0.6
    like_people = length_bias(lover, lengths, lover)
    assert like_people.longer.low > 0.6
    assert like_people.against_people.pairs == 0
