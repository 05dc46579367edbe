"""Carry out what the policy decides: each action changes the roster, and becomes payloads for the log.

Evidence and a view of the roster go to `gate/policy.py`; its actions come back and are applied here, in order. Orders
of users are carried out in `loop/user_orders.py`. The caller makes the returned payloads durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from everlearn import gate
from everlearn.errors import EverlearnError, LogError, ModelError
from everlearn.events import Log
from everlearn.gate import policy
from everlearn.gate.policy import (
    Action,
    CandidateVerdict,
    Confirm,
    Expel,
    KeepGood,
    Nominate,
    PromoteCandidate,
    RaiseRate,
    Reject,
    ReportDrift,
    Restart,
    RollBack,
    SeatFirst,
    StartChallenger,
    View,
    Withdraw,
)
from everlearn.learn.drift_watch import DRIFT
from everlearn.learn.monitor import Monitor
from everlearn.loop import commands, details, group_drift, logged, user_orders
from everlearn.loop.details import (
    CandidateRejected,
    Drifted,
    ModelExpelled,
    OrderRejected,
    Promoted,
    RolledBack,
    Started,
)
from everlearn.loop.stretch import Cursor
from everlearn.loop.versioning import (
    Alias,
    Moment,
    TransitionContext,
    decision,
    note,
    revive,
    store,
    store_champion,
    untrained,
)
from everlearn.model import Model
from everlearn.records import Decision, Payload, Singles
from everlearn.schema import Reading
from everlearn.serve import signals
from everlearn.serve.contestant import Contestant, Progress
from everlearn.serve.isolation import ModelFailure
from everlearn.serve.roster import Roster
from everlearn.spec import GateSpec, Spec
from everlearn.version.registry import Versions


class Transitions:
    """The transitions of one loop. `at` is the position that a decision follows, `now` the progress of its learners."""

    def __init__(
        self,
        spec: Spec,
        gate_spec: GateSpec,
        encoder: Reading,
        monitor: Monitor,
        roster: Roster,
        versions: Versions,
        log: Log,
        widths: Callable[[], Sequence[tuple[int, int]]] = tuple,
        traces: Callable[[int], Mapping[str, Singles]] = lambda uid: {},
    ) -> None:
        self._context = TransitionContext(spec, gate_spec, encoder, monitor, roster, versions, log, widths, traces)
        followed = logged.history(versions)
        self.counts_erased = followed is not None and followed.erased  # as in the replay of a log after an erasure
        self._paused: Contestant | None = None  # learns again after the event that is being folded
        self.refreshed = False  # True if all that was decided last is to keep another good version

    def make(self) -> Model:
        """Return an untrained model of this loop's spec."""
        return commands.build(self._context.spec, self._context.spec.model)

    def build(self, version: str) -> Model:
        """Return an untrained model of a version's spec."""
        return untrained(self._context, version)

    def revive(self, version: str) -> Model:
        """Return the model that is a version."""
        return revive(self._context, version)

    def start(self, first: Model, why: str, at: int, now: Progress, trained: bool = True) -> list[Payload]:
        """Store the first version, and start the roster with it; `trained` is false if it has learned nothing."""
        context, moment = self._context, Moment(at, now)
        born = store(context, moment, first, commands.without_layout(context.spec.model), (), why)
        note(context, [born])
        id, detail = born.version.id, Started(learned=now)
        context.roster.start(id, first, trained)
        aliases = (Alias("champion", id), Alias("challenger", id))
        return [born, *(decision(context, moment, "start", why, "loop", detail, alias) for alias in aliases)]

    def decide(self, at: int, now: Progress) -> list[Payload]:
        """Ask the detectors and the gate, and apply what the policy answers."""
        if (counted := logged.scored(self._context.versions, at)) is not None:
            self._context.monitor.clock["scored"] = counted
        payloads = self.react(at, now) if self.drifted(at) else []
        payloads += group_drift.reported(self._context, Moment(at, now)) if self._context.encoder.late else []
        self.refreshed = not payloads
        for action in logged.decide(view(self._context), self._context.versions, at, now):
            made = apply(action, self._context, Moment(at, now))
            self.refreshed &= not made or (isinstance(action, KeepGood) and action.evidence is not None)
            payloads += made
        return payloads

    def was_folded(self, position: int) -> bool:
        """Return True if an erased event was folded before, in the replay of its log."""
        followed = logged.history(self._context.versions)
        return followed is not None and followed.erased and followed.was_folded(position)

    def due(self, at: int, cursor: Cursor, came: Mapping[Cursor, int]) -> bool:
        """Return True if decisions fall after position `at` of a cursor without a full tick, as in some replays.

        `came` maps both cursors to where they are.
        """
        if not self.counts_erased:
            return False
        learned = Progress(came["log"], came["row"])._replace(**{cursor: at})
        return logged.due(self._context.versions, at, learned)

    def drifted(self, at: int) -> bool:
        """Return True if drift was detected by position `at`, and clear the alarm."""
        return logged.drifted(self._context.versions, at, self._context.monitor.alarm() == DRIFT)

    def reseat(self, at: int, now: Progress) -> list[Payload]:
        """After a change of `mode` or `gate.promote`, seat what these settings let serve; return the payloads to log.

        A champion that may no longer learn is stored and serves frozen, and challenges. In `live` mode what learned
        beside a frozen champion takes the seat, and the old champion is good.
        """
        context, roster, moment = self._context, self._context.roster, Moment(at, now)
        started_here = roster.untrained and not roster.snapshots
        if roster.live == roster.serves_learner or (not roster.live and started_here):
            return []
        learner, previous = roster.challenger, roster.champion.version
        how = "live" if roster.live else f'gated", gate.promote = "{context.spec.gate.promote}'
        reason = f'the settings changed to mode = "{how}"'
        born = store(
            context, moment, learner.model, context.versions.find(learner.version).spec, (learner.version,), reason
        )
        if roster.live:
            roster.seat_learner(born.version.id)
        else:
            roster.seat_first(born.version.id)
        note(context, [born])
        alias = Alias("champion", born.version.id, previous)
        return [born, decision(context, moment, "promote", reason, "loop", Promoted(learned=now), alias)]

    def react(self, at: int, now: Progress) -> list[Payload]:
        """Apply the reaction to drift; a model that cannot be started is reported and changes nothing."""
        context, moment = self._context, Moment(at, now)
        payloads: list[Payload] = []
        for action in logged.react(view(context), context.spec.drift, context.versions, at):
            try:
                payloads += apply(action, context, moment)
            except ModelError as error:
                reason = f"after drift: {error}"
                payloads.append(decision(context, moment, "reject", reason, "loop", CandidateRejected()))
        return payloads

    def expel(self, failures: Sequence[ModelFailure], at: int, now: Progress) -> list[Payload]:
        """Before the event at `at` is folded, remove the models known to fail on it; a failing champion goes back.

        What learns on from the version that took the seat back does not learn that event; `relent` ends that.
        Raises ModelError if there is nothing to go back to.
        """
        payloads: list[Payload] = []
        tried: set[str] = set()
        for failure in failures:
            if self._context.roster.known(failure.uid) is None:
                raise ModelError(str(failure)) from failure
            payloads += self._replace(failure, Moment(at, now), tried)
        return payloads

    def _replace(self, failure: ModelFailure, moment: Moment, tried: set[str]) -> list[Payload]:
        """Apply the first action against a failing model that succeeds; add the versions seated for it to `tried`."""
        context, roster = self._context, self._context.roster
        learned = roster.serves_learner
        for action in policy.replace(view(context), failure.uid, str(failure), tried):
            if isinstance(action, RollBack):
                tried.add(_contestant(roster, action.uid).version)
            try:
                payloads = apply(action, context, moment)
            except ModelFailure:
                continue
            if isinstance(action, RollBack) and learned and roster.challenger.learns:
                self._paused = roster.challenger  # the champion, or its copy beside it
                roster.let_learn(self._paused, False)
            return payloads
        raise ModelError(f"the champion failed, and there is no good version to go back to: {failure}") from failure

    def relent(self) -> None:
        """Re-enable training for the model paused during this event."""
        if self._paused is not None:
            self._context.roster.let_learn(self._paused, True)
            self._paused = None

    def retraced(self) -> dict[int, Mapping[str, Singles]]:
        """Return the traces of learners that were rebuilt or copied, by uid and id of prediction; forget them."""
        made = dict(self._context.retraced)
        self._context.retraced.clear()
        return made

    def obey(self, order: Decision, at: int, now: Progress) -> list[Payload]:
        """Carry out a user's order at position `at`; reject one that cannot be carried out, with the reason."""
        context, moment = self._context, Moment(at, now)
        id = details.order_id(order) or ""
        if (refused := logged.refusal(context.versions, id)) is not None:
            return [refused]
        if (answered := logged.answer(context.versions, id)) is not None:
            context.monitor.clock["scored"] = details.examples(answered)
        try:
            return user_orders.order(context, moment, order)
        except LogError:
            raise
        except EverlearnError as error:
            detail = OrderRejected(order=id)
            return [decision(context, moment, "reject", f"{error}", "loop", detail, Alias(version=order.version))]


