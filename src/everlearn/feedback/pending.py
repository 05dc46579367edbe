"""Predictions that wait for their feedback, feedback that waits for its prediction, and what it means to a model.

Both sets are bounded in bytes: the oldest leave first. They are a function of the log, and travel in checkpoints as
plain arrays, so that nothing has to be read again after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from everlearn.records import Arrays, Batch, Feedback, Singles
from everlearn.spec import FeedbackSpec

EARLY_SHARE = 8  # feedback that waits for its prediction may take this part of the bytes
ANSWER = 0  # the uid under which the answer that was given is kept, whoever gave it
_OVERHEAD = 2_100  # bytes that the objects of Python and numpy cost for each waiting prediction, beside what they hold


@dataclass(frozen=True, slots=True)
class PendingPrediction:
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


class PendingPredictions:
    """Waiting predictions by id, oldest first."""

    def __init__(self, spec: FeedbackSpec) -> None:
        self.spec = spec
        self.nbytes = 0
        self.evicted = 0
        self._waiters: dict[str, PendingPrediction] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def put(self, waiter: PendingPrediction) -> list[PendingPrediction]:
        """Add a prediction; remove and return the oldest ones that no longer fit in `spec.bytes`."""
        self._waiters[waiter.id] = waiter
        self.nbytes += waiter.nbytes
        gone: list[PendingPrediction] = []
        while self.nbytes > self.spec.bytes and len(self._waiters) > 1:
            oldest = next(iter(self._waiters.values()))
            gone.append(oldest)
            self.take(oldest.id)
        self.evicted += len(gone)
        return gone

    def take(self, id: str) -> PendingPrediction | None:
        """Remove and return the prediction that feedback has come for, or None if it does not wait (any more)."""
        waiter = self._waiters.pop(id, None)
        if waiter is not None:
            self.nbytes -= waiter.nbytes
        return waiter

    def overdue(self, now: float) -> list[PendingPrediction]:
        """Remove and return the predictions older than the window at time `now` (seconds), oldest first."""
        late: list[PendingPrediction] = []
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
            waiter = PendingPrediction(id, int(position), float(arrays["time"][i]), row, said[i])
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


def _stack(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty((0,), dtype)
