"""McNemar's test beside SciPy's, and the intervals on null models with and without autocorrelation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from everlearn.errors import InputError
from everlearn.evaluate import paired
from everlearn.evaluate.paired import LossSums, difference, mcnemar


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 9), (40, 40), (120, 80), (700, 600)])
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    found = paired.of_counts(first, second)
    if first + second:
        exact = stats.binomtest(first, first + second).pvalue
        assert found.p == pytest.approx(exact, rel=1e-9 if first + second <= 1000 else 0.1)
        assert found.statistic == pytest.approx(np.sign(first - second) * (first - second) ** 2 / (first + second))
    else:
        assert found == (0, 0, 0.0, 1.0)


def test_faded_counts_are_the_sums_of_gama() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 500)) < 0.4
    only_first = only_second = 0.0
    for a, b in zip(first, second, strict=True):
        only_first, only_second = 0.99 * only_first + (a and not b), 0.99 * only_second + (b and not a)
    found = mcnemar(first, second, fading=0.99)
    assert found[:2] == pytest.approx((only_first, only_second))
    assert found.p == pytest.approx(stats.chi2.sf(abs(found.statistic), 1))
    with pytest.raises(InputError, match="shapes"):
        mcnemar(first, second[1:])


def test_equal_models_are_rarely_found_different() -> None:
    """The false positive rate of both on independent rows; the interval is looked at four times on the way."""
    random = np.random.default_rng(1)
    tests, alarms = 0, 0
    for _ in range(400):
        wrong = random.random((2, 4096)) < 0.3
        tests += mcnemar(*wrong).p < 0.05
        alarms += _leaves_out_0(wrong)
    assert 0.03 < tests / 400 < 0.08
    assert alarms / 400 < 0.05


def test_neighbours_that_are_alike_mislead_the_test_and_not_the_interval() -> None:
    """Both models are wrong for 40 rows at a time, as often as each other."""
    random = np.random.default_rng(2)
    tests, alarms = 0, 0
    for _ in range(200):
        wrong = np.repeat(random.random((2, 240)) < 0.3, 40, axis=1)
        tests += mcnemar(*wrong).p < 0.05
        alarms += _leaves_out_0(wrong)
    assert tests / 200 > 0.5
    assert alarms / 200 < 0.06


def test_a_real_difference_is_found_with_its_size() -> None:
    random = np.random.default_rng(3)
    wrong = random.random((2, 20_000)) < np.array([[0.30], [0.25]])
    found = difference(*map(_stretches, wrong.astype(float)), 0.05, 1.0)
    assert 0.0 < found.low < 0.05 < found.high < 0.1


def test_only_shared_rows_count_however_calls_were_cut() -> None:
    random = np.random.default_rng(4)
    losses, weight = random.random((2, 5000)), np.ones(5000, np.float32)
    whole, short, parts = LossSums(), LossSums(), LossSums()
    whole.add(losses[0], weight)
    short.add(losses[1, :3333], weight[:3333])
    for begin in range(0, 5000, 77):
        parts.add(losses[0, begin : begin + 77], weight[begin : begin + 77])
    assert difference(whole, short) == difference(parts, short)
    rows = 3333 // 16 * 16
    assert difference(whole, short).mean == pytest.approx((losses[0, :rows] - losses[1, :rows]).mean())
    assert difference(short, LossSums()) == (0.0, None, None)


def _stretches(losses: np.ndarray) -> LossSums:
    found = LossSums()
    found.add(losses, np.ones(len(losses), np.float32))
    return found


def _leaves_out_0(wrong: np.ndarray) -> bool:
    size = wrong.shape[1]
    for rows in (size // 4, size // 2, 3 * size // 4, size):
        found = difference(*(_stretches(one[:rows].astype(float)) for one in wrong), 0.05, 1.0)
        if found.low is not None and not found.low <= 0.0 <= found.high:
            return True
    return False
