"""Rebuild every model that has learned an erased event, without those events."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from everlearn import model
from everlearn.errors import InputError
from everlearn.events import Log, scan
from everlearn.loop import details, merge_versions
from everlearn.loop.commands import with_layout
from everlearn.loop.details import Detail, Drifted, Erasure, Merged, Promoted, RolledBack, RolledBackWithout, Without
from everlearn.loop.fold import Fold
from everlearn.loop.rebuild import rebuild, training_positions
from everlearn.model import Model
from everlearn.records import Decision, Event, Example, Label, Payload, Preference, Reward, Singles, Version
from everlearn.schema import Reading
from everlearn.serve.contestant import UNKNOWN, Contestant, Progress
from everlearn.version.codec import canonical
from everlearn.version.registry import Versions

_READ = 4096  # events read at a time
_UNTRAINED = ""
_REASON = "learned again without what was erased: "  # the log's words
_LEFT = "learned again from what the broker still had"
_NOTHING = Progress(0, 0)


class _EventsRemoved(Exception):
    """What a model must learn again is no longer in the broker."""


class TrainingSpan(NamedTuple):
    """The training behind some arrays: version `root` ("": untrained), then the events after `after`, to `upto`."""

    root: str
    after: Progress
    upto: Progress


class Move(NamedTuple):
    """A decision of the log, with the ids that its versions have now, and the record of its detail."""

    decision: Decision
    detail: Detail

    @property
    def without(self) -> Without | None:
        """The labels that a rollback left out."""
        return self.detail.without if isinstance(self.detail, RolledBackWithout) else None


@dataclass(slots=True)
class Rebuilt:
    """The rebuilt versions by the id of the version that each replaces, and the number of labels learned for them.

    `traces` holds, by uid of the rebuilt contestants, the traces of the predictions that wait, by id. Of a log whose
    broker has removed events, `dropped` are the versions that cannot be rebuilt, and `made` those that have learned all
    that the broker still had.
    """

    versions: dict[str, Version] = field(default_factory=dict)
    learned: int = 0
    made: dict[str, Version] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    traces: dict[int, dict[str, Singles]] = field(default_factory=dict)

    def id(self, old: str) -> str:
        """Return the id that a version has now."""
        return self.versions[old].id if old in self.versions else old


class Rebuilding:
    """A rebuild of the versions and contestants of a loop without the events at positions `gone`.

    Arrays that learned nothing from position `first` on stay as they are (0: all do). Each version is rebuilt from its
    parent by learning the events between them, so a version from before `first` is where that begins. `kept` are the
    ids of the versions with arrays.

    Where a broker has removed all events up to position `removed`, what had learned from these cannot be rebuilt. Such
    a version is dropped. A contestant goes on with another one instead, which has learned all that the broker still
    has, beginning with the newest version that need not be rebuilt.
    """

    def __init__(
        self,
        fold: Fold,
        versions: Versions,
        log: Log,
        kept: Set[str],
        gone: Set[int],
        first: int,
        upto: int | None = None,
        removed: int = 0,
    ) -> None:
        """`upto` is the position of the last decision that counts; None: all of the log do."""
        self.rebuilt = Rebuilt()
        self._fold, self._versions, self._log = fold, versions, log
        self._kept, self._gone, self._first, self._removed = kept, gone, first, removed
        self._all = {version.id: version for version in versions.list()}
        self._training_positions = training_positions(log)
        self._moves = _renamed(_decisions(log, upto))
        self._started = {made.version for made, _ in self._moves if made.action == "challenger"}
        self._models: dict[str, Model] = {}  # of the versions rebuilt or read
        self._last: tuple[TrainingSpan, Model] | None = None  # the next span may begin with the last one
        self._left: dict[str, tuple[Version, Model, dict[str, Singles]]] = {}  # learned from the events left, by spec

    def run(self) -> Rebuilt:
        """Rebuild the affected versions that have arrays, then the contestants of the fold, in place."""
        if not self._first:
            return self.rebuilt
        for version in self._all.values():
            if self._is_affected(version.id) and version.id in self._kept:
                try:
                    self._rebuild(version)
                except _EventsRemoved:
                    self.rebuilt.dropped.append(version.id)
        roster = self._fold.roster
        for snapshot in [challenger.snapshot for challenger in roster.challengers if challenger.snapshot is not None]:
            if snapshot.learned == UNKNOWN:  # of an older release; its challenger nominates another
                roster.withdraw(snapshot)
        for contestant in sorted(roster.contestants, key=self._upto):
            try:
                self._renew(contestant)
            except _EventsRemoved:
                self._begin_again(contestant)
        return self.rebuilt

    def _rebuild(self, version: Version) -> None:
        rebuilt = self._models[version.id] = self._remade(version)
        parents = tuple(self.rebuilt.id(parent) for parent in version.parents)
        reason = f"{_REASON}{version.reason.removeprefix(_REASON)}"
        made = self._versions.make(rebuilt.arrays, version.spec, parents, version.position, reason, version.metrics)
        self.rebuilt.versions[version.id] = made

    def _renew(self, contestant: Contestant) -> None:
        """Give a contestant the model that it would have without the erased events."""
        if contestant.learns or self._is_snapshot(contestant):
            upto = self._upto(contestant)
            if upto.log >= self._first:
                span, waiting = self._since(contestant.version, upto), dict[str, Singles]()
                contestant.model = self._learned(span, self._all[contestant.version].spec, waiting)
                if contestant.learns:
                    self.rebuilt.traces[contestant.uid] = waiting
        elif contestant.version in self.rebuilt.dropped:
            raise _EventsRemoved
        elif contestant.version in self.rebuilt.versions:
            contestant.model = self._model(contestant.version)
        self._fold.roster.rename(contestant, self.rebuilt.id(contestant.version))

    # ---- where the broker has removed events -------------------------------------------------------------------

    def _begin_again(self, contestant: Contestant) -> None:
        """Give a contestant that cannot be rebuilt the model that has learned what the broker still has."""
        if self._is_snapshot(contestant):  # its challenger nominates another
            self._fold.roster.withdraw(contestant)
            return
        made, learned, waiting = self._learned_from_left(self._all[contestant.version].spec)
        contestant.model = model.copy(learned)
        if contestant.learns:
            self.rebuilt.traces[contestant.uid] = waiting
        if self._is_affected(contestant.version):
            self.rebuilt.versions[contestant.version] = made
            self.rebuilt.dropped = [id for id in self.rebuilt.dropped if id != contestant.version]
        self.rebuilt.made[made.id] = made
        self._fold.roster.rename(contestant, made.id)

    def _learned_from_left(self, spec: dict[str, Any]) -> tuple[Version, Model, dict[str, Singles]]:
        """Return the version that has learned the events left, its model, and the traces of what waits."""
        key = canonical(spec)
        if key not in self._left:
            roots = [one for one in self._all.values() if one.id in self._kept and not self._is_affected(one.id)]
            root = next((one for one in reversed(roots) if one.spec == spec), None)
            born = self._born(root.id) if root is not None else _NOTHING
            upto, waiting = Progress(self._fold.cursor["log"], self._fold.cursor["row"]), dict[str, Singles]()
            after = Progress(max(born.log, self._removed), born.row)
            span = TrainingSpan(root.id if root is not None else _UNTRAINED, after, upto)
            learned = self._learned(span, spec, waiting)
            parents = [root.id] if root is not None else []
            made = self._versions.make(learned.arrays, spec, parents, upto.log, _LEFT, {})
            self._left[key] = made, learned, waiting
        return self._left[key]

    def _is_snapshot(self, contestant: Contestant) -> bool:
        return self._fold.roster.concept(contestant) == "snapshot"

    # ---- progress, and where it began --------------------------------------------------------------------------

    def _born(self, version: str) -> Progress:
        """Return the progress of a version at its birth; where an older release did not log it, its position."""
        return self._training_positions.get(version, Progress(self._all[version].position, 0))

    def _is_affected(self, version: str) -> bool:
        return self._born(version).log >= self._first

    def _upto(self, contestant: Contestant) -> Progress:
        """Return the progress of a contestant."""
        if contestant.learns:
            return Progress(self._fold.cursor["log"], self._fold.cursor["row"])
        return contestant.learned if self._is_snapshot(contestant) else self._born(contestant.version)

    def _span(self, version: Version) -> TrainingSpan:
        """Return what a version is made of."""
        born = self._born(version.id)
        if version.parents:
            return self._since(version.parents[0], born, version.id)
        if not any(
            move.decision.action == "challenger" and move.decision.version == version.id for move in self._moves
        ):
            return TrainingSpan(_UNTRAINED, _NOTHING, born)
        warmed = re.search(r", warmed on (\d+) remembered rows$", version.reason)
        rows, removed = int(warmed[1]) if warmed else 0, self._removed
        after = _before(self._log, born.log, rows, self._gone, self._fold.encoder, removed)
        return TrainingSpan(_UNTRAINED, Progress(after, born.row), born)

    def _since(self, version: str, upto: Progress, child: str = "") -> TrainingSpan:
        """Return what a model is made of that began as `version` and has learned up to `upto`.

        It may have begun again since: where it was rolled back to that version, or where drift or an order restarted
        it. Decisions from the birth of `child` on are not looked at.
        """
        begun = TrainingSpan(version, self._born(version), upto)
        roster, drift = self._fold.roster, self._fold.spec.drift
        resets = roster.layout == 1 and not roster.live and drift.reaction == "reset"
        for made, detail in self._moves:
            if child and made.version == child:
                break
            if not self._born(version).log < made.at <= upto.log:
                continue
            moved = made.action in ("promote", "rollback") and made.alias == "champion"
            if moved and isinstance(detail, RolledBackWithout):
                clean = self._born(version).log < detail.first
                begun = TrainingSpan(
                    version if clean else _UNTRAINED, self._born(version if clean else made.version), upto
                )
            elif moved and made.version == version and (roster.live or _begins(detail)):
                begun = TrainingSpan(version, Progress(made.at, upto.row), upto)
            elif made.action == "drift" and (resets or (isinstance(detail, Drifted) and detail.restarts == version)):
                begun = TrainingSpan(_UNTRAINED, Progress(made.at, upto.row), upto)
        return begun

    def _left_out(self, upto: int) -> list[Without]:
        """Return the labels that rollbacks had left out by a position."""
        return [move.without for move in self._moves if move.without is not None and move.decision.at <= upto]

    def _skip(self, upto: int) -> Callable[[Event], bool]:
        """Return a test for the events not learned up to a position: erased, or left out by a rollback."""
        selections = self._left_out(upto)

        def skip(event: Event) -> bool:
            return event.position in self._gone or any(
                selection.selects(event.position, event.payload) for selection in selections
            )

        return skip

    # ---- learning ----------------------------------------------------------------------------------------------

    def _learned(self, span: TrainingSpan, spec: dict[str, Any], waiting: dict[str, Singles] | None = None) -> Model:
        """Return a model that has learned a span, for the caller to change; `waiting` is that of `rebuild`."""
        if span.after.row < span.upto.row:
            raise InputError(
                f"models have learned {span.upto.row - span.after.row} rows of files that are themselves the "
                "log, among the events to erase, so they cannot be rebuilt from the log alone; take the person out of "
                "those files, and start again from them with another home and a `subject`, which keeps rows in the log"
            )
        after = span.after.log
        if after < self._removed and after < span.upto.log:
            raise _EventsRemoved
        if self._last is not None and self._continues(self._last[0], span):
            after, rebuilt = self._last[0].upto.log, model.copy(self._last[1])
        elif span.root == _UNTRAINED:
            rebuilt = self._untrained(spec)
        else:
            rebuilt = model.copy(self._model(span.root))
        fold, spec_of = self._fold, self._fold.spec
        parts = rebuilt, self._log, fold.encoder, spec_of, after, span.upto.log
        held = fold.cursor["row"] or self._removed  # the log lacks rows of files, and what a broker has removed
        ranges = fold.bounds if held else None
        rest = ranges, waiting, fold.pending.steps, False, self._removed
        learned, _ = rebuild(*parts, self._skip(span.upto.log), *rest)
        self.rebuilt.learned += learned
        self._last = span, model.copy(rebuilt)
        return rebuilt

    def _continues(self, last: TrainingSpan, span: TrainingSpan) -> bool:
        """Return True if a span begins with another, of which no rollback has left anything out since."""
        alike = last[:2] == span[:2] and last.upto <= span.upto
        return alike and self._left_out(last.upto.log) == self._left_out(span.upto.log)

    def _model(self, id: str) -> Model:
        """Return the model of a version without the erased events: rebuilt if affected, else read."""
        if id not in self._models:
            version = self._all[id]
            if self._is_affected(id) or version.id not in self._kept:
                self._models[id] = self._remade(version)
            else:
                self._models[id] = self._untrained(version.spec)
                model.restore(self._models[id], self._versions.load(id))
        return self._models[id]

    def _remade(self, version: Version) -> Model:
        """Make a version's model again: merge its parents, or learn on from the first of them."""
        merges = [move for move in self._moves if move.decision.version == version.id]
        recipe = next((move.detail.merge for move in reversed(merges) if isinstance(move.detail, Merged)), None)
        if recipe is None:
            return self._learned(self._span(version), version.spec)
        parents = [self._model(parent) for parent in version.parents]
        ancestor = self._model(recipe.ancestor) if recipe.ancestor else None
        made = self._untrained(version.spec)
        model.restore(made, merge_versions.merge_again(recipe, parents, ancestor))
        return made

    def _untrained(self, spec: dict[str, Any]) -> Model:
        return model.build({"seed": self._fold.spec.seed, **with_layout(self._fold.spec, spec)}, self._fold.shape)


