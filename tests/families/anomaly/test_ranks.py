"""Ranks among the scores before: against sorting, and the rate of alerts."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn._jit import exact_kernel
from everlearn.families.anomaly.ranks import HELD, keep, rank
from everlearn.records import Floats, Ints


@exact_kernel
def run(scores: Floats, sample: Floats, seen: Ints) -> Floats:
    found: Floats = np.empty(len(scores))
    for i in range(len(scores)):
        found[i] = rank(sample, min(seen[0], len(sample)), scores[i])
        keep(sample, seen, 0, 7, scores[i])
    return found


@exact_kernel
def ranked(scores: Floats, sample: Floats, n: int) -> Floats:
    found: Floats = np.empty(len(scores))
    for i in range(len(scores)):
        found[i] = rank(sample, n, scores[i])
    return found


def test_ranks_lie_between_the_shares_below_and_not_above() -> None:
    scores = np.random.default_rng(0).integers(0, 30, HELD).astype(float)
    found = run(scores, np.zeros(HELD), np.zeros(1, np.int64))
    assert found[:100].max() < 0.5
    for i in range(100, HELD):
        before = scores[:i]
        assert (before < scores[i]).sum() / (i + 1) <= found[i] <= ((before <= scores[i]).sum() + 1) / (i + 1)


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_threshold_on_ranks_bounds_the_rate_of_alerts(share: float) -> None:
    scores = np.random.default_rng(1).standard_cauchy(60_000)
    sample, seen = np.zeros(HELD), np.zeros(1, np.int64)
    found = run(scores, sample, seen)
    assert abs((found[2000:] > 1.0 - share).mean() - share) < 0.35 * share
    assert (np.diff(sample) >= 0).all()
    assert seen[0] == 60_000


def test_scores_beyond_all_others_keep_their_order() -> None:
    sample, seen = np.zeros(HELD), np.zeros(1, np.int64)
    run(np.random.default_rng(2).normal(size=500), sample, seen)
    high = ranked(np.array([10.0, 20.0, 1e6]), sample, 500).tolist()
    assert high == sorted(set(high))
    assert high[-1] < 1.0


def test_the_sample_follows_a_stream_that_changes() -> None:
    scores = np.concatenate([np.zeros(20_000), np.ones(80_000)]) + np.random.default_rng(3).normal(size=100_000) * 0.01
    found = run(scores, np.zeros(HELD), np.zeros(1, np.int64))
    assert abs(found[-5000:].mean() - 0.5) < 0.05