def view(context: TransitionContext) -> View:
    """Return the roster and the verdicts on its comparisons, as the policy sees them."""
    roster, spec = context.roster, context.spec
    comparisons = []
    for contestant, _ in roster.comparisons():
        candidate, verdict = roster.contender(contestant), None
        if contestant.trial is not None:
            share = policy.alpha_share(candidate.concept, spec.challengers)
            verdict = gate.verdict(contestant.trial.evidence, context.gate, share)
        comparisons.append(CandidateVerdict(candidate, verdict))
    return View(
        live=roster.live,
        contenders=roster.contenders(),
        comparisons=tuple(comparisons),
        limit=spec.challengers,
        minimum=context.gate.minimum,
        scored=context.monitor.scored,
        layout=roster.layout,
        learning=roster.serves_learner,
        snapshots=roster.snapshots,
        untrained=roster.untrained,
        rollbacks=tuple(roster.rollbacks),
        alarms=_alarms(roster) if context.encoder.late else {},
    )


def _alarms(roster: Roster) -> dict[int, str]:
    """Return the reasons of the guards on policies, by the uid of the candidate."""
    found = {
        candidate.uid: signals.alarms(candidate.model, candidate.trial.evidence if candidate.trial else None)
        for candidate, _ in roster.comparisons()
    }
    return {uid: "; ".join(reasons.values()) for uid, reasons in found.items() if reasons}


