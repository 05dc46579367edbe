"""ROC AUC and PR AUC as intervals: scikit-learn's value lies inside, and they are tight where scores lie close."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everlearn.metrics import ranks
from everlearn.records import Arrays, Floats, Singles

Numbers = NDArray[np.generic]


def ranked(p: Numbers, y: Numbers, weight: Singles | None = None, arrays: Arrays | None = None) -> Arrays:
    arrays = arrays or ranks.start()
    p = np.asarray(p, np.float32)
    weight = np.ones(len(p), np.float32) if weight is None else weight
    ranks.update(arrays, np.stack([1 - p, p], axis=1).view(np.int32), np.asarray(y, np.int64), weight)
    return arrays


def ends(report: dict[str, float], name: str) -> tuple[float, float]:
    return report.get(f"{name}_low", report[name]), report.get(f"{name}_high", report[name])


def expected(p: Numbers, y: Numbers, weight: Singles | None = None) -> dict[str, float]:
    p = np.asarray(p, np.float32)
    return {
        "roc_auc": sklearn.metrics.roc_auc_score(y, p, sample_weight=weight),
        "pr_auc": sklearn.metrics.average_precision_score(y, p, sample_weight=weight),
    }


def assert_inside(report: dict[str, float], want: dict[str, float]) -> None:
    for name, value in want.items():
        low, high = ends(report, name)
        assert 0 <= low <= report[name] <= high <= 1
        assert low - 1e-9 <= value <= high + 1e-9, name


def counted_pairs(p: Singles, y: Numbers) -> float:
    """Count all pairs one by one: right 1, equal one half."""
    pairs = list(itertools.product(p[y == 1], p[y == 0]))
    return float(np.mean([float(a > b) + 0.5 * float(a == b) for a, b in pairs]))


near = st.one_of(
    st.sampled_from([0.0, 1e-45, 1e-10, 2e-10, 1e-7, 0.3, 0.30000001, 0.5, 0.7, 1.0 - 2**-24, 1.0]),
    st.floats(0, 1, width=32),
)


@given(st.lists(st.tuples(near, st.booleans()), min_size=2, max_size=60))
@settings(deadline=None)
def test_a_short_stream_is_ranked_exactly(rows: list[tuple[float, bool]]) -> None:
    p, y = np.array([row[0] for row in rows], np.float32), np.array([row[1] for row in rows], np.int64)
    found = ranks.report(ranked(p, y))
    if len(set(y.tolist())) == 1:
        assert found == {}
        return
    assert found.keys() == {"roc_auc", "pr_auc"}
    assert found["roc_auc"] == pytest.approx(counted_pairs(p, y), abs=1e-12)
    assert found == pytest.approx(expected(p, y), abs=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(300, 4_000),
    share=st.sampled_from([0.002, 0.05, 0.5, 0.97]),
    clusters=st.integers(1, 5),
    width=st.sampled_from([1e-6, 1e-4, 0.02, 0.5]),
    drift=st.booleans(),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_true_value_is_inside_the_interval(
    seed: int, rows: int, share: float, clusters: int, width: float, drift: bool, weighted: bool
) -> None:
    random = np.random.default_rng(seed)
    y = random.random(rows) < share
    centres = 10.0 ** random.uniform(-8, 0, clusters)
    which = np.arange(rows) * clusters // rows if drift else random.integers(0, clusters, rows)
    p = np.clip(centres[which] * (1 + width * (random.normal(size=rows) + y)), 0, 1)
    weight = (random.integers(0, 4, rows) * random.choice([1.0, 0.37])).astype(np.float32) if weighted else None
    found = ranks.report(ranked(p, y, weight))
    kept = np.ones(rows, np.float32) if weight is None else weight
    if not found:
        assert not (kept[y].any() and kept[~y].any())
        return
    assert_inside(found, expected(p, y, weight))


@pytest.mark.parametrize(
    ("name", "shift", "scale", "low", "span"),
    [
        ("plain", 0.0, 1.5, 0.0, 1.0),
        ("narrow", 0.0, 1.5, 0.3, 1e-3),
        ("narrow and near one", 0.0, 1.5, 0.999, 1e-3),
        ("narrow and near zero", 0.0, 1.5, 0.0, 1e-9),
        ("rare", -7.0, 2.0, 0.0, 1.0),
    ],
)
def test_the_interval_is_tight(name: str, shift: float, scale: float, low: float, span: float) -> None:
    random = np.random.default_rng(3)
    chance = 1 / (1 + np.exp(-random.normal(shift, scale, 100_000)))
    y = random.random(len(chance)) < chance
    p = low + span * chance
    found, want = ranks.report(ranked(p, y)), expected(p, y)
    assert_inside(found, want)
    bottom, top = ends(found, "roc_auc")
    assert top - bottom < 0.003
    assert found["roc_auc"] == pytest.approx(want["roc_auc"], abs=1e-4)
    assert found["pr_auc"] == pytest.approx(want["pr_auc"], abs=2e-3)


def test_a_stream_that_moves_is_less_certain_and_still_right() -> None:
    random = np.random.default_rng(4)
    rows = 50_000
    y = random.random(rows) < 0.3
    p = 0.1 + 0.8 * np.arange(rows) / rows + 0.02 * random.normal(size=rows) + 0.02 * y
    found, want = ranks.report(ranked(p, y)), expected(p, y)
    assert_inside(found, want)
    low, high = ends(found, "roc_auc")
    assert 0 < high - low < 0.02


@pytest.mark.parametrize("scores", [np.full(20_000, 0.3), np.arange(20_000) % 50 / 50])
def test_repeated_scores_stay_exact(scores: Floats) -> None:
    y = np.random.default_rng(5).random(len(scores)) < 0.2
    found = ranks.report(ranked(scores, y))
    assert found == pytest.approx(expected(scores, y), abs=1e-12)
    assert found.keys() == {"roc_auc", "pr_auc"}


@given(st.lists(st.integers(0, 3_000), max_size=6))
@settings(max_examples=20, deadline=None)
def test_any_cut_of_the_stream_gives_the_same_bytes(cuts: list[int]) -> None:
    random = np.random.default_rng(6)
    p, y = random.random(3_000), random.random(3_000) < 0.4
    whole, parts = ranked(p, y), ranks.start()
    for begin, end in itertools.pairwise(sorted({0, 3_000, *cuts})):
        ranked(p[begin:end], y[begin:end], arrays=parts)
    assert {name: array.tobytes() for name, array in whole.items()} == {
        name: array.tobytes() for name, array in parts.items()
    }
    assert whole["rank_sums"].sum(axis=0).tolist() == [(~y).sum(), y.sum()]


def test_rows_without_label_or_weight_leave_no_trace() -> None:
    weight = np.array([0.0, np.nan, np.inf, -1.0, 1.0], np.float32)
    left = ranked(np.full(5, 0.25), np.array([1, 1, 1, 1, -1]), weight)
    assert all((left[name] == array).all() for name, array in ranks.start().items())


def test_scores_that_are_no_numbers_stand_in_the_middle() -> None:
    arrays = ranks.start()
    scores = np.array([[np.nan, np.nan], [0.9, 0.1], [0.1, 0.9]], np.float32)
    ranks.update(arrays, scores.view(np.int32), np.array([0, 1, 1]), np.ones(3, np.float32))
    assert ranks.report(arrays)["roc_auc"] == 0.5
