"""Predictions that wait for feedback, and feedback that waits for its prediction.

Both sets are bounded in bytes: the oldest leave first. They are a function of the log, and travel in checkpoints as
plain arrays, so that nothing has to be read again after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from everlearn.records import Arrays, Batch, Feedback, Singles
from everlearn.schema import pairs
from everlearn.schema.layout import CATEGORIES
from everlearn.spec import DecisionSpec, FeedbackSpec, Schema, Spec

EARLY_SHARE = 8  # early feedback may take this part of the bytes: one eighth
ANSWER = 0  # the uid of the scores that the champion is judged by
CANARY = -1  # the uid of the logged answer, where a canary gave it and the champion answered in shadow
LAST_KNOWN, COMMON, SEASONAL = NAIVE = -2, -3, -4  # the uids of the naive baselines (everlearn.learn.naive)
SEGMENT = -5  # the uid under which a prediction's segment waits with it, in column 0
DECIDED = -10  # the uid of the decision on the scores of uid 0; see `decision`
TEXT_FEATURES = 256  # hashed features charged for each text field; a longer text is charged no more

_OVERHEAD = 2_100  # bytes that Python and numpy objects cost for each entry, beside the arrays
_TRACE = 300  # bytes that Python and numpy objects cost for each trace, beside its values
_EACH_DECISION = 200  # such bytes for each decision that waits
_LONG = frozenset(["text", "tokens"])  # kinds whose values set no bound on the features of a row
_ROLES = 3  # contestants beside challengers and their candidates: champion, previous, frozen


def most_features(schema: Schema) -> int:
    """Return the most hashed features that a row can have; text and tokens set no bound (2**30), a pair does."""
    if schema.task == "preference":
        return pairs.width(schema)
    return 1 << 30 if not _LONG.isdisjoint(schema.fields.values()) else _categories(schema)


def decision(uid: int) -> int:
    """Return the uid of what a contestant decided: a one-hot row that waits among the scores, where a rule decides."""
    return DECIDED - uid


def chance(uid: int) -> int:
    """Return the uid of the probability that a contestant gives to the action served (task "bandit").

    A bandit decides by no rule, so these numbers and those of `worth` are free. Uid 0 stands for what was served.
    """
    return DECIDED - 2 * uid


def worth(uid: int) -> int:
    """Return the uid of the reward that a contestant expects from its policy (task "bandit")."""
    return DECIDED - 2 * uid - 1


def charge(spec: Spec, shape: Mapping[str, Any]) -> int:
    """Return the bytes that one waiting prediction is charged; `shape` is that of `everlearn.schema.shape`.

    The charge follows from the settings alone: the longest row, and the scores of as many contestants as they allow.
    So evictions depend neither on the roster's history nor on the length of ids. Each field of text or tokens is
    charged for 256 hashed features, so a log of longer ones takes more memory than `feedback.bytes`. A pair of answers
    is charged for the longest one.

    >>> plain = Schema(label="y", task="binary", classes=(0, 1), fields={"x": "numeric", "c": "categorical"})
    >>> charge(Spec(schema=plain), {"dense": 1, "classes": 2})
    2184
    """
    texts = sum(kind in _LONG for kind in spec.schema.fields.values())
    features = _categories(spec.schema) + TEXT_FEATURES * texts
    if spec.schema.task == "preference":
        features = pairs.width(spec.schema)
    contestants = _ROLES + 2 * spec.challengers  # and with each challenger its candidate
    answers = contestants + len((ANSWER, CANARY))
    scores = answers * max(int(shape["classes"]), 1) * (3 if spec.schema.actions else 1)  # with `chance` and `worth`
    bare = _OVERHEAD + 4 * int(shape["dense"]) + 8 * features + 4 * scores
    return bare + (answers * _EACH_DECISION + 4 * scores if spec.decision != DecisionSpec() else 0)


def trace_charge(spec: Spec, width: int) -> int:
    """Return the bytes that traces of `width` values add to the charge of each waiting prediction.

    So many models can learn at once, the champion and its challengers, and each keeps a trace.

    >>> plain = Schema(label="y", task="binary", classes=(0, 1), fields={"x": "numeric"})
    >>> trace_charge(Spec(schema=plain, challengers=3), 8), trace_charge(Spec(schema=plain), 0)
    (1328, 0)
    """
    return (1 + spec.challengers) * (4 * width + _TRACE) if width else 0


@dataclass(frozen=True, slots=True)
class PendingPrediction:
    """A prediction without feedback: one encoded row, and the scores (1, k) of each contestant by uid.

    `traces` maps the uid of each learning contestant that has a trace to it, float32 (1, trace); None without any.
    """

    id: str
    position: int
    time: float
    row: Batch
    predictions: dict[int, Singles]
    traces: dict[int, Singles] | None = None


class PendingPredictions:
    """Waiting predictions by id, oldest first; each is charged `each` bytes.

    `more(width)` is added to the charge once a prediction came with a trace of `width` values, for good: challengers
    of another family may have a wider trace than the first model. `steps` lists where that was, and how wide.
    """

    def __init__(self, spec: FeedbackSpec, each: int, more: Callable[[int], int] = lambda width: 0) -> None:
        self.spec = spec
        self.each = each
        self.steps: list[tuple[int, int]] = []  # position of the prediction, width of the widest trace from there on
        self._plain, self._more = each, more
        self.evicted = 0
        self._waiting: dict[str, PendingPrediction] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, id: str) -> bool:
        return id in self._waiting

    def __iter__(self) -> Iterator[PendingPrediction]:
        """Iterate over the waiting predictions, oldest first."""
        return iter(list(self._waiting.values()))

    @property
    def nbytes(self) -> int:
        """The bytes charged for all waiting predictions."""
        return self.each * len(self._waiting)

    def put(self, pending: PendingPrediction, width: int | None = None) -> list[PendingPrediction]:
        """Add a prediction; remove and return the oldest ones that no longer fit in `spec.bytes`.

        `width` is that of the widest trace, where it does not follow from `pending.traces`.
        """
        if width is None:
            width = max((trace.shape[1] for trace in pending.traces.values()), default=0) if pending.traces else 0
        if width > (self.steps[-1][1] if self.steps else 0):
            self._widen([*self.steps, (pending.position, width)])
        self._waiting[pending.id] = pending
        evicted: list[PendingPrediction] = []
        while self.nbytes > self.spec.bytes and len(self._waiting) > 1:
            evicted.append(self._waiting.pop(next(iter(self._waiting))))
        self.evicted += len(evicted)
        return evicted

    def take(self, id: str) -> PendingPrediction | None:
        """Remove and return the prediction of this id, or None if it does not wait (any more)."""
        return self._waiting.pop(id, None)

    def drop(self, uid: int) -> None:
        """Remove what waits under `uid` from all predictions."""
        for pending in self._waiting.values():
            pending.predictions.pop(uid, None)

    def overdue(self, now: float) -> list[PendingPrediction]:
        """Remove and return the predictions older than the window at time `now` (seconds), oldest first."""
        late: list[PendingPrediction] = []
        while self.spec.window and self._waiting:
            oldest = next(iter(self._waiting.values()))
            if oldest.time + self.spec.window > now:
                break
            late.append(self._waiting.pop(oldest.id))
        return late

    def adopt(self, other: PendingPredictions) -> None:
        """Take over the predictions of `other`, with the scores and traces that this set knows for them."""
        known = self._waiting
        self.evicted = other.evicted
        self._widen(other.steps)
        self._waiting = {}
        for id, pending in other._waiting.items():
            held = known.get(id)
            if held is not None and held.position == pending.position:
                self._waiting[id] = replace(
                    pending, predictions=pending.predictions | held.predictions, traces=held.traces
                )
            else:
                self._waiting[id] = replace(pending, traces=None)

    def traces(self, uid: int) -> dict[str, Singles]:
        """Return the traces of one contestant by the ids of their predictions."""
        held = ((id, (pending.traces or {}).get(uid)) for id, pending in self._waiting.items())
        return {id: trace for id, trace in held if trace is not None}

    def retrace(self, traces: Mapping[int, Mapping[str, Singles]]) -> None:
        """Replace all traces; `traces` maps uids to traces (1, trace) by the ids of their predictions."""
        for id, pending in self._waiting.items():
            held = {uid: by_id[id] for uid, by_id in traces.items() if id in by_id}
            if held or pending.traces is not None:
                self._waiting[id] = replace(pending, traces=held or None)

    def _widen(self, steps: list[tuple[int, int]]) -> None:
        """Charge for traces as wide as the last step says."""
        self.steps = list(steps)
        self.each = self._plain + (self._more(steps[-1][1]) if steps else 0)

    def state(self) -> Arrays:
        """Return the waiting set as arrays; `load` restores it. Traces have arrays only once a model had one."""
        waiting = list(self._waiting.values())
        ids = [prediction.id.encode("utf-8", "surrogatepass") for prediction in waiting]
        scores = [
            (row, uid, held) for row, prediction in enumerate(waiting) for uid, held in prediction.predictions.items()
        ]
        arrays: Arrays = {
            "evicted": np.array(self.evicted, np.int64),
            "ids": np.frombuffer(b"".join(ids), np.uint8).copy(),
            "id_lengths": np.array([len(id) for id in ids], np.int64),
            "position": np.array([prediction.position for prediction in waiting], np.int64),
            "time": np.array([prediction.time for prediction in waiting], np.float64),
            "dense": _stack([prediction.row.dense for prediction in waiting], np.float32),
            "lengths": np.array([len(prediction.row.indices) for prediction in waiting], np.int64),
            "indices": _stack([prediction.row.indices for prediction in waiting], np.int32),
            "values": _stack([prediction.row.values for prediction in waiting], np.float32),
            "said_row": np.array([row for row, _, _ in scores], np.int64),
            "said_uid": np.array([uid for _, uid, _ in scores], np.int64),
            "said_scores": _stack([held for _, _, held in scores], np.float32),
        }
        return arrays | self._traces_state(waiting) if self.steps else arrays

    def _traces_state(self, waiting: Sequence[PendingPrediction]) -> Arrays:
        traces = [
            (row, uid, trace[0]) for row, pending in enumerate(waiting) for uid, trace in (pending.traces or {}).items()
        ]
        return {
            "trace_steps": np.array(self.steps, np.int64).reshape(-1, 2),
            "trace_row": np.array([row for row, _, _ in traces], np.int64),
            "trace_uid": np.array([uid for _, uid, _ in traces], np.int64),
            "trace_lengths": np.array([len(trace) for _, _, trace in traces], np.int64),
            "trace_values": _stack([trace for _, _, trace in traces], np.float32),
        }

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`."""
        self._waiting, self.evicted = {}, int(arrays["evicted"])
        self._widen([(int(at), int(width)) for at, width in arrays.get("trace_steps", ())])
        traces = _traces_by_row(arrays) if self.steps else {}
        predictions: list[dict[int, Singles]] = [{} for _ in arrays["position"]]
        for row, uid, scores in zip(arrays["said_row"], arrays["said_uid"], arrays["said_scores"], strict=True):
            predictions[row][int(uid)] = scores[None, :].copy()
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
            time = float(arrays["time"][i])
            self._waiting[id] = PendingPrediction(id, int(position), time, row, predictions[i], traces.get(i))


