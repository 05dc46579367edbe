"""The loop: what users hold in their hands, and the steps wired to the log.

Whatever is asked of a loop is appended to its log first, and folded after; nothing is changed on any other way.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from everlearn import config, merge, metrics, report
from everlearn.errors import InputError, LogError
from everlearn.feedback.admission import checked_weight, judgement, scalar, target, unknown
from everlearn.loop import commands, replay_log, status
from everlearn.loop.fold import Commit, Fold
from everlearn.loop.home import Home
from everlearn.loop.ingest import Ingest
from everlearn.predict import Served, answer
from everlearn.records import Decision, Event, Example, Payload, Prediction, Rejected, Scalar, Version
from everlearn.report import Watch
from everlearn.serve.isolation import FailureLog, ModelFailure
from everlearn.spec import Spec
from everlearn.stream import Stream, plain, read
from everlearn.version import codec

if TYPE_CHECKING:
    from everlearn.client.running import Running

Progress = Callable[[int, "Loop"], None]

_READ = 4096  # events read at a time
_PAUSE = 0.02  # seconds between two looks at a log in which nothing is new


def open(
    source: str | Path | Mapping[str, Any] | Spec,
    home: str | Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Loop:
    """Open a loop from `everlearn.toml`, a spec, or a plain dict; `home` is the folder it lives in.

    A new home starts a loop; a home that exists goes on where it stopped, whatever stopped it. `clock` gives the time
    of events in seconds since 1970: a simulation hands in its own.
    """
    path = Path(source) if isinstance(source, str | Path) else Path("everlearn.toml")
    if isinstance(source, str | Path):
        spec = config.load(path)
    else:
        spec = source if isinstance(source, Spec) else config.convert(source)
    return Loop(spec, Path(home) if home is not None else config.home(spec, path), clock=clock)


class Loop:
    """A model that keeps learning from its own traffic. Open one with `everlearn.open`.

    For one thread at a time, and one process at a time: `home` is locked while it is open.
    """

    def __init__(self, spec: Spec, home: Path, behind: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Open the loop in `home`; `behind` leaves what the log holds beyond the last checkpoint to `catch_up`.

        Raises `ModelError` for a model's spec that holds what is no plain value, as it could not be read back, and
        `ConfigError` for one that no model can be built from.
        """
        self.spec = config.settled(msgspec.structs.replace(spec, model=codec.plain(spec.model, "the model's spec")))
        self._clock = clock
        self._open(home, behind)

    def _open(self, home: Path, behind: bool = False) -> None:
        self.served: Served | None = None
        self._saved = self._saved_row = 0  # labelled examples, and rows, folded by the last checkpoint
        self._seen = 0  # how far the log was read; the fold's own cursor stays at the last event that moved it
        self._marks = status.Marks()
        self._faults = FailureLog()
        with ExitStack() as undo:
            self.home = Home(home, self.spec.log)
            undo.callback(self.home.close)
            self.log = self.home.log
            self._restore()
            if self.fold.started:
                self.spec, changes = replay_log.change(self.fold, self.home, self.spec)
                self.log.append(changes)
            else:
                self.fold.prepare()  # what cannot be made is refused before anything is written
            if not behind:
                self._catch_up_whole()
            undo.pop_all()

    # ---- what users call ---------------------------------------------------------------------------------------

    def predict(self, features: Mapping[str, Any], id: str | None = None) -> Prediction:
        """Answer one record with the champion: `.value`, `.proba` (in class order), `.version`, `.id`.

        The answer is in the log before it is returned. `id` may be a key of your own; it must be new.
        Raises InputError for a record that the schema cannot take.
        """
        served = self.ready()
        held = self._plain(features)
        if id is not None and (before := self.home.prediction(id)) is not None and before.features == held:
            return before  # asked again: the answer was given
        row = self.fold.learner.clip(self.fold.encoder.record(held))
        classes = int(self.fold.shape["classes"])
        given = answer(served, row, held, self.fold.encoder.answer, classes, id)
        given = msgspec.structs.replace(given, position=self._seen, subject=self._subject(features))
        self._take([given])
        return given

    def feedback(
        self,
        id: str,
        label: Scalar | None = None,
        *,
        reward: float | None = None,
        chosen: int | None = None,
        weight: float = 1.0,
        source: str = "",
    ) -> None:
        """Say what the answer `id` should have been (`label`), how good it was (`reward`), or which was preferred.

        The same feedback sent twice counts once; a different one is a correction. Raises UnknownId for an id
        that is not in the log, and InputError for feedback that the task cannot use; both leave the log as it was.
        """
        payload = judgement(id, label, reward, chosen, checked_weight(weight), source)
        target(payload, self.spec.schema.task, self.fold.encoder.label)
        if not self.spec.feedback.early and self.home.prediction(id) is None:
            raise unknown(id)
        self._take([payload])

    def learn(
        self, features: Mapping[str, Any], label: Scalar, weight: float = 1.0, id: str | None = None, source: str = ""
    ) -> None:
        """Predict and learn at once, where the label is already known."""
        held, label = self._plain(features), scalar(label)
        self.fold.encoder.label(label)
        for why in self.fold.refused(self.fold.encoder.record(held)).values():
            raise InputError(why)
        name = id or f"example-{self.log.count('example') + 1}"
        self._take([Example(name, held, label, checked_weight(weight), source, self._subject(features))])

    def run(self, stream: Stream | str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Take a stream through the loop from where it stopped last, and return the report.

        The rows are the log themselves, unless the loop has a `subject` or the stream cannot be read twice; then
        each row is appended to the log first. The files of a folder or a glob are streams one after the other, each
        taken from where it stopped. `progress(rows, loop)` is called now and then with the rows taken. Raises
        InputError for a file that was changed where it had been read already. A path is read by this loop's schema.
        """
        if not isinstance(stream, Stream):
            stream = read(stream, schema=self.spec.schema)
        began = clock = time.perf_counter()
        taken = counted = 0  # rows of this run, and those of them before the clock of the rate was set
        warming = not self.fold.learner.scored
        as_log = self.intake.is_log(stream)
        if (settled := self.intake.settle_warm_start(stream)) is not None:
            self._take([settled])
        for part in stream.parts():
            before = taken
            for rows in self._take_rows(part) if as_log else self._append_rows(part):
                taken = before + rows
                if warming:  # kernels are compiled or loaded on their first use: the rate is that of the rest
                    clock, counted = time.perf_counter(), taken
                    warming = not self.fold.learner.scored
                if progress is not None:
                    progress(taken, self)
        self.ready()
        self._save()
        now = time.perf_counter()
        rate = (taken - counted) / (now - clock) if taken > counted else taken / (now - began)
        return self.report() | {"seconds": now - began, "rows": taken, "events_per_second": rate}

    def versions(self) -> list[Version]:
        """Every version there is, oldest first."""
        return self.home.versions.list()

    def aliases(self) -> dict[str, list[str]]:
        """The aliases ("champion", "challenger", "previous") of each version id that has any."""
        return self.home.versions.aliases()

    def decisions(self) -> list[Decision]:
        """Everything that changed, or was refused, in order, with the reason."""
        return [one for one in self.home.read("decision") if isinstance(one, Decision)]

    def rejected(self) -> Iterator[Rejected]:
        """The rows that could not be used, with their line numbers and reasons."""
        return (one for one in self.home.read("rejected") if isinstance(one, Rejected))

    def promote(self, version: str, reason: str = "asked for by the user") -> Version:
        """Make a version (its id, a unique beginning of it, or an alias) the champion."""
        self.ready()
        return self._ordered(commands.promote(self.home.versions, version, reason))

    def rollback(
        self,
        reason: str = "asked for by the user",
        *,
        without: Mapping[str, Any] | None = None,
        to: str = "previous",
    ) -> Version:
        """Make the previous champion, or the version `to`, the champion again.

        `without` names labels: {"source": "key-7"}, {"first": 1200, "last": 1300} (log positions), or both. Then
        everyone that learns starts again from the last champion that had learned none of them, and learns what came
        since but for them. Raises InputError where that cannot be done; `decisions()` tells what was left out.
        """
        self.ready()
        named = commands.without(without) if without is not None else None
        return self._ordered(commands.rollback(self.home.versions, reason, named, to))

    def challenge(
        self, challenger: Mapping[str, Any] | str, reason: str = "asked for by the user", *, warm: bool = True
    ) -> Version:
        """Let a new model of any family (a spec, for instance `{"family": "linear"}`) learn in shadow, or put a version
        (by name) in shadow as it is; the gate compares it with the champion.

        A new model is warmed on what is remembered, unless `warm` is False. Raises InputError when as many models
        contend as `challengers` allows, ConfigError for a family or dial that there is not.
        """
        self.ready()
        if isinstance(challenger, str):
            return self._ordered(commands.shadow(self.home.versions, challenger, reason))
        return self._ordered(commands.challenge(self.spec, challenger, reason, None, warm))

    def merge(
        self,
        a: str,
        b: str,
        method: str = "linear",
        *,
        weights: Sequence[float] = (),
        ancestor: str = "",
        density: float = 0.0,
        scale: float = 1.0,
        seed: int = 0,
        reason: str = "asked for by the user",
    ) -> Version:
        """Merge two versions (ids, their beginnings, aliases) into a new one with two parents, and put that in shadow.

        `method` and its dials are those of `everlearn.merge.merge`; "champion" and "challenger" stand for what these
        have learned by now. Raises InputError for versions that cannot be merged, ConfigError for dials.
        """
        self.ready()
        how = merge.How(method=method, weights=tuple(weights), density=density, scale=scale, seed=seed)
        return self._ordered(commands.merge(self.spec, self.home.versions, (a, b), how, reason, ancestor))

    def withdraw(self, version: str, reason: str = "asked for by the user") -> Version:
        """Let a challenger that was started, or a version in shadow, go."""
        self.ready()
        return self._ordered(commands.withdraw(self.home.versions, version, reason))

    def report(self) -> dict[str, Any]:
        """Where the loop stands: counts, and metrics of the champion, the frozen start and the challenger."""
        actions = [one.action for one in self.decisions() if not (one.action == "reject" and one.by == "loop")]
        return {
            "events": self.intake.rows + self.log.count("example") + self.log.count("prediction"),
            "examples": self.fold.learner.scored,
            "metrics": self.fold.learner.report(),
            "drifts": actions.count("drift"),
            "versions": len(self.versions()),
            "promotions": actions.count("promote"),
            "rollbacks": actions.count("rollback"),
            "rejections": actions.count("reject"),
            "rejected": self.log.count("rejected"),
            "waiting": len(self.fold.waiting),
            "evicted": self.fold.waiting.evicted,
            "replay": self.fold.learner.composition(),
            "champion": self.home.versions.alias("champion"),
        }

    def picture(self, path: str | Path | None = None, title: str = "") -> Any:
        """Draw the metric over time of champion, challenger and frozen start, with drifts and decisions marked.

        Returns a matplotlib Figure, and writes it to `path` (the ending names the format) if one is given.
        """
        curves = {role: metrics.curve(arrays) for role, arrays in self.fold.learner.metrics.items()}
        if self.spec.mode == "live":
            del curves["challenger"]  # it is the champion that learns
        metric = "mae" if self.spec.schema.task == "regression" else "accuracy"
        title = title or f"{self.spec.schema.label}: {self.spec.mode}"
        return report.picture(curves, report.marked(self.decisions()), path, title, metric)

    def status(self) -> dict[str, Any]:
        """How the loop is now, as plain values: counts, lag, metrics and their curves, drift, replay, gate, marks.

        What `watch` draws, and what a server's page shows; see `everlearn.loop.status.of`.
        """
        return status.of(self.fold, self.home, self._marks, self._seen, self.intake.rows)

    def watch(self, seconds: float | None = None) -> Watch:
        """Show the status here, in a terminal or a notebook's cell; with `seconds`, follow the log for that long.

        What is returned keeps the same place up to date: `loop.run("data.csv", progress=loop.watch())`.
        """
        watch = Watch(self.status)
        until = time.monotonic() + (seconds or 0.0)
        while time.monotonic() < until:
            if not self.catch_up():
                time.sleep(_PAUSE)
            watch()
        return watch

    @property
    def position(self) -> int:
        """How far the log was read: every event up to this position is folded."""
        return self._seen

    def ready(self) -> Served:
        """What serves; starts the loop, untrained, if nothing has started it yet."""
        if not self.fold.started:
            for commit in self.fold.start(sum(self.fold.cursor.values())):
                self._commit(commit)
        return self.served or self._publish()

    def catch_up(self, limit: int = _READ) -> int:
        """Fold at most `limit` events of the log that have not been folded yet; return how many there were."""
        batch = self.log.read(self._seen, limit)
        if batch:
            self._seen = batch[-1].position
            self._fold(batch)
        return len(batch)

    def serve(self, host: str | None = None, port: int | None = None, workers: int | None = None) -> Running:
        """Serve this loop over HTTP in processes of their own; returns the running server, a context manager.

        Until it is stopped the loop is the server's: ask `server.client()`, or look at `server.url`. Afterwards it is
        this process's again, and knows what the server learned. What is None is as the settings say.
        """
        asked = {"host": host, "port": port, "workers": workers}
        settings = msgspec.structs.replace(
            self.spec.serve, **{name: one for name, one in asked.items() if one is not None}
        )
        spec, folder = msgspec.structs.replace(self.spec, serve=settings), self.home.folder
        self.close()
        server: Running = importlib.import_module("everlearn.app.supervisor").Server(
            spec, folder, ended=lambda: self._open(folder)
        )
        return server

    def close(self) -> None:
        """Save what was learned since the last checkpoint, and release the home."""
        if not self.home.closed:
            try:
                if self.fold.started and self._whole:
                    self._save()
            finally:
                self.home.close()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the log and checkpoints -------------------------------------------------------------------------------

    def _take_rows(self, stream: Stream) -> Iterator[int]:
        """Fold the rows of a stream that is its own log; yield how many were taken."""
        before, whole = self.intake.sources.get(stream.fingerprint, {}).get("rows", 0), False
        while not whole:  # else a model failed, and the stream is taken up again from the last checkpoint
            whole = True
            for taken, commits in self.intake.folded(stream):
                if not (whole := self._attempt(commits)):
                    self._catch_up_whole()
                    break
                if self.fold.started:
                    self._publish()
                yield taken - before

    def _append_rows(self, stream: Stream) -> Iterator[int]:
        """Append the rows of a stream to the log, and fold them; yield how many were taken."""
        for taken, payloads in self.intake.appended(stream):
            self._take(payloads)
            yield taken

    def _take(self, payloads: Sequence[Payload]) -> None:
        """Append events, and fold them; reading them back is only needed where others have written in between."""
        self._check_whole()
        if self.fold.cursor["row"] != self._saved_row:  # the order of rows and events is only known from checkpoints
            self._commit(Commit(sum(self.fold.cursor.values()), []))
        now, expected = self._clock(), self._seen + 1
        positions = self.log.append(payloads, now)
        if positions == list(range(expected, expected + len(payloads))):
            self._seen += len(payloads)
            self._fold([Event(position, now, payload) for position, payload in zip(positions, payloads, strict=True)])
        else:
            self._catch_up_whole()

    def _catch_up_whole(self) -> None:
        while self.catch_up():
            pass

    def _fold(self, batch: Sequence[Event]) -> None:
        upto = batch[-1].position
        self._attempt(self.fold.events(batch))
        while self._seen < upto:  # a model failed
            batch = [event for event in self.log.read(self._seen, _READ) if event.position <= upto]
            self._seen = batch[-1].position
            self._attempt(self.fold.events(batch))
        if self.fold.started:
            self._publish()

    def _attempt(self, commits: Iterator[Commit]) -> bool:
        """Fold, and make durable what comes of it; False: a model failed, and all is as of the last checkpoint."""
        try:
            with self._folding():
                for commit in commits:
                    self._commit(commit)
        except ModelFailure as fault:
            self.fold.failed(fault)
            self.home.reread()
            self._restore()
            return False
        return True

    def _plain(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """A record as the log will hold it, so that what is served and what is replayed are encoded from the same."""
        if not isinstance(features, Mapping):
            raise InputError(f"got a {type(features).__name__}, expected a record: a dict of field name -> value")
        self.fold.encoder.record(features)  # refuses what cannot be used
        held: dict[str, Any] = {}
        for name, kind in self.spec.schema.fields.items():
            value = features.get(name)
            if type(value) not in (bool, int) and not (type(value) is str and value.isascii()):
                value = plain(value, kind) if value is not None else None
            if value is not None:
                held[name] = value
        return held

    def _subject(self, features: Mapping[str, Any]) -> str:
        """Whose data this is, for erasure."""
        whose = features.get(self.spec.subject) if self.spec.subject else None
        return "" if whose is None else str(scalar(whose))

    @contextmanager
    def _folding(self) -> Iterator[None]:
        """Around a fold: what is interrupted half-way (Ctrl-C, a full disk) must be neither used nor saved."""
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

    def _publish(self) -> Served:
        """Let the champion of this moment answer from now on."""
        champion = self.fold.roster.champion
        self.served = Served(champion.version, champion.model)
        return self.served

    def _save(self) -> None:
        if self.fold.learner.scored != self._saved:
            self._commit(Commit(sum(self.fold.cursor.values()), []))

    def _commit(self, commit: Commit) -> None:
        """Make decisions and the state that they belong to durable."""
        arrays, fold = self.fold.state()
        header = {"fold": fold, "sources": self.intake.sources, "spec": config.stored(self.fold.spec)}
        needed = {one.version for one in self.fold.roster.contestants}
        positions = self.home.save(commit.payloads, commit.at, arrays, header, needed, self.spec.keep)
        if positions[0] == self._seen + 1:
            self._seen = positions[-1]  # what the loop writes itself need not be read back
        self._saved = self.fold.learner.scored
        self._saved_row = self.fold.cursor["row"]
        self._faults.clear()

    def _restore(self) -> None:
        """Go on from the last checkpoint, with the settings that it was made with."""
        last = self.home.last()
        spec = config.read_stored(last[2]["spec"], str(self.home.folder)) if last is not None else self.spec
        self.fold = Fold(spec, self.home.versions, self.log, self._faults)
        self.intake = Ingest(self.fold, self.log)
        self._saved = self._saved_row = self._seen = 0
        self._whole = True  # False while a fold is under way, and for ever after one was interrupted
        if last is not None:
            self.fold.load(last[1], last[2]["fold"])
            self.intake.sources = last[2]["sources"]
            self._saved, self._saved_row = self.fold.learner.scored, self.fold.cursor["row"]
            self._seen = self.fold.cursor["log"]

    def _ordered(self, order: Decision) -> Version:
        """Append an order and fold it; return the version that it was about."""
        before = self.log.end()
        self._take([order])
        done = commands.outcome(self.log, order, before)
        if done is None or done.action == "reject":
            raise InputError(done.reason if done is not None else "the order was not carried out; see decisions()")
        return self.home.versions.find(done.version)
