"""The waiting set is bounded and survives a restart; feedback means one thing or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.feedback import Waiter, Waiting, target, unknown
from everlearn.records import Batch, Label, Preference, Reward
from everlearn.spec import FeedbackSpec


def waiter(id: str, time: float = 0.0, hashed: int = 2, said: tuple[int, ...] = (0, 3)) -> Waiter:
    row = Batch(
        np.array([[1.5, np.nan]], np.float32),
        np.array([0, hashed], np.int64),
        np.arange(hashed, dtype=np.int32),
        np.full(hashed, 0.5, np.float32),
    )
    scores = {uid: np.array([[0.25 + uid, 0.75 - uid]], np.float32) for uid in said}
    return Waiter(id, position=len(id), time=time, row=row, said=scores)


def same(one: Waiter, other: Waiter) -> bool:
    return (
        (one.id, one.position, one.time) == (other.id, other.position, other.time)
        and one.row.dense.tobytes() == other.row.dense.tobytes()
        and one.row.indices.tobytes() == other.row.indices.tobytes()
        and one.row.values.tobytes() == other.row.values.tobytes()
        and {uid: scores.tobytes() for uid, scores in one.said.items()}
        == {uid: scores.tobytes() for uid, scores in other.said.items()}
    )


def test_feedback_finds_the_prediction_that_waits_once():
    waiting = Waiting(FeedbackSpec())
    waiting.put(waiter("a"))
    assert waiting.take("a") is not None
    assert waiting.take("a") is None
    assert waiting.nbytes == 0


def test_the_oldest_leave_when_the_bytes_are_used_up():
    one = waiter("0000").nbytes
    waiting = Waiting(FeedbackSpec(bytes=10 * one))
    for number in range(1000):
        waiting.put(waiter(f"{number:04}"))
        assert waiting.nbytes <= 10 * one
    assert len(waiting) == 10
    assert waiting.evicted == 990
    assert waiting.take("0989") is None
    assert waiting.take("0990") is not None


def test_predictions_are_overdue_after_the_window_oldest_first():
    waiting = Waiting(FeedbackSpec(window=10.0))
    for time in range(5):
        waiting.put(waiter(f"at {time}", time=float(time)))
    assert [one.id for one in waiting.overdue(now=12.5)] == ["at 0", "at 1", "at 2"]
    assert len(waiting) == 2


def test_without_a_window_nothing_is_ever_overdue():
    waiting = Waiting(FeedbackSpec())
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
    waiting = Waiting(FeedbackSpec())
    for id, time, hashed, said in rows:
        waiting.put(waiter(id, time, hashed, tuple(said)))
    twin = Waiting(FeedbackSpec())
    twin.load(waiting.state())
    assert twin.nbytes == waiting.nbytes
    for id, *_ in rows:
        one, other = waiting.take(id), twin.take(id)
        assert one is not None
        assert other is not None
        assert same(one, other)


def test_labels_rewards_and_preferences_mean_what_the_task_can_use():
    assert target(Label("a", "yes"), "binary", {"yes": 1.0}.__getitem__) == 1.0
    assert target(Reward("a", 2.5), "regression", float) == 2.5
    with pytest.raises(InputError, match="got a reward for prediction 'a', but this loop's task is binary"):
        target(Reward("a", 1.0), "binary", float)
    with pytest.raises(InputError, match="got a preference for prediction 'a'"):
        target(Preference("a", 0), "multiclass", float)


def test_an_unknown_id_is_named():
    assert "'tx-9'" in str(unknown("tx-9"))
