"""Every model that has learned something that is to be erased, learned again without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from everlearn import model
from everlearn.errors import InputError
from everlearn.events import Log, scan
from everlearn.loop import merge_versions
from everlearn.loop.commands import Without
from everlearn.loop.fold import Fold
from everlearn.loop.rebuild import rebuild, training_positions
from everlearn.model import Model
from everlearn.records import Decision, Event, Example, Label, Preference, Reward, Version
from everlearn.serve.roster import UNKNOWN, Contestant, Progress
from everlearn.version.registry import Versions

_READ = 4096  # events read at a time
_UNTRAINED = ""
_AGAIN = "learned again without what was erased: "
_NOTHING = Progress(0, 0)


class Stretch(NamedTuple):
    """What some arrays are: those of version `root` ("": untrained), and what was learned behind `after`, to `upto`."""

    root: str
    after: Progress
    upto: Progress


@dataclass(slots=True)
class Rebuilt:
    """The versions made anew: old id -> new version; and how many labels were learned for it."""

    versions: dict[str, Version] = field(default_factory=dict)
    learned: int = 0

    def id(self, old: str) -> str:
        return self.versions[old].id if old in self.versions else old


class Rebuilding:
    """Learns again what the versions and contestants of a loop had learned, without the events at `gone`.

    What was learned up to position `first` - 1 is as it should be (0: all of it is). Each version is rebuilt from its
    parent, by learning what lies between them; so one from before the first of the events is where that begins.
    `kept` are the blobs that are there.
    """

    def __init__(self, fold: Fold, versions: Versions, log: Log, kept: Set[str], gone: Set[int], first: int) -> None:
        self.rebuilt = Rebuilt()
        self._fold, self._versions, self._log = fold, versions, log
        self._kept, self._gone, self._first = kept, gone, first
        self._all = {version.id: version for version in versions.list()}
        self._births = training_positions(log)
        self._decisions = _as_named_now(_decisions(log))
        self._fresh = {one.version for one in self._decisions if one.action == "challenger"}
        self._merges = {one.version: one.detail["merge"] for one in self._decisions if _tells_of_merge(one)}
        self._models: dict[str, Model] = {}  # of the versions rebuilt or read
        self._last: tuple[Stretch, Model] | None = None  # what was learned last may be what the next begins with

    def run(self) -> Rebuilt:
        """Rebuild the versions that have arrays and are affected, then the contestants of the fold, in place."""
        if not self._first:
            return self.rebuilt
        for version in self._all.values():
            if self._is_affected(version.id) and version.blob in self._kept:
                self._rebuild(version)
        roster = self._fold.roster
        for one in [one for one in roster.contestants if one.role == "candidate" and one.learned == UNKNOWN]:
            roster.withdraw(one)  # nobody knows what it had learned; its challenger will nominate another
        for one in sorted(roster.contestants, key=self._upto):
            self._renew(one)
        return self.rebuilt

    def _rebuild(self, version: Version) -> None:
        again = self._models[version.id] = self._made(version)
        parents = tuple(self.rebuilt.id(parent) for parent in version.parents)
        reason = f"{_AGAIN}{version.reason.removeprefix(_AGAIN)}"
        made = self._versions.make(again.arrays, version.spec, parents, version.position, reason, version.metrics)
        self.rebuilt.versions[version.id] = made

    def _renew(self, one: Contestant) -> None:
        if one.learns or one.role == "candidate":
            upto = self._upto(one)
            if upto.log >= self._first:
                one.model = self._learned(self._since(one.version, upto), self._all[one.version].spec)
        elif one.version in self.rebuilt.versions:
            one.model = self._model(one.version)
        one.version = self.rebuilt.id(one.version)

    # ---- what was learned, since when --------------------------------------------------------------------------

    def _born(self, version: str) -> Progress:
        """What a version had learned when it was born; of releases that did not note it, by its position."""
        return self._births.get(version, Progress(self._all[version].position, 0))

    def _is_affected(self, version: str) -> bool:
        return self._born(version).log >= self._first

    def _upto(self, one: Contestant) -> Progress:
        """What a contestant has learned."""
        if one.learns:
            return Progress(self._fold.cursor["log"], self._fold.cursor["row"])
        return one.learned if one.role == "candidate" else self._born(one.version)

    def _stretch(self, version: Version) -> Stretch:
        born = self._born(version.id)
        if version.parents:
            return self._since(version.parents[0], born, version.id)
        if version.id not in self._fresh:
            return Stretch(_UNTRAINED, _NOTHING, born)
        warmed = re.search(r", warmed on (\d+) remembered rows$", version.reason)
        after = _before(self._log, born.log, int(warmed[1]) if warmed else 0, self._gone)
        return Stretch(_UNTRAINED, Progress(after, born.row), born)

    def _since(self, version: str, upto: Progress, child: str = "") -> Stretch:
        """What a model has learned at `upto` that began as `version`, or began again so: where it was rolled back to
        it, where drift or an order made it start anew. What follows the birth of `child` is not looked at."""
        begun = Stretch(version, self._born(version), upto)
        live, resets = self._fold.roster.live, self._fold.spec.drift.reaction == "reset"
        for one in self._decisions:
            if child and one.version == child:
                break
            if not self._born(version).log < one.at <= upto.log:
                continue
            moved = one.action in ("promote", "rollback") and one.alias == "champion"
            if moved and "without" in one.detail:
                clean = self._born(version).log < one.detail["first"]
                begun = Stretch(version if clean else _UNTRAINED, self._born(version if clean else one.version), upto)
            elif live and moved and one.version == version:
                begun = Stretch(version, Progress(one.at, upto.row), upto)
            elif not live and resets and one.action == "drift":
                begun = Stretch(_UNTRAINED, Progress(one.at, upto.row), upto)
        return begun

    def _left_out(self, upto: int) -> list[Without]:
        """What orders had left out by a position."""
        return [
            msgspec.convert(one.detail["without"], Without)
            for one in self._decisions
            if "without" in one.detail and one.action == "rollback" and one.at <= upto
        ]

    def _skip(self, upto: int) -> Callable[[Event], bool]:
        """What was not learned up to a position: what is erased, and what orders had left out by then."""
        orders = self._left_out(upto)

        def skip(event: Event) -> bool:
            return event.position in self._gone or any(one.names(event.position, event.payload) for one in orders)

        return skip

    # ---- learning ----------------------------------------------------------------------------------------------

    def _learned(self, stretch: Stretch, spec: dict[str, Any]) -> Model:
        """A model that has learned a stretch, yours to change."""
        if stretch.after.row < stretch.upto.row:
            raise InputError(
                f"models have learned {stretch.upto.row - stretch.after.row} rows of files that are themselves the "
                "log, among what is to be erased, so they cannot be rebuilt from the log alone; take the person out of "
                "those files, and start anew from them with another home (log.rows = 'always' keeps rows in the log)"
            )
        after = stretch.after.log
        if self._last is not None and self._goes_on(self._last[0], stretch):
            after, again = self._last[0].upto.log, model.copy(self._last[1])
        elif stretch.root == _UNTRAINED:
            again = self._untrained(spec)
        else:
            again = model.copy(self._model(stretch.root))
        fold, spec_of = self._fold, self._fold.spec
        parts = again, self._log, fold.encoder, spec_of, after, stretch.upto.log
        ranges = fold.bounds if fold.cursor["row"] else None  # rows of files are not in the log
        learned, _ = rebuild(*parts, self._skip(stretch.upto.log), ranges)
        self.rebuilt.learned += learned
        self._last = stretch, model.copy(again)
        return again

    def _goes_on(self, last: Stretch, stretch: Stretch) -> bool:
        """Whether a stretch begins with another, and nothing was left out in between that the other has learned."""
        alike = last[:2] == stretch[:2] and last.upto <= stretch.upto
        return alike and self._left_out(last.upto.log) == self._left_out(stretch.upto.log)

    def _model(self, id: str) -> Model:
        """The model of a version as it should be: rebuilt if it is affected, read from its snapshot if not."""
        if id not in self._models:
            version = self._all[id]
            if self._is_affected(id) or version.blob not in self._kept:
                self._models[id] = self._made(version)
            else:
                self._models[id] = self._untrained(version.spec)
                model.restore(self._models[id], self._versions.load(id))
        return self._models[id]

    def _made(self, version: Version) -> Model:
        """A version's model made anew: merged once more of its parents, or learned from the first of them on."""
        told = self._merges.get(version.id)
        if told is None:
            return self._learned(self._stretch(version), version.spec)
        parents = [self._model(parent) for parent in version.parents]
        ancestor = self._model(told["ancestor"]) if told["ancestor"] else None
        made = self._untrained(version.spec)
        model.restore(made, merge_versions.again(told, parents, ancestor))
        return made

    def _untrained(self, spec: dict[str, Any]) -> Model:
        return model.build({"seed": self._fold.spec.seed, **spec}, self._fold.shape)


