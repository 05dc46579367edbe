"""A loop's log, its state, and the checkpoints that hold the state: events are appended, folded and made durable.

`Journal` is the part of a loop that changes. `loop.py` is the part that users hold.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from everlearn import config, events
from everlearn.bridges.mirror import Mirror
from everlearn.errors import ConfigError, LogError
from everlearn.feedback.names import FieldNames
from everlearn.loop import commands, replay_log
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.loop.ingest import Ingest
from everlearn.loop.stretch import Commit, Cursor
from everlearn.records import Event, Payload
from everlearn.serve.isolation import FailureLog, ModelFailure
from everlearn.serve.snapshot import Answering
from everlearn.spec import Spec
from everlearn.stream import Stream

if TYPE_CHECKING:
    from everlearn.bridges.mlflow import Follower

PARTITIONED = "partitions.sqlite"  # the log of a run in partitions, in its home
READ = 4096  # events read at a time


def mirrored(home: Path, spec: Spec) -> Mirror | None:
    """Start to copy a loop to the registry of its settings, beside it; None where there is none."""
    if not spec.mlflow.uri:
        return None
    follower: list[Follower] = []

    def push() -> None:
        """Import the library in the thread of the mirror, where a missing one stops nothing."""
        if not follower:
            follower.append(importlib.import_module("everlearn.bridges.mlflow").Follower(home, spec))
        follower[0].push()

    return Mirror(push)


class Journal:
    """The log of one loop and its state. `seen` is the last event read; `served` the model that answers, or None."""

    def __init__(self, spec: Spec, home: Path, behind: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Open the home; `behind` leaves the events after the last checkpoint to `catch_up`. Raises as `Loop` does."""
        if spec.log.encrypt and not spec.subject:
            raise ConfigError(
                "log.encrypt: got true without `subject`; expected the field that says whose data a row is, since each "
                "subject has a key. Set `subject`, or leave log.encrypt out"
            )
        check_one_learner(spec, home)
        self.spec = spec
        self.served: Answering | None = None  # replaced whole
        self.seen = 0  # the fold's cursor stays at the last event that changed it
        self._saved = self._saved_row = 0  # labelled examples, and rows, folded at the last checkpoint
        self._waiting: list[Payload] = []  # decisions that become durable with the next checkpoint
        self._clock = clock
        self._faults = FailureLog()
        self._names = FieldNames(spec)  # counted since the loop was opened, whatever is restored
        with ExitStack() as undo:
            self.home = Home(home, self.spec.log)
            undo.callback(self.home.close)
            self.log = self.home.log
            self._restore()
            if self.fold.started:
                self.spec, changes = replay_log.change(self.fold, self.home, self.spec)
                self.log.append(changes)
            else:
                self.fold.warm_up.model()  # refuses a model that cannot be built, before anything is written
            if not behind:
                self.catch_up_whole()
            self._mirror = mirrored(home, self.spec)
            undo.pop_all()

    def ready(self) -> Answering:
        """Return the model that answers; start the loop, untrained, if it has not started yet."""
        if not self.fold.started:
            for commit in self.fold.start(sum(self.fold.cursor.values())):
                self.commit(commit)
        return self.served or self._publish()

    def waits(self, id: str) -> bool:
        """Return True for a prediction that waits for feedback, and so is in the log."""
        return id in self.fold.pending

    def catch_up(self, limit: int = READ) -> int:
        """Fold at most `limit` events of the log that are not folded yet; return their number."""
        batch = self.log.read(self.seen, limit)
        if batch:
            self.seen = batch[-1].position
            self._fold(batch)
        return len(batch)

    def close(self) -> None:
        """Save all that was learned since the last checkpoint, and release the home."""
        if not self.home.closed:
            try:
                if self.fold.started and self._whole:
                    self.save()
            finally:
                self.home.close()
                if self._mirror is not None:
                    self._mirror.close()

    # ---- events and rows ---------------------------------------------------------------------------------------

    def take_rows(self, stream: Stream) -> Iterator[int]:
        """Fold the rows of a stream that is its own log; yield the number of rows taken."""
        before, whole = self.intake.sources.get(stream.fingerprint, {}).get("rows", 0), False
        while not whole:  # else a model failed, and the stream is read again from the last checkpoint
            whole = True
            for taken, commits in self.intake.folded(stream):
                if not (whole := self._attempt(commits, "row")):
                    self.catch_up_whole()
                    break
                if self.fold.started:
                    self._publish()
                yield taken - before

    def append_rows(self, stream: Stream) -> Iterator[int]:
        """Append the rows of a stream to the log, and fold them; yield the number of rows taken."""
        for taken, payloads in self.intake.appended(stream):
            self.take(payloads)
            yield taken

    def take(self, payloads: Sequence[Payload], times: Sequence[float] = ()) -> list[int]:
        """Append events and fold them; return their positions; an event that the log holds already has its old one.

        `times` are those of the events, in seconds since 1970 (default: now). The events are read back only if another
        process wrote in between.
        """
        self._check_whole()
        if not payloads:
            return []
        if self.fold.cursor["row"] != self._saved_row:  # only checkpoints record the order of rows and events
            self.commit(Commit(sum(self.fold.cursor.values()), []))
        times, expected = times or [self._clock()] * len(payloads), self.seen + 1
        positions = self.log.write(events.rows_of(payloads, times))
        if positions == list(range(expected, expected + len(payloads))):
            self.seen += len(payloads)
            self._fold(list(map(Event, positions, times, payloads)))
        else:
            self.catch_up_whole()
        return positions

    def catch_up_whole(self) -> None:
        while self.catch_up():
            pass

    def _fold(self, batch: Sequence[Event]) -> None:
        upto = batch[-1].position
        self._attempt(self.fold.events(batch), "log")
        while self.seen < upto:  # a model failed
            batch = [event for event in self.log.read(self.seen, READ) if event.position <= upto]
            self.seen = batch[-1].position
            self._attempt(self.fold.events(batch), "log")
        if self.fold.started:
            self._publish()

    def _attempt(self, commits: Iterator[Commit], cursor: Cursor) -> bool:
        """Fold what moves a cursor, and make the commits durable.

        Returns False if a model failed and the last checkpoint was restored.
        """
        try:
            with self._folding():
                for commit in commits:
                    if commit.waits:
                        self._waiting += commit.payloads
                    else:
                        self.commit(commit)
                if self._waiting:  # a checkpoint for each would take longer than the learning
                    self.commit(Commit(self.fold.cursor[cursor], []))
        except ModelFailure as fault:
            self.fold.failed(fault)
            self.home.reread()
            self._restore()
            return False
        return True

    @contextmanager
    def _folding(self) -> Iterator[None]:
        """Mark a fold: state that is interrupted half-way (Ctrl-C, a full disk) must be neither used nor saved."""
        self._check_whole()
        self._whole = False
        yield
        self._whole = True

    def _check_whole(self) -> None:
        if not self._whole:
            raise LogError(
                "this loop was interrupted while it learned; close it and open it again: it goes on from its last "
                "checkpoint, as if nothing had happened"
            )

    def _publish(self) -> Answering:
        """Let the current champion answer from now on."""
        self.served = self.fold.serving()
        return self.served

    def save(self) -> None:
        if self.fold.monitor.scored != self._saved:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make the state durable. Raises LogError for one that was interrupted half-way."""
        self._check_whole()
        if self.fold.started:
            self.commit(Commit(sum(self.fold.cursor.values()), []))

    def commit(self, commit: Commit) -> None:
        """Make decisions durable, together with the state that they belong to."""
        arrays, fold = self.fold.state()
        header = {"fold": fold, "sources": self.intake.sources, "spec": config.stored(self.fold.spec)}
        needed = {contestant.version for contestant in self.fold.roster.contestants}
        waited, self._waiting = self._waiting, []
        payloads, kept = [*waited, *commit.payloads], (self.spec.keep, self.spec.keep_bytes)
        positions = self.home.save(payloads, commit.at, arrays, header, needed, *kept)
        if positions[0] == self.seen + 1:
            self.seen = positions[-1]  # the loop need not read back its decisions
        self._saved = self.fold.monitor.scored
        self._saved_row = self.fold.cursor["row"]
        self._faults.clear()

    def _restore(self) -> None:
        """Go on from the last checkpoint, with the settings that it was made with."""
        last = self.home.last()
        if last is None:
            self.spec = commands.settled(self.spec)
        spec = config.read_stored(last[2]["spec"], str(self.home.folder)) if last is not None else self.spec
        self.fold = Fold(spec, self.home.versions, self.log, self._faults)
        self.intake = Ingest(self.fold, self.log, self._names)
        self._saved = self._saved_row = self.seen = 0
        self._waiting = []
        self._whole = True  # False during a fold, and for ever after a fold was interrupted
        if last is not None:
            self.fold.load(last[1], last[2]["fold"])
            self.intake.sources = last[2]["sources"]
            self._saved, self._saved_row = self.fold.monitor.scored, self.fold.cursor["row"]
            self.seen = self.fold.cursor["log"]


def check_one_learner(spec: Spec, home: Path) -> None:
    """Raise ConfigError for settings, or a home, of a run in partitions."""
    if spec.partitions.count > 1:
        raise ConfigError(
            f"partitions.count: got {spec.partitions.count}; expected 1 in a loop that serves or has versions. Several "
            "learners learn files: `everlearn run`, or everlearn.prequential"
        )
    if (home / PARTITIONED).exists():
        raise ConfigError(
            f"{home} is the home of a run in partitions; expected another folder for a loop with one learner. Set "
            "`home` to that folder"
        )