def _begins(detail: Detail) -> bool:
    """Return True if a copy of the version that took the seat learns on from that decision."""
    return isinstance(detail, Promoted | RolledBack) and bool(detail.learns)


def join_again(fold: Fold, rebuilt: Rebuilt, gone: Set[int], removed: int = 0) -> None:
    """Set what waits for labels, and the limits, to those of a log without the events at positions `gone`.

    Both stay as they are where a broker has removed the events up to position `removed`.
    """
    if not removed:
        fold.rejoin(lambda event: event.position in gone or fold.is_left_out(event), fold.cursor["log"])
    if rebuilt.traces:
        fold.pending.retrace(rebuilt.traces)


def _decisions(log: Log, upto: int | None) -> list[Decision]:
    scanned = scan(log, kinds=("decision",), upto=upto)
    return [event.payload for event in scanned if isinstance(event.payload, Decision)]


def _renamed(decisions: list[Decision]) -> list[Move]:
    """Return the decisions, about the versions that later erasures have put in the place of theirs.

    Orders are left out: they ask for something, and the decision that answers one says what was done.
    """
    moves: list[Move] = []
    names: dict[str, str] = {}
    for decision in reversed(decisions):
        if decision.action in ("order", "config"):
            continue
        detail = details.read(decision)
        if isinstance(detail, Erasure):
            names |= {old: names.get(new, new) for old, new in detail.versions.items()}
        elif isinstance(detail, Merged):
            ancestor = names.get(detail.merge.ancestor, detail.merge.ancestor)
            recipe = msgspec.structs.replace(detail.merge, ancestor=ancestor)
            detail = msgspec.structs.replace(detail, merge=recipe)
        elif isinstance(detail, Drifted) and detail.restarts is not None:
            detail = msgspec.structs.replace(detail, restarts=names.get(detail.restarts, detail.restarts))
        version = names.get(decision.version, decision.version)
        moves.append(Move(msgspec.structs.replace(decision, version=version), detail))
    return moves[::-1]


def _before(log: Log, position: int, rows: int, gone: Set[int], encoder: Reading, removed: int = 0) -> int:
    """Return the position behind which `rows` labels lie that are not gone, up to `position`.

    Raises _EventsRemoved if some of these lie among the events up to position `removed`, which a broker has removed.
    """
    upto = position
    while rows > 0 and upto > 0:
        if upto <= removed:
            raise _EventsRemoved
        start = max(removed, upto - _READ)
        for event in reversed(log.read(start, upto - start)):
            rows -= _labels(event.payload, encoder) if event.position not in gone else 0
            if rows <= 0:
                return event.position - 1
        upto = start
    return upto


def _labels(payload: Payload, encoder: Reading) -> int:
    """Return how many rows an event labels: a tie of two answers two, a skip none."""
    if encoder.late and isinstance(payload, Preference | Reward):
        with suppress(InputError):
            return len(encoder.judge(payload))
        return 0
    return int(isinstance(payload, Example | Label | Reward | Preference))
