"""Rebuild the state of a loop from its log alone: from the first position, without any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from everlearn import config
from everlearn.errors import InputError, LogError
from everlearn.events import Log, scan
from everlearn.feedback.names import FieldNames
from everlearn.loop import details
from everlearn.loop.details import Erasure
from everlearn.loop.erase.rebuilding import Rebuilding, join_again
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.loop.ingest import Ingest
from everlearn.loop.logged import history
from everlearn.loop.rebuild import training_positions
from everlearn.loop.stretch import Commit, Cursor
from everlearn.loop.timeline import Events, Order, Rows, Start, Step, Timeline, Unlearn
from everlearn.records import Born, Decision, Erased, Payload
from everlearn.serve.contestant import Progress
from everlearn.spec import Spec
from everlearn.stream import Stream
from everlearn.version.registry import Versions

_READ = 4096  # events read at a time
_TAUGHT = ("example", "label", "reward", "preference")


def replay_log(log: Log, versions: Versions, settings: Spec | None = None) -> Fold:
    """Return the fold of all events of a log, as the loop has it that wrote the log.

    The settings are those that the first decision holds; each decision that changed them applies at its position.
    `versions` is an empty registry, in which the fold stores what it decides. `settings` are those of the beginning,
    where the log does not hold them, as one that release 0.1.0 started. Raises LogError for a log without a first
    decision, or without settings; ModelError where a model fails. Rows of a file that is itself the log are not in the
    log: `LogReplay` takes them where an order of both is known.
    """
    replay = LogReplay(log, versions, settings)
    replay.run(next(Timeline(log).orders(rows=0)))
    return replay.fold


class LogReplay:
    """The fold of a log and of rows of files, from the first of them. `ingest` counts the rows."""

    def __init__(
        self,
        log: Log,
        versions: Versions,
        settings: Spec | None = None,
        streams: Sequence[Stream] = (),
        warm_rows: int | None = None,
    ) -> None:
        """`streams` have the rows, and `warm_rows` is their number in the warm start; None: as the settings say.

        Raises as `replay_log` does.
        """
        start = next((made for _, made in _decisions(log, 0) if made.action == "start"), None)
        stored = details.full_spec(start) if start is not None else None
        first = config.read_stored(stored, "the log") if stored is not None else settings
        if start is None or first is None:
            raise LogError(
                "the log's first decision: got no settings; expected a log that this release started. Open the loop "
                "from its checkpoints instead"
            )
        self.fold = Fold(first, versions, log)
        self.ingest = Ingest(self.fold, log, FieldNames(first))
        if warm_rows is not None:
            self.fold.warm_up.rows = warm_rows
        self._log, self._versions = log, versions
        self._parts = [part for stream in streams for part in self.ingest.parts(stream)]
        self._came = 0  # the last position that was read

    def run(self, order: Order, look: tuple[Progress, Callable[[Fold], None]] | None = None) -> None:
        """Take the steps of an order; `look` is called wherever the fold has come as far as its progress."""
        stop, show = look if look is not None else (None, None)
        for step in order.steps:
            for part in self._parts_of(step, stop):
                self._take(part)
                if show is not None and stop == (self.fold.cursor["log"], self.fold.cursor["row"]):
                    show(self.fold)

    def _parts_of(self, step: Step, stop: Progress | None) -> list[Step]:
        """Cut a step where the fold has come as far as `stop`."""
        if isinstance(step, Events) and stop is not None and self._came < stop.log < step.upto:
            return [Events(stop.log), step]
        if isinstance(step, Rows) and stop is not None and self.ingest.rows < stop.row < step.upto:
            return [Rows(stop.row), step]
        return [step]

    def _take(self, step: Step) -> None:
        match step:
            case Events(upto):
                self._at("log")
                self._events(upto)
            case Rows(upto):
                self._at("row")
                self._rows(upto)
            case Start(at, cursor):
                self._at(cursor)
                if not self.fold.started:
                    self._note(self.fold.start(at))
            case Unlearn(position):
                self._at("log")
                self._unlearn(position)

    def _at(self, cursor: Cursor) -> None:
        if (followed := history(self._versions)) is not None:
            followed.cursor = cursor

    def _events(self, upto: int) -> None:
        while self._came < upto and (batch := self._log.read(self._came, min(_READ, upto - self._came))):
            self._came = batch[-1].position
            self._note(self.fold.events(batch))

    def _rows(self, upto: int) -> None:
        """Fold the next rows of the files. Raises InputError where they have too few."""
        for part in self._parts:
            left = upto - self.ingest.rows
            if left <= 0:
                return
            taken = self.ingest.sources.get(part.fingerprint, {}).get("rows", 0)
            for _, commits in self.ingest.folded(part.first(taken + left)):
                self._note(commits)
        if self.ingest.rows < upto:
            names = ", ".join(part.name for part in self._parts)
            raise InputError(
                f"{names}: got {self.ingest.rows} rows; expected the {upto} that the loop has read. Put it back"
            )

    def _unlearn(self, position: int) -> None:
        """Rebuild the models as an erasure of the log did, which has the same events left."""
        made = self._log.read(position - 1, 1)[0].payload
        followed, fold = history(self._versions), self.fold
        if not isinstance(made, Decision) or followed is None:
            return
        erasure = details.read(made)
        first = erasure.first if isinstance(erasure, Erasure) and erasure.first else self._first_erased(position)
        learned = training_positions(self._log)
        kept = {
            version.id
            for version in self._versions.list()
            if version.id in details.replaced(made) or learned.get(version.id, Progress(0, 0)).log < first
        }
        followed.erasing(made)
        rebuilt = Rebuilding(fold, self._versions, self._log, kept, frozenset(), first, position - 1).run()
        join_again(fold, rebuilt, frozenset())
        followed.erasing(None)
        for version in rebuilt.versions.values():
            self._versions.note(Born(version))
        self._versions.note(made)
        if isinstance(erasure, Erasure):
            fold.taken.note(f"{name}:{row}" for name, row in erasure.taken.items())

    def _first_erased(self, position: int) -> int:
        """Return the first position before an erasure from which a model may have learned an erased event; 0: none."""
        default = self.fold.spec.feedback.default is not None
        for event in scan(self._log, kinds=("erased",), upto=position):
            if isinstance(event.payload, Erased):
                was = event.payload.was
                if was in _TAUGHT or (default and was == "prediction"):
                    return event.position
        return 0

    def _note(self, commits: Iterable[Commit]) -> None:
        """Fold, and take the versions and aliases that come of it."""
        for commit in commits:
            for payload in commit.payloads:
                if isinstance(payload, Born | Decision):
                    self._versions.note(payload)


def change(fold: Fold, home: Home, spec: Spec) -> tuple[Spec, list[Payload]]:
    """Return the settings that a loop goes on with, and the decision to log if `spec` changes them.

    Unchanged means as in the last decision of the log that holds settings, else as in the fold. Raises ConfigError for
    a changed setting that learned state depends on, or one that cannot work.
    """
    log, where = home.log, str(home.folder)
    held = (details.full_spec(decision) for _, decision in _decisions(log, fold.cursor["log"]))
    known = [settings for settings in held if settings is not None]
    before = config.read_stored(known[-1], where) if known else fold.spec
    spec = config.resumed(before, spec)
    if not (changed := config.changed(before, spec, where)):
        return spec, []
    Fold(spec, home.versions, log)  # settings that contradict each other are refused before anything is written
    settings = msgspec.to_builtins(spec)
    detail = {name: settings.get(name) for name in changed} | {"number": log.count("decision")}
    if all(details.full_spec(made) is None for _, made in _decisions(log, 0)):  # as in a home of release 0.1.0
        detail["before"] = config.stored(before)
    reason = "settings changed: " + ", ".join(changed)
    at = sum(fold.cursor.values())
    return spec, [Decision("config", at, reason, "user", detail=detail | {"spec": config.stored(spec)})]


def _decisions(log: Log, after: int) -> Iterator[tuple[int, Decision]]:
    """Yield the decisions behind a position, each with its own."""
    for event in scan(log, after, ("decision",)):
        if isinstance(event.payload, Decision):
            yield event.position, event.payload
