"""Learn a stretch of the log again, offline, with some of its events left out.

This is how a model gets rid of labels that it should not have learned: it starts from arrays older than the first of
them, and learns what came since, without them. The cost is that of reading and learning the stretch once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from everlearn import metrics
from everlearn.errors import InputError
from everlearn.events import Log, scan
from everlearn.feedback.admission import target
from everlearn.feedback.correction import Correction
from everlearn.feedback.pending import Earlier, Early
from everlearn.learn import limits as bounded
from everlearn.learn.teach import teach
from everlearn.loop import details
from everlearn.model import Model, refused
from everlearn.records import (
    Arrays,
    Batch,
    Decision,
    Event,
    Example,
    Feedback,
    Floats,
    Label,
    Prediction,
    Preference,
    Reward,
    Scalar,
    Task,
)
from everlearn.schema import Encoder
from everlearn.serve.isolation import IsolatedModel
from everlearn.serve.roster import Progress
from everlearn.spec import FeedbackSpec, LimitsSpec

_LEARN = 1024  # rows learned at a time
_PLAIN_FEEDBACK, _NO_LIMITS = FeedbackSpec(), LimitsSpec()
_WAITER = 500  # bytes that a waiting prediction takes, about, where only its id is kept


def rebuild(
    model: Model,
    log: Log,
    encoder: Encoder,
    task: Task,
    after: int,
    upto: int,
    skip: Callable[[Event], bool],
    feedback: FeedbackSpec = _PLAIN_FEEDBACK,
    limits: LimitsSpec = _NO_LIMITS,
    bounds: Arrays | None = None,
) -> tuple[int, int]:
    """Let `model` learn the labels and examples at positions (after, upto] in log order; return (learned, left out).

    Left out is a label or example for which `skip(event)` is true, and a label whose prediction it is true for: all is
    as if it had never come. What `feedback` says of late, missing and early labels holds here as well, and so do the
    weights that `limits` allows; `bounds` (see `limits.bounds`) are what features are clipped to. A label that no model
    can use is passed over. Raises ModelError if the model raises anything.

    >>> from tempfile import TemporaryDirectory
    >>> from everlearn import model, schema, events
    >>> from everlearn.spec import Schema
    >>> encoder = Encoder(Schema(label="y", task="regression", fields={"x": "numeric"}))
    >>> line = model.build({"family": "linear"}, encoder.shape)
    >>> with TemporaryDirectory() as home, events.connect(f"{home}/log.sqlite") as log:
    ...     said = log.append([Example(str(i), {"x": i % 7}, 2.0 * (i % 7), source="ab"[i % 2]) for i in range(1000)])
    ...     relearn(line, log, encoder, "regression", 100, 900, lambda event: event.payload.source == "b")
    (400, 400)
    """
    pupil = _Pupil(model, log, encoder, task, skip, feedback, limits, bounds or {})
    for event in scan(log, _context(log, after, max(feedback.window, feedback.early)), upto=upto):
        pupil.take(event, event.position > after)
    pupil.learn()
    return pupil.learned, pupil.left_out


def training_positions(log: Log) -> dict[str, Progress]:
    """What the arrays of each version had learned when it was born, as far as the log tells it.

    A version that was made anew, because something was erased, has learned what the old one had.
    """
    found: dict[str, Progress] = {}
    for event in scan(log, kinds=("decision",)):
        decision = event.payload
        if not isinstance(decision, Decision):
            continue
        found |= {new: found[old] for old, new in details.replaced(decision).items() if old in found}
        for version, learned in details.progress(decision).items():
            found.setdefault(version, learned)
    return found


@dataclass(frozen=True, slots=True)
class _Row:
    features: Mapping[str, Any]
    y: float
    weight: float
    position: int
    source: str
    late: bool | None = None


class _Pupil:
    """A model that is shown events in order, and learns their rows a thousand at a time."""

    def __init__(
        self,
        model: Model,
        log: Log,
        encoder: Encoder,
        task: Task,
        skip: Callable[[Event], bool],
        feedback: FeedbackSpec,
        limits: LimitsSpec,
        bounds: Arrays,
    ) -> None:
        self.learned = 0
        self.left_out = 0
        self._model, self._log, self._encoder, self._task, self._skip = IsolatedModel(model), log, encoder, task, skip
        self._feedback, self._limits, self._bounds = feedback, limits, bounds
        self._state = bounded.start(limits, 0, int(encoder.shape["classes"]))
        self._default = None if feedback.default is None else self._known(feedback.default)
        self._correction = Correction(feedback, task) if feedback.correction == "importance" else None
        self._now = 0.0
        self._waiting: dict[str, float] = {}  # when each prediction without feedback was made
        self._early = Early(feedback)
        self._rows: list[_Row] = []

    def take(self, event: Event, learns: bool) -> None:
        """Show the next event; before the stretch begins, only to know which predictions wait."""
        if not isinstance(event.payload, Prediction | Label | Reward | Preference | Example):
            return
        if self._skip(event):
            self.left_out += learns and not isinstance(event.payload, Prediction)
            return
        self._now = max(self._now, event.time)
        if isinstance(event.payload, Prediction):
            self._answered(event, event.payload, learns)
        elif not isinstance(event.payload, Example):
            self._judged(event, event.payload, learns)
        elif learns:
            example, y = event.payload, self._known(event.payload.label)
            self._add(example.features, y, example.weight, event.position, example.source)
        if not isinstance(event.payload, Example):
            self._pass_over(event.position, learns)

    def learn(self) -> None:
        """Learn the rows that were gathered."""
        rows, self._rows = self._rows, []
        batch, problems = self._encoder.records([row.features for row in rows])
        bad = {problem.row for problem in problems} | refused(self._model.model, batch).keys()
        if bad:
            rows = [row for i, row in enumerate(rows) if i not in bad]
            batch, _ = self._encoder.records([row.features for row in rows])
        if not rows:
            return
        batch = bounded.clip(self._bounds, self._limits, batch)
        y, weight = np.array([row.y for row in rows]), np.array([row.weight for row in rows], np.float32)
        position, sources = np.array([row.position for row in rows], np.int64), [row.source for row in rows]
        losses = self._losses(batch, y)
        weight, _ = bounded.admit_rows(self._state, self._limits, sources, weight, losses, y, position)
        teach([self._model], batch, y, weight, [row.late for row in rows], self._correction, self._default)
        self.learned += len(rows)

    def _losses(self, batch: Batch, y: Floats) -> Floats:
        """What the limits judge extreme labels by, where they do: how wrong the model is before these rows."""
        if self._limits.quarantine >= 1.0:
            return np.full(len(y), np.nan)
        kind = "absolute" if self._task == "regression" else "brier"
        return metrics.losses(kind, self._model.predict(batch), y)

    def _answered(self, event: Event, prediction: Prediction, learns: bool) -> None:
        self._early.expire(self._now)
        came = self._early.take(prediction.id)
        if not came and self._feedback.window:
            self._waiting[prediction.id] = self._now
        for i, earlier in enumerate(came):
            if learns and (i == 0 or self._feedback.correction != "ignore"):
                self._judge(prediction, earlier.feedback, earlier.position, None if i else False)

    def _judged(self, event: Event, judgement: Feedback, learns: bool) -> None:
        waited = self._waiting.pop(judgement.id, None) is not None
        found = self._log.find(f"prediction:{judgement.id}")
        if found is not None and self._skip(found):
            self.left_out += learns
        elif found is None or found.position > event.position or not isinstance(found.payload, Prediction):
            if self._feedback.early:
                self._early.put(Earlier(event.position, self._now, judgement))
        elif learns:
            waited = waited or not self._feedback.window
            first = self._feedback.correction == "learn" or self._is_first(event, judgement)
            if self._feedback.correction != "ignore" or (waited and first):
                self._judge(found.payload, judgement, event.position, not waited if first else None)

    def _is_first(self, event: Event, judgement: Feedback) -> bool:
        """Whether a judgement is the first one of its prediction, of those that are not left out."""
        about = self._log.about(judgement.id)
        told = (one for one in about if isinstance(one.payload, Label | Reward | Preference) and not self._skip(one))
        return next(told).position == event.position

    def _pass_over(self, position: int, learns: bool) -> None:
        """Predictions that waited too long, or that there is no room for, take the default label."""
        window, most = self._feedback.window, self._feedback.bytes // _WAITER
        while self._waiting:
            id, asked = next(iter(self._waiting.items()))
            if asked + window > self._now and len(self._waiting) <= most:
                break
            del self._waiting[id]
            found = self._log.find(f"prediction:{id}") if learns and self._default is not None else None
            if found is not None and isinstance(found.payload, Prediction):
                self._add(found.payload.features, self._default, 1.0, position, "", late=False)

    def _judge(self, prediction: Prediction, judgement: Feedback, position: int, late: bool | None) -> None:
        try:
            y = target(judgement, self._task, self._encoder.label)
        except InputError:
            return
        self._add(prediction.features, y, judgement.weight, position, judgement.source, late)

    def _add(
        self,
        features: Mapping[str, Any],
        y: float | None,
        weight: float,
        position: int,
        source: str,
        late: bool | None = None,
    ) -> None:
        if y is not None:
            self._rows.append(_Row(features, y, weight, position, source, late))
            if len(self._rows) == _LEARN:
                self.learn()

    def _known(self, label: Scalar) -> float | None:
        try:
            return self._encoder.label(label)
        except InputError:
            return None


def _context(log: Log, after: int, seconds: float) -> int:
    """The position that lies `seconds` before position `after`: predictions from there on may still wait."""
    last = log.read(after - 1, 1) if seconds and after > 0 else []
    if not last:
        return after
    low, high = 0, after  # the first event at or after `since` lies in (low, high]
    since = last[0].time - seconds
    while high - low > 1:
        middle = (low + high) // 2
        found = log.read(middle - 1, 1)
        low, high = (middle, high) if found and found[0].time < since else (low, middle)
    return low