def apply(action: Action, context: TransitionContext, moment: Moment) -> list[Payload]:
    """Apply one action of the policy; return the payloads to log."""
    roster = context.roster
    match action:
        case Nominate():  # the most frequent one
            roster.nominate(moment.learned)
        case PromoteCandidate():
            return _promote(action, context, moment)
        case KeepGood():
            return _keep_good(action, context, moment)
        case SeatFirst(reason):
            return _seat_first(reason, context, moment)
        case RollBack():
            return _roll_back(action, context, moment)
        case Reject(uid, reason, evidence):
            candidate = _contestant(roster, uid)
            roster.reject(candidate)
            alias = Alias(version=candidate.version)
            return [decision(context, moment, "reject", reason, "gate", CandidateRejected(), alias, evidence)]
        case Expel(uid, reason):
            failing = _contestant(roster, uid)
            detail = ModelExpelled(role=roster.role_of(failing), contestant=uid)
            roster.expel(failing)
            return [decision(context, moment, "reject", reason, "loop", detail, Alias(version=failing.version))]
        case StartChallenger(by, reason, warm):
            fresh, spec = commands.build(context.spec, context.spec.model), commands.without_layout(context.spec.model)
            return user_orders.start_challenger(context, moment, fresh, spec, reason, by, warm)
        case ReportDrift(reason, restarts):
            return [decision(context, moment, "drift", reason, "drift", Drifted(restarts=restarts or None))]
        case Confirm(uid):
            roster.confirm(_contestant(roster, uid))
        case Withdraw(uid):
            roster.withdraw(_contestant(roster, uid))
        case RaiseRate():
            context.monitor.boost()
        case Restart(uid):
            challenger = _contestant(roster, uid)
            roster.restart(challenger, untrained(context, challenger.version), challenger.version)
            context.monitor.rules.begin_again(challenger)
    return []


