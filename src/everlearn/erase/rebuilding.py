"""Every model that has learned something that is to be erased, learned again without it."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple

from everlearn import model
from everlearn.events import Log
from everlearn.fold import Fold
from everlearn.model import Model
from everlearn.records import Decision, Event, Example, Label, Preference, Reward, Version
from everlearn.relearn import relearn
from everlearn.serve import UNKNOWN, Contestant
from everlearn.version import Versions

_READ = 4096  # events read at a time
_UNTRAINED = ""


class Stretch(NamedTuple):
    """What some arrays are: those of version `root` ("": untrained), and everything learned in (after, upto]."""

    root: str
    after: int
    upto: int


@dataclass(slots=True)
class Rebuilt:
    """The versions made anew: old id -> new version; and how many labels were learned for it."""

    versions: dict[str, Version] = field(default_factory=dict)
    learned: int = 0

    def id(self, old: str) -> str:
        return self.versions[old].id if old in self.versions else old


class Rebuilding:
    """Learns again what the versions and contestants of a loop had learned, without the events at `gone`.

    What was learned up to position `first` - 1 is as it should be. Each version is rebuilt from its parent, by learning
    what lies between them; so one that came before the first of the events is where the rebuilding begins.
    """

    def __init__(self, fold: Fold, versions: Versions, log: Log, kept: Set[str], gone: Set[int], first: int) -> None:
        self.rebuilt = Rebuilt()
        self._fold, self._versions, self._log = fold, versions, log
        self._kept = kept  # the blobs that are there
        self._gone, self._first = gone, first
        self._decisions = _decisions(log)
        self._all = {version.id: version for version in versions.list()}
        self._models: dict[str, Model] = {}  # of the versions rebuilt or read
        self._last: tuple[Stretch, Model] | None = None  # what was learned last may be what the next begins with

    def run(self) -> Rebuilt:
        """Rebuild the versions that have arrays and are affected, then the contestants of the fold, in place."""
        for version in self._all.values():
            if self._is_affected(version) and version.blob in self._kept:
                self._rebuild(version)
        roster = self._fold.roster
        for one in [one for one in roster.contestants if one.role == "candidate" and one.learned == UNKNOWN]:
            roster.withdraw(one)  # nobody knows what it had learned; its challenger will nominate another
        for one in sorted(roster.contestants, key=self._upto):
            self._renew(one)
        return self.rebuilt

    def _is_affected(self, version: Version) -> bool:
        return 0 < self._first <= version.position

    def _rebuild(self, version: Version) -> None:
        again = self._learned(self._stretch(version), version.spec)
        self._models[version.id] = again
        parents = tuple(self.rebuilt.id(parent) for parent in version.parents)
        reason = f"version {version.id} without what was erased ({version.reason})"
        made = self._versions.make(again.arrays, version.spec, parents, version.position, reason, version.metrics)
        self.rebuilt.versions[version.id] = made

    def _renew(self, one: Contestant) -> None:
        if one.learns or one.role == "candidate":
            upto = self._upto(one)
            if upto >= self._first > 0:
                stretch = self._since(one.version, upto)
                one.model = self._learned(stretch, self._all[one.version].spec)
        elif one.version in self.rebuilt.versions:
            one.model = self._model(one.version)
        one.version = self.rebuilt.id(one.version)

    def _upto(self, one: Contestant) -> int:
        """The last position of the log that a contestant has learned."""
        if one.learns:
            return self._fold.cursor["log"]
        return one.learned.log if one.role == "candidate" else self._all[one.version].position

    # ---- from where --------------------------------------------------------------------------------------------

    def _stretch(self, version: Version) -> Stretch:
        if version.parents:
            return self._since(version.parents[0], version.position)
        if version.reason.startswith("fresh challenger"):
            remembered = re.search(r"warmed on (\d+) remembered rows", version.reason)
            rows = int(remembered[1]) if remembered else 0
            return Stretch(_UNTRAINED, _before(self._log, version.position, rows, self._gone), version.position)
        return Stretch(_UNTRAINED, 0, version.position)

    def _since(self, version: str, upto: int) -> Stretch:
        """What a model has learned at position `upto` that began, or began again, as `version`."""
        begun = Stretch(version, self._all[version].position, upto)
        for decision in self._decisions:
            if begun.after < decision.at <= upto:
                if self._fold.roster.live and decision.alias == "champion" and decision.version == version:
                    if decision.action == "rollback" or decision.by == "user":
                        begun = Stretch(version, decision.at, upto)
                elif decision.action == "drift" and self._fold.spec.drift.reaction == "reset":
                    begun = Stretch(_UNTRAINED, decision.at, upto)
        return begun

    # ---- learning ----------------------------------------------------------------------------------------------

    def _learned(self, stretch: Stretch, spec: dict[str, object]) -> Model:
        """A model that has learned a stretch, yours to change."""
        begun = stretch
        if self._last is not None and self._last[0][:2] == stretch[:2] and self._last[0].upto <= stretch.upto:
            begun = Stretch(stretch.root, self._last[0].upto, stretch.upto)
            again = model.copy(self._last[1])
        elif stretch.root == _UNTRAINED:
            again = model.build({"seed": self._fold.spec.seed, **spec}, self._fold.shape)
        else:
            again = model.copy(self._model(stretch.root))
        fold, (_, after, upto) = self._fold, begun
        parts = again, self._log, fold.encoder, fold.spec.schema.task
        learned, _ = relearn(*parts, after, upto, self._is_gone, fold.spec.feedback, fold.spec.limits)
        self.rebuilt.learned += learned
        self._last = stretch, model.copy(again)
        return again

    def _model(self, id: str) -> Model:
        """The model of a version as it should be: rebuilt if it is affected, read from its snapshot if not."""
        if id not in self._models:
            version = self._all[id]
            if self._is_affected(version) or version.blob not in self._kept:
                self._models[id] = self._learned(self._stretch(version), version.spec)
            else:
                read = model.build({"seed": self._fold.spec.seed, **version.spec}, self._fold.shape)
                model.restore(read, self._versions.load(id))
                self._models[id] = read
        return self._models[id]

    def _is_gone(self, event: Event) -> bool:
        return event.position in self._gone


def _decisions(log: Log) -> list[Decision]:
    found: list[Decision] = []
    after = 0
    while batch := log.read(after, _READ, kinds=("decision",)):
        found += [event.payload for event in batch if isinstance(event.payload, Decision)]
        after = batch[-1].position
    return found


def _before(log: Log, position: int, rows: int, gone: Set[int]) -> int:
    """The position after which `rows` labels lie that are not gone, up to `position`."""
    upto = position
    while rows > 0 and upto > 0:
        start = max(0, upto - _READ)
        labels = [
            event
            for event in log.read(start, upto - start)
            if isinstance(event.payload, Example | Label | Reward | Preference)
        ]
        for event in reversed(labels):
            if event.position not in gone:
                rows -= 1
            if rows == 0:
                return event.position - 1
        upto = start
    return upto if rows else position
