"""The sets of pending predictions and early feedback are bounded, and survive a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.feedback.pending import (
    EARLY_SHARE,
    Earlier,
    Early,
    PendingPrediction,
    PendingPredictions,
    charge,
    most_features,
)
from everlearn.records import Batch, Label, Preference, Reward
from everlearn.schema import shape
from everlearn.spec import FeedbackSpec, Schema, Spec

EACH = 2_000  # bytes charged for a prediction that waits


def waiter(id: str, time: float = 0.0, hashed: int = 2, uids: tuple[int, ...] = (0, 3)) -> PendingPrediction:
    row = Batch(
        np.array([[1.5, np.nan]], np.float32),
        np.array([0, hashed], np.int64),
        np.arange(hashed, dtype=np.int32),
        np.full(hashed, 0.5, np.float32),
    )
    scores = {uid: np.array([[0.25 + uid, 0.75 - uid]], np.float32) for uid in uids}
    return PendingPrediction(id, position=len(id), time=time, row=row, predictions=scores)


def same(one: PendingPrediction, other: PendingPrediction) -> bool:
    return (
        (one.id, one.position, one.time) == (other.id, other.position, other.time)
        and one.row.dense.tobytes() == other.row.dense.tobytes()
        and one.row.indices.tobytes() == other.row.indices.tobytes()
        and one.row.values.tobytes() == other.row.values.tobytes()
        and {uid: scores.tobytes() for uid, scores in one.predictions.items()}
        == {uid: scores.tobytes() for uid, scores in other.predictions.items()}
    )


def test_feedback_finds_the_prediction_that_waits_once():
    waiting = PendingPredictions(FeedbackSpec(), EACH)
    waiting.put(waiter("a"))
    assert waiting.take("a") is not None
    assert waiting.take("a") is None
    assert waiting.nbytes == 0


def test_the_oldest_leave_when_the_bytes_are_used_up():
    waiting = PendingPredictions(FeedbackSpec(bytes=10 * EACH), EACH)
    for number in range(1000):
        waiting.put(waiter(f"{number:04}"))
        assert waiting.nbytes <= 10 * EACH
    assert len(waiting) == 10
    assert waiting.evicted == 990
    assert waiting.take("0989") is None
    assert waiting.take("0990") is not None


def test_predictions_are_overdue_after_the_window_oldest_first():
    waiting = PendingPredictions(FeedbackSpec(window=10.0), EACH)
    for time in range(5):
        waiting.put(waiter(f"at {time}", time=float(time)))
    assert [one.id for one in waiting.overdue(now=12.5)] == ["at 0", "at 1", "at 2"]
    assert len(waiting) == 2


def test_without_a_window_nothing_is_ever_overdue():
    waiting = PendingPredictions(FeedbackSpec(), EACH)
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
    waiting = PendingPredictions(FeedbackSpec(), EACH)
    for id, time, hashed, uids in rows:
        waiting.put(waiter(id, time, hashed, tuple(uids)))
    twin = PendingPredictions(FeedbackSpec(), EACH)
    twin.load(waiting.state())
    assert twin.nbytes == waiting.nbytes
    for id, *_ in rows:
        one, other = waiting.take(id), twin.take(id)
        assert one is not None
        assert other is not None
        assert same(one, other)


@given(st.lists(st.tuples(st.text(max_size=40), st.integers(0, 30), st.sets(st.integers(0, 9))), max_size=30))
def test_evictions_depend_on_nothing_that_a_prediction_holds(rows):
    """Neither long ids, nor long rows, nor many contestants push others out."""
    small, large = (PendingPredictions(FeedbackSpec(bytes=5 * EACH), EACH) for _ in range(2))
    for number, (text, hashed, uids) in enumerate(rows):
        gone = [one.id for one in small.put(waiter(f"{number}"))]
        assert [
            one.id.partition("/")[0] for one in large.put(waiter(f"{number}/{text}", 0.0, hashed, tuple(uids)))
        ] == gone
    assert small.nbytes == large.nbytes <= 5 * EACH


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"challengers": 3}, 2 * 2 * 4),
        ({"schema": {"fields": {"a": "numeric", "b": "numeric", "c": "categorical"}}}, 4),
        ({"schema": {"fields": {"a": "numeric", "c": "categorical", "d": "categorical"}}}, 8),
        ({"schema": {"fields": {"a": "numeric", "c": "categorical", "t": "text"}}}, 256 * 8),
        ({"schema": {"fields": {"a": "numeric", "c": "categorical", "t": "tokens"}}}, 256 * 8),
        ({"schema": {"classes": (0, 1, 2), "task": "multiclass"}}, 9 * 4),
        ({"seed": 7, "mode": "live", "tick": 3, "feedback": FeedbackSpec(bytes=9)}, 0),
    ],
)
def test_the_charge_follows_from_the_settings(changes, more):
    plain = {"label": "y", "task": "binary", "classes": (0, 1), "fields": {"a": "numeric", "c": "categorical"}}
    before = Schema(**plain)
    after = Schema(**(plain | changes.get("schema", {})))
    spec = Spec(schema=after, **{name: value for name, value in changes.items() if name != "schema"})
    assert charge(spec, shape(after)) - charge(Spec(schema=before), shape(before)) == more


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_text_and_tokens_set_no_bound_on_the_features_of_a_row(kind):
    schema = Schema(label="y", task="regression", fields={"c": "categorical", "t": kind})
    assert most_features(schema) == 1 << 30


def test_what_another_set_holds_is_adopted_with_the_scores_known_here():
    mine, other = (PendingPredictions(FeedbackSpec(), EACH) for _ in range(2))
    mine.put(waiter("both", uids=(0, 5)))
    mine.put(waiter("mine"))
    other.put(waiter("other", uids=(0,)))
    other.put(waiter("both", time=3.0, uids=(0,)))
    mine.adopt(other)
    assert len(mine) == 2
    assert mine.take("mine") is None
    assert [mine.take(id).predictions.keys() for id in ("other", "both")] == [{0}, {0, 5}]


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
    st.builds(Preference, st.text(max_size=6), st.just(-1), verdict=st.sampled_from(["tie", "skip"]), why=st.text()),
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


def test_a_pair_of_answers_is_charged_for_the_longest_one():
    spec = Spec(schema=Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=9))
    longer = Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=9, answer_tokens=257)
    found = charge(spec, shape(spec.schema))
    assert found > 8 * (512 + 2 * 256)
    assert charge(Spec(schema=longer), shape(longer)) - found == 2 * 8