@dataclass(frozen=True, slots=True)
class Earlier:
    """A piece of feedback whose prediction is not in the log yet, with its position and time."""

    position: int
    time: float
    feedback: Feedback

    @property
    def nbytes(self) -> int:
        """The bytes charged for it."""
        return len(msgspec.json.encode(self.feedback)) + _OVERHEAD


class Early:
    """Feedback that came before its prediction, by the prediction's id; the oldest leaves first."""

    def __init__(self, spec: FeedbackSpec) -> None:
        self.spec = spec
        self.nbytes = 0
        self.dropped = 0  # pieces that left without their prediction
        self.by_source: dict[str, int] = {}  # bytes, see `named`
        self._kept: dict[str, list[Earlier]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def __iter__(self) -> Iterator[Earlier]:
        """Iterate over the pieces, those of one prediction after each other."""
        return iter([piece for kept in self._kept.values() for piece in kept])

    def put(self, earlier: Earlier) -> None:
        """Keep a piece of feedback; drop the oldest ids that no longer fit in an eighth of `spec.bytes`."""
        self._kept.setdefault(earlier.feedback.id, []).append(earlier)
        self._charge(earlier, 1)
        while self.nbytes > self.spec.bytes // EARLY_SHARE and self._kept:
            self.dropped += len(self.take(next(iter(self._kept))))

    def take(self, id: str) -> list[Earlier]:
        """Remove and return the feedback for a prediction, in order of arrival."""
        taken = self._kept.pop(id, [])
        for piece in taken:
            self._charge(piece, -1)
        return taken

    def expire(self, now: float) -> int:
        """Drop the ids whose first feedback is older than `spec.early` at time `now` (seconds); return the count.

        Call it before `take`, so that feedback from too long before its prediction does not count.
        """
        before = self.dropped
        while self._kept:
            id, pieces = next(iter(self._kept.items()))
            if pieces[0].time + self.spec.early >= now:
                break
            self.dropped += len(self.take(id))
        return self.dropped - before

    def adopt(self, other: Early) -> None:
        """Take over the feedback of `other`."""
        self._kept, self.nbytes, self.dropped = other._kept, other.nbytes, other.dropped
        self.by_source = other.by_source

    def _charge(self, piece: Earlier, sign: int) -> None:
        """Count the bytes of a piece that comes (1) or leaves (-1)."""
        source, size = named(piece.feedback.source), sign * piece.nbytes
        self.nbytes += size
        self.by_source[source] = self.by_source.get(source, 0) + size
        if not self.by_source[source]:
            del self.by_source[source]

    def state(self) -> Arrays:
        """Return the set as arrays; `load` restores it."""
        pieces = list(self)
        texts = [msgspec.json.encode(piece.feedback) for piece in pieces]
        return {
            "dropped": np.array(self.dropped, np.int64),
            "texts": np.frombuffer(b"".join(texts), np.uint8).copy(),
            "lengths": np.array([len(text) for text in texts], np.int64),
            "position": np.array([piece.position for piece in pieces], np.int64),
            "time": np.array([piece.time for piece in pieces], np.float64),
        }

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`."""
        self._kept, self.nbytes, self.dropped, self.by_source = {}, 0, int(arrays["dropped"]), {}
        texts, ends = arrays["texts"].tobytes(), np.cumsum(arrays["lengths"])
        for i, end in enumerate(ends):
            feedback: Feedback = msgspec.json.decode(texts[end - arrays["lengths"][i] : end], type=Feedback)
            earlier = Earlier(int(arrays["position"][i]), float(arrays["time"][i]), feedback)
            self._kept.setdefault(feedback.id, []).append(earlier)
            self._charge(earlier, 1)


def named(source: str) -> str:
    """Return the part of a source that a sender cannot choose: the name of its token."""
    return source.partition("/")[0]


def _traces_by_row(arrays: Arrays) -> dict[int, dict[int, Singles]]:
    """Return the traces of each waiting prediction, by its place and by uid."""
    ends, found = np.cumsum(arrays["trace_lengths"]), dict[int, dict[int, Singles]]()
    for i, (row, uid) in enumerate(zip(arrays["trace_row"], arrays["trace_uid"], strict=True)):
        begin = ends[i] - arrays["trace_lengths"][i]
        found.setdefault(int(row), {})[int(uid)] = arrays["trace_values"][None, begin : ends[i]].copy()
    return found


def _stack(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty((0,), dtype)


def _categories(schema: Schema) -> int:
    """The hashed features of the categorical fields and, with interactions, of their pairs."""
    categories = sum(kind in CATEGORIES for kind in schema.fields.values())
    return categories + (categories * (categories - 1) // 2 if schema.interactions else 0)
