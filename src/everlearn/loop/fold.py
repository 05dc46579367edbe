"""The fold: events in, commits out.

The state after position p is a function of (log up to p, spec, seed), however the log was cut into reads. Two kinds
of log are folded alike: events of the event log, and rows of a file that is itself the log. Whenever a decision
falls, or a checkpoint is due, the fold yields a `Commit`, which its caller must make durable before going on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import msgspec
import numpy as np

from everlearn import config, model, schema
from everlearn.errors import ConfigError, InputError
from everlearn.events import Log
from everlearn.feedback.admission import target
from everlearn.feedback.pending import ANSWER, Earlier, Early, PendingPrediction, PendingPredictions
from everlearn.gate.guards import guarded_class
from everlearn.learn import limits
from everlearn.learn.label_queue import LabelQueue
from everlearn.learn.monitor import DRIFT, Looked, Monitor
from everlearn.learn.teach import warm
from everlearn.loop.offsets import StreamOffsets
from everlearn.loop.transitions import Transitions
from everlearn.model import select, stack
from everlearn.records import (
    Arrays,
    Batch,
    Decision,
    Event,
    Example,
    Examples,
    Feedback,
    Label,
    Payload,
    Prediction,
    Preference,
    Reward,
)
from everlearn.serve.isolation import FailureLog, ModelFailure
from everlearn.serve.roster import Contestant, Progress, Roster
from everlearn.serve.shadows import ShadowPredictions
from everlearn.spec import Spec
from everlearn.version import codec
from everlearn.version.registry import Versions

Cursor = Literal["row", "log"]

_STRETCH = 512  # events folded together, at most


@dataclass(frozen=True, slots=True)
class Commit:
    """What was decided after position `at`; empty `payloads` mean that only a checkpoint is due."""

    at: int
    payloads: list[Payload]


class Fold:
    """All state of a loop, and how events and rows change it."""

    def __init__(self, spec: Spec, versions: Versions, log: Log, faults: FailureLog | None = None) -> None:
        """Before the first event, or as of the state that is loaded next; `faults` are those known beyond it."""
        self._versions, self._log = versions, log
        self._faults = faults if faults is not None else FailureLog()
        self._start_with(spec)

    def _start_with(self, spec: Spec) -> None:
        """Make all parts of the fold, without any state."""
        versions, log = self._versions, self._log
        self.spec = spec
        self.shape = schema.shape(spec.schema)
        self.encoder = schema.Encoder(spec.schema)
        self.roster = Roster(spec.mode == "live", int(self.shape["classes"]) or 1)
        self.monitor = Monitor(spec, self.shape)
        self.gate = msgspec.structs.replace(spec.gate, loss=self.monitor.loss)
        self.pending = PendingPredictions(spec.feedback)
        self.early = Early(spec.feedback)
        self.cursor: dict[Cursor, int] = {"row": 0, "log": 0}  # the last row, the last log position folded
        self.taken = StreamOffsets()
        self.unusable = 0  # events of the log that no model could use
        self._default = _default(spec, self.encoder)
        classes = {str(label): label for label in spec.schema.classes}
        guards = {name: self.encoder.label(guarded_class(name, classes)) for name in spec.gate.guards}
        self.label_queue = LabelQueue(spec, self.gate, guards, self._default, self.monitor, self.roster)
        self.transitions = Transitions(spec, self.gate, self.encoder, self.monitor, self.roster, versions, log)
        self._now = 0.0  # the latest time that the log has shown; it never goes back
        self.warm_rows = int(spec.warm_start)  # a share below 1 needs the length of the stream: the loop knows it
        self._warmed = 0
        self._predictions = 0
        self._checkpointed = 0  # examples and predictions folded by then
        self._nursery: model.Model | None = None  # learns offline until the warm start is over
        self._group: tuple[Cursor, int, int] = "log", 0, 0  # the positions that are being folded together
        self._looked: Looked | None = None  # the predictions among them, and how many of these have come
        self._come = 0
        self._ticked = False  # whether decisions fell with the event that is being folded

    def prepare(self) -> model.Model:
        """The model that the loop starts with, made where it is not yet. Raises `ConfigError` if it cannot be."""
        self._nursery = self._nursery or self.transitions.make()
        return self._nursery

    @property
    def started(self) -> bool:
        return bool(self.roster.contestants)

    @property
    def canary(self) -> Contestant | None:
        """Who answers the share of the traffic that is set aside for a candidate, if there is one."""
        return self.roster.canary if self.started else None

    @property
    def bounds(self) -> Arrays:
        """What features are clipped to by whoever answers; see `everlearn.learn.limits.clip`."""
        return limits.bounds(self.monitor.limits)

    # ---- rows, which come with their labels --------------------------------------------------------------------

    def refused(self, batch: Batch) -> dict[int, str]:
        """The rows that models of this loop cannot take, and why: who never learns is asked, which all began as."""
        if self.started:
            return model.refused(self.roster.frozen_start().model, batch)
        return model.refused(self.prepare(), batch)

    def examples(self, examples: Examples, cursor: Cursor, sources: Sequence[str] = ()) -> Iterator[Commit]:
        """Fold rows that come with their labels: each is predicted by everyone, scored, then learned."""
        if not self.started:
            used = self._warm_up(examples)
            if used == len(examples.y):
                self.cursor[cursor] = int(examples.position[-1])
                return
            at = int(examples.position[used]) - 1
            self.cursor[cursor] = at
            yield from self.start(at)
            examples, sources = model.cut(examples, used, len(examples.y)), sources[used:]
        done = 0
        for piece in self._pieces(examples, cursor):
            at = int(piece.position[-1])
            payloads = self._begins(cursor, int(piece.position[0]), at)
            counted = self.label_queue.rows(piece, sources[done : done + len(piece.y)])
            done += len(piece.y)
            if due := counted > 0 and self.monitor.due():
                self.cursor[cursor] = at
                payloads += self.transitions.decide(at, self._learned())
            self.transitions.relent()
            if payloads or (due and self._due()):
                self.cursor[cursor] = at
                yield self._commit(at, payloads)

    def _pieces(self, examples: Examples, cursor: Cursor) -> Iterator[Examples]:
        """Rows that are folded together."""
        most = 1 if self.monitor.judges and self.roster.live else len(examples.y)  # who judges must not learn with it
        for piece in self.monitor.pieces(examples, most):
            if self._faults.within(cursor, int(piece.position[0]), int(piece.position[-1])):
                yield from (model.cut(piece, row, row + 1) for row in range(len(piece.y)))
            else:
                yield piece

    def start(self, at: int) -> Iterator[Commit]:
        """End the warm start, if there was one: store the first version, and put it in every role."""
        yield self._commit(at, self._begin(at))

    def rehearse(self, examples: Examples) -> Examples:
        """Learn rows offline, before anything is served: a pass of a warm start that is more than one pass long."""
        nursery = self.prepare()
        weight = np.minimum(examples.weight, np.float32(self.spec.limits.weight))
        bounded = Examples(self.monitor.bound(examples.batch), examples.y, weight, examples.position)
        warm(nursery, bounded)
        return bounded

    def _warm_up(self, examples: Examples) -> int:
        """Learn what belongs to the warm start; return how many rows that were."""
        used = min(len(examples.y), self.warm_rows - self._warmed)
        if used > 0:
            self.monitor.remember(self.rehearse(model.cut(examples, 0, used)))
            self._warmed += used
        return max(used, 0)

    def _begin(self, at: int) -> list[Payload]:
        first = self.prepare()
        why = f"trained offline on {self._warmed} rows" if self._warmed else "untrained start"
        self._nursery = None
        born, start, *rest = self.transitions.start(first, why, at, self._learned())
        assert isinstance(start, Decision)
        return [born, msgspec.structs.replace(start, detail=start.detail | {"spec": config.stored(self.spec)}), *rest]

    # ---- events ------------------------------------------------------------------------------------------------

    def events(self, batch: Sequence[Event]) -> Iterator[Commit]:
        """Fold consecutive events of the log; what the loop wrote itself moves nothing.

        Whatever falls due on the way is committed once the whole event is folded: a checkpoint is never half of one.
        """
        for kind, group in groupby(batch, _kind):
            if kind == "example":
                yield from self._examples(list(group))
            elif kind == "answer":
                yield from self._answers(list(group))
            else:
                for event in group:
                    yield from self._told(event)

    def _examples(self, batch: Sequence[Event]) -> Iterator[Commit]:
        payloads = [event.payload for event in batch if isinstance(event.payload, Example)]
        self._now = max(self._now, *(event.time for event in batch))
        encoded, problems = self.encoder.records([one.features for one in payloads])
        y, unknown = self.encoder.labels([one.label for one in payloads], len(payloads))
        weight = np.array([one.weight for one in payloads], np.float32)
        position = np.array([event.position for event in batch], np.int64)
        examples, sources = Examples(encoded, y, weight, position), [one.source for one in payloads]
        if bad := {problem.row for problem in (*problems, *unknown)} | self.refused(encoded).keys():
            self.unusable += len(bad)
            good = np.array([row not in bad for row in range(len(y))])
            examples, sources = select(examples, good), [one for one, fine in zip(sources, good, strict=True) if fine]
        noted = 0  # a commit tells of the rows up to it, and of no others
        for commit in self.examples(examples, "log", sources if any(sources) else ()) if len(examples.y) else ():
            upto = int(np.searchsorted(position, commit.at, "right"))
            self.taken.note(one.id for one in payloads[noted:upto])
            noted = upto
            yield commit
        self.taken.note(one.id for one in payloads[noted:])
        self.cursor["log"] = batch[-1].position

    def _told(self, event: Event) -> Iterator[Commit]:
        """Fold what somebody decided."""
        match event.payload:
            case Decision(action="order") as order:
                payloads = [] if self.started else self._begin(event.position - 1)
                payloads += self._begins("log", event.position, event.position)
                payloads += self.transitions.obey(order, event.position, self._learned())
            case Decision(by="user", alias="champion", detail=detail) as decision if "order" not in detail:
                revived = self.transitions.revive(decision.version)  # as releases before orders wrote it
                self.roster.install(decision.version, revived, keep=decision.action == "promote")
                payloads = []
            case Decision(action="config", detail={"warm_rows": int(warm_rows)}):
                self.warm_rows, payloads = warm_rows, []
            case Decision(action="config", detail={"spec": dict(settings)}) if self.started:
                self._configure(config.read_stored(settings, "the log"))
                payloads = []
            case _:
                return
        self.cursor["log"] = event.position
        if payloads or self._due():
            yield self._commit(event.position, payloads)

    def _answers(self, events: list[Event]) -> Iterator[Commit]:
        """Fold predictions and feedback, as many at a time as change nothing but what is learned."""
        start = 0
        while start < len(events):
            stretch = events[start : start + self._longest()]
            if self._faults.within("log", stretch[0].position, stretch[-1].position):
                stretch = stretch[:1]
            payloads = self._begins("log", stretch[0].position, stretch[-1].position)
            more, done = self._stretch(stretch)
            payloads += more
            self.label_queue.test()
            self.transitions.relent()
            start += done
            self.cursor["log"] = events[start - 1].position
            if payloads or self._due():
                yield self._commit(self.cursor["log"], payloads)

    def _longest(self) -> int:
        """How many events may be folded together."""
        return min(_STRETCH, self.spec.checkpoint - self._folded() % self.spec.checkpoint)

    def _stretch(self, events: Sequence[Event]) -> tuple[list[Payload], int]:
        """Fold events up to the first with which decisions fall; return these, and how many events were folded."""
        payloads: list[Payload] = []
        rows, batch = self._encoded(events)
        heard: ShadowPredictions | None = None
        self._looked = None
        for i, event in enumerate(events):
            self._now = max(self._now, event.time)
            self.cursor["log"] = events[i - 1].position if i else self.cursor["log"]
            match event.payload:
                case Prediction() as prediction if i in rows:
                    if not self.started:
                        payloads += self._begin(event.position - 1)
                    self._looked = self._looked or Looked(self.monitor, batch)
                    self._come = rows[i][0] + 1
                    heard = heard or ShadowPredictions(self._looked.clipped, self.roster.contestants)
                    payloads += self._predicted(event, prediction, heard, *rows[i])
                case Label() | Reward() | Preference() as feedback:
                    payloads += self._judged(feedback, event.position, self._now, event.position)
            for waiter in self.pending.overdue(self._now):
                payloads += self._unanswered(waiter, event.position)
            if payloads or self._ticked or self._due():
                self._ticked = False
                break
        self._know_ranges()
        return payloads, i + 1

    def _know_ranges(self) -> None:
        """Let the learner know the ranges of features as they are now, though more rows were looked at."""
        if self._looked is not None:
            self._looked.come(self._come)

    def _encoded(self, events: Sequence[Event]) -> tuple[dict[int, tuple[int, int]], Batch]:
        """The rows of the predictions among events: for each its row, and where the run of predictions ends."""
        asked = [(i, event.payload) for i, event in enumerate(events) if isinstance(event.payload, Prediction)]
        if not asked:
            return {}, stack([], int(self.shape["dense"]))
        try:
            batch = self.encoder.rows([one.features for _, one in asked])
        except InputError:
            batch, problems = self.encoder.records([one.features for _, one in asked])
            bad = {problem.row for problem in problems}
            self.unusable += len(bad)
            asked = [one for row, one in enumerate(asked) if row not in bad]
            batch = self.encoder.rows([one.features for _, one in asked])
        rows: dict[int, tuple[int, int]] = {}
        end = len(asked)
        for row in range(len(asked) - 1, -1, -1):
            if row + 1 < len(asked) and asked[row + 1][0] != asked[row][0] + 1:
                end = row + 1
            rows[asked[row][0]] = (row, end)
        return rows, batch

    def _predicted(
        self, event: Event, prediction: Prediction, heard: ShadowPredictions, row: int, upto: int
    ) -> list[Payload]:
        said = heard.said(row, upto, self.label_queue.teach())
        answer = np.array([prediction.proba or (float(prediction.value),)], np.float32)
        # What a canary answered is not the champion's doing: that one is scored on what it said in shadow.
        said[ANSWER] = said[self.roster.champion.uid] if prediction.canary else answer
        self._predictions += 1
        payloads: list[Payload] = []
        waiter = PendingPrediction(prediction.id, event.position, self._now, heard.row(row), said)
        if self.spec.drift.watch != "loss":
            self.monitor.look(waiter.row, said[ANSWER])
            if self.monitor.alarm() == DRIFT:  # no label will say so
                self.label_queue.test()
                payloads += self.transitions.react(event.position, self._learned())
        for evicted in self.pending.put(waiter):
            payloads += self._unanswered(evicted, event.position)
        self.early.expire(self._now)
        for piece in self.early.take(prediction.id):
            payloads += self._judged(piece.feedback, piece.position, piece.time, event.position)
        return payloads

    def _judged(self, feedback: Feedback, position: int, time: float, at: int) -> list[Payload]:
        """Score a prediction that waits; a correction, or a label that came too late, is learned but not scored.

        `position` is where the feedback stands; `at` is where its prediction came, if that came later.
        """
        try:
            y = target(feedback, self.spec.schema.task, self.encoder.label)
        except InputError:
            self.unusable += 1
            return []
        if (waiter := self.pending.take(feedback.id)) is not None:
            return self._score(waiter, y, feedback.weight, feedback.source, position, at)
        found = self._log.find(f"prediction:{feedback.id}")
        if found is None or found.position > at:
            if self.spec.feedback.early:
                self.early.put(Earlier(position, time, feedback))
        elif isinstance(found.payload, Prediction):
            self._correct(found.payload, feedback, y, position)
        return []

    def _correct(self, prediction: Prediction, feedback: Feedback, y: float, position: int) -> None:
        """Learn a judgement of a prediction that waits no longer."""
        late: bool | None = None
        if self.spec.feedback.correction == "ignore":
            return
        if self.spec.feedback.correction == "importance":
            told = (one for one in self._log.about(feedback.id) if one.position < position)
            late = None if any(isinstance(one.payload, Label | Reward | Preference) for one in told) else True
        self._know_ranges()
        try:
            row = self.monitor.clip(self.encoder.record(prediction.features))
        except InputError:
            return
        self.label_queue.add(row, y, feedback.weight, feedback.source, position, None, late)

    def _unanswered(self, waiter: PendingPrediction, at: int) -> list[Payload]:
        """A prediction that nobody has judged takes the default label."""
        if self._default is None:
            return []
        return self._score(waiter, self._default, 1.0, "", at, at)

    def _score(
        self, waiter: PendingPrediction, y: float, weight: float, source: str, position: int, at: int
    ) -> list[Payload]:
        """Take in the label at `position`; if it fills the tick, decide."""
        counted = self.label_queue.add(waiter.row, y, weight, source, position, waiter.said, late=False)
        if not counted or (self.monitor.scored + len(self.label_queue)) % self.spec.tick:
            return []
        self.label_queue.test()
        self.cursor["log"] = at
        self._ticked = True
        return self.transitions.decide(at, self._learned())

    # ---- models that fail --------------------------------------------------------------------------------------

    def _begins(self, cursor: Cursor, first: int, last: int) -> list[Payload]:
        """Events from `first` to `last` are folded together next: let go whoever is known to fail with them."""
        self._group = cursor, first, last
        if first != last:
            return []
        row = cursor == "row"
        now = self._learned()._replace(row=first - 1) if row else self._learned()._replace(log=first - 1)
        return self.transitions.expel(self._faults.at(cursor, first), last, now)

    def failed(self, fault: ModelFailure) -> None:
        """A model has failed, and this fold is of no more use; note it for the one that takes its place."""
        if not fault.uid or not self.started:
            raise fault
        self._faults.note(fault, *self._group)

    def _learned(self) -> Progress:
        """What is learned by now."""
        return Progress(self.cursor["log"], self.cursor["row"])

    def _configure(self, spec: Spec) -> None:
        """Go on with other settings, as a loop does that opens a checkpoint with them."""
        asked_anew = spec.gate != self.spec.gate
        arrays, header = self.state()
        arrays, header = model.copied(arrays), codec.plain(header, "the state")
        self._start_with(spec)
        self.load(arrays, header)
        if asked_anew:
            self.roster.reset_evidence()

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._folded() // self.spec.checkpoint > self._checkpointed // self.spec.checkpoint

    def _folded(self) -> int:
        return self.monitor.scored + len(self.label_queue) + self._predictions

    def _commit(self, at: int, payloads: list[Payload]) -> Commit:
        self._checkpointed = self._folded()
        return Commit(at, payloads)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything, as arrays and a header of plain values."""
        roster, roster_header = self.roster.state()
        learner, learner_header = self.monitor.state()
        header = {
            "roster": roster_header,
            "learner": learner_header,
            "cursor": dict(self.cursor),
            "now": self._now,
            "warmed": self._warmed,
            "predictions": self._predictions,
            "unusable": self.unusable,
            "taken": dict(self.taken.rows),
        }
        arrays = model.prefixed("roster/", roster) | model.prefixed("learner/", learner)
        arrays |= model.prefixed("waiting/", self.pending.state()) | model.prefixed("early/", self.early.state())
        return arrays | model.prefixed("lessons/", self.label_queue.state()), header

    def load(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Restore what `state` gave, in this release or the one before."""
        self.roster.load(model.within(arrays, "roster/"), header["roster"], self.transitions.build, self._versions.load)
        self.monitor.load(model.within(arrays, "learner/"), header["learner"])
        self.pending.load(model.within(arrays, "waiting/"))
        self.label_queue.load(model.within(arrays, "lessons/"))
        if early := model.within(arrays, "early/"):
            self.early.load(early)
        self.cursor = {"row": header["cursor"]["row"], "log": header["cursor"]["log"]}
        self._now, self._warmed, self._predictions = header["now"], header["warmed"], header["predictions"]
        self.unusable, self.taken = header.get("unusable", 0), StreamOffsets(header.get("taken"))
        self._checkpointed = self._folded()


def _kind(event: Event) -> str:
    """How an event is folded."""
    if isinstance(event.payload, Prediction | Label | Reward | Preference):
        return "answer"
    return "example" if isinstance(event.payload, Example) else "told"


def _default(spec: Spec, encoder: schema.Encoder) -> float | None:
    """The label of a prediction that nobody answered, as the number it is learned by."""
    if spec.feedback.default is None:
        return None
    try:
        return encoder.label(spec.feedback.default)
    except InputError as error:
        raise ConfigError(f"feedback.default: {error}") from error
