"""Join predictions with their feedback into labelled rows.

Every event of the log goes through one `Joiner`, in order: it holds the predictions that wait, early feedback, the
clock of the log and the counts behind importance weights. The fold and the rebuild of a model use the same joiner, so
that both learn the same rows with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from everlearn.errors import ConfigError, EventsGone, InputError
from everlearn.feedback.correction import Arrival, Correction
from everlearn.feedback.labelling import Coverage, DefaultLabels
from everlearn.feedback.pending import (
    ANSWER,
    CANARY,
    Earlier,
    Early,
    PendingPrediction,
    PendingPredictions,
    charge,
    trace_charge,
)
from everlearn.learn.label_queue import LabelledRow
from everlearn.learn.limiter import Limiter, Weights
from everlearn.model import copied
from everlearn.records import Arrays, Batch, Event, Feedback, Label, Prediction, Preference, Reward, Singles, Target
from everlearn.schema import Reading, features, pairs
from everlearn.spec import Spec

_NEWEST = 256  # judgements over which the mean lag goes

Clip = Callable[[Batch], Batch]
Skip = Callable[[Event], bool]


class History(Protocol):
    """The look-ups in a log that joining needs."""

    def find(self, key: str) -> Event | None: ...

    def about(self, id: str) -> list[Event]: ...


class Joiner:
    """All state of the join, a function of the log; positions and times are those of events.

    Raises `ConfigError` for a default label that is no label of the schema.
    """

    def __init__(self, spec: Spec, encoder: Reading, limiter: Limiter, history: History, absent: Skip) -> None:
        """Start before the first event. Feedback for which `absent` is true counts as not in the `history`."""
        self.spec = spec
        more = partial(trace_charge, spec)
        self.pending = PendingPredictions(spec.feedback, charge(spec, encoder.shape), more)
        self.early = Early(spec.feedback)
        task = spec.schema.task
        self.correction = Correction(spec.feedback, task) if spec.feedback.correction == "importance" else None
        self.now = 0.0  # the latest time that the log has shown; it never goes back
        self.unusable = 0  # events that no model can use
        self.lag: Arrays = {"lag": np.zeros(2)} if encoder.late else {}  # judgements, and their recent mean seconds
        self._default = _default(spec, encoder)
        self.coverage, self.defaults = Coverage(spec), DefaultLabels(spec, self._default)
        self._encoder, self._limiter, self._history, self._absent = encoder, limiter, history, absent

    def advance(self, time: float) -> None:
        """Set the clock to the time of the next event, unless the log has shown a later one."""
        self.now = max(self.now, time)

    def predict(
        self,
        prediction: Prediction,
        position: int,
        row: Batch,
        predictions: dict[int, Singles],
        clip: Clip,
        traces: dict[int, Singles] | None = None,
        width: int | None = None,
    ) -> list[LabelledRow]:
        """Let a prediction wait; return the rows that this labels: evicted predictions, or its own early feedback.

        `row` is encoded and clipped; `predictions` maps a uid to scores (1, k), with `ANSWER` among them. `clip` clips
        a row to the ranges of this moment. `traces` and `width` are those of `PendingPredictions`.
        """
        labelled: list[LabelledRow] = []
        waiting = PendingPrediction(prediction.id, position, self.now, row, predictions, traces)
        for evicted in self.pending.put(waiting, width):
            labelled += self._assume(evicted, position)
        self.early.expire(self.now)
        for piece in self.early.take(prediction.id):
            labelled += self._judge(piece.feedback, piece.position, piece.time, position, clip)
        return labelled

    def judge(self, feedback: Feedback, position: int, clip: Clip) -> list[LabelledRow]:
        """Return the row that feedback labels: none if it waits for its prediction, or no model can use it.

        A correction, or a label whose prediction waits no longer, is learned but not scored. Feedback of weight 0
        settles its prediction, and labels nothing.
        """
        return self._judge(feedback, position, self.now, position, clip)

    def overdue(self, position: int) -> list[LabelledRow]:
        """Return the predictions that have waited too long after the event at `position`, with the default label."""
        labelled: list[LabelledRow] = []
        for pending in self.pending.overdue(self.now):
            self.coverage.overdue(1)
            labelled += self._assume(pending, position)
        return labelled

    def adopt(self, other: Joiner) -> None:
        """Take over the state of another joiner of the same log, less the scores that only this one knows."""
        self.pending.adopt(other.pending)
        self.early.adopt(other.early)
        self.now, self.lag = other.now, copied(other.lag)
        self.coverage.arrays, self.defaults.arrays = copied(other.coverage.arrays), copied(other.defaults.arrays)
        if self.correction is not None and other.correction is not None:
            self.correction.arrays = copied(other.correction.arrays)

    # ---- one label ---------------------------------------------------------------------------------------------

    def _judge(self, feedback: Feedback, position: int, time: float, at: int, clip: Clip) -> list[LabelledRow]:
        """`position` and `time` are those of the feedback; `at` is the prediction's position, if that came later."""
        try:
            targets = self._encoder.judge(feedback)
        except InputError:
            self.unusable += 1
            return []
        if not targets:  # skipped: the prediction waits for another judgement
            return []
        if (pending := self.pending.take(feedback.id)) is not None:
            row = self._encoder.mark(pending.row, feedback)
            labelled = self._admit(pending, row, targets, feedback.weight, feedback.source, position)
            self.coverage.note(scored=bool(labelled))
            if self._encoder.late:
                self._note_lag(max(time - pending.time, 0.0))
                return self._attributed(labelled, feedback, targets)
            return labelled
        try:
            return self._judge_from_log(feedback, targets, position, time, at, clip)
        except EventsGone:  # a broker has removed the prediction
            self.unusable += 1
            return []

    def _judge_from_log(
        self, feedback: Feedback, targets: Sequence[Target], position: int, time: float, at: int, clip: Clip
    ) -> list[LabelledRow]:
        """Judge a prediction that does not wait: one that was answered, or evicted, or is still to come."""
        found = self._history.find(f"prediction:{feedback.id}")
        if found is None or found.position > at:
            if self.spec.feedback.early:
                self.early.put(Earlier(position, time, feedback))
        elif isinstance(found.payload, Prediction):
            if self.defaults and feedback.weight > 0.0 and self._is_first(feedback, position):
                self.defaults.settle(
                    found.payload, targets[0].y, self._class(found.payload), max(time - found.time, 0.0)
                )
            if self.spec.feedback.correction != "ignore":
                return self._correct(found.payload, feedback, targets, position, clip)
        return []

    def _note_lag(self, seconds: float) -> None:
        """Count the time between a question and its judgement."""
        held = self.lag["lag"]
        held[0] += 1.0
        held[1] += (seconds - held[1]) / min(held[0], _NEWEST)

    def _attributed(
        self, labelled: list[LabelledRow], feedback: Feedback, targets: Sequence[Target]
    ) -> list[LabelledRow]:
        """Return the rows of a judgement; the last one says which contestant won, where it decides a duel."""
        if not labelled or not pairs.is_duel(row := labelled[0].row):
            return labelled
        event, weight = self._history.find(f"prediction:{feedback.id}"), sum(one.weight for one in labelled)
        if event is None or not isinstance(event.payload, Prediction):
            return labelled
        duel = pairs.duel(event.payload.payload, row, targets, feedback.source, weight)
        return labelled if duel is None else [*labelled[:-1], replace(labelled[-1], duel=duel)]

    def _is_first(self, feedback: Feedback, position: int) -> bool:
        """Return True if no other feedback for the same prediction came before `position`."""
        before = (event for event in self._history.about(feedback.id) if event.position < position)
        return not any(
            isinstance(event.payload, Label | Reward | Preference) for event in before if not self._absent(event)
        )

    def _class(self, prediction: Prediction) -> int | None:
        """Return the class that was answered; None where the answer is no class."""
        classes = self.spec.schema.classes
        return int(features(self._encoder).label(prediction.value)) if prediction.value in classes else None

    def _assume(self, pending: PendingPrediction, position: int) -> list[LabelledRow]:
        """Label a prediction without feedback with the default, if there is one."""
        if self._default is None:
            return []
        self.defaults.assume(self.now)
        return self._admit(pending, pending.row, (Target(self._default, 1.0),), 1.0, "", position)

    def _admit(
        self,
        pending: PendingPrediction,
        row: Batch,
        targets: Sequence[Target],
        weight: float,
        source: str,
        position: int,
    ) -> list[LabelledRow]:
        """Label a waiting prediction, with the weights that the limits allow."""
        if not weight > 0.0:
            return []
        predictions, y = pending.predictions, targets[0].y
        answer = predictions.get(CANARY if CANARY in predictions else ANSWER)
        weights = self._limiter.admit(y, weight, source, position, answer)
        if weights is None:
            return []
        arrival = None
        if self.correction is not None:
            arrival = self.correction.arrive(positive=y != self._default, late=False)
        scored = predictions if self._encoder.scores(row) else None
        return self._labelled(row, targets, weights, position, scored, arrival, pending.traces)

    def _correct(
        self, prediction: Prediction, feedback: Feedback, targets: Sequence[Target], position: int, clip: Clip
    ) -> list[LabelledRow]:
        """Label a prediction that waits no longer."""
        if not feedback.weight > 0.0:
            return []
        late = self.correction is not None and self._is_first(feedback, position)
        try:
            row = self._encoder.mark(clip(self._encoder.read([prediction])), feedback)
        except InputError:
            return []
        y = targets[0].y
        weights = self._limiter.admit(y, feedback.weight, feedback.source, position)
        if weights is None:
            return []
        arrival = None
        if self.correction is not None and late:
            arrival = self.correction.arrive(positive=y != self._default, late=True)
        return self._labelled(row, targets, weights, position, None, arrival)

    def _labelled(
        self,
        row: Batch,
        targets: Sequence[Target],
        weights: Weights,
        position: int,
        predictions: dict[int, Singles] | None,
        arrival: Arrival | None,
        traces: dict[int, Singles] | None = None,
    ) -> list[LabelledRow]:
        """Return a row with each of its targets, which share the weights of the judgement."""
        labelled: list[LabelledRow] = []
        for y, share in targets:
            scored, learned = weights.scored * share, weights.learned * share
            factor = self._limiter.class_weights.one(y, learned)
            labelled.append(LabelledRow(row, y, scored, learned, position, predictions, arrival, traces, factor))
        return labelled

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def state(self) -> tuple[Arrays, Arrays, Arrays]:
        """Return the arrays of the waiting predictions, of early feedback, and of the counts of labels."""
        counts = self.correction.arrays if self.correction is not None else {}
        return self.pending.state() | self.coverage.arrays | self.lag, self.early.state(), counts | self.defaults.arrays

    def load(self, pending: Arrays, early: Arrays, counts: Arrays) -> None:
        """Restore the result of `state`; arrays that an older release did not keep may be empty."""
        self.pending.load(pending)
        self.lag = copied({name: pending[name] for name in self.lag if name in pending}) or self.lag
        if early:
            self.early.load(early)
        for part in (self.correction, self.coverage, self.defaults):
            held = pending if part is self.coverage else counts
            if part is not None and part.arrays.keys() <= held.keys():
                part.arrays = copied({name: held[name] for name in part.arrays})


def _default(spec: Spec, encoder: Reading) -> float | None:
    """Return the default label as a number, or None."""
    if spec.feedback.default is None:
        return None
    try:
        return features(encoder).label(spec.feedback.default)
    except InputError as error:
        raise ConfigError(f"feedback.default: {error}") from error
