"""The fold: events in, commits out.

The state after position p is a function of (log up to p, spec, seed), however the log was cut into reads. Two kinds
of log are folded alike: events of the event log, and rows of a file that is itself the log. When a decision falls, or
a checkpoint is due, the fold yields a `Commit`. Its caller must make that durable first, unless it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, cast

import msgspec
import numpy as np

from everlearn import config, model, schema
from everlearn.events import Log
from everlearn.feedback.pending import ANSWER, CANARY, SEGMENT, Early, PendingPredictions
from everlearn.gate.guard_names import guarded_class
from everlearn.learn import limits
from everlearn.learn.label_queue import LabelledRow, LabelQueue
from everlearn.learn.monitor import Monitor
from everlearn.loop import details, rebuild
from everlearn.loop.details import RolledBackWithout, Without
from everlearn.loop.join import Joiner, Skip
from everlearn.loop.offsets import StreamOffsets
from everlearn.loop.pieces import pass_over, pieces
from everlearn.loop.stretch import Commit, Cursor, Notes, Stretch, encoded_examples, way_of
from everlearn.loop.transitions import Transitions
from everlearn.loop.warm_up import WarmUp
from everlearn.records import (
    Arrays,
    Batch,
    Decision,
    Erased,
    Event,
    Example,
    Examples,
    Label,
    Payload,
    Prediction,
    Preference,
    Reward,
    Singles,
)
from everlearn.serve.contestant import Contestant, Progress
from everlearn.serve.isolation import FailureLog, ModelFailure
from everlearn.serve.roster import Roster
from everlearn.serve.snapshot import Answering
from everlearn.spec import GateSpec, Spec
from everlearn.version import codec
from everlearn.version.registry import Versions

_STRETCH = 512  # events folded together, at most


class Fold:
    """All state of a loop, and the way events and rows change it."""

    def __init__(self, spec: Spec, versions: Versions, log: Log, faults: FailureLog | None = None) -> None:
        """Start before the first event, or as of the state that is loaded next.

        `faults` are the failures known beyond that state. Raises `ConfigError` for guards, default labels and
        corrections that do not fit the schema.
        """
        self._versions, self._log = versions, log
        versions.packed = spec.log.layout > 1
        self._faults = faults if faults is not None else FailureLog()
        self._start_with(spec)

    def _start_with(self, spec: Spec) -> None:
        """Make all parts of the fold, without any state."""
        versions, log = self._versions, self._log
        self.spec = spec
        self.encoder = schema.reading(spec.schema)
        snapshots = spec.mode == "gated" and spec.gate.promote == "snapshot"
        self._roster = Roster(spec.mode == "live", int(self.shape["classes"]) or 1, spec.gate.layout, snapshots)
        self._monitor = Monitor(spec, self.shape, versions.find)
        self.left_out: list[Without] = []  # labels that rollbacks have left out
        self.joiner = Joiner(spec, self.encoder, self._monitor.limiter, log, self.is_left_out)
        self.cursor: dict[Cursor, int] = {"row": 0, "log": 0}  # the last row, the last log position folded
        self.taken = StreamOffsets()
        classes = {str(label): label for label in spec.schema.classes}
        guards = {name: schema.features(self.encoder).label(guarded_class(name, classes)) for name in spec.gate.guards}
        self.label_queue = LabelQueue(self.gate, guards, self._monitor, self._roster)
        parts = spec, self.gate, self.encoder, self._monitor, self._roster, versions, log
        self.transitions = Transitions(*parts, lambda: self.pending.steps, lambda uid: self.pending.traces(uid))
        self.warm_up = WarmUp(spec, self._monitor, self.transitions.make)
        self._notes = Notes()

    @property
    def monitor(self) -> Monitor:
        """Metrics, drift detectors, replay memory and limits, with all rows scored."""
        self.label_queue.settle()
        return self._monitor

    @property
    def roster(self) -> Roster:
        """The contestants, with all rows in their evidence."""
        self.label_queue.settle()
        return self._roster

    @property
    def started(self) -> bool:
        """True once there is a champion."""
        return bool(self._roster.contestants)

    @property
    def shape(self) -> dict[str, Any]:
        """Task, dense columns, hashed columns and classes; see `everlearn.schema.shape`."""
        return self.encoder.shape

    @property
    def gate(self) -> GateSpec:
        """Settings of the gate, with the name of its loss resolved; duels are lost or won."""
        return msgspec.structs.replace(self.spec.gate, loss="error" if self.encoder.late else self._monitor.loss.kind)

    @property
    def canary(self) -> Contestant | None:
        """The contestant that answers the share of traffic set aside for a candidate, if there is one."""
        return self._roster.canary if self.started else None

    @property
    def bounds(self) -> Arrays:
        """The ranges to which the answering process clips features; see `everlearn.learn.limits.clip`."""
        return limits.bounds(self._monitor.limits)

    def clip(self, batch: Batch) -> Batch:
        """Clip features to the ranges learned so far."""
        return self._monitor.clip(batch)

    def clip_next(self, features: Mapping[str, Any]) -> Callable[[Batch], Batch]:
        """Return `clip` for the record that is predicted next, whose event need not be encoded again then."""

        def clip(batch: Batch) -> Batch:
            self._notes.known = features, batch
            return self._monitor.clip(batch)

        return clip

    def serving(self) -> Answering:
        """Return the champion and the rule that it decides by; rows that wait to be scored change neither."""
        champion = self._roster.champion
        return Answering(champion.version, champion.model, self._monitor.rules.rule(champion), champion.uid)

    @property
    def pending(self) -> PendingPredictions:
        """Predictions that wait for feedback."""
        return self.joiner.pending

    @property
    def early(self) -> Early:
        """Feedback that waits for its prediction."""
        return self.joiner.early

    @property
    def unusable(self) -> int:
        """The number of events in the log that no model could use."""
        return self.joiner.unusable

    # ---- rows, which come with their labels --------------------------------------------------------------------

    def refused(self, batch: Batch) -> dict[int, str]:
        """Return the rows with labels that models of this loop cannot take, with the reasons.

        The frozen model decides, since every contestant started as a copy of it.
        """
        first = self._roster.frozen_start().model if self.started else self.warm_up.model()
        return model.refused(first, batch) | schema.actions.refused(self.spec.schema, batch)

    def examples(self, examples: Examples, cursor: Cursor, sources: Sequence[str] = ()) -> Iterator[Commit]:
        """Fold labelled rows: every contestant predicts each row, is scored on it, and then learns it."""
        self.label_queue.settle()
        if not self.started:
            used = self.warm_up.learn(examples)
            if used == len(examples.y):
                self.cursor[cursor] = int(examples.position[-1])
                return
            at = int(examples.position[used]) - 1
            self.cursor[cursor] = at
            yield from self.start(at)
            examples, sources = model.cut(examples, used, len(examples.y)), sources[used:]
        done = 0
        parts = self._monitor, self._roster, self._faults, self.transitions
        for piece in pieces(examples, cursor, *parts, self.cursor):
            first, at = int(piece.position[0]), int(piece.position[-1])
            with self._together(cursor, first, at):
                expelled = self._expel(cursor, first, at)
                counted = self.label_queue.rows(piece, sources[done : done + len(piece.y)])
                done += len(piece.y)
                if due := (counted > 0 and self._monitor.due()) or self.transitions.due(at, cursor, self.cursor):
                    self.cursor[cursor] = at
                decided = self.transitions.decide(at, self._learned()) if due else []
                self.transitions.relent()
            if decided and not expelled and self.transitions.refreshed and not self._due():
                yield Commit(at, decided, waits=True)
            elif expelled or decided or (due and self._due()):
                self.cursor[cursor] = at
                yield self._commit(at, [*expelled, *decided])

    def start(self, at: int) -> Iterator[Commit]:
        """End the warm start, if there was one: store the first version, and fill every role with it."""
        yield self._commit(at, self._begin(at))

    def _begin(self, at: int) -> list[Payload]:
        first, warmed = self.warm_up.end(), self.warm_up.learned
        why = f"trained offline on {warmed} rows" if warmed else "untrained start"
        born, start, *rest = self.transitions.start(first, why, at, self._learned(), warmed > 0)
        assert isinstance(start, Decision)
        return [born, msgspec.structs.replace(start, detail=start.detail | {"spec": config.stored(self.spec)}), *rest]

    # ---- events ------------------------------------------------------------------------------------------------

    def events(self, batch: Sequence[Event]) -> Iterator[Commit]:
        """Fold consecutive events of the log; events that the loop wrote itself change nothing.

        A commit comes only after a whole event, so a checkpoint never holds half of one.
        """
        for kind, group in groupby(batch, way_of):
            if kind == "example":
                yield from self._examples(list(group))
            elif kind == "answer":
                yield from self._answers(list(group))
            else:
                for event in group:
                    yield from self._decision(event)

    def _examples(self, batch: Sequence[Event]) -> Iterator[Commit]:
        payloads = cast(list[Example], [event.payload for event in batch])
        self.joiner.advance(max([event.time for event in batch]))
        if self.encoder.late:  # no example is a pair of answers
            self.joiner.unusable += len(batch)
            self.cursor["log"] = batch[-1].position
            return
        position = np.array([event.position for event in batch], np.int64)
        encoder, segments = schema.features(self.encoder), self._monitor.segments
        examples, sources = encoded_examples(payloads, position, encoder, segments, self.refused)
        self.joiner.unusable += len(batch) - len(examples.y)
        noted = 0  # a commit covers the rows up to it, and no others
        for commit in self.examples(examples, "log", sources) if len(examples.y) else ():
            upto = int(np.searchsorted(position, commit.at, "right"))
            self.taken.note(example.id for example in payloads[noted:upto])
            noted = upto
            yield commit
        self.taken.note(example.id for example in payloads[noted:])
        self.cursor["log"] = batch[-1].position

    def _decision(self, event: Event) -> Iterator[Commit]:
        self.label_queue.settle()
        match event.payload:
            case Decision(action="order") as order:
                with self._together("log", event.position, event.position):
                    payloads = [] if self.started else self._begin(event.position - 1)
                    payloads += self._expel("log", event.position, event.position)
                    outcome = self.transitions.obey(order, event.position, self._learned())
                    self._leave_out(outcome, event.position)
                    payloads += outcome
            case Decision(by="user", alias="champion", detail=detail) as decision if "order" not in detail:
                revived = self.transitions.revive(decision.version)  # as releases before orders wrote it
                self._roster.install(decision.version, revived, keep=decision.action == "promote")
                payloads = []
            case Decision(action="config", detail={"warm_rows": int(warm_rows)}):
                self.warm_up.rows, payloads = warm_rows, []
            case Decision(action="config", detail={"spec": dict(settings)}) if self.started:
                with self._together("log", event.position, event.position):
                    payloads = self._expel("log", event.position, event.position)
                    self.transitions.relent()  # there is nothing to learn here
                    payloads += self._configure(config.read_stored(settings, "the log"), event.position)
            case Erased(was=was) if was != "rejected" and self.transitions.was_folded(event.position):
                self.cursor["log"] = event.position
                payloads = pass_over(was, self._monitor, self.started, self.transitions, self._learned())
            case _:
                return
        self.cursor["log"] = event.position
        if payloads or self._due():
            yield self._commit(event.position, payloads)

    def _answers(self, events: list[Event]) -> Iterator[Commit]:
        """Fold predictions and feedback, in stretches that change nothing but the learning models."""
        start = 0
        while start < len(events):
            stretch = events[start : start + self._longest()]
            if self._faults.within("log", stretch[0].position, stretch[-1].position):
                stretch = stretch[:1]
            first, last = stretch[0].position, stretch[-1].position
            with self._together("log", first, last):
                payloads = self._expel("log", first, last)
                more, done = self._fold_stretch(stretch)
                payloads += more
                self.label_queue.rest()
                self.transitions.relent()
            start += done
            self.cursor["log"] = events[start - 1].position
            if payloads or self._due():
                yield self._commit(self.cursor["log"], payloads)

    def _longest(self) -> int:
        return min(_STRETCH, self.spec.checkpoint - self._folded() % self.spec.checkpoint)

    def _fold_stretch(self, events: Sequence[Event]) -> tuple[list[Payload], int]:
        """Fold events up to the first with which decisions fall; return the decisions, and the number of events."""
        payloads: list[Payload] = []
        stretch, limiter = Stretch(events, self.encoder, self._notes.known), self._monitor.limiter
        self.joiner.unusable += stretch.unusable

        def clip(row: Batch) -> Batch:
            stretch.settle()
            return limiter.clip(row)

        for i, event in enumerate(events):
            self.joiner.advance(event.time)
            self.cursor["log"] = events[i - 1].position if i else self.cursor["log"]
            labelled: list[LabelledRow] = []
            match event.payload:
                case Prediction() as prediction if i in stretch.rows:
                    if not self.started:
                        payloads += self._begin(event.position - 1)
                    row, predictions, traces = self._predict(prediction, stretch, *stretch.rows[i])
                    payloads += self._watch(row, predictions, event.position)
                    labelled = self.joiner.predict(prediction, event.position, row, predictions, clip, traces)
                case Label() | Reward() | Preference() as feedback:
                    labelled = self.joiner.judge(feedback, event.position, clip)
            if self.encoder.late:
                labelled = self.label_queue.predict(labelled)
            for joined in (*labelled, *self.joiner.overdue(event.position)):
                payloads += self._queue(joined, event.position, stretch)
            if self.transitions.due(event.position, "log", self.cursor):
                payloads += self._decide(event.position, stretch)
            if payloads or stretch.decided or self._due():
                break
        stretch.settle()
        return payloads, i + 1

    def _predict(
        self, prediction: Prediction, stretch: Stretch, row: int, upto: int
    ) -> tuple[Batch, dict[int, Singles], dict[int, Singles] | None]:
        """Return the row of a prediction event, clipped, and by uid the scores of every contestant, and the traces."""
        self._notes.predictions += 1
        if self.encoder.late:
            return stretch.row(row), {}, None
        shadows = stretch.arrive(row, self._monitor.limiter, self._roster.contestants)
        predictions = shadows.predict(row, upto, self.label_queue.teach())
        answer = schema.actions.answered(self.spec.schema, prediction)
        held = shadows.row(row)
        predictions |= {**self._monitor.naive.now(held), **self._monitor.segments.now(prediction.features)}
        predictions[ANSWER] = answer
        champion = self._roster.champion.uid
        if prediction.canary:  # the champion is scored on its own answer in shadow
            predictions[ANSWER], predictions[CANARY] = predictions[champion], answer
        predictions |= self._monitor.policies.now(prediction, shadows, row, champion)
        known, value = self._monitor.rules, prediction.value
        is_class = known and value in self.spec.schema.classes
        given = int(schema.features(self.encoder).label(value)) if is_class else None
        predictions |= known.decide_one(self._roster.contestants, champion, given, predictions)
        return held, predictions, shadows.traces(row)

    def _watch(self, row: Batch, predictions: Mapping[int, Singles], at: int) -> list[Payload]:
        """Look at one prediction for drift, where that needs no label."""
        if self.spec.drift.watch == "loss":
            return []
        self._monitor.look(row, predictions[ANSWER], np.array([at], np.int64))
        if not self.transitions.drifted(at):
            return []
        self.label_queue.test()
        return self.transitions.react(at, self._learned())

    def _queue(self, labelled: LabelledRow, at: int, stretch: Stretch) -> list[Payload]:
        """Queue a labelled row; if it fills the tick, decide."""
        scored = self.label_queue.add(labelled)
        if not scored or (self._monitor.scored + len(self.label_queue)) % self.spec.tick:
            return []
        return self._decide(at, stretch)

    def _decide(self, at: int, stretch: Stretch) -> list[Payload]:
        self.label_queue.test()
        self.cursor["log"] = at
        stretch.decided = True
        return self.transitions.decide(at, self._learned())

    # ---- labels that were left out -----------------------------------------------------------------------------

    def rejoin(self, skip: Skip, upto: int) -> None:
        """Set waiting predictions, early feedback, corrections and limits to those of a log without some events.

        `skip` names the events of the log, up to position `upto`, that count as absent. Ranges and shares stay as they
        are where the loop has learned rows of files, which the log does not hold. Reads the log once.
        """
        ranges = self.bounds if self.cursor["row"] else None
        again = rebuild.rejoin(self._log, self.encoder, self.spec, upto, skip, ranges, self.pending.steps)
        self.joiner.adopt(again.joiner)
        if not self.cursor["row"]:
            self._monitor.limiter.arrays = again.limiter.arrays
            self._monitor.limiter.class_weights.arrays = again.limiter.class_weights.arrays

    def _leave_out(self, outcome: Sequence[Payload], position: int) -> None:
        """After a rollback without some labels, join the log up to the order again without them."""
        made = [details.read(payload) for payload in outcome if isinstance(payload, Decision)]
        if found := [detail.without for detail in made if isinstance(detail, RolledBackWithout) and detail.joined]:
            self.left_out += found
            self.rejoin(self.is_left_out, position)
        if traces := self.transitions.retraced():
            self.pending.retrace(traces)

    def is_left_out(self, event: Event) -> bool:
        """Return True for a label that a rollback has left out."""
        return any(selection.selects(event.position, event.payload) for selection in self.left_out)

    # ---- models that fail --------------------------------------------------------------------------------------

    @contextmanager
    def _together(self, cursor: Cursor, first: int, last: int) -> Iterator[None]:
        """Note a model that fails while events first..last are folded together, for the fold that replaces this one."""
        try:
            yield
        except ModelFailure as fault:
            if fault.uid and self.started:
                self._faults.note(fault, cursor, first, last)
            raise

    def _expel(self, cursor: Cursor, first: int, last: int) -> list[Payload]:
        """Before folding events first..last, remove the models known to fail on them."""
        if first != last or not (failures := self._faults.at(cursor, first)):
            return []
        self.label_queue.settle()
        now = self._learned()
        now = now._replace(row=first - 1) if cursor == "row" else now._replace(log=first - 1)
        return self.transitions.expel(failures, last, now)

    def failed(self, fault: ModelFailure) -> None:
        """Raise `fault` again unless it is noted; this fold must not be used any more."""
        if not fault.uid or not self.started:
            raise fault

    def _learned(self) -> Progress:
        return Progress(self.cursor["log"], self.cursor["row"])

    def _configure(self, spec: Spec, at: int) -> list[Payload]:
        """Go on with other settings, as a loop does that opens a checkpoint with them; return what comes of it."""
        before, held, seats = self.spec, self._monitor.remembered(), (self._roster.live, self._roster.snapshots)
        arrays, header = self.state()
        arrays, header = model.copied(arrays), codec.plain(header, "the state")
        self._start_with(spec)
        self.load(arrays, header)
        if spec.gate != before.gate:
            self._roster.reset_evidence()
        self._monitor.renew(before, held)
        moved = (self._roster.live, self._roster.snapshots) != seats
        return self.transitions.reseat(at, self._learned()) if moved else []

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        """Return True if it is time for a checkpoint."""
        return self._folded() // self.spec.checkpoint > self._notes.committed // self.spec.checkpoint

    def _folded(self) -> int:
        return self._monitor.scored + len(self.label_queue) + self._notes.predictions

    def _commit(self, at: int, payloads: list[Payload]) -> Commit:
        self._notes.committed = self._folded()
        return Commit(at, payloads)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the whole state: arrays, and a header of plain values."""
        self.label_queue.settle()
        roster, roster_header = self._roster.state()
        monitor, monitor_header = self._monitor.state()
        waiting, early, counts = self.joiner.state()
        header = {
            "roster": roster_header,
            "learner": monitor_header,
            "cursor": dict(self.cursor),
            "now": self.joiner.now,
            "warmed": self.warm_up.learned,
            "predictions": self._notes.predictions,
            "unusable": self.unusable,
            "taken": dict(self.taken.rows),
        }
        if self.left_out:
            header["left_out"] = [msgspec.to_builtins(selection) for selection in self.left_out]
        arrays = model.prefixed("roster/", roster) | model.prefixed("learner/", monitor)
        arrays |= model.prefixed("waiting/", waiting) | model.prefixed("early/", early)
        return arrays | model.prefixed("lessons/", counts), header

    def load(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Restore the result of `state`, of this release or the one before."""
        models = self.transitions.build, self._versions.load
        self._roster.load(model.within(arrays, "roster/"), header["roster"], *models)
        self._monitor.load(model.within(arrays, "learner/"), header["learner"])
        self.joiner.load(*(model.within(arrays, name) for name in ("waiting/", "early/", "lessons/")))
        if self._monitor.segments.restarted:
            self.pending.drop(SEGMENT)  # of another field
        self.cursor = {"row": header["cursor"]["row"], "log": header["cursor"]["log"]}
        self.joiner.now, self.joiner.unusable = header["now"], header.get("unusable", 0)
        self.warm_up.learned, self._notes.predictions = header["warmed"], header["predictions"]
        self.left_out = msgspec.convert(header.get("left_out", []), list[Without])
        self.taken = StreamOffsets(header.get("taken"))
        self._notes.committed = self._folded()
