"""Decide which model serves. Pure: a view of the roster and its verdicts in, a list of actions out.

Nothing here knows a model, a log or a file. `decide` answers to evidence, `react` to drift, `replace` to a model that
failed. `loop/transitions.py` builds the view and carries the actions out, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from everlearn.records import Evidence, Verdict
from everlearn.spec import GATE_LAYOUT, DriftSpec

Concept = Literal["champion", "good", "challenger", "snapshot", "baseline"]
By = Literal["loop", "drift", "user"]

_FALLBACKS: tuple[Concept, ...] = ("good", "baseline")  # in the order in which a failing champion goes back to them
_SECOND_CHANCE = 2  # times `gate.minimum` examples, after which a snapshot without evidence for it is replaced
_EARLIEST = 4  # times `gate.minimum` examples, before which a challenger that drift or a user started is not rejected
ROLLBACKS, WITHIN = 3, 10_000  # so many rollbacks within so many labels pause the learning of what serves


class Contender(NamedTuple):
    """One contestant, as the policy sees it.

    A "snapshot" is the frozen copy that a challenger has nominated. `by` says what started a challenger: the loop
    itself keeps one beside a frozen champion, drift and users start others.
    """

    uid: int
    concept: Concept
    version: str
    learns: bool = False
    by: By = "loop"


class CandidateVerdict(NamedTuple):
    """A candidate, and the gate's verdict on it; None before any losses were compared."""

    candidate: Contender
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The roster at one moment: every contestant in its stable order, and the comparisons in their order.

    `limit` is the number of models that may contend at a time; `minimum` is the number of examples before a verdict,
    `scored` the number of examples so far. `learning` is true if the champion learns as it serves, `snapshots` if only
    frozen copies of learners may serve, and `untrained` until something trained exists. `rollbacks` are the numbers of
    examples scored before the last rollbacks of a champion that learned. `alarms` maps uids of candidates to reasons of
    guards on policies: a live champion with an alarm goes back, and another candidate is not promoted.
    """

    live: bool
    contenders: tuple[Contender, ...]
    comparisons: tuple[CandidateVerdict, ...] = ()
    limit: int = 1
    minimum: int = 0
    scored: int = 0
    layout: int = GATE_LAYOUT
    learning: bool = False
    snapshots: bool = False
    untrained: bool = False
    rollbacks: tuple[int, ...] = ()
    alarms: Mapping[int, str] = field(default_factory=dict)


# ---- actions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PromoteCandidate:
    """Let a contestant take the seat; the champion itself becomes the good version to go back to."""

    uid: int
    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class KeepGood:
    """Store the live champion as it is now, as the good version to go back to."""

    uid: int
    reason: str
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class SeatFirst:
    """Seat a frozen copy of the model that has learned so far; the untrained start leaves."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Let a frozen contestant, the good version or a baseline, take the seat back.

    With `pause` it does not learn on there, as it would in `live` mode: a copy of it challenges.
    """

    uid: int
    reason: str
    evidence: Evidence | None = None
    pause: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """Remove a candidate that is worse; if nothing else learns, only its evidence goes."""

    uid: int
    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Confirm:
    """Stop asking about a frozen contestant that is worse than the champion."""

    uid: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Remove a snapshot without a verdict, so that its challenger nominates a newer one."""

    uid: int


@dataclass(frozen=True, slots=True)
class Nominate:
    """Let every learning challenger without a snapshot nominate one."""


@dataclass(frozen=True, slots=True)
class ReportDrift:
    """Log that drift was detected; `restarts` is the version of the challenger that starts again because of it."""

    reason: str
    restarts: str = ""


@dataclass(frozen=True, slots=True)
class RaiseRate:
    """Let learners learn faster for a while."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Replace the model of a challenger with an untrained model of the same spec."""

    uid: int


@dataclass(frozen=True, slots=True)
class StartChallenger:
    """Start a challenger of the loop's spec, trained on the replay memory if `warm`."""

    by: By
    reason: str
    warm: bool


@dataclass(frozen=True, slots=True)
class Expel:
    """Remove a contestant whose model failed."""

    uid: int
    reason: str


Action = (
    PromoteCandidate
    | KeepGood
    | SeatFirst
    | RollBack
    | Reject
    | Confirm
    | Withdraw
    | Nominate
    | ReportDrift
    | RaiseRate
    | Restart
    | StartChallenger
    | Expel
)


# ---- decisions -----------------------------------------------------------------------------------------------------


def alpha_share(concept: Concept, challengers: int) -> float:
    """Return the part of alpha that the comparison of a contestant may use.

    The comparisons of up to `challengers` challengers, or their snapshots, with the champion share alpha equally,
    however many of them run. Those of the guard (champion, good, baselines) may each use all of it.
    """
    return 1.0 / challengers if concept in ("challenger", "snapshot") else 1.0


def contending(contenders: Iterable[Contender]) -> int:
    """Count the models whose number is bounded: challengers, frozen ones too, and a champion that learns."""
    return sum(contender.concept == "challenger" or contender.learns for contender in contenders)


