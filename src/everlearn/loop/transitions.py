"""What follows from evidence, from drift and from orders: the moves of a loop, each with its reason.

The gate and the detectors are asked, a person's orders are carried out, and the roster moves. Everything that changed
is returned as payloads for the log; the caller makes them durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from everlearn import gate, metrics
from everlearn.errors import ConfigError, EverlearnError, InputError, LogError, ModelError
from everlearn.events import Log
from everlearn.learn import limits
from everlearn.learn.monitor import DRIFT, Monitor
from everlearn.learn.teach import warm
from everlearn.loop import commands, merge_versions
from everlearn.loop.commands import Without
from everlearn.loop.rebuild import rebuild, training_positions
from everlearn.model import Model, restore
from everlearn.records import Born, Decision, Event, Evidence, Payload
from everlearn.schema import Encoder
from everlearn.serve.isolation import ModelFailure
from everlearn.serve.roster import UNKNOWN, Contestant, Progress, Role, Roster, Trial
from everlearn.spec import GateSpec, Spec
from everlearn.version.registry import Versions

_GOOD: tuple[Role, ...] = ("previous", "frozen")  # to go back to, in this order
_REPLACED = "what served until it was replaced"


class Transitions:
    """Decides and carries out, for one loop. `at` is the position that a decision follows, `now` what was learned."""

    def __init__(
        self,
        spec: Spec,
        asked: GateSpec,
        encoder: Encoder,
        learner: Monitor,
        roster: Roster,
        versions: Versions,
        log: Log,
    ) -> None:
        self.spec = spec
        self._gate, self._encoder, self._learner, self._roster = asked, encoder, learner, roster
        self._versions, self._log = versions, log
        self._spared: Contestant | None = None  # learns again after the event that is being folded

    # ---- models ------------------------------------------------------------------------------------------------

    def make(self) -> Model:
        """An untrained model of this loop's spec."""
        return commands.build(self.spec, self.spec.model)

    def build(self, version: str) -> Model:
        """An untrained model of a version's spec."""
        return commands.build(self.spec, self._versions.find(version).spec)

    def revive(self, version: str) -> Model:
        """The model that is a version."""
        one = self.build(version)
        restore(one, self._versions.load(version))
        return one

    # ---- decisions of the loop's own ---------------------------------------------------------------------------

    def start(self, first: Model, why: str, at: int, now: Progress) -> list[Payload]:
        """Store the first version, and put it in every role."""
        born = self._born(first, self.spec.model, (), at, why)
        self._roster.start(born.version.id, first)
        roles = ("champion", "challenger")
        return [
            born,
            *(self._note("start", at, why, "loop", alias, born.version.id, more=_at_birth(now)) for alias in roles),
        ]

    def decide(self, at: int, now: Progress) -> list[Payload]:
        """Ask the detectors and the gate, and do what they say."""
        payloads: list[Payload] = []
        if self._learner.alarm() == DRIFT:
            payloads += self.react(at, now)
        champion = self._roster.champion.uid
        for candidate, _ in self._roster.questions():
            if candidate.trial is None or self._roster.champion.uid != champion:
                continue  # not asked yet, or everyone is asked anew since the champion has changed
            share = 1.0 if candidate.role in ("previous", "frozen", "champion") else 1.0 / self.spec.challengers
            verdict = gate.verdict(candidate.trial.evidence, self._gate, share)
            if verdict.action != "wait":
                payloads += self._move(candidate, verdict.action, verdict.reason, verdict.evidence, at, now)
            elif candidate.role == "candidate" and self._hopeless(verdict.evidence):
                self._roster.withdraw(candidate)
        self._roster.nominate(now)
        return payloads

    def react(self, at: int, now: Progress) -> list[Payload]:
        """Drift was detected: note it, and react as the spec says."""
        drift, roster, live = self.spec.drift, self._roster, self._roster.live
        full = roster.contending() >= self.spec.challengers
        alone = live or roster.find("challenger") is None
        starts = drift.reaction == "challenger" or (alone and drift.reaction == "reset")
        note = ", but as many learn already as may" if starts and full else ""
        reason = f"{drift.detector} on {drift.watch}: reaction {drift.reaction!r}{note}"
        payloads: list[Payload] = [self._note("drift", at, reason, "drift")]
        try:
            if drift.reaction == "rate":
                self._learner.boost()
            elif drift.reaction == "reset" and not alone:
                challenger = roster.challenger
                roster.restart(challenger, self.build(challenger.version), challenger.version)
            elif starts and not full:
                why, fresh, warmed = "fresh challenger after drift", self.make(), drift.reaction == "challenger"
                payloads += self._join(fresh, self.spec.model, why, "drift", at, now, warmed)
        except ModelError as error:
            payloads.append(self._note("reject", at, f"after drift: {error}", "loop"))
        return payloads

    def _hopeless(self, evidence: Evidence) -> bool:
        """Whether a candidate has had its time without evidence for it that counts: a newer snapshot may do better."""
        return evidence.examples >= 2 * self._gate.minimum and evidence.log_e_better <= 0.0

    def _move(
        self,
        candidate: Contestant,
        verdict: Literal["promote", "reject"],
        reason: str,
        evidence: Evidence,
        at: int,
        now: Progress,
    ) -> list[Payload]:
        roster, champion = self._roster, self._roster.champion
        move = roster.move(candidate, verdict)
        if move == "promote":
            left, old = ([], champion.version) if candidate is champion else self._left(at, now)
            self._noted(left)  # in the order of the log
            version, more, payloads = candidate.version, {}, []
            if candidate.role != "shadow":  # which is stored already
                spec, since = self._versions.find(version).spec, now if candidate.learns else candidate.learned
                born = self._born(candidate.model, spec, (version,), at, reason, candidate.trial)
                version, more, payloads = born.version.id, _at_birth(since), [born]
            decision = self._note(move, at, reason, "gate", "champion", version, old, evidence, more)
            roster.promote(candidate, version)
            return [*left, *payloads, decision]
        if move == "rollback":
            better = roster.better(candidate)
            left, old = self._left(at, now)
            roster.install(better.version, better.model, keep=False, uid=better.uid)
            decision = self._note(move, at, reason, "guard", "champion", better.version, old, evidence)
            return [*self._noted(left), decision]
        if move == "reject":
            roster.reject(candidate)
            return [self._note(move, at, reason, "gate", "", candidate.version, "", evidence)]
        roster.confirm(candidate)
        return []

    def _join(
        self,
        fresh: Model,
        spec: Mapping[str, Any],
        why: str,
        by: str,
        at: int,
        now: Progress,
        warmed: bool,
        more: Mapping[str, Any] | None = None,
    ) -> list[Payload]:
        """Let a fresh challenger join: untrained, or warmed on replay."""
        remembered = self._learner.remembered() if warmed else None
        if remembered is not None and len(remembered.y):
            warm(fresh, remembered)
            why = f"{why}, warmed on {len(remembered.y)} remembered rows"
        else:
            why = f"{why}, untrained"
        born = self._born(fresh, spec, (), at, why)
        self._roster.challenge(born.version.id, fresh)
        noted = {**_at_birth(now), **(more or {})}
        return [born, self._note("challenger", at, why, by, "challenger", born.version.id, more=noted)]

    def _born(
        self,
        which: Model,
        spec: Mapping[str, Any],
        parents: tuple[str, ...],
        at: int,
        reason: str,
        trial: Trial | None = None,
    ) -> Born:
        born = self._stored(which, spec, parents, at, reason, trial)
        self._versions.note(born)
        return born

    def _stored(
        self,
        which: Model,
        spec: Mapping[str, Any],
        parents: tuple[str, ...],
        at: int,
        reason: str,
        trial: Trial | None = None,
    ) -> Born:
        """A version whose arrays are stored, which nobody knows of yet."""
        measured = metrics.report(trial.metrics, self._learner.task) if trial is not None else {}
        return Born(self._versions.make(which.arrays, spec, parents, at, reason, measured))

    def _grown(self, one: Contestant, at: int, reason: str) -> Born | None:
        """What a learner has become, as a version that is not noted yet; None where it is its own version still."""
        begun = self._versions.find(one.version)
        born = self._stored(one.model, begun.spec, (begun.id,), at, reason, one.trial)
        return born if born.version.blob != begun.blob else None

    def _left(self, at: int, now: Progress) -> tuple[list[Payload], str]:
        """Before the champion is replaced: what tells of it as it is now, to be noted once it was, and its version.

        Only a live champion can differ from its version. Without one of its own, nothing could bring it back.
        """
        champion = self._roster.champion
        born = self._grown(champion, at, _REPLACED) if self._roster.live else None
        if born is None:
            return [], champion.version
        id = born.version.id
        return [born, self._note("withdraw", at, _REPLACED, "loop", version=id, more=_at_birth(now))], id

    def _noted(self, payloads: list[Payload]) -> list[Payload]:
        """The same payloads, known to the versions from now on."""
        for one in payloads:
            self._versions.note(one)
        return payloads

    def _note(
        self,
        action: Literal["start", "promote", "reject", "rollback", "drift", "challenger", "withdraw"],
        at: int,
        reason: str,
        by: str,
        alias: str = "",
        version: str = "",
        previous: str = "",
        evidence: Evidence | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Decision:
        detail = {"examples": self._learner.scored, **(more or {})}
        return Decision(action, at, reason, by, alias, version, previous, evidence, detail)

    # ---- models that fail --------------------------------------------------------------------------------------

    def expel(self, faults: Sequence[ModelFailure], at: int, now: Progress) -> list[Payload]:
        """Before the event at `at` is folded: whoever is known to fail with it goes, or, the champion, goes back.

        A live champion that went back answers that event but does not learn it; `relent` ends that. Raises ModelError
        where there is nothing to go back to.
        """
        payloads: list[Payload] = []
        tried: set[str] = set()
        for fault in faults:
            one = self._roster.known(fault.uid)
            if one is None:
                raise ModelError(str(fault)) from fault
            if one.role == "champion":
                payloads += self._go_back(fault, at, now, tried)
            else:
                self._roster.expel(one)
                more = {"role": one.role, "contestant": one.uid}
                payloads.append(self._note("reject", at, str(fault), "loop", version=one.version, more=more))
        return payloads

    def relent(self) -> None:
        """The event is folded: whoever was spared it learns again."""
        if self._spared is not None:
            self._spared.learns = True
            self._spared = None

    def _go_back(self, fault: ModelFailure, at: int, now: Progress, tried: set[str]) -> list[Payload]:
        """The champion failed: the last good version that was not tried with this event takes its place."""
        roster, failed = self._roster, self._roster.champion.version
        for role in _GOOD:
            good = roster.find(role)
            if good is None or good.version in tried or (not roster.live and good.version == failed):
                continue
            tried.add(good.version)
            left, old = self._left(at, now)
            try:
                roster.install(good.version, good.model, keep=False)
            except ModelFailure:
                continue
            if roster.live:
                self._spared = roster.champion
                self._spared.learns = False
            decision = self._note("rollback", at, str(fault), "guard", "champion", good.version, old)
            return [*self._noted(left), decision]
        raise ModelError(f"the champion failed, and there is no good version to go back to: {fault}") from fault

    # ---- orders ------------------------------------------------------------------------------------------------

    def obey(self, order: Decision, at: int, now: Progress) -> list[Payload]:
        """Carry out an order that stands at position `at`; one that cannot be carried out is rejected, and why."""
        try:
            return self._carry_out(order, at, now)
        except LogError:
            raise
        except EverlearnError as error:
            more = {"order": order.detail.get("order", "")}
            return [self._note("reject", at, f"{error}", "loop", version=order.version, more=more)]

    def _carry_out(self, order: Decision, at: int, now: Progress) -> list[Payload]:
        roster, detail = self._roster, order.detail
        more = {"order": detail["order"]}
        match detail["ask"]:
            case "rollback" if "without" in detail:
                return self._roll_back_without(order, msgspec.convert(detail["without"], Without), at, now)
            case "promote":
                return self._promote(order, at, now)
            case "rollback":
                former = self.revive(order.version)
                left, old = self._left(at, now)
                self._check_moves(order.version, old)
                roster.install(order.version, former, keep=False)
                decision = self._note("rollback", at, order.reason, "user", "champion", order.version, old, more=more)
                return [*self._noted(left), decision]
            case "challenge":
                self._check_room()
                fresh, why = commands.build(self.spec, detail["model"]), f"fresh challenger: {order.reason}"
                return self._join(fresh, detail["model"], why, "user", at, now, detail.get("warm", True), more)
            case "shadow":
                self._check_room()
                if any(one.role == "shadow" and one.version == order.version for one in roster.contestants):
                    raise ConfigError(f"version {order.version} is in shadow already")
                roster.shadow(order.version, self.revive(order.version))
                return [self._note("challenger", at, order.reason, "user", version=order.version, more=more)]
            case "merge":
                return self._merge(order, at, now)
            case "withdraw":
                roster.dismiss(self._withdrawable(order.version))
                return [self._note("withdraw", at, order.reason, "user", version=order.version, more=more)]
            case ask:
                raise ConfigError(f"there is no order {ask!r}; a newer Everlearn wrote it: upgrade")

    def _promote(self, order: Decision, at: int, now: Progress) -> list[Payload]:
        """A version becomes the champion; a challenger that still learns does as what it is now."""
        roster, version, more = self._roster, order.version, {"order": order.detail["order"]}
        fresh = next((one for one in roster.contestants if one.role == "fresh" and one.version == version), None)
        grown = self._grown(fresh, at, order.reason) if fresh is not None else None
        payloads: list[Payload] = []
        if grown is not None:
            payloads, version, more = [grown], grown.version.id, {**more, **_at_birth(now)}
        self._check_moves(version, roster.champion.version)
        model = fresh.tried.twin() if fresh is not None else self.revive(version)
        left, old = self._left(at, now)
        roster.install(version, model, keep=True)
        if fresh is not None and roster.live:  # the champion learns on as it, and would be asked about itself
            roster.dismiss(fresh)
        decision = self._note("promote", at, order.reason, "user", "champion", version, old, more=more)
        return [*self._noted([*left, *payloads]), decision]

    def _merge(self, order: Decision, at: int, now: Progress) -> list[Payload]:
        """A new version is made of others, and put in shadow; those that learn are merged as what they are now."""
        self._check_room()
        told, known = order.detail["merge"], training_positions(self._log)
        asked = zip(told["parents"], told["versions"], strict=True)
        parents = [self._parent(name, version, at, now, known) for name, version in asked]
        joined = merge_versions.join(told, parents, self._versions, self.revive, known)
        spec, ids = parents[0].version.spec, [one.version.id for one in parents]
        made = commands.build(self.spec, spec)
        restore(made, joined.arrays)
        why = f"merged {' and '.join(ids)} by {joined.method}: {order.reason}"
        born = self._stored(made, spec, tuple(ids), at, why)
        more = {"order": order.detail["order"], "merge": joined.told, "grown": merge_versions.grown(parents)}
        more |= _at_birth(joined.learned) if joined.learned != UNKNOWN else {}
        self._roster.shadow(born.version.id, made)
        noted = self._noted([*(one.born for one in parents if one.born is not None), born])
        return [*noted, self._note("challenger", at, why, "user", version=born.version.id, more=more)]

    def _parent(
        self, name: str, version: str, at: int, now: Progress, known: Mapping[str, Progress]
    ) -> merge_versions.Parent:
        """Who is meant by a name in an order to merge: a version, or someone as they are now."""
        one = merge_versions.meant(self._roster, name, version)
        born = self._grown(one, at, "what it was when it was merged") if one is not None and one.learns else None
        if one is not None and born is not None:
            return merge_versions.Parent(born.version, one.tried.twin(), now, born)
        found = self._versions.find(one.version if one is not None else version)
        return merge_versions.Parent(found, self.revive(found.id), known.get(found.id, UNKNOWN))

    def _check_moves(self, version: str, serves: str) -> None:
        if version == serves:
            raise InputError(f"version {version} serves already, so there is nothing to do; name another version")

    def _check_room(self) -> None:
        if (many := self._roster.contending()) >= self.spec.challengers:
            raise ConfigError(
                f"{many} models contend already, and challengers = {self.spec.challengers}: withdraw one, or raise it"
            )

    def _withdrawable(self, version: str) -> Contestant:
        known = [one for one in self._roster.contestants if one.role in ("fresh", "shadow")]
        found = next((one for one in known if one.version == version), None)
        if found is None:
            listed = ", ".join(one.version for one in known) or "none"
            raise InputError(f"version {version} is not a challenger that can be withdrawn; there are: {listed}")
        return found

    # ---- a rollback without some labels ------------------------------------------------------------------------

    def _roll_back_without(self, order: Decision, without: Without, at: int, now: Progress) -> list[Payload]:
        """The champion goes back to before the first such label, and who learns learns again what came since."""
        without = msgspec.structs.replace(without, last=min(without.last or at - 1, at - 1))
        (champions, earlier), known = commands.champions(self._log, self._learner.scored), training_positions(self._log)
        first = commands.first(self._log, without, at)
        version = order.version or _last_before(first, champions, known)
        if version not in known:
            raise InputError(f"the log does not tell what version {version} had learned at its birth; name another one")
        if known[version].log >= first:
            raise InputError(f"version {version} has learned labels that are to be left out, from position {first} on")

        def skip(event: Event) -> bool:  # what earlier orders have left out stays out
            return any(one.names(event.position, event.payload) for one in (*earlier, without))

        roster, champion = self._roster, self.revive(version)
        rebuilt, counts = [], [(0, 0)]
        for one in roster.contestants:
            if one.learns:
                begun, model, since = self._clean(one, version, first, known)
                counts.append(self._relearn(model, since.log, at, skip, now.row))
                rebuilt.append((one, model, begun))
        left, old = self._left(at, now)
        roster.install(version, champion, keep=False)
        for one, model, begun in rebuilt:
            roster.restart(one, model, begun)
        again, left_out = max(counts)
        more = {"order": order.detail["order"], "without": msgspec.to_builtins(without), "first": first}
        more |= {"again": again, "left_out": left_out, "forgotten": self._forget(skip, first, at)}
        more |= {"rows_lost": max(0, now.row - known[version].row)}  # of files, which are not in the log
        decision = self._note("rollback", at, order.reason, "user", "champion", version, old, more=more)
        return [*self._noted(left), decision]

    def _clean(
        self, one: Contestant, version: str, first: int, known: Mapping[str, Progress]
    ) -> tuple[str, Model, Progress]:
        """Where a learner begins again: its own version if that is from before `first`, else `version`."""
        own = self._versions.find(one.version)
        if one.role != "champion" and _before(own.id, first, known):
            return own.id, self.revive(own.id), known[own.id]
        if one.role == "champion" or own.spec == self._versions.find(version).spec:
            return version, self.revive(version), known[version]
        return own.id, self.build(own.id), known[version]  # of another family, and no part of it known to be clean

    def _relearn(self, one: Model, after: int, at: int, skip: Callable[[Event], bool], rows: int) -> tuple[int, int]:
        """Let a model learn the log again; the ranges of `rows` of files are not in the log, so those of now hold."""
        ranges = limits.bounds(self._learner.limits) if rows else None
        return rebuild(one, self._log, self._encoder, self.spec, after, at, skip, ranges)

    def _forget(self, skip: Callable[[Event], bool], first: int, at: int) -> int:
        """Take what is left out from the memory; return how many rows there were."""

        def bad(position: int, y: float) -> bool:
            found = self._log.read(position - 1, 1) if first <= position < at else []
            return bool(found) and found[0].position == position and skip(found[0])

        return self._learner.forget(bad)


def _before(version: str, first: int, known: Mapping[str, Progress]) -> bool:
    """Whether a version has learned nothing from position `first` on, for all we know."""
    return version in known and known[version].log < first


def _last_before(first: int, champions: Sequence[str], known: Mapping[str, Progress]) -> str:
    """The last champion that has learned nothing from position `first` on."""
    for version in reversed(champions):
        if _before(version, first, known):
            return version
    raise InputError(f"there is no version from before position {first} to go back to")


def _at_birth(now: Progress) -> dict[str, Any]:
    """What a version had learned when it was born, for the decision that tells of it."""
    return {"learned": list(now)}
