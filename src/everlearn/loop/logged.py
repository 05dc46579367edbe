"""Follow the decisions of a log in its replay, so that the replay does not depend on how a release decides.

The log is the truth: a promotion, rejection, rollback, order or drift happened where it says. A version of the log has
the id and the metrics that it was stored with. What a replay computes again are arrays, and each of them is compared
with those that the log names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from everlearn.errors import LogError
from everlearn.events import Log, scan
from everlearn.gate import policy
from everlearn.gate.policy import (
    Action,
    CandidateVerdict,
    Confirm,
    Contender,
    KeepGood,
    Nominate,
    PromoteCandidate,
    Reject,
    RollBack,
    SeatFirst,
    StartChallenger,
    View,
    Withdraw,
)
from everlearn.loop import details
from everlearn.records import Born, Decision, Version
from everlearn.spec import DriftSpec
from everlearn.version.registry import Versions

CHANGE = "the estimated change"  # the log's words: a challenger was trained on the rows since then

_FROZEN = ("good", "baseline")
_SILENT = (Confirm, Withdraw, Nominate)  # actions that leave no decision in the log


class LoggedHistory:
    """The versions and decisions of a log, for a replay of it: the `naming` of the registry of that replay.

    `differ` lists the ids of the versions for which the replay has made other arrays.
    """

    def __init__(self, log: Log) -> None:
        self.differ: list[str] = []
        self._born: dict[str, Version] = {}
        self._blobs: dict[str, str] = {}  # by version, as the replay made them
        self._left: dict[int, list[Version]] = {}  # by position, those that were not made yet
        self._decisions: dict[int, list[Decision]] = {}  # by the position that they follow
        self._outcomes: dict[str, Decision] = {}  # by the id of the order
        for event in scan(log, kinds=("version", "decision")):
            if isinstance(event.payload, Born) and event.payload.version.id not in self._born:
                version = self._born[event.payload.version.id] = event.payload.version
                self._left.setdefault(version.position, []).append(version)
                self._blobs[version.id] = version.blob
            elif isinstance(event.payload, Decision):
                self._sort(event.payload)

    def _sort(self, made: Decision) -> None:
        """Keep a decision for the moment of the replay that makes it; one of a lost checkpoint stands there twice."""
        order = details.order_id(made)
        if made.action == "order" or made.by == "user":
            if order and made.action != "order":
                self._outcomes.setdefault(order, made)
        elif order:  # an order that was refused
            if made.action == "reject":
                self._outcomes.setdefault(order, made)
        elif made not in (same := self._decisions.setdefault(made.at, [])):
            same.append(made)

    def named(self, made: Version) -> Version:
        """Return a version of the replay as the log names it, where it does; its arrays may be others."""
        left = self._left.get(made.position, [])
        alike = [version for version in left if version.parents == made.parents and version.spec == made.spec]
        for version in alike:
            if version.blob == made.blob:
                left.remove(version)
                return version
        unchanged = bool(made.parents) and self._blobs.get(made.parents[0]) == made.blob  # which no caller keeps
        if not alike or unchanged:
            return made
        left.remove(alike[0])
        self.differ.append(alike[0].id)
        self._blobs[alike[0].id] = made.blob
        return msgspec.structs.replace(alike[0], blob=made.blob)

    def drifted(self, at: int) -> bool:
        """Return True if the log says that drift was detected at a position, other than that of a group."""
        return any(made.action == "drift" and "group" not in made.detail for made in self.decided(at))

    def decided(self, at: int) -> list[Decision]:
        """Return the decisions that follow a position, without those of users and answers to their orders."""
        return self._decisions.get(at, [])

    def outcome(self, order: str) -> Decision | None:
        """Return the decision that answers an order; None where the log has none."""
        return self._outcomes.get(order)

    def parent(self, made: Decision) -> str:
        """Return the version that the candidate of a promotion has: the parent of one that was stored for it."""
        version = self._born.get(made.version)
        stored = version is not None and version.position == made.at and version.parents
        return version.parents[0] if version is not None and stored else made.version


def history(versions: Versions) -> LoggedHistory | None:
    """Return the history that a replay follows; None where the loop decides."""
    return versions.naming if isinstance(versions.naming, LoggedHistory) else None


def drifted(versions: Versions, at: int, alarm: bool) -> bool:
    """Return True if there is a drift to react to: as the log says in its replay, else if there is an alarm."""
    followed = history(versions)
    return followed.drifted(at) if followed is not None else alarm


def refusal(versions: Versions, order: str) -> Decision | None:
    """Return the decision of the log that an order was rejected, in the replay of that log; else None."""
    followed = history(versions)
    made = followed.outcome(order) if followed is not None else None
    return made if made is not None and made.action == "reject" else None


def warms_since_change(versions: Versions, at: int) -> bool:
    """Return True if a challenger after drift learns first the remembered rows since the estimated change alone.

    Release 0.1.0 let it learn all of them, and the log says so.
    """
    if (followed := history(versions)) is None:
        return True
    return all(CHANGE in made.reason for made in followed.decided(at) if made.action == "challenger")


def joins_again(versions: Versions, order: str) -> bool:
    """Return True if a rollback without some labels joins the log again without them; release 0.1.0 did not."""
    followed = history(versions)
    made = followed.outcome(order) if followed is not None else None
    return made is None or bool(made.detail.get("joined"))


def react(view: View, drift: DriftSpec, versions: Versions, at: int) -> list[Action]:
    """Return the actions that drift calls for; in the replay of a log, a challenger starts where it did."""
    actions = policy.react(view, drift)
    if (followed := history(versions)) is not None:
        started = any(made.action == "challenger" and made.by == "drift" for made in followed.decided(at))
        held = [action for action in actions if isinstance(action, StartChallenger)]
        if started and not held:
            warm = drift.reaction == "challenger"
            actions.append(StartChallenger("drift", "fresh challenger after drift", warm))
        elif held and not started:
            actions.remove(held[0])
    return actions


def decide(view: View, versions: Versions, at: int) -> list[Action]:
    """Return the actions that the verdicts call for; in the replay of a log, those that it holds.

    Raises LogError for a decision about a version that no contestant has.
    """
    own = policy.decide(view)
    if (followed := history(versions)) is None:
        return own
    found = [_action(made, view, followed) for made in followed.decided(at)]
    logged = [action for action in found if action is not None]
    loud = [action for action in own if not isinstance(action, _SILENT)]
    if [_subject(action) for action in loud] == [_subject(action) for action in logged]:
        following = iter(logged)
        return [action if isinstance(action, _SILENT) else next(following) for action in own]
    if any(isinstance(action, SeatFirst) for action in logged):
        return logged
    rest = [action for action in policy.decide(_silent(view)) if isinstance(action, _SILENT)]
    first = [action for action in rest if not isinstance(action, Nominate)]
    return [*first, *logged, *(action for action in rest if isinstance(action, Nominate))]


def _silent(view: View) -> View:
    """Return a view without the verdicts that make a decision for the log."""

    def kept(one: CandidateVerdict) -> bool:
        verdict, frozen = one.verdict, one.candidate.concept in _FROZEN
        return verdict is not None and (verdict.action == "wait" or (frozen and verdict.action == "reject"))

    quiet = tuple(one if kept(one) else one._replace(verdict=None) for one in view.comparisons)
    return dataclasses.replace(view, comparisons=quiet, alarms={}, layout=1)


def _subject(action: Action) -> tuple[type[Action], int]:
    return type(action), getattr(action, "uid", 0)


def _action(made: Decision, view: View, followed: LoggedHistory) -> Action | None:
    """Return the action that a decision of the gate or the guard came from; None for other decisions."""
    candidates = [one for one in view.comparisons if one.candidate.concept not in _FROZEN]
    match made:
        case Decision(action="reject", by="gate", evidence=evidence) if evidence is not None:
            found = [one for one in candidates if one.candidate.version == made.version]
            return Reject(_chosen(made, found, "reject").uid, made.reason, evidence)
        case Decision(action="rollback", by="guard"):
            frozen = [one for one in view.contenders if one.concept in _FROZEN and one.version == made.version]
            uid = _chosen(made, [CandidateVerdict(one) for one in frozen], "promote").uid
            return RollBack(uid, made.reason, made.evidence, details.is_pause(made.action, made.detail))
        case Decision(action="promote", by="gate", evidence=evidence) if evidence is not None:
            version = followed.parent(made)
            found = [one for one in candidates if one.candidate.version in (version, made.version)]
            chosen = _chosen(made, found, "promote")
            kind = KeepGood if chosen.concept == "champion" and view.layout > 1 else PromoteCandidate
            return kind(chosen.uid, made.reason, evidence)
        case Decision(action="promote", by="loop"):
            champion = next(one for one in view.contenders if one.concept == "champion")
            seats = view.untrained and not (view.live and view.learning)
            return SeatFirst(made.reason) if seats else KeepGood(champion.uid, made.reason)
    return None


def _chosen(made: Decision, found: Sequence[CandidateVerdict], verdict: str) -> Contender:
    """Return the contestant that a decision is about: of several, first one on which this is the verdict now."""
    agreed = [one for one in found if one.verdict is not None and one.verdict.action == verdict]
    if not found:
        raise LogError(
            f"the decision {made.action!r} after position {made.at}: got no contestant of version "
            f"{made.version or 'unknown'}; expected one in the replay of the log. Use the release that wrote the log"
        )
    return (agreed or found)[0].candidate
