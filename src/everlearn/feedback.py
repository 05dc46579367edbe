"""Predictions that wait for their feedback, and what a piece of feedback means to a model.

The waiting set is bounded in bytes: the oldest predictions leave first. It is a function of the log, and travels
in checkpoints as plain arrays, so that nothing has to be read again after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from everlearn.errors import InputError, UnknownId
from everlearn.records import Arrays, Batch, Feedback, Label, Preference, Reward, Scalar, Singles, Task
from everlearn.spec import FeedbackSpec

ANSWER = 0  # the uid under which the answer that was given is kept, whoever gave it
_OVERHEAD = 400  # bytes that Python's objects cost for each waiting prediction, beside its arrays


@dataclass(frozen=True, slots=True)
class Waiter:
    """A prediction without feedback: one encoded row, and what each contestant said (uid -> scores (1, k))."""

    id: str
    position: int
    time: float
    row: Batch
    said: dict[int, Singles]

    @property
    def nbytes(self) -> int:
        row = self.row
        held = row.dense.nbytes + row.indices.nbytes + row.values.nbytes + len(self.id)
        return held + sum(scores.nbytes for scores in self.said.values()) + _OVERHEAD


class Waiting:
    """Waiting predictions by id, oldest first."""

    def __init__(self, spec: FeedbackSpec) -> None:
        self.spec = spec
        self.nbytes = 0
        self.evicted = 0
        self._waiters: dict[str, Waiter] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def put(self, waiter: Waiter) -> list[Waiter]:
        """Add a prediction; remove and return the oldest ones that no longer fit in `spec.bytes`."""
        self._waiters[waiter.id] = waiter
        self.nbytes += waiter.nbytes
        gone: list[Waiter] = []
        while self.nbytes > self.spec.bytes and len(self._waiters) > 1:
            oldest = next(iter(self._waiters.values()))
            gone.append(oldest)
            self.take(oldest.id)
        self.evicted += len(gone)
        return gone

    def take(self, id: str) -> Waiter | None:
        """Remove and return the prediction that feedback has come for, or None if it does not wait (any more)."""
        waiter = self._waiters.pop(id, None)
        if waiter is not None:
            self.nbytes -= waiter.nbytes
        return waiter

    def overdue(self, now: float) -> list[Waiter]:
        """Remove and return the predictions older than the window at time `now` (seconds), oldest first."""
        late: list[Waiter] = []
        while self.spec.window and self._waiters:
            oldest = next(iter(self._waiters.values()))
            if oldest.time + self.spec.window > now:
                break
            late.append(oldest)
            self.take(oldest.id)
        return late

    def state(self) -> Arrays:
        """The waiting set as arrays; `load` restores it."""
        waiters = list(self._waiters.values())
        ids = [one.id.encode("utf-8", "surrogatepass") for one in waiters]
        said = [(row, uid, scores) for row, one in enumerate(waiters) for uid, scores in one.said.items()]
        return {
            "evicted": np.array(self.evicted, np.int64),
            "ids": np.frombuffer(b"".join(ids), np.uint8).copy(),
            "id_lengths": np.array([len(id) for id in ids], np.int64),
            "position": np.array([one.position for one in waiters], np.int64),
            "time": np.array([one.time for one in waiters], np.float64),
            "dense": _stack([one.row.dense for one in waiters], np.float32),
            "lengths": np.array([len(one.row.indices) for one in waiters], np.int64),
            "indices": _stack([one.row.indices for one in waiters], np.int32),
            "values": _stack([one.row.values for one in waiters], np.float32),
            "said_row": np.array([row for row, _, _ in said], np.int64),
            "said_uid": np.array([uid for _, uid, _ in said], np.int64),
            "said_scores": _stack([scores for _, _, scores in said], np.float32),
        }

    def load(self, arrays: Arrays) -> None:
        self._waiters, self.nbytes, self.evicted = {}, 0, int(arrays["evicted"])
        said: list[dict[int, Singles]] = [{} for _ in arrays["position"]]
        for row, uid, scores in zip(arrays["said_row"], arrays["said_uid"], arrays["said_scores"], strict=True):
            said[row][int(uid)] = scores[None, :].copy()
        ids, id_ends = arrays["ids"].tobytes(), np.cumsum(arrays["id_lengths"])
        ends = np.cumsum(arrays["lengths"])
        for i, position in enumerate(arrays["position"]):
            length = arrays["lengths"][i]
            held = slice(ends[i] - length, ends[i])
            row = Batch(
                arrays["dense"][i : i + 1].copy(),
                np.array([0, length], np.int64),
                arrays["indices"][held].copy(),
                arrays["values"][held].copy(),
            )
            id = ids[id_ends[i] - arrays["id_lengths"][i] : id_ends[i]].decode("utf-8", "surrogatepass")
            waiter = Waiter(id, int(position), float(arrays["time"][i]), row, said[i])
            self._waiters[id] = waiter
            self.nbytes += waiter.nbytes


def target(feedback: Feedback, task: Task, label: Callable[[Scalar], float]) -> float:
    """What the model should have said, as the number it learns from; `label` encodes a class or number.

    A label is the answer itself. A reward is what a regression learns to predict. A preference needs a family
    that learns from preferences. Raises InputError where the two do not go together.
    """
    match feedback:
        case Label(value=value):
            return label(value)
        case Reward(value=value) if task == "regression":
            return label(value)
        case Reward():
            raise InputError(
                f"got a reward for prediction {feedback.id!r}, but this loop's task is {task}: "
                "send a label, or declare the task a regression to learn rewards"
            )
        case Preference():
            raise InputError(
                f"got a preference for prediction {feedback.id!r}, but this loop's task is {task}: "
                "send a label; preferences are learned by preference families"
            )


def unknown(id: str) -> UnknownId:
    """The error for feedback on a prediction that the log does not hold."""
    return UnknownId(
        f"no prediction with id {id!r} is in this loop's log; feedback needs the .id of an answer of this loop "
        "(or the id that you gave to predict)"
    )


def judgement(
    id: str, label: Scalar | None, reward: float | None, chosen: int | None, weight: float, source: str
) -> Feedback:
    """The one judgement that was given; InputError if there is not exactly one."""
    given = [part for part in (label, reward, chosen) if part is not None]
    if len(given) != 1:
        raise InputError(f"feedback for {id!r} needs exactly one of label, reward and chosen; got {len(given)} of them")
    if label is not None:
        return Label(id, scalar(label), weight, source)
    if reward is not None:
        return Reward(id, float(reward), weight, source)
    return Preference(id, int(chosen or 0), weight, source)


def checked_weight(weight: float) -> float:
    """A weight that can be learned with, or InputError."""
    if not (isinstance(weight, int | float | np.number) and 0 <= weight <= 1e30):
        raise InputError(f"weight: got {weight!r}, expected a number from 0 to 1e30")
    return float(weight)


def scalar(value: Any) -> Any:
    """A numpy scalar or array as the plain Python value it holds."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"got a {type(value).__name__} ({value!r}), expected a number, a string, a boolean or a list")


def _stack(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty((0,), dtype)