def decide(view: View) -> list[Action]:
    """Return the actions that the verdicts call for, in order.

    An action that moves the seat is the last one on evidence: all other evidence is about the champion before it.
    """
    if view.layout > 1 and view.scored >= view.minimum:
        if view.untrained and not (view.live and view.learning):
            return [SeatFirst(f"the first version that has learned {view.scored} examples")]
        if view.learning and not any(contender.concept == "good" for contender in view.contenders):
            champion = next(contender for contender in view.contenders if contender.concept == "champion")
            first = f"the first version that has learned {view.scored} examples"
            return [KeepGood(champion.uid, first if view.untrained else "there was no good version to go back to")]
    actions: list[Action] = []
    for candidate, verdict in view.comparisons:
        if candidate.concept == "champion" and candidate.uid in view.alarms:
            return [*actions, _go_back(view, view.alarms[candidate.uid], verdict.evidence if verdict else None)]
        if verdict is None:
            continue
        if verdict.action == "wait":
            if candidate.concept == "snapshot" and _is_hopeless(verdict.evidence, view.minimum):
                actions.append(Withdraw(candidate.uid))
            continue
        action = _answer(view, candidate, verdict)
        if isinstance(action, Reject) and _is_early(view, candidate, verdict):
            continue
        actions.append(action)
        if isinstance(action, PromoteCandidate | RollBack):
            break
    if view.snapshots:
        actions.append(Nominate())
    return actions


def react(view: View, drift: DriftSpec) -> list[Action]:
    """Return the actions that detected drift calls for under `drift.reaction`.

    "reset" restarts the challenger that the loop keeps; where there is none, it starts an untrained challenger.
    """
    standing = next(
        (contender for contender in view.contenders if contender.concept == "challenger" and contender.by == "loop"),
        None,
    )
    resets = standing if not view.live else None
    restarts = resets.version if drift.reaction == "reset" and resets is not None else ""
    starts = drift.reaction == "challenger" or (drift.reaction == "reset" and resets is None)
    full = contending(view.contenders) >= view.limit
    note = ", but as many learn already as may" if starts and full else ""
    reason = f"{drift.detector} on {drift.watch}: reaction {drift.reaction!r}{note}"
    actions: list[Action] = [ReportDrift(reason, restarts)]
    if drift.reaction == "rate":
        actions.append(RaiseRate())
    elif drift.reaction == "reset" and resets is not None:
        actions.append(Restart(resets.uid))
    elif starts and not full:
        actions.append(StartChallenger("drift", "fresh challenger after drift", warm=drift.reaction == "challenger"))
    return actions


def replace(view: View, uid: int, reason: str, tried: Set[str] = frozenset()) -> list[Action]:
    """Return the actions that free the roster of a failing model, in order of preference; one of them is enough.

    A failing champion goes back to the good version, else to a baseline. `tried` are the versions that were seated
    before because of the same event. An empty list: no version is left to go back to.
    """
    failing = next(contender for contender in view.contenders if contender.uid == uid)
    if failing.concept != "champion":
        return [Expel(uid, reason)]
    frozen = sorted(
        (contender for contender in view.contenders if contender.concept in _FALLBACKS),
        key=lambda contender: _FALLBACKS.index(contender.concept),
    )
    useless = tried if view.learning else {*tried, failing.version}  # frozen, it would fail again
    versions = {contender.version: contender for contender in reversed(frozen) if contender.version not in useless}
    reason, pause = _pausing(view, reason)
    return [
        RollBack(contender.uid, reason, None, pause)
        for contender in frozen
        if versions.get(contender.version) is contender
    ]


def _answer(view: View, candidate: Contender, verdict: Verdict) -> Action:
    """Return the action that a verdict other than "wait" means for a candidate of its concept."""
    better, reason, evidence = verdict.action == "promote", verdict.reason, verdict.evidence
    match candidate.concept:
        case "good" | "baseline":
            return RollBack(candidate.uid, reason, evidence) if better else Confirm(candidate.uid)
        case "champion" if not better:
            return _go_back(view, reason, evidence)
        case "champion" if view.layout > 1:
            return KeepGood(candidate.uid, reason, evidence)
        case _ if better and candidate.uid in view.alarms:
            return Reject(candidate.uid, f"{reason}, but {view.alarms[candidate.uid]}", evidence)
        case _ if better:
            return PromoteCandidate(candidate.uid, reason, evidence)
        case _:
            return Reject(candidate.uid, reason, evidence)


def _go_back(view: View, reason: str, evidence: Evidence | None) -> RollBack:
    """Return the rollback of a live champion to the good version."""
    good = next(contender for contender in view.contenders if contender.concept == "good")
    reason, pause = _pausing(view, reason)
    return RollBack(good.uid, reason, evidence, pause)


def _pausing(view: View, reason: str) -> tuple[str, bool]:
    """Return the reason of a rollback of a champion that learns, and True if what serves then shall not learn on."""
    recent = 1 + sum(view.scored - at < WITHIN for at in view.rollbacks)
    if not (view.live and view.learning) or view.layout == 1 or recent < ROLLBACKS:
        return reason, False
    note = f"Rollbacks within {WITHIN} labels: {recent}, so what serves stops learning, and a copy of it learns on"
    return f"{reason}. {note}", True


def _is_early(view: View, candidate: Contender, verdict: Verdict) -> bool:
    """Return True for a challenger, not the loop's own, that had too little time to learn to be rejected."""
    started = view.layout > 1 and candidate.concept == "challenger" and candidate.learns and candidate.by != "loop"
    return started and verdict.evidence.examples < _EARLIEST * view.minimum


def _is_hopeless(evidence: Evidence, minimum: int) -> bool:
    """Return True if a snapshot had its time and gathered no evidence for it: a newer one may do better."""
    return evidence.examples >= _SECOND_CHANCE * minimum and evidence.log_e_better <= 0.0
