"""The interval of a mean difference from the points of curves: simulated streams whose true mean is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.errors import ConfigError, InputError
from everlearn.gate import interval

POINTS = 256


def looks(differences, weights=None):
    """Return the interval as the page would show it while the stream goes on: stretches double as a curve does."""
    weights = np.ones(len(differences)) if weights is None else weights
    total, mass = np.cumsum(differences * weights), np.cumsum(weights)
    for n in np.unique(np.geomspace(100, len(differences), 40).astype(int)):
        length = 1
        while n / length > POINTS:
            length *= 2
        ends = np.append(np.arange(length, n, length), n) - 1
        sums, parts = np.diff(total[ends], prepend=0.0), np.diff(mass[ends], prepend=0.0)
        yield n, interval.of_stretches(sums, parts, int(n))


def paired_errors(rng, n, gain, memory):
    """Return how much more often the first of two classifiers was right, row by row; outcomes stay for a while."""
    fresh = rng.random(n) >= memory
    fresh[0] = True
    draw = rng.random(n)[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]
    return np.where(draw < 0.1 + gain / 2, 1.0, np.where(draw > 0.9 + gain / 2, -1.0, 0.0))


@pytest.mark.parametrize(("gain", "memory"), [(0.0, 0.0), (0.0, 0.9), (0.03, 0.0), (0.03, 0.9), (0.0, 0.98)])
def test_the_truth_stays_inside_at_all_looks_together(gain, memory):
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(60):
        found = [one for _, one in looks(paired_errors(rng, 6000, gain, memory)) if one.low is not None]
        assert found
        missed += any(not one.low <= gain <= one.high for one in found)
    assert missed <= 0.05 * 60 + 3 * math.sqrt(60 * 0.05 * 0.95)  # alpha, and three standard errors


def test_a_gain_of_three_points_is_shown_within_some_thousand_rows():
    rng = np.random.default_rng(3)
    shown = []
    for _ in range(20):
        ends = [n for n, one in looks(paired_errors(rng, 20_000, 0.03, 0.0)) if one.low is not None and one.low > 0]
        shown.append(ends[0] if ends else np.inf)
    assert np.median(shown) < 6000


def test_a_stream_that_changes_is_no_noise():
    rng = np.random.default_rng(9)
    missed, found = 0, None
    for _ in range(15):
        expected = np.where(np.arange(6000) > 2000, 0.6, 0.0) + 0.05 * np.sin(np.arange(6000) / 200)
        running = np.cumsum(expected) / np.arange(1, 6001)
        for n, found in looks(rng.normal(expected, 0.7)):
            missed += found.low is not None and not found.low <= running[n - 1] <= found.high
        assert found.low > 0.2
    assert missed <= 2


def test_weights_count_as_rows_would():
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 4, 4000).astype(float)
    differences = rng.normal(0.1, 1.0, 4000)
    *_, (_, weighted) = looks(differences, weights)
    assert weighted.mean == pytest.approx(np.average(differences, weights=weights))
    assert weighted.low < 0.1 < weighted.high
    *_, (_, scaled) = looks(differences, 5.0 * weights)
    assert scaled == pytest.approx(weighted)


def test_too_few_rows_have_no_interval_and_wrong_input_is_refused():
    assert interval.of_stretches(np.zeros(0), np.zeros(0), 0) == (0.0, None, None)
    assert interval.of_stretches(np.ones(63), np.ones(63), 63) == (1.0, None, None)
    with pytest.raises(InputError, match=r"\(2,\) and weights \(1,\)"):
        interval.of_stretches(np.ones(2), np.ones(1), 2)
    with pytest.raises(InputError, match="weight of 0"):
        interval.of_stretches(np.ones(2), np.zeros(2), 2)
    with pytest.raises(ConfigError, match=r"alpha of 1\.0"):
        interval.of_stretches(np.ones(2), np.ones(2), 2, 1.0)


def test_equal_differences_leave_room_for_others():
    zeros, weights = np.zeros(128), np.full(128, 50.0)
    assert interval.of_stretches(zeros, weights, 6400) == (0.0, None, None)  # nothing bounds the others
    mean, low, high = interval.of_stretches(zeros, weights, 6400, bound=1.0)
    assert (mean, low) == (0.0, -high)
    assert high == pytest.approx(math.log(20) / 128)
    assert interval.of_stretches(50 * np.ones(128), weights, 6400, bound=1.0)[::2] == (1.0, 1.0)
    *_, low, _ = interval.of_stretches(50 * np.ones(128), weights, 6400, bound=1.0)
    assert low == pytest.approx(1.0 - 2.0 * high)
    assert interval.of_stretches(np.zeros(63), np.ones(63), 63, bound=1.0) == (0.0, None, None)


def test_the_truth_stays_inside_where_models_seldom_differ():
    """Two models that differ in one row of 2,000: many streams have no differing row for long."""
    rng, missed, found = np.random.default_rng(11), 0, 0
    for _ in range(200):
        differences = (rng.random(6000) < 0.0005).astype(float)
        total = np.cumsum(differences)
        ends = np.arange(100, 6001, 47)
        for n in ends[::8]:
            stretches = np.linspace(0, n, 101).astype(int)[1:] - 1
            sums, parts = np.diff(total[stretches], prepend=0.0), np.diff(stretches, prepend=-1).astype(float)
            _, low, high = interval.of_stretches(sums, parts, int(n), bound=1.0)
            found += low is not None
            if low is not None and not low <= 0.0005 <= high:
                missed += 1
                break
    assert found > 1000
    assert missed <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)
