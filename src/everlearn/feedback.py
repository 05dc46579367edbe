"""Predictions that wait for their feedback, feedback that waits for its prediction, and what it means to a model.

Both sets are bounded in bytes: the oldest leave first. They are a function of the log, and travel in checkpoints as
plain arrays, so that nothing has to be read again after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import ConfigError, InputError, UnknownId
from everlearn.records import Arrays, Batch, Feedback, Label, Preference, Reward, Scalar, Singles, Task
from everlearn.spec import FeedbackSpec

EARLY_SHARE = 8  # feedback that waits for its prediction may take this part of the bytes
MEMORY = 10_000  # positives that the share of the late ones is of, about
ANSWER = 0  # the uid under which the answer that was given is kept, whoever gave it
_OVERHEAD = 2_100  # bytes that the objects of Python and numpy cost for each waiting prediction, beside what they hold


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


@dataclass(frozen=True, slots=True)
class Earlier:
    """A piece of feedback whose prediction is not in the log yet: where and when it came."""

    position: int
    time: float
    feedback: Feedback

    @property
    def nbytes(self) -> int:
        return len(msgspec.json.encode(self.feedback)) + _OVERHEAD


class Early:
    """Feedback that came before its prediction, by the prediction's id; what came first leaves first."""

    def __init__(self, spec: FeedbackSpec) -> None:
        self.spec = spec
        self.nbytes = 0
        self.dropped = 0  # pieces that left without their prediction
        self._kept: dict[str, list[Earlier]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def put(self, earlier: Earlier) -> None:
        """Keep a piece of feedback; drop the oldest ids that no longer fit in an eighth of `spec.bytes`."""
        self._kept.setdefault(earlier.feedback.id, []).append(earlier)
        self.nbytes += earlier.nbytes
        while self.nbytes > self.spec.bytes // EARLY_SHARE and self._kept:
            self.dropped += len(self.take(next(iter(self._kept))))

    def take(self, id: str) -> list[Earlier]:
        """Remove and return what has come for a prediction, in the order in which it came."""
        taken = self._kept.pop(id, [])
        self.nbytes -= sum(one.nbytes for one in taken)
        return taken

    def expire(self, now: float) -> int:
        """Drop the ids whose first feedback is older than `spec.early` at time `now` (seconds); return how many pieces.

        Call it before `take` at a prediction, so that what came too early does not count.
        """
        before = self.dropped
        while self._kept:
            id, pieces = next(iter(self._kept.items()))
            if pieces[0].time + self.spec.early >= now:
                break
            self.dropped += len(self.take(id))
        return self.dropped - before

    def state(self) -> Arrays:
        """The set as arrays; `load` restores it."""
        pieces = [piece for kept in self._kept.values() for piece in kept]
        texts = [msgspec.json.encode(piece.feedback) for piece in pieces]
        return {
            "dropped": np.array(self.dropped, np.int64),
            "texts": np.frombuffer(b"".join(texts), np.uint8).copy(),
            "lengths": np.array([len(text) for text in texts], np.int64),
            "position": np.array([piece.position for piece in pieces], np.int64),
            "time": np.array([piece.time for piece in pieces], np.float64),
        }

    def load(self, arrays: Arrays) -> None:
        self._kept, self.nbytes, self.dropped = {}, 0, int(arrays["dropped"])
        texts, ends = arrays["texts"].tobytes(), np.cumsum(arrays["lengths"])
        for i, end in enumerate(ends):
            feedback: Feedback = msgspec.json.decode(texts[end - arrays["lengths"][i] : end], type=Feedback)
            earlier = Earlier(int(arrays["position"][i]), float(arrays["time"][i]), feedback)
            self._kept.setdefault(feedback.id, []).append(earlier)
            self.nbytes += earlier.nbytes


class Correction:
    """Weights that undo the bias of default labels that turned out to be wrong; `arrays` is all its state.

    Call "positive" the class that is not the default. A row x is positive with probability p, and its positive label
    comes after the default has been learned with probability d. So for each row, the model is shown a positive with
    probability p (in time or late), and a negative with probability 1 - p + d: true ones, and those that are corrected
    later. Learned as they come, they teach p / (1 + d). Weights of w1 and w0 teach f where p w1 (1 - f) equals
    (1 - p + d) w0 f, which is f = p for w1 = 1 + d and w0 = (1 + d) (1 - p) / (1 - p + d); the factor 1 + d says that a
    row counts as often as it is shown. These are the weights of ES-DFM (Yang et al. 2021, arXiv 2012.03245). Where all
    positives come late, d = p, and they are the "fake negative weighted" ones of Ktena et al. (2019, arXiv 1907.06558):
    1 + p and (1 + p) (1 - p).

    Neither p nor d is known. For p the model's own probability f stands in, taken as a constant, and d is r f with r
    the running share of the positives that came late. The only f for which the two sides above are then equal is p, if
    r is right. If r is wrong by e, f is p / (1 + p e); and if lateness depends on x, then e does.

    >>> correction = Correction(FeedbackSpec(window=60.0, default=False, correction="importance"), "binary")
    >>> for late in (True, True, True, False): correction.positive(late)
    >>> round(correction.share, 2), round(correction.weight(0.2, positive=True, late=True), 3)
    (0.67, 1.133)
    >>> round(correction.weight(0.2, positive=False, late=False), 3)
    0.971
    """

    def __init__(self, spec: FeedbackSpec, task: Task) -> None:
        if spec.correction == "importance" and task != "binary":
            raise ConfigError(
                f"feedback.correction is 'importance', which is for two classes, but the task is {task}; "
                "expected 'learn' or 'ignore'"
            )
        if spec.correction == "importance" and spec.default is None:
            raise ConfigError(
                "feedback.correction is 'importance', but there is no feedback.default whose mistakes it could undo; "
                "set feedback.default to the class of a prediction that nobody answers"
            )
        self.arrays: Arrays = {"positives": np.array([1.0, 2.0])}  # late, all; one of each kind to begin with

    @property
    def share(self) -> float:
        """The share of the positives that came late, in about the last 10,000 of them."""
        late, seen = self.arrays["positives"]
        return float(late / seen)

    def positive(self, late: bool) -> None:
        """Count a label that is not the default; `late` if the default had been learned for it already."""
        counts = self.arrays["positives"]
        if counts[1] >= MEMORY:
            counts *= 1.0 - 1.0 / MEMORY
        counts += (float(late), 1.0)

    def weight(self, p: float, *, positive: bool, late: bool) -> float:
        """What to multiply a label's weight with; `p` is what the model that learns it says now, of the positive class.

        A label that is the default weighs the same whether it was given or taken for want of one; if it is `late`, it
        only confirms what was learned, and weighs 0.
        """
        delayed = self.share * p
        if positive:
            return 1.0 + delayed
        if late:
            return 0.0
        sure = 1.0 - p
        return (1.0 + delayed) * sure / (sure + delayed) if sure > 0.0 else 0.0


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