def _promote(action: PromoteCandidate, context: TransitionContext, moment: Moment) -> list[Payload]:
    """Seat a candidate, stored as a version first unless it is a version put in shadow."""
    roster, candidate = context.roster, _contestant(context.roster, action.uid)
    retired: list[Payload] = []
    version, previous, detail = candidate.version, roster.champion.version, Promoted()
    if candidate is not roster.champion:
        retired, previous = store_champion(context, moment)
    payloads = note(context, retired)  # in the order of the log
    if roster.role_of(candidate) != "shadow":
        spec, learned = context.versions.find(version).spec, moment.learned if candidate.learns else candidate.learned
        born = store(context, moment, candidate.model, spec, (version,), action.reason, candidate.trial)
        version, detail = born.version.id, Promoted(learned=learned)
        payloads = [*retired, *note(context, [born])]
    if roster.promote(candidate, version, previous):
        detail = msgspec.structs.replace(detail, learns=True)
    alias = Alias("champion", version, previous)
    promoted = decision(context, moment, "promote", action.reason, "gate", detail, alias, action.evidence)
    return [*payloads, promoted]


def _keep_good(action: KeepGood, context: TransitionContext, moment: Moment) -> list[Payload]:
    """Store a champion that learns as a version, and keep that as good. "previous" moves to an older good one only."""
    roster, champion = context.roster, context.roster.champion
    spec, parent = context.versions.find(champion.version).spec, champion.version
    born = store(context, moment, champion.model, spec, (parent,), action.reason, champion.trial)
    previous = parent if roster.good is not None else ""
    roster.keep_good(born.version.id)
    note(context, [born])
    alias, by = Alias("champion", born.version.id, previous), "gate" if action.evidence is not None else "loop"
    detail = Promoted(learned=moment.learned)
    return [born, decision(context, moment, "promote", action.reason, by, detail, alias, action.evidence)]


def _seat_first(reason: str, context: TransitionContext, moment: Moment) -> list[Payload]:
    """Store the model that learned from the start as a version, and seat a frozen copy of it."""
    roster, learner = context.roster, context.roster.challenger
    spec, parent = context.versions.find(learner.version).spec, learner.version
    born = store(context, moment, learner.model, spec, (parent,), reason, learner.trial)
    roster.seat_first(born.version.id)
    note(context, [born])
    alias, detail = Alias("champion", born.version.id), Promoted(learned=moment.learned)
    return [born, decision(context, moment, "promote", reason, "loop", detail, alias)]


def _roll_back(action: RollBack, context: TransitionContext, moment: Moment) -> list[Payload]:
    """Seat a frozen contestant. Raises ModelFailure, and changes nothing, if its model cannot be copied."""
    roster, frozen = context.roster, _contestant(context.roster, action.uid)
    learned = roster.serves_learner
    retired, previous = store_champion(context, moment)
    copied = roster.install(frozen.version, frozen.model, keep=False, uid=frozen.uid, pause=action.pause)
    if learned and roster.layout > 1:
        held = [] if action.pause else [*roster.rollbacks, context.monitor.scored]
        roster.rollbacks = held[1 - policy.ROLLBACKS :]
    detail = RolledBack(learns=copied or None, paused=action.pause or None)
    alias = Alias("champion", frozen.version, previous)
    back = decision(context, moment, "rollback", action.reason, "guard", detail, alias, action.evidence)
    return [*note(context, retired), back]


def _contestant(roster: Roster, uid: int) -> Contestant:
    """Return the contestant that an action is about."""
    contestant = roster.known(uid)
    if contestant is None:
        raise LookupError(
            f"no contestant has uid {uid}; an action must be applied to the roster that it was decided on"
        )
    return contestant