def _decisions(log: Log) -> list[Decision]:
    return [event.payload for event in scan(log, kinds=("decision",)) if isinstance(event.payload, Decision)]


def _as_named_now(decisions: list[Decision]) -> list[Decision]:
    """Decisions about versions that were made anew by an erasure since, as being about the new ones."""
    named: list[Decision] = []
    names: dict[str, str] = {}
    for one in reversed(decisions):
        if one.action == "erase":
            names |= {old: names.get(new, new) for old, new in one.detail["versions"].items()}
        detail = one.detail
        if _tells_of_merge(one):
            before = detail["merge"]["ancestor"]
            detail = detail | {"merge": detail["merge"] | {"ancestor": names.get(before, before)}}
        named.append(msgspec.structs.replace(one, version=names.get(one.version, one.version), detail=detail))
    return named[::-1]


def _tells_of_merge(one: Decision) -> bool:
    """Whether a decision says how a version was merged; an order only asks for it."""
    return "merge" in one.detail and one.action != "order"


def _before(log: Log, position: int, rows: int, gone: Set[int]) -> int:
    """The position behind which `rows` labels lie that are not gone, up to `position`."""
    upto = position
    while rows > 0 and upto > 0:
        start = max(0, upto - _READ)
        for event in reversed(log.read(start, upto - start)):
            rows -= isinstance(event.payload, Example | Label | Reward | Preference) and event.position not in gone
            if rows == 0:
                return event.position - 1
        upto = start
    return upto
