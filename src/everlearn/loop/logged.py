"""Follow the decisions of a log in its replay, so that the replay does not depend on how a release decides.

The log is the truth: a promotion, rejection, rollback, order or drift happened where it says. A version of the log has
the id and the metrics that it was stored with. What a replay computes again are arrays, and each of them is compared
with those that the log names.

After an erasure the log lacks rows, so that a replay counts fewer of them, and its evidence is other evidence. Then it
decides where the log says, and not after every `tick` labels.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence, Set
from contextlib import suppress
from typing import NamedTuple

import msgspec

from everlearn.errors import BlobError, LogError
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
from everlearn.loop.stretch import Cursor
from everlearn.records import Arrays, Born, Decision, Version
from everlearn.serve.contestant import Progress
from everlearn.spec import DriftSpec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions

CHANGE = "the estimated change"  # the log's words: a challenger was trained on the rows since then

_DECIDED = ("drift", "promote", "reject", "rollback")
_FROZEN = ("good", "baseline")
_WARMED = re.compile(r", warmed on (\d+) remembered rows")
_SILENT = (Confirm, Withdraw, Nominate)  # actions that leave no decision in the log


class LoggedHistory:
    """The versions and decisions of a log, for a replay of it: the `naming` of the registry of that replay.

    `cursor` says what the replay folds now: events, or rows of files. `differ` lists the ids of the versions for which
    the replay has made other arrays. `erased` is true for a log from which events were erased.
    """

    def __init__(
        self,
        log: Log,
        of_rows: Set[int] = frozenset(),
        erased: bool = False,
        unfolded: Sequence[tuple[int, int]] = (),
        stored: Blobs | None = None,
        exact: Set[str] = frozenset(),
    ) -> None:
        """`of_rows` are the positions of the versions and decisions that were made while rows of files were folded.

        `unfolded` are the stretches (first, last) of positions that no fold had reached when they were erased from, and
        `stored` the snapshots that the home still has. Other arrays for a version in `exact` raise LogError at once.
        """
        self.cursor: Cursor = "log"
        self.erased, self._unfolded, self._stored = erased, unfolded, stored
        self.differ: list[str] = []
        self.nominated = set[Progress]()  # what snapshots had learned that were promoted
        self._exact = exact
        self._born: dict[str, Version] = {}
        self._blobs: dict[str, str] = {}  # by version, as the replay made them
        self._left: dict[tuple[Cursor, int], list[Version]] = {}  # by position, those that were not made yet
        self._again: list[Version] | None = None  # while an erasure is repeated: the versions that it made
        self._decisions: dict[tuple[Cursor, int], list[Decision]] = {}  # by the position that they follow
        self._outcomes: dict[str, Decision] = {}  # by the id of the order
        self._answered = set[tuple[Cursor, int, str]]()  # reactions and decisions that were made
        replaced = set[str]()
        for event in scan(log, kinds=("decision",)):
            if isinstance(event.payload, Decision):
                replaced.update(details.replaced(event.payload).values())
                self._sort(event.payload, "row" if event.position in of_rows else "log")
        for event in scan(log, kinds=("version",)):
            if isinstance(event.payload, Born) and event.payload.version.id not in self._born:
                version = self._born[event.payload.version.id] = event.payload.version
                self._blobs[version.id] = version.blob
                if version.id not in replaced:
                    cursor: Cursor = "row" if event.position in of_rows else "log"
                    self._left.setdefault((cursor, version.position), []).append(version)

    def _sort(self, made: Decision, cursor: Cursor) -> None:
        """Keep a decision for the moment of the replay that makes it; one of a lost checkpoint stands there twice."""
        order = details.order_id(made)
        if made.action == "order" or made.by == "user":
            if order and made.action != "order":
                self._outcomes.setdefault(order, made)
        elif order:  # an order that was refused
            if made.action == "reject":
                self._outcomes.setdefault(order, made)
        elif made not in (same := self._decisions.setdefault((cursor, made.at), [])):
            same.append(made)
            if made.action == "promote" and made.by == "gate":
                self.nominated.update(details.progress(made).values())

    def named(self, made: Version) -> Version:
        """Return a version of the replay as the log names it, where it does; its arrays may be others."""
        again = self._again
        left = self._left.get((self.cursor, made.position), []) if again is None else again
        alike = [version for version in left if (version.parents, version.spec) == (made.parents, made.spec)]
        alike = [version for version in alike if again is None or version.position == made.position]
        for version in alike:
            if version.blob == made.blob:
                left.remove(version)
                return version
        if again is None and made.parents and self._blobs.get(made.parents[0]) == made.blob:  # which few callers keep
            alike = [one for one in alike if one.blob == self._born[one.parents[0]].blob]
        if not alike:
            return made
        if alike[0].id in self._exact:
            raise LogError(f"the replay of the log gives other arrays for version {alike[0].id}; expected equal bytes")
        left.remove(alike[0])
        self.differ.append(alike[0].id)
        self._blobs[alike[0].id] = made.blob
        return msgspec.structs.replace(alike[0], blob=made.blob)

    def erasing(self, made: Decision | None) -> None:
        """Name versions as an erasure of the log did; None ends that."""
        ids = list(details.replaced(made).values()) if made is not None else []
        self._again = [self._born[id] for id in ids if id in self._born] if made is not None else None

    def drifted(self, at: int) -> bool:
        """Return True if the log says that drift was detected at a position, other than that of a group."""
        return any(made.action == "drift" and "group" not in made.detail for made in self.decided(at))

    def decided(self, at: int) -> list[Decision]:
        """Return the decisions that follow a position, without those of users and answers to their orders."""
        return self._decisions.get((self.cursor, at), [])

    def was_folded(self, position: int) -> bool:
        """Return True if a fold had taken the event at a position before it was erased."""
        return not any(first <= position <= last for first, last in self._unfolded)

    def arrays(self, version: str) -> Arrays | None:
        """Return the arrays of a version of the log, if the home still has them."""
        with suppress(BlobError):
            if self._stored is not None and version in self._born:
                return self._stored.get(self._born[version].blob)[0]
        return None

    def once(self, at: int, what: str) -> bool:
        """Return True the first time that a reaction ("drift") or decisions ("decide") after a position are due."""
        due = self.is_left(at, what)
        self._answered.add((self.cursor, at, what))
        return due

    def is_left(self, at: int, what: str) -> bool:
        """Return True if `once` was not called for a position yet."""
        return (self.cursor, at, what) not in self._answered

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
    if followed is None:
        return alarm
    return followed.drifted(at) and followed.once(at, "drift")


def due(versions: Versions, at: int, learned: Progress) -> bool:
    """Return True if decisions fall after a position, other than by the count of labels.

    That is so in the replay of a log from which events were erased, where the log has decisions or a snapshot that was
    promoted later is of that moment.
    """
    followed = history(versions)
    if followed is None or not followed.erased or not followed.is_left(at, "decide"):
        return False
    return learned in followed.nominated or any(made.action in _DECIDED for made in followed.decided(at))


def scored(versions: Versions, at: int) -> int | None:
    """Return the number of labels scored before the decisions after a position; None where the replay counts them."""
    followed = history(versions)
    if followed is None or not followed.erased:
        return None
    return next((int(made.detail["examples"]) for made in followed.decided(at) if "examples" in made.detail), None)


class Warmed(NamedTuple):
    """The remembered rows that a challenger of the log learned first, and its arrays then, if the home has them."""

    rows: int
    arrays: Arrays | None


def warmed(versions: Versions, at: int, by: str, order: str | None) -> Warmed | None:
    """Return what the log says of the start of a challenger; None where the replay computes it.

    After an erasure a window may hold more rows in the replay than it held in the loop: the newest ones are the same.
    """
    if (followed := history(versions)) is None or not followed.erased:
        return None
    answer = followed.outcome(order) if order is not None else None
    made = [answer] if answer is not None else [one for one in followed.decided(at) if one.by == by]
    for one in made:
        if one.action == "challenger":
            found = _WARMED.search(one.reason)
            return Warmed(int(found[1]), followed.arrays(one.version)) if found is not None else Warmed(0, None)
    return None


def refusal(versions: Versions, order: str) -> Decision | None:
    """Return the decision of the log that an order was rejected, in the replay of that log; else None."""
    followed = history(versions)
    made = followed.outcome(order) if followed is not None else None
    return made if made is not None and made.action == "reject" else None


def answer(versions: Versions, order: str) -> Decision | None:
    """Return the decision that carried out an order, in the replay of a log from which events were erased."""
    followed = history(versions)
    made = followed.outcome(order) if followed is not None and followed.erased else None
    return made if made is not None and made.action != "reject" else None


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


def decide(view: View, versions: Versions, at: int, learned: Progress) -> list[Action]:
    """Return the actions that the verdicts call for; in the replay of a log, those that it holds.

    `learned` is the progress of the learners. Raises LogError for a decision about a version that no contestant has.
    """
    if (followed := history(versions)) is None:
        return policy.decide(view)
    made = followed.decided(at) if followed.once(at, "decide") else []
    found = [_action(one, view, followed) for one in made]
    logged = [action for action in found if action is not None]
    if followed.erased:
        return [*logged, *_nominations(view, logged, learned in followed.nominated)]
    own = policy.decide(view)
    loud = [action for action in own if not isinstance(action, _SILENT)]
    if [_subject(action) for action in loud] == [_subject(action) for action in logged]:
        following = iter(logged)
        return [action if isinstance(action, _SILENT) else next(following) for action in own]
    if any(isinstance(action, SeatFirst) for action in logged):
        return logged
    rest = [action for action in policy.decide(_silent(view)) if isinstance(action, _SILENT)]
    first = [action for action in rest if not isinstance(action, Nominate)]
    return [*first, *logged, *(action for action in rest if isinstance(action, Nominate))]


def _nominations(view: View, logged: Sequence[Action], again: bool) -> list[Action]:
    """Return the actions by which snapshots are taken, `again` if one of this moment was promoted later."""
    if not view.snapshots:
        return []
    moved = any(isinstance(action, PromoteCandidate | RollBack | SeatFirst) for action in logged)
    gone = {getattr(action, "uid", 0) for action in logged}
    held = [one.uid for one in view.contenders if one.concept == "snapshot" and one.uid not in gone]
    return [*(Withdraw(uid) for uid in held if again and not moved), Nominate()]


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
