"""Learn a stretch of the log again, offline, with some of its events left out.

This is how a model gets rid of labels that it should not have learned: it starts from arrays older than the first of
them, and learns what came since, without them. The cost is that of reading and learning the stretch once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from everlearn import limits as bounded
from everlearn import metrics
from everlearn.errors import InputError
from everlearn.events import Log
from everlearn.feedback import target
from everlearn.learn import warm
from everlearn.model import Model
from everlearn.records import (
    Arrays,
    Batch,
    Event,
    Example,
    Examples,
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
from everlearn.spec import FeedbackSpec, LimitsSpec

_READ = 4096  # events read at a time
_LEARN = 1024  # rows learned at a time
_PLAIN_FEEDBACK, _NO_LIMITS = FeedbackSpec(), LimitsSpec()
_WAITER = 500  # bytes that a waiting prediction takes, about, where only its id is kept


def relearn(
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

    Left out is a label or example for which `skip(event)` is true, and one whose prediction it is true for. What
    `feedback` says of late, missing and early labels holds here as well, and so do the weights that `limits` allows;
    `bounds` (see `limits.bounds`) are what features are clipped to. A label that a model cannot use is passed over.

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
    pupil = _Pupil(model, log, encoder, task, feedback, limits, bounds or {})
    for event in _stretch(log, _context(log, after, max(feedback.window, feedback.early)), upto):
        pupil.take(event, event.position > after, skip)
    pupil.learn()
    return pupil.learned, pupil.left_out


class _Pupil:
    """A model that is shown events in order, and learns their rows a thousand at a time."""

    def __init__(
        self,
        model: Model,
        log: Log,
        encoder: Encoder,
        task: Task,
        feedback: FeedbackSpec,
        limits: LimitsSpec,
        bounds: Arrays,
    ) -> None:
        self.learned = 0
        self.left_out = 0
        self._model, self._log, self._encoder, self._task = model, log, encoder, task
        self._feedback, self._limits, self._bounds = feedback, limits, bounds
        self._state = bounded.start(limits, 0, int(encoder.shape["classes"]))
        self._default = None if feedback.default is None else self._known(feedback.default)
        self._now = 0.0
        self._waiting: dict[str, float] = {}  # when each prediction without feedback was made
        self._early: dict[str, tuple[float, Feedback]] = {}
        self._rows: list[tuple[dict[str, object], float, float, int, str]] = []

    def take(self, event: Event, learns: bool, skip: Callable[[Event], bool]) -> None:
        """Show the next event; before the stretch begins, only to know which predictions wait."""
        match event.payload:
            case Prediction() as prediction:
                self._answered(event, prediction, learns, skip)
            case Label() | Reward() | Preference() as judgement:
                self._judged(event, judgement, learns, skip)
            case Example() as example:
                self._shown(event, example, learns, skip)

    def learn(self) -> None:
        """Learn the rows that were gathered."""
        rows, self._rows = self._rows, []
        batch, problems = self._encoder.records([row[0] for row in rows])
        if problems:
            bad = {problem.row for problem in problems}
            rows = [row for i, row in enumerate(rows) if i not in bad]
            batch, _ = self._encoder.records([row[0] for row in rows])
        if not rows:
            return
        batch = bounded.clip(self._bounds, self._limits, batch)
        y, weight = np.array([row[1] for row in rows]), np.array([row[2] for row in rows], np.float32)
        position, sources = np.array([row[3] for row in rows], np.int64), [row[4] for row in rows]
        losses = self._losses(batch, y)
        weight, _ = bounded.admit_rows(self._state, self._limits, sources, weight, losses, y, position)
        warm(self._model, Examples(batch, y, weight, position))
        self.learned += len(rows)

    def _losses(self, batch: Batch, y: Floats) -> Floats:
        """What the limits judge extreme labels by, where they do: how wrong the model is before these rows."""
        if self._limits.quarantine >= 1.0:
            return np.full(len(y), np.nan)
        kind = "absolute" if self._task == "regression" else "brier"
        return metrics.losses(kind, self._model.predict(batch), y)

    def _shown(self, event: Event, example: Example, learns: bool, skip: Callable[[Event], bool]) -> None:
        self._now = max(self._now, event.time)
        if learns and skip(event):
            self.left_out += 1
        elif learns:
            self._add(example.features, self._known(example.label), example.weight, event.position, example.source)

    def _answered(self, event: Event, prediction: Prediction, learns: bool, skip: Callable[[Event], bool]) -> None:
        came, judgement = self._early.pop(prediction.id, (0.0, None))
        if judgement is not None and event.time - came <= self._feedback.early:
            if learns and skip(event):
                self.left_out += 1
            elif learns:
                self._judge(prediction, judgement, event.position)
        elif self._feedback.window:
            self._waiting[prediction.id] = event.time
        self._pass_over(event, learns, skip)

    def _judged(self, event: Event, judgement: Feedback, learns: bool, skip: Callable[[Event], bool]) -> None:
        waited = self._waiting.pop(judgement.id, None) is not None
        found = self._log.find(f"prediction:{judgement.id}")
        known = found.payload if found is not None and found.position < event.position else None
        if learns and (skip(event) or (found is not None and skip(found))):
            self.left_out += 1
        elif not isinstance(known, Prediction):
            if self._feedback.early:
                self._early.setdefault(judgement.id, (event.time, judgement))
        elif learns and (self._feedback.correction == "learn" or self._is_first(event, judgement, waited)):
            self._judge(known, judgement, event.position)
        self._pass_over(event, learns, skip)

    def _is_first(self, event: Event, judgement: Feedback, waited: bool) -> bool:
        """Whether a judgement is the first one of its prediction, and came while that waited."""
        if self._feedback.window:
            return waited
        told = (one for one in self._log.about(judgement.id) if isinstance(one.payload, Label | Reward | Preference))
        return next(told).position == event.position

    def _pass_over(self, event: Event, learns: bool, skip: Callable[[Event], bool]) -> None:
        """Predictions that waited too long, or that there is no room for, take the default label."""
        self._now = max(self._now, event.time)
        window, most = self._feedback.window, self._feedback.bytes // _WAITER
        while self._waiting:
            id, asked = next(iter(self._waiting.items()))
            if asked + window > self._now and len(self._waiting) <= most:
                break
            del self._waiting[id]
            found = self._log.find(f"prediction:{id}") if learns and self._default is not None else None
            if found is not None and isinstance(found.payload, Prediction) and not skip(found):
                self._add(found.payload.features, self._default, 1.0, event.position, "")
        while self._early and next(iter(self._early.values()))[0] + self._feedback.early < self._now:
            del self._early[next(iter(self._early))]

    def _judge(self, prediction: Prediction, judgement: Feedback, position: int) -> None:
        try:
            y = target(judgement, self._task, self._encoder.label)
        except InputError:
            return
        self._add(prediction.features, y, judgement.weight, position, judgement.source)

    def _add(self, features: dict[str, object], y: float | None, weight: float, position: int, source: str) -> None:
        if y is not None:
            self._rows.append((features, y, weight, position, source))
            if len(self._rows) == _LEARN:
                self.learn()

    def _known(self, label: Scalar) -> float | None:
        try:
            return self._encoder.label(label)
        except InputError:
            return None


def _stretch(log: Log, after: int, upto: int) -> Iterator[Event]:
    while after < upto and (batch := log.read(after, _READ)):
        yield from (event for event in batch if event.position <= upto)
        after = batch[-1].position


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
