"""The fold: events in, commits out.

The state after position p is a function of (log up to p, spec, seed), however the log was cut into reads. Two kinds
of log are folded alike: events of the event log, and rows of a file that is itself the log. Whenever a decision
falls, or a checkpoint is due, the fold yields a `Commit`, which its caller must make durable before going on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from everlearn import gate, metrics, model, schema
from everlearn.errors import ConfigError, InputError
from everlearn.feedback import ANSWER, Waiter, Waiting, target
from everlearn.learn import DRIFT, Learner, warm
from everlearn.predict import speak
from everlearn.records import (
    Arrays,
    Batch,
    Born,
    Decision,
    Event,
    Evidence,
    Example,
    Examples,
    Label,
    Payload,
    Prediction,
    Preference,
    Reward,
    Singles,
)
from everlearn.serve import Contestant, Roster, Trial
from everlearn.spec import Spec
from everlearn.version import Versions

Cursor = Literal["row", "log"]


@dataclass(frozen=True, slots=True)
class Commit:
    """What was decided after position `at`; empty `payloads` mean that only a checkpoint is due."""

    at: int
    payloads: list[Payload]


class Fold:
    """All state of a loop, and how events and rows change it.

    `lookup(id)` gives the prediction of that id from the log, for feedback that comes when it waits no longer.
    """

    def __init__(self, spec: Spec, versions: Versions, lookup: Callable[[str], Prediction | None]) -> None:
        self.spec = spec
        self.shape = schema.shape(spec.schema)
        self.encoder = schema.Encoder(spec.schema)
        self.roster = Roster(live=spec.mode == "live")
        self.learner = Learner(spec, self.shape)
        self.gate = msgspec.structs.replace(spec.gate, loss=self.learner.loss)
        self.waiting = Waiting(spec.feedback)
        self.cursor: dict[Cursor, int] = {"row": 0, "log": 0}  # the last row, the last log position folded
        self._versions = versions
        self._lookup = lookup
        self._now = 0.0  # the latest time that the log has shown; it never goes back
        self.warm_rows = int(spec.warm_start)  # a share below 1 needs the length of the stream: the loop knows it
        self._warmed = 0
        self._predictions = 0
        self._checkpointed = 0  # examples and predictions folded by then
        self._nursery: model.Model | None = None  # learns offline until the warm start is over
        self._default = _default(spec, self.encoder)
        self._guards = {name: self.encoder.label(_guarded(name, spec)) for name in spec.gate.guards}

    @property
    def started(self) -> bool:
        return bool(self.roster.contestants)

    # ---- rows and events ---------------------------------------------------------------------------------------

    def examples(self, examples: Examples, cursor: Cursor) -> Iterator[Commit]:
        """Fold rows that come with their labels: each is predicted by everyone, scored, then learned."""
        if not self.started:
            used = self._warm_up(examples)
            if used == len(examples.y):
                self.cursor[cursor] = int(examples.position[-1])
                return
            at = int(examples.position[used]) - 1
            self.cursor[cursor] = at
            yield from self.start(at)
            examples = model.cut(examples, used, len(examples.y))
        for piece in self.learner.pieces(examples):
            shadows = {one.uid: one.model for one in self.roster.contestants if not one.learns}
            yield from self._test(piece, speak(shadows, piece.batch), cursor)

    def event(self, event: Event) -> Iterator[Commit]:
        """Fold one event of the log; what the loop wrote itself moves nothing.

        Whatever falls due on the way is committed once the whole event is folded: a checkpoint is never half of one.
        """
        commits = self._effects(event)
        if commits is None:
            return
        payloads, due = [], False
        for commit in commits:
            payloads += commit.payloads
            due = True
        self.cursor["log"] = event.position
        if due or self._due():
            yield self._commit(event.position, payloads)

    def _effects(self, event: Event) -> Iterator[Commit] | None:
        match event.payload:
            case Decision(by="user", alias="champion") as decision:
                return self._installed(decision)
            case Decision(action="config", detail={"warm_rows": int(warm_rows)}):
                self.warm_rows = warm_rows
                return iter(())
            case Prediction() as prediction:
                return self._with_overdue(event, self._predicted(event, prediction))
            case Label() | Reward() | Preference() as feedback:
                y = target(feedback, self.spec.schema.task, self.encoder.label)
                return self._with_overdue(event, self._judged(feedback.id, y, feedback.weight, event.position))
        return None

    def _installed(self, decision: Decision) -> Iterator[Commit]:
        arrays = self._versions.load(decision.version)
        self.roster.install(decision.version, arrays, keep=decision.action == "promote")
        return iter(())

    def _with_overdue(self, event: Event, effects: Iterator[Commit]) -> Iterator[Commit]:
        """The effects of an event, and those of the time that it shows: predictions overdue take the default label."""
        yield from effects
        self._now = max(self._now, event.time)
        for waiter in self.waiting.overdue(self._now):
            yield from self._unanswered(waiter, event.position)

    def _unanswered(self, waiter: Waiter, position: int) -> Iterator[Commit]:
        if self._default is not None:
            yield from self._score(waiter, self._default, 1.0, position)

    def example_events(self, batch: Sequence[Event]) -> Iterator[Commit]:
        """Fold consecutive events that are all examples, at once."""
        payloads = [event.payload for event in batch if isinstance(event.payload, Example)]
        self._now = max(self._now, batch[-1].time)
        encoded, _ = self.encoder.records([one.features for one in payloads])
        y, _ = self.encoder.labels([one.label for one in payloads], len(payloads))
        weight = np.array([one.weight for one in payloads], np.float32)
        position = np.array([event.position for event in batch], np.int64)
        yield from self.examples(Examples(encoded, y, weight, position), "log")
        self.cursor["log"] = batch[-1].position

    def start(self, at: int) -> Iterator[Commit]:
        """End the warm start, if there was one: store the first version, and put it in every role."""
        first = self._nursery or self.make()
        why = f"trained offline on {self._warmed} rows" if self._warmed else "untrained start"
        version = self._versions.make(first.arrays, self.spec.model, (), at, why, {})
        self.roster.start(version.id, first)
        self._nursery = None
        aliases = [self._decision("start", at, why, "loop", alias, version.id) for alias in ("champion", "challenger")]
        yield self._commit(at, [Born(version), *aliases])

    def make(self) -> model.Model:
        """An untrained model of this loop's spec."""
        return model.build({"seed": self.spec.seed, **self.spec.model}, self.shape)

    # ---- test, then learn --------------------------------------------------------------------------------------

    def _warm_up(self, examples: Examples) -> int:
        """Learn what belongs to the warm start; return how many rows that were."""
        used = min(len(examples.y), self.warm_rows - self._warmed)
        if used > 0:
            self.rehearse(model.cut(examples, 0, used))
            self.learner.remember(model.cut(examples, 0, used))
            self._warmed += used
        return max(used, 0)

    def rehearse(self, examples: Examples) -> None:
        """Learn rows offline, before anything is served: a pass of a warm start that is more than one pass long."""
        self._nursery = self._nursery or self.make()
        warm(self._nursery, examples)

    def _predicted(self, event: Event, prediction: Prediction) -> Iterator[Commit]:
        if not self.started:
            yield from self.start(event.position - 1)
        row = self.encoder.record(prediction.features)
        said = speak({one.uid: one.model for one in self.roster.contestants}, row)
        said[ANSWER] = np.array([prediction.proba or (float(prediction.value),)], np.float32)
        self._predictions += 1
        self.learner.look(row, said[ANSWER])
        if self.spec.drift.watch != "loss" and self.learner.alarm() == DRIFT:  # no label will say so
            yield Commit(event.position, self._react(event.position))
        for evicted in self.waiting.put(Waiter(prediction.id, event.position, event.time, row, said)):
            yield from self._unanswered(evicted, event.position)

    def _judged(self, id: str, y: float, weight: float, position: int) -> Iterator[Commit]:
        """Score a prediction that waits; a correction, or a label that came too late, is learned but not scored."""
        waiter = self.waiting.take(id)
        if waiter is not None:
            yield from self._score(waiter, y, weight, position)
        elif self.spec.feedback.correction == "learn" and (found := self._lookup(id)) is not None:
            example = _example(self.encoder.record(found.features), y, weight, position)
            for one in self.roster.contestants:
                if one.learns:
                    warm(one.model, example)

    def _score(self, waiter: Waiter, y: float, weight: float, position: int) -> Iterator[Commit]:
        yield from self._test(_example(waiter.row, y, weight, position), waiter.said, "log")

    def _test(self, examples: Examples, said: dict[int, Singles], cursor: Cursor) -> Iterator[Commit]:
        """Score everyone on rows that all lie before the next decision, learn them, then decide if it is time."""
        answered_now = ANSWER not in said
        contestants, champion = self.roster.contestants, self.roster.champion
        roles = {"champion": champion.uid if answered_now else ANSWER, "challenger": self.roster.challenger.uid}
        if (frozen := self.roster.find("frozen")) is not None:
            roles["frozen"] = frozen.uid
        learners = {one.uid: one.model for one in contestants if one.learns}
        losses = self.learner.step(examples, said, learners, roles, answered_now)
        if answered_now:
            self.learner.look(examples.batch, said[champion.uid])
        for candidate, reference in self.roster.questions():
            if candidate.uid in losses and reference.uid in losses:
                trial = candidate.trial = candidate.trial or self._trial()
                gate.update(trial.evidence, self.gate, losses[reference.uid], losses[candidate.uid])
                self._guard(trial.evidence, said[reference.uid], said[candidate.uid], examples)
                result = said[candidate.uid], examples.y, examples.weight
                metrics.update(trial.metrics, self.learner.task, *result, index=trial.tested)
                trial.tested += len(examples.y)
        if self.learner.due():
            self.cursor[cursor] = at = int(examples.position[-1])
            yield from self._decide(at)

    def _trial(self) -> Trial:
        return Trial(gate.start(self.gate), metrics.start(self.learner.task, int(self.shape["classes"]), points=2))

    def _guard(self, question: Arrays, reference: Singles, candidate: Singles, examples: Examples) -> None:
        """Show the gate the recall of the classes that a promotion must not cost."""
        for name, guarded in self._guards.items():
            mine = examples.y == guarded
            if mine.any():
                pair = (metrics.losses("error", scores[mine], examples.y[mine]) for scores in (reference, candidate))
                gate.update_guard(question, self.gate, name, *pair)

    # ---- decisions: asked of the gate and of the detectors, carried out by the roster --------------------------

    def _decide(self, at: int) -> Iterator[Commit]:
        payloads: list[Payload] = []
        if self.learner.alarm() == DRIFT:
            payloads += self._react(at)
        champion = self.roster.champion.uid
        for candidate, _ in self.roster.questions():
            if candidate.trial is None or self.roster.champion.uid != champion:
                continue  # not asked yet, or everyone is asked anew since the champion has changed
            share = 1.0 if candidate.role in ("previous", "frozen", "champion") else 1.0 / self.spec.challengers
            verdict = gate.verdict(candidate.trial.evidence, self.gate, share)
            if verdict.action != "wait":
                payloads += self._move(candidate, verdict.action, verdict.reason, verdict.evidence, at)
            elif candidate.role == "candidate" and self._hopeless(verdict.evidence):
                self.roster.withdraw(candidate)
        self.roster.nominate()
        if payloads or self._due():
            yield self._commit(at, payloads)

    def _due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._folded() // self.spec.checkpoint > self._checkpointed // self.spec.checkpoint

    def _folded(self) -> int:
        return self.learner.scored + self._predictions

    def _hopeless(self, evidence: Evidence) -> bool:
        """Whether a candidate has had its time without evidence for it that counts: a newer snapshot may do better."""
        return evidence.examples >= 2 * self.gate.minimum and evidence.log_e_better <= 0.0

    def _move(
        self, candidate: Contestant, verdict: Literal["promote", "reject"], reason: str, evidence: Evidence, at: int
    ) -> list[Payload]:
        champion = self.roster.champion
        move = self.roster.move(candidate, verdict)
        if move == "promote":
            born = self._born(candidate.model, (candidate.version,), at, reason, candidate.trial)
            decision = self._decision(move, at, reason, "gate", "champion", born.version.id, champion.version, evidence)
            self.roster.promote(candidate, born.version.id)
            return [born, decision]
        if move == "rollback":
            better = self.roster.better(candidate)
            version, old = better.version, champion.version
            self.roster.install(version, better.model.arrays, keep=False)
            return [self._decision(move, at, reason, "guard", "champion", version, old, evidence)]
        if move == "reject":
            self.roster.reject(candidate)
            return [self._decision(move, at, reason, "gate", "", candidate.version, "", evidence)]
        self.roster.confirm(candidate)
        return []

    def _react(self, at: int) -> list[Payload]:
        """Drift was detected: note it, and react as the spec says."""
        drift, live = self.spec.drift, self.roster.live
        full = self.roster.learning() >= self.spec.challengers
        starts = drift.reaction == "challenger" or (live and drift.reaction == "reset")
        note = ", but as many learn already as may" if starts and full else ""
        reason = f"{drift.detector} on {drift.watch}: reaction {drift.reaction!r}{note}"
        payloads: list[Payload] = [self._decision("drift", at, reason, "drift")]
        if drift.reaction == "rate":
            self.learner.boost()
        elif drift.reaction == "reset" and not live:
            self.roster.restart(self.roster.challenger, self.make().arrays, self.roster.challenger.version)
        elif starts and not full:
            payloads += self._challenge(at, remember=drift.reaction == "challenger")
        return payloads

    def _challenge(self, at: int, remember: bool) -> list[Payload]:
        """Start a fresh challenger: untrained, or warmed on replay."""
        fresh, why = self.make(), "fresh challenger after drift, untrained"
        remembered = self.learner.remembered() if remember else None
        if remembered is not None and len(remembered.y):
            warm(fresh, remembered)
            why = f"fresh challenger after drift, warmed on {len(remembered.y)} remembered rows"
        born = self._born(fresh, (), at, why)
        self.roster.challenge(born.version.id, fresh)
        return [born, self._decision("challenger", at, why, "drift", "challenger", born.version.id)]

    def _born(
        self, which: model.Model, parents: tuple[str, ...], at: int, reason: str, trial: Trial | None = None
    ) -> Born:
        measured = metrics.report(trial.metrics, self.learner.task) if trial is not None else {}
        return Born(self._versions.make(which.arrays, self.spec.model, parents, at, reason, measured))

    def _decision(
        self,
        action: Literal["start", "promote", "reject", "rollback", "drift", "challenger"],
        at: int,
        reason: str,
        by: str,
        alias: str = "",
        version: str = "",
        previous: str = "",
        evidence: Evidence | None = None,
    ) -> Decision:
        return Decision(action, at, reason, by, alias, version, previous, evidence, {"examples": self.learner.scored})

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _commit(self, at: int, payloads: list[Payload]) -> Commit:
        self._checkpointed = self._folded()
        return Commit(at, payloads)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything, as arrays and a header of plain values."""
        roster, roster_header = self.roster.state()
        learner, learner_header = self.learner.state()
        header = {
            "roster": roster_header,
            "learner": learner_header,
            "cursor": dict(self.cursor),
            "now": self._now,
            "warmed": self._warmed,
            "predictions": self._predictions,
        }
        arrays = model.prefixed("roster/", roster) | model.prefixed("learner/", learner)
        return arrays | model.prefixed("waiting/", self.waiting.state()), header

    def load(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Restore what `state` gave."""
        self.roster.load(model.within(arrays, "roster/"), header["roster"], self.make, self._versions.load)
        self.learner.load(model.within(arrays, "learner/"), header["learner"])
        self.waiting.load(model.within(arrays, "waiting/"))
        self.cursor = {"row": header["cursor"]["row"], "log": header["cursor"]["log"]}
        self._now, self._warmed, self._predictions = header["now"], header["warmed"], header["predictions"]
        self._checkpointed = self._folded()


def _example(row: Batch, y: float, weight: float, position: int) -> Examples:
    return Examples(row, np.array([y]), np.array([weight], np.float32), np.array([position], np.int64))


def _default(spec: Spec, encoder: schema.Encoder) -> float | None:
    """The label of a prediction that nobody answered, as the number it is learned by."""
    if spec.feedback.default is None:
        return None
    try:
        return encoder.label(spec.feedback.default)
    except InputError as error:
        raise ConfigError(f"feedback.default: {error}") from error


def _guarded(name: str, spec: Spec) -> Any:
    """The class that a guard such as "recall:fraud" is about."""
    known = {str(one): one for one in spec.schema.classes}
    metric, _, label = name.partition(":")
    if metric != "recall" or label not in known:
        raise ConfigError(f"gate.guards: got {name!r}; expected 'recall:CLASS' with CLASS one of {', '.join(known)}")
    return known[label]
