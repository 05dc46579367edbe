"""The sets of pending predictions and early feedback are bounded, and survive a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import ConfigError
from everlearn.families.linear import build
from everlearn.feedback.correction import Correction
from everlearn.feedback.pending import EARLY_SHARE, Earlier, Early, PendingPrediction, PendingPredictions
from everlearn.records import Batch, Label, Preference, Reward
from everlearn.spec import FeedbackSpec


def waiter(id: str, time: float = 0.0, hashed: int = 2, said: tuple[int, ...] = (0, 3)) -> PendingPrediction:
    row = Batch(
        np.array([[1.5, np.nan]], np.float32),
        np.array([0, hashed], np.int64),
        np.arange(hashed, dtype=np.int32),
        np.full(hashed, 0.5, np.float32),
    )
    scores = {uid: np.array([[0.25 + uid, 0.75 - uid]], np.float32) for uid in said}
    return PendingPrediction(id, position=len(id), time=time, row=row, said=scores)


def same(one: PendingPrediction, other: PendingPrediction) -> bool:
    return (
        (one.id, one.position, one.time) == (other.id, other.position, other.time)
        and one.row.dense.tobytes() == other.row.dense.tobytes()
        and one.row.indices.tobytes() == other.row.indices.tobytes()
        and one.row.values.tobytes() == other.row.values.tobytes()
        and {uid: scores.tobytes() for uid, scores in one.said.items()}
        == {uid: scores.tobytes() for uid, scores in other.said.items()}
    )


def test_feedback_finds_the_prediction_that_waits_once():
    waiting = PendingPredictions(FeedbackSpec())
    waiting.put(waiter("a"))
    assert waiting.take("a") is not None
    assert waiting.take("a") is None
    assert waiting.nbytes == 0


def test_the_oldest_leave_when_the_bytes_are_used_up():
    one = waiter("0000").nbytes
    waiting = PendingPredictions(FeedbackSpec(bytes=10 * one))
    for number in range(1000):
        waiting.put(waiter(f"{number:04}"))
        assert waiting.nbytes <= 10 * one
    assert len(waiting) == 10
    assert waiting.evicted == 990
    assert waiting.take("0989") is None
    assert waiting.take("0990") is not None


def test_predictions_are_overdue_after_the_window_oldest_first():
    waiting = PendingPredictions(FeedbackSpec(window=10.0))
    for time in range(5):
        waiting.put(waiter(f"at {time}", time=float(time)))
    assert [one.id for one in waiting.overdue(now=12.5)] == ["at 0", "at 1", "at 2"]
    assert len(waiting) == 2


def test_without_a_window_nothing_is_ever_overdue():
    waiting = PendingPredictions(FeedbackSpec())
    waiting.put(waiter("a", time=0.0))
    assert waiting.overdue(now=1e12) == []


@given(
    st.lists(
        st.tuples(st.text(max_size=8), st.floats(0, 1e9), st.integers(0, 4), st.sets(st.integers(0, 9))),
        max_size=12,
        unique_by=lambda row: row[0],
    )
)
def test_the_waiting_set_travels_as_arrays(rows):
    waiting = PendingPredictions(FeedbackSpec())
    for id, time, hashed, said in rows:
        waiting.put(waiter(id, time, hashed, tuple(said)))
    twin = PendingPredictions(FeedbackSpec())
    twin.load(waiting.state())
    assert twin.nbytes == waiting.nbytes
    for id, *_ in rows:
        one, other = waiting.take(id), twin.take(id)
        assert one is not None
        assert other is not None
        assert same(one, other)


# Feedback that comes before its prediction


def earlier(id: str, time: float = 0.0, value: str = "yes") -> Earlier:
    return Earlier(position=7, time=time, feedback=Label(id, value))


def test_early_feedback_waits_for_its_prediction_in_the_order_in_which_it_came():
    early = Early(FeedbackSpec(early=60.0))
    for one in (earlier("a"), earlier("b"), earlier("a", 1.0, "no")):
        early.put(one)
    assert [one.feedback.value for one in early.take("a")] == ["yes", "no"]
    assert early.take("a") == []
    assert len(early) == 1
    assert early.dropped == 0


def test_early_feedback_is_dropped_when_its_time_is_over():
    early = Early(FeedbackSpec(early=60.0))
    for time in range(5):
        early.put(earlier(f"at {time}", float(time)))
    assert early.expire(now=62.0) == 2
    assert early.take("at 1") == []
    assert len(early.take("at 2")) == 1  # exactly 60 seconds are not too early
    assert early.dropped == 2


def test_early_feedback_is_bounded_in_bytes_the_oldest_goes_first():
    one = earlier("0000").nbytes
    early = Early(FeedbackSpec(early=60.0, bytes=10 * one * EARLY_SHARE))
    for number in range(1000):
        early.put(earlier(f"{number:04}"))
        assert early.nbytes <= 10 * one
    assert len(early) == 10
    assert early.dropped == 990
    assert early.take("0989") == []
    assert len(early.take("0990")) == 1


def test_more_than_there_is_room_for_is_dropped_at_once():
    early = Early(FeedbackSpec(early=60.0, bytes=1))
    early.put(earlier("a"))
    assert (len(early), early.nbytes, early.dropped) == (0, 0, 1)


judgements = st.one_of(
    st.builds(Label, st.text(max_size=6), st.one_of(st.booleans(), st.integers(-9, 9), st.text(max_size=4))),
    st.builds(Reward, st.text(max_size=6), st.floats(-1e9, 1e9), st.floats(0, 100), st.text(max_size=4)),
    st.builds(Preference, st.text(max_size=6), st.integers(0, 9)),
)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1e9), judgements), max_size=12))
def test_early_feedback_travels_as_arrays(pieces):
    early, twin = Early(FeedbackSpec(early=60.0)), Early(FeedbackSpec(early=60.0))
    for piece in pieces:
        early.put(Earlier(*piece))
    twin.load(early.state())
    assert (len(twin), twin.nbytes) == (len(pieces), early.nbytes)
    assert all(array.tobytes() == twin.state()[name].tobytes() for name, array in early.state().items())
    for _, _, feedback in pieces:
        assert early.take(feedback.id) == twin.take(feedback.id)


# Default labels that turned out to be wrong

IMPORTANCE = FeedbackSpec(window=600.0, default=False, correction="importance")


def taught(kind: str, window: float, delay: float, n: int = 12_000) -> tuple[float, float]:
    """Learn clicks that come after exponential delays, and compare with the truth: mean error of the probabilities that
    a model says on average over the second half of the stream, and how much it says too much."""
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
    correction, said, times = Correction(IMPORTANCE, "binary"), np.zeros(1000), 0
    for moment, i, positive, late in sorted(moments):
        if moment > n:
            break  # this far the stream has come
        row, weight = rows(x[i : i + 1]), 1.0
        if kind == "importance":
            if positive:
                correction.positive(late)
            weight = correction.weight(float(model.predict(row)[0, 1]), positive=positive, late=late)
        model.learn(row, np.array([float(positive)]), np.array([weight], np.float32))
        if i > n // 2 and i % 50 == 0:
            said, times = said + model.predict(rows(x[:1000]))[:, 1], times + 1
    error = said / times - p[:1000]
    return float(np.abs(error).mean()), float(error.mean())


def rows(x: np.ndarray) -> Batch:
    return Batch(x, np.zeros(len(x) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@pytest.mark.parametrize(("window", "delay"), [(5.0, 500.0), (400.0, 500.0), (300.0, 800.0)])
def test_probabilities_are_right_although_positives_come_late(window: float, delay: float) -> None:
    told, _ = taught("importance", window, delay)
    learned, too_low = taught("learn", window, delay)
    ignored, far_too_low = taught("ignore", window, delay)
    assert told < 0.01
    assert told < learned / 2 < ignored / 2
    assert far_too_low < too_low < -0.02


@given(st.floats(0.001, 0.999), st.integers(0, 400), st.integers(0, 400))
def test_the_weights_make_the_truth_the_only_fixed_point(p: float, late: int, in_time: int) -> None:
    """The expected gradient of what the model is shown is 0 where it says p, above it where it says less."""
    correction = Correction(IMPORTANCE, "binary")
    for _ in range(late):
        correction.positive(late=True)
    for _ in range(in_time):
        correction.positive(late=False)
    delayed = correction.share * p

    def pull(f: float) -> float:
        positive = correction.weight(f, positive=True, late=True)
        negative = correction.weight(f, positive=False, late=False)
        return p * positive * (1 - f) - (1 - p + delayed) * negative * f

    assert pull(p) == pytest.approx(0.0, abs=1e-12)
    assert pull(p * 0.9) > 0 > pull(p + 0.1 * (1 - p))


def test_the_share_that_comes_late_is_learned_and_follows() -> None:
    correction = Correction(IMPORTANCE, "binary")
    random = np.random.default_rng(5)
    for late in random.random(40_000) < 0.3:
        correction.positive(bool(late))
    assert correction.share == pytest.approx(0.3, abs=0.02)
    for late in random.random(40_000) < 0.8:
        correction.positive(bool(late))
    assert correction.share == pytest.approx(0.8, abs=0.03)
    assert correction.arrays["positives"].shape == (2,)
    twin = Correction(IMPORTANCE, "binary")
    twin.arrays = {"positives": correction.arrays["positives"].copy()}
    assert twin.weight(0.4, positive=True, late=False) == correction.weight(0.4, positive=True, late=False)


def test_where_all_positives_come_late_the_weights_are_those_of_ktena() -> None:
    correction = Correction(IMPORTANCE, "binary")
    correction.arrays["positives"][:] = 5.0
    assert correction.weight(0.3, positive=True, late=True) == pytest.approx(1.3)
    assert correction.weight(0.3, positive=False, late=False) == pytest.approx(1.3 * 0.7)
    assert correction.weight(1.0, positive=False, late=False) == 0.0
    assert correction.weight(0.3, positive=False, late=True) == 0.0


def test_importance_needs_two_classes_and_a_default() -> None:
    with pytest.raises(ConfigError, match="which is for two classes, but the task is regression"):
        Correction(IMPORTANCE, "regression")
    with pytest.raises(ConfigError, match="there is no feedback.default whose mistakes it could undo"):
        Correction(FeedbackSpec(correction="importance"), "binary")
    assert Correction(FeedbackSpec(), "multiclass").share == 0.5
