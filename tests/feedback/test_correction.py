"""Importance weights: with late positives, models predict the right probabilities all the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import ConfigError
from everlearn.families.linear import build
from everlearn.feedback.correction import Arrival, Correction
from everlearn.records import Batch
from everlearn.spec import FeedbackSpec

IMPORTANCE = FeedbackSpec(window=600.0, default=False, correction="importance")


def taught(kind: str, window: float, delay: float, n: int = 12_000) -> tuple[float, float]:
    """Learn clicks that come after exponential delays, and compare with the truth: mean error of the probabilities that
    a model predicts on average over the second half of the stream, and by how much they are too high."""
    random = np.random.default_rng(4)
    x = random.normal(size=(n, 2)).astype(np.float32)
    p = 1 / (1 + np.exp(1 - x @ np.array([1.0, -0.5])))
    clicked, after = random.random(n) < p, random.exponential(delay, n)
    moments = []
    for i in range(n):
        in_time = clicked[i] and after[i] <= window
        moments.append((i + (after[i] if in_time else window), i, bool(in_time), False))
        if clicked[i] and not in_time and kind != "ignore":
            moments.append((i + after[i], i, True, True))
    model = build({"task": "binary", "dense": 2, "optimizer": "sgd", "rate": 0.01})
    correction, total, times = Correction(IMPORTANCE, "binary"), np.zeros(1000), 0
    for moment, i, positive, late in sorted(moments):
        if moment > n:
            break  # this far the stream has come
        row, weight = rows(x[i : i + 1]), 1.0
        if kind == "importance":
            arrival = correction.arrive(positive=positive, late=late)
            weight = arrival.weight(float(model.predict(row)[0, 1]))
        model.learn(row, np.array([float(positive)]), np.array([weight], np.float32))
        if i > n // 2 and i % 50 == 0:
            total, times = total + model.predict(rows(x[:1000]))[:, 1], times + 1
    error = total / times - p[:1000]
    return float(np.abs(error).mean()), float(error.mean())


def rows(x: np.ndarray) -> Batch:
    return Batch(x, np.zeros(len(x) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@pytest.mark.parametrize(("window", "delay"), [(5.0, 500.0), (400.0, 500.0), (300.0, 800.0)])
def test_probabilities_are_right_although_positives_come_late(window: float, delay: float) -> None:
    weighted, _ = taught("importance", window, delay)
    learned, too_low = taught("learn", window, delay)
    ignored, far_too_low = taught("ignore", window, delay)
    assert weighted < 0.01
    assert weighted < learned / 2 < ignored / 2
    assert far_too_low < too_low < -0.02


@given(st.floats(0.001, 0.999), st.integers(0, 400), st.integers(0, 400))
def test_the_weights_make_the_truth_the_only_fixed_point(p: float, late: int, in_time: int) -> None:
    """The expected gradient of the rows shown to a model is 0 where it predicts p, above it where it predicts less."""
    correction = Correction(IMPORTANCE, "binary")
    for _ in range(late):
        correction.arrive(positive=True, late=True)
    for _ in range(in_time):
        correction.arrive(positive=True, late=False)
    share = correction.share
    delayed = share * p

    def pull(f: float) -> float:
        positive, negative = Arrival(True, True, share).weight(f), Arrival(False, False, share).weight(f)
        return p * positive * (1 - f) - (1 - p + delayed) * negative * f

    assert pull(p) == pytest.approx(0.0, abs=1e-12)
    assert pull(p * 0.9) > 0 > pull(p + 0.1 * (1 - p))


def test_the_share_that_comes_late_is_learned_and_follows() -> None:
    correction = Correction(IMPORTANCE, "binary")
    random = np.random.default_rng(5)
    for late in random.random(40_000) < 0.3:
        correction.arrive(positive=True, late=bool(late))
    assert correction.share == pytest.approx(0.3, abs=0.02)
    for late in random.random(40_000) < 0.8:
        correction.arrive(positive=True, late=bool(late))
    assert correction.share == pytest.approx(0.8, abs=0.03)
    assert correction.arrays["positives"].shape == (2,)
    twin = Correction(IMPORTANCE, "binary")
    twin.arrays = {"positives": correction.arrays["positives"].copy()}
    assert twin.arrive(positive=False, late=False) == correction.arrive(positive=False, late=False)


def test_default_labels_do_not_change_the_share() -> None:
    correction = Correction(IMPORTANCE, "binary")
    assert correction.arrive(positive=False, late=False).share == correction.share == 0.5
    assert correction.arrive(positive=True, late=True).share == pytest.approx(2 / 3)


def test_where_all_positives_come_late_the_weights_are_those_of_ktena() -> None:
    assert Arrival(True, True, share=1.0).weight(0.3) == pytest.approx(1.3)
    assert Arrival(False, False, share=1.0).weight(0.3) == pytest.approx(1.3 * 0.7)
    assert Arrival(False, False, share=1.0).weight(1.0) == 0.0
    assert Arrival(False, True, share=1.0).weight(0.3) == 0.0


def test_importance_needs_two_classes_and_a_default() -> None:
    with pytest.raises(ConfigError, match="got 'importance' for a regression task; 'importance' is for two classes"):
        Correction(IMPORTANCE, "regression")
    with pytest.raises(ConfigError, match="got 'importance' without feedback.default, whose mistakes it undoes"):
        Correction(FeedbackSpec(correction="importance"), "binary")
    assert Correction(FeedbackSpec(), "multiclass").share == 0.5
