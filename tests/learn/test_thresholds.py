"""Thresholds equal those of a brute-force search over the rows that they remember."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import stats

from everlearn.learn import thresholds
from everlearn.learn.thresholds import EDGES, FALLBACK, LEARNED, THRESHOLD

COSTS = np.array([[0.0, 1.0], [20.0, 0.0]])


def rows(n: int, seed: int = 0, prior: float = -2.0) -> tuple[Any, Any, Any]:
    """Scores of a model that exaggerates, labels and weights."""
    draw = np.random.default_rng(seed)
    logit = prior + 1.5 * draw.normal(size=n)
    y = (draw.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    score = (1 / (1 + np.exp(-2 * logit))).astype(np.float32)
    return np.stack([1 - score, score], 1), y, draw.choice([0.5, 1.0, 3.0], n).astype(np.float32)


def fading(n: int, kind: str) -> Any:
    """Return how much each of n rows counts after the last one, relative to a new row."""
    memory = [min(thresholds.LONG[kind], max(thresholds.SHORT[kind], i / 4)) for i in range(n)]
    growth = np.cumprod([1.0] + [1 + 1 / one for one in memory])
    return growth[:-1] / growth[-1]


def buckets(scores: Any) -> Any:
    return np.array([thresholds.bucket(float(score)) for score in scores[:, 1]])


def noted(kind: Any, n: int, seed: int = 0, fallback: float = 0.5, prior: float = -2.0) -> Any:
    arrays = thresholds.start(fallback)
    thresholds.note(arrays, kind, *rows(n, seed, prior))
    return arrays


def test_a_bucket_holds_the_scores_between_its_edges() -> None:
    draw = np.random.default_rng(0)
    scores = np.concatenate(
        [draw.random(3000), 10.0 ** -(10 * draw.random(3000)), 1 - 10.0 ** -(8 * draw.random(3000))]
    )
    for score in [0.0, 1.0, 0.5, *scores.astype(np.float32).tolist()]:
        at = thresholds.bucket(score)
        assert EDGES[at] <= score < EDGES[at + 1]
    assert (np.diff(EDGES) > 0).all()
    assert (len(EDGES), EDGES[0], EDGES[-1]) == (thresholds.BUCKETS + 1, 0.0, thresholds.NEVER)


@pytest.mark.parametrize("kind", ["costs", "recall", "rate"])
def test_the_state_has_the_same_bytes_however_rows_are_split(kind: Any) -> None:
    scores, y, weight = rows(2500)
    together, apart = thresholds.start(0.3), thresholds.start(0.3)
    decided: list[int] = []
    if kind == "rate":
        whole = thresholds.follow(together, 0.1, scores).tolist()
    else:
        thresholds.note(together, kind, scores, y, weight)
    cuts = [0, 1, 7, 1023, 1024, 1025, 2000, 2500]
    for first, last in pairwise(cuts):
        part = slice(first, last)
        if kind == "rate":
            decided += thresholds.follow(apart, 0.1, scores[part]).tolist()
        else:
            thresholds.note(apart, kind, scores[part], y[part], weight[part])
    assert {name: array.tobytes() for name, array in apart.items()} == {
        name: array.tobytes() for name, array in together.items()
    }
    assert kind != "rate" or decided == whole


@pytest.mark.parametrize("n", [300, 4000])
@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_threshold_is_that_of_a_brute_force_search(n: int, seed: int) -> None:
    arrays = noted("costs", n, seed, fallback=1 / 21)
    thresholds.refresh(arrays, "costs", 0.0, COSTS)
    scores, y, weight = rows(n, seed)
    weight, at = weight * fading(n, "costs"), buckets(scores)
    bayes = int(np.searchsorted(EDGES, 1 / 21))
    best, chosen = 0.0, 1 / 21
    for edge in sorted(range(len(EDGES)), key=lambda edge: (abs(edge - bayes), edge < bayes)):
        changed = (at >= min(edge, bayes)) & (at < max(edge, bayes))
        extra = np.where(y == 1, 20.0, -1.0) * (1 if edge > bayes else -1)
        mean, spread = (weight * extra)[changed].sum(), (weight * extra**2)[changed].sum()
        bound = mean + thresholds.DOUBT * np.sqrt(spread)
        if bound < best - 1e-9:
            best, chosen = bound, EDGES[edge]
    assert arrays["rule"][THRESHOLD] == chosen
    assert arrays["rule"][LEARNED] == 1.0


def test_costs_of_a_calibrated_model_keep_the_threshold_of_bayes_and_others_save() -> None:
    """Prequential cost per row; the true optimum is known."""
    for stretch, tolerance in ((1.0, 1.02), (2.0, 1.25)):
        paid = np.zeros(3)
        for seed in range(3):
            draw = np.random.default_rng(seed)
            logit = -2 + 1.5 * draw.normal(size=6000)
            p = 1 / (1 + np.exp(-logit))
            y = (draw.random(6000) < p).astype(np.float64)
            score = (1 / (1 + np.exp(-stretch * logit))).astype(np.float32)
            scores, arrays = np.stack([1 - score, score], 1), thresholds.start(1 / 21)
            for first in range(0, 6000, 100):
                part = slice(first, first + 100)
                for place, decided in enumerate(
                    (score[part] >= arrays["rule"][THRESHOLD], score[part] >= 1 / 21, p[part] >= 1 / 21)
                ):
                    paid[place] += np.where(y[part] == 1, 20.0 * ~decided, 1.0 * decided).sum()
                thresholds.note(arrays, "costs", scores[part], y[part], np.ones(100, np.float32))
                thresholds.refresh(arrays, "costs", 0.0, COSTS)
        online, bayes, optimum = paid
        assert online <= optimum * tolerance
        assert stretch == 1.0 or online < 0.8 * bayes


def test_few_rows_keep_the_fallback() -> None:
    arrays = thresholds.start(0.07)
    thresholds.note(arrays, "costs", *rows(20))
    thresholds.refresh(arrays, "costs", 0.0, COSTS)
    assert (arrays["rule"][THRESHOLD], arrays["rule"][LEARNED]) == (0.07, 0.0)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.02])
def test_a_rate_is_the_quantile_of_the_scores(rate: float) -> None:
    scores, _, _ = rows(5000)
    arrays = thresholds.start(0.5)
    decided = thresholds.follow(arrays, rate, scores)
    order, weight = np.argsort(-scores[:, 1]), fading(5000, "rate")
    above = np.cumsum(weight[order]) / weight.sum()
    exact = scores[order[int(np.searchsorted(above, rate))], 1]
    assert arrays["rule"][THRESHOLD] == pytest.approx(exact, rel=0.06)  # a bucket is 4 % wide
    assert decided[1000:].mean() == pytest.approx(rate, rel=0.15)
    assert decided[:100].tolist() == (scores[:100, 1] >= 0.5).tolist()


@pytest.mark.parametrize("recall", [0.3, 0.5, 0.9, 0.99])
def test_the_misses_allowed_are_those_of_the_binomial_bound(recall: float) -> None:
    for n in (1, 5, 28, 29, 46, 100, 458, 459, 1000):
        found = thresholds.most_misses(n, recall)
        assert stats.binom.cdf(found, n, 1 - recall) <= thresholds.LEVEL or found == -1
        assert stats.binom.cdf(found + 1, n, 1 - recall) > thresholds.LEVEL


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_of_a_recall_is_that_of_a_brute_force_search(seed: int) -> None:
    arrays = noted("recall", 3000, seed, prior=-1.0)
    thresholds.refresh(arrays, "recall", 0.9, COSTS)
    scores, y, weight = rows(3000, seed, -1.0)
    positive = y == 1
    held = weight[positive] * fading(int(positive.sum()), "recall")
    at, allowed = buckets(scores)[positive], thresholds.most_misses(int(held.sum()), 0.9)
    fitting = [edge for edge in range(len(EDGES)) if held[at < edge].sum() <= allowed + 1e-9]
    assert arrays["rule"][THRESHOLD] == EDGES[max(fitting)]
    assert held[scores[positive, 1] >= EDGES[max(fitting)]].sum() / held.sum() > 0.9


def test_few_positives_keep_the_lowest_of_them() -> None:
    arrays = thresholds.start(0.5)
    scores = np.array([[0.7, 0.3], [0.2, 0.8]], np.float32)
    thresholds.note(arrays, "recall", scores, np.ones(2), np.ones(2, np.float32))
    thresholds.refresh(arrays, "recall", 0.9, COSTS)
    assert arrays["rule"][THRESHOLD] == EDGES[thresholds.bucket(0.3)]
    assert arrays["rule"][LEARNED] == 0.0
    assert arrays["rule"][FALLBACK] == 0.5
