"""The loop: what users hold in their hands, and the steps wired to the log.

Whatever is asked of a loop is appended to its log first, and folded after; nothing is changed on any other way.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from everlearn import config, metrics, report
from everlearn.errors import ConfigError, InputError, LogError
from everlearn.feedback import checked_weight, judgement, scalar, target, unknown
from everlearn.fold import Commit, Fold
from everlearn.home import Home
from everlearn.model import cut
from everlearn.predict import Served, answer
from everlearn.records import (
    Decision,
    Event,
    Example,
    Examples,
    Payload,
    Prediction,
    Rejected,
    Scalar,
    Version,
)
from everlearn.spec import Spec
from everlearn.stream import Stream, digest, plain, read

Progress = Callable[[int, "Loop"], None]

_NO_MATTER = ("source", "home", "warm_start", "epochs")  # once a loop has started
_FIXED = ("schema", "model", "mode", "seed", "drift", "replay")
_READ = 4096  # events read, or rows taken from a stream, at a time


def open(source: str | Path | Mapping[str, Any] | Spec, home: str | Path | None = None) -> Loop:
    """Open a loop from `everlearn.toml`, a spec, or a plain dict; `home` is the folder it lives in.

    A new home starts a loop; a home that exists goes on where it stopped, whatever stopped it.
    """
    path = Path(source) if isinstance(source, str | Path) else Path("everlearn.toml")
    if isinstance(source, str | Path):
        spec = config.load(path)
    else:
        spec = source if isinstance(source, Spec) else config.convert(source)
    return Loop(spec, Path(home) if home is not None else config.home(spec, path))


class Loop:
    """A model that keeps learning from its own traffic. Open one with `everlearn.open`.

    For one thread at a time, and one process at a time: `home` is locked while it is open.
    """

    def __init__(self, spec: Spec, home: Path) -> None:
        self.spec = spec
        self.served: Served | None = None
        self._sources: dict[str, dict[str, Any]] = {}  # rows taken so far from each source, by its fingerprint
        self._unsaved = False  # whether rows were folded since the last checkpoint
        self._saved = 0  # labelled examples at the last checkpoint
        self._whole = True  # False while a fold is under way, and for ever after one was interrupted
        self._seen = 0  # how far the log was read; the fold's own cursor stays at the last event that moved it
        with ExitStack() as undo:
            self.home = Home(home, spec.log)
            undo.callback(self.home.close)
            self.log = self.home.log
            self.fold = Fold(spec, self.home.versions, self.home.prediction)
            self._restore()
            undo.pop_all()

    # ---- what users call ---------------------------------------------------------------------------------------

    def predict(self, features: Mapping[str, Any], id: str | None = None) -> Prediction:
        """Answer one record with the champion: `.value`, `.proba` (in class order), `.version`, `.id`.

        The answer is in the log before it is returned. `id` may be a key of your own; it must be new.
        Raises InputError for a record that the schema cannot take.
        """
        served = self._ready()
        held = self._plain(features)
        if id is not None and (before := self.home.prediction(id)) is not None and before.features == held:
            return before  # asked again: the answer was given
        row = self.fold.encoder.record(held)
        classes = int(self.fold.shape["classes"])
        given = answer(served, row, held, self.fold.encoder.answer, classes, id)
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
        if self.home.prediction(id) is None:
            raise unknown(id)
        self._take([payload])

    def learn(self, features: Mapping[str, Any], label: Scalar, weight: float = 1.0, id: str | None = None) -> None:
        """Predict and learn at once, where the label is already known."""
        held, label = self._plain(features), scalar(label)
        self.fold.encoder.label(label)
        name = id or f"example-{self.log.count('example') + 1}"
        self._take([Example(name, held, label, checked_weight(weight))])

    def run(self, stream: Stream | str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Take a stream through the loop from where it stopped last, and return the report.

        The rows are the log themselves, unless `log.rows` is "always" or the stream cannot be read twice; then
        each row is appended to the log first. The files of a folder or a glob are streams one after the other, each
        taken from where it stopped. `progress(rows, loop)` is called now and then with the rows taken. Raises
        InputError for a file that was changed where it had been read already. A path is read by this loop's schema.
        """
        if not isinstance(stream, Stream):
            stream = read(stream, schema=self.spec.schema)
        began = clock = time.perf_counter()
        taken = counted = 0  # rows of this run, and those of them before the clock of the rate was set
        warming = not self.fold.learner.scored
        as_log = stream.replayable and self.spec.log.rows == "auto"
        self._settle_warm_start(stream, as_log)
        for part in stream.parts():
            before = taken
            for rows in self._take_rows(part) if as_log else self._append_rows(part):
                taken = before + rows
                if warming:  # kernels are compiled or loaded on their first use: the rate is that of the rest
                    clock, counted = time.perf_counter(), taken
                    warming = not self.fold.learner.scored
                if progress is not None:
                    progress(taken, self)
        self._ready()
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
        return self._install(version, "promote", reason)

    def rollback(self, reason: str = "asked for by the user") -> Version:
        """Make the previous champion the champion again."""
        if self.home.versions.alias("previous") is None:
            raise ConfigError("there is no previous champion to roll back to: nothing has been promoted yet")
        return self._install("previous", "rollback", reason)

    def report(self) -> dict[str, Any]:
        """Where the loop stands: counts, and metrics of the champion, the frozen start and the challenger."""
        actions = [one.action for one in self.decisions()]
        rows = sum(source["rows"] for source in self._sources.values())
        return {
            "events": rows + self.log.count("example") + self.log.count("prediction"),
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
        kinds: dict[str, report.Kind] = {
            "drift": "drift",
            "promote": "promotion",
            "rollback": "rollback",
            "reject": "rejection",
        }
        marks = [
            report.Mark(int(one.detail.get("examples", 0)), kinds[one.action], one.version[:6])
            for one in self.decisions()
            if one.action in kinds
        ]
        curves = {role: metrics.curve(arrays) for role, arrays in self.fold.learner.metrics.items()}
        if self.spec.mode == "live":
            del curves["challenger"]  # it is the champion that learns
        metric = "mae" if self.spec.schema.task == "regression" else "accuracy"
        return report.picture(curves, marks, path, title or f"{self.spec.schema.label}: {self.spec.mode}", metric)

    def catch_up(self, limit: int = _READ) -> int:
        """Fold at most `limit` events of the log that have not been folded yet; return how many there were."""
        batch = self.log.read(self._seen, limit)
        if batch:
            self._seen = batch[-1].position
            self._fold(batch)
        return len(batch)

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

    # ---- streams -----------------------------------------------------------------------------------------------

    def _take_rows(self, stream: Stream) -> Iterator[int]:
        """Fold rows of a stream that can be read again: it is its own log, only decisions are written."""
        name = stream.fingerprint
        taken = self._taken(stream)
        # Rows of several sources are numbered on: this source's row r is position base + r.
        base = sum(source["rows"] for source in self._sources.values()) - taken
        pending: list[Rejected] = []
        for chunk in stream.chunks(taken, _READ):
            examples = chunk.examples
            if base:
                examples = dataclasses.replace(examples, position=examples.position + base)
            pending += [msgspec.structs.replace(one, at=one.at + base) for one in chunk.rejected]
            with self._folding():
                for commit in self.fold.examples(examples, "row") if len(examples.y) else ():
                    self._mark(name, examples, base, commit.at - base)
                    known = [one for one in pending if one.at <= commit.at]
                    pending = pending[len(known) :]
                    self._commit(Commit(commit.at, [*known, *commit.payloads]))
                self._mark(name, examples, base, chunk.last)
                self.fold.cursor["row"] = base + chunk.last
                self._unsaved = True
            yield chunk.last - taken
        if pending:
            self._ready()
            self._commit(Commit(self.fold.cursor["row"], list(pending)))

    def _mark(self, name: str, examples: Examples, base: int, rows: int) -> None:
        """Note how many rows of a source were taken, and what the last usable one of them was."""
        source = self._sources.setdefault(name, {"rows": 0, "row": 0, "digest": ""})
        source["rows"] = rows
        at = int(np.searchsorted(examples.position, base + rows, "right")) - 1
        if at >= 0:
            source["row"], source["digest"] = int(examples.position[at]) - base, digest(examples, at)

    def _taken(self, stream: Stream) -> int:
        """How many rows of a stream were taken before; refuse a file whose last taken row is not what it was."""
        source = self._sources.get(stream.fingerprint)
        if source is None:
            return 0
        if source["row"]:
            chunk = next(stream.chunks(source["row"] - 1, 1), None)
            if chunk is None or not len(chunk.examples.y) or digest(chunk.examples, 0) != source["digest"]:
                raise InputError(
                    f"{stream.name} begins like a file that was taken up to row {source['rows']} before, but its row "
                    f"{source['row']} is not what it was; a file may grow, not change: give this one another name"
                )
        return int(source["rows"])

    def _settle_warm_start(self, stream: Stream, as_log: bool) -> None:
        """Before anything has started: say how many rows the warm start has, and make all its passes but the last."""
        if self.fold.started or not self.spec.warm_start:
            return
        if self.spec.epochs > 1 and not as_log:
            raise ConfigError(
                f"epochs = {self.spec.epochs} needs a file that is itself the log; its rows are read again"
            )
        if self.spec.warm_start < 1:
            if stream.rows is None:
                raise ConfigError(
                    f"warm_start = {self.spec.warm_start:g} is a share, but the length of {stream.name} is not known; "
                    "give a number of rows instead, for instance warm_start = 1000"
                )
            self.fold.warm_rows = int(self.spec.warm_start * stream.rows)
            if not as_log:  # what is folded from the log must be in the log
                detail = {"warm_rows": self.fold.warm_rows}
                self._take([Decision("config", 0, f"warm start of {detail['warm_rows']} rows", "loop", detail=detail)])
        for _ in range(self.spec.epochs - 1):
            left = self.fold.warm_rows
            for chunk in stream.chunks(0, _READ):
                used = min(left, len(chunk.examples.y))
                self.fold.rehearse(cut(chunk.examples, 0, used))
                left -= used
                if not left:
                    break

    def _append_rows(self, stream: Stream) -> Iterator[int]:
        """Append each row of a stream to the log, then fold it; rows that the log has already are not added again."""
        taken, number = 0, 0
        if not stream.replayable:
            # Every reading of standard input is a new stretch of one stream; a raw row is an example or rejected.
            number = self.log.count("example") + self.log.count("rejected")
        elif (last := self.log.last("example")) is not None and isinstance(last.payload, Example):
            name, _, row = last.payload.id.rpartition(":")
            taken = int(row) if name == stream.fingerprint else 0
        for chunk in stream.records(taken, _READ):
            labelled = zip(chunk.positions, chunk.features, chunk.labels, strict=True)
            examples = [
                Example(f"{stream.fingerprint}:{number + row}", record, label) for row, record, label in labelled
            ]
            self._take([*examples, *(msgspec.structs.replace(one, at=one.at + number) for one in chunk.rejected)])
            yield chunk.last - taken

    # ---- the log and checkpoints -------------------------------------------------------------------------------

    def _take(self, payloads: Sequence[Payload]) -> None:
        """Append events, and fold them; reading them back is only needed where others have written in between."""
        self._check_whole()
        if self._unsaved:  # the order of rows and events is only known as long as checkpoints keep it
            self._commit(Commit(sum(self.fold.cursor.values()), []))
        now, expected = time.time(), self._seen + 1
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
        with self._folding():
            for examples, group in groupby(batch, lambda event: isinstance(event.payload, Example)):
                if examples:
                    for commit in self.fold.example_events(list(group)):
                        self._commit(commit)
                    continue
                for event in group:
                    for commit in self.fold.event(event):
                        self._commit(commit)
        if self.fold.started:
            self._publish()

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

    def _ready(self) -> Served:
        """Start the loop if nothing has started it yet; return what serves."""
        if not self.fold.started:
            for commit in self.fold.start(sum(self.fold.cursor.values())):
                self._commit(commit)
        return self.served or self._publish()

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
        header = {"fold": fold, "sources": self._sources, "spec": msgspec.to_builtins(self.spec)}
        needed = {one.version for one in self.fold.roster.contestants}
        positions = self.home.save(commit.payloads, commit.at, arrays, header, needed, self.spec.keep)
        if positions[0] == self._seen + 1:
            self._seen = positions[-1]  # what the loop writes itself need not be read back
        self._saved = self.fold.learner.scored
        self._unsaved = False

    def _restore(self) -> None:
        """Go on from the last checkpoint, then fold what the log holds beyond it."""
        last = self.home.last()
        if last is not None:
            at, arrays, header = last
            changed = self._changed(msgspec.convert(header["spec"], Spec))
            self.fold.load(arrays, header["fold"])
            self._sources = header["sources"]
            self._saved = self.fold.learner.scored
            self._seen = self.fold.cursor["log"]
            if "gate" in changed:
                self.fold.roster.ask_anew()
            if changed:
                settings = msgspec.to_builtins(self.spec)
                detail = {name: settings.get(name) for name in changed} | {"number": self.log.count("decision")}
                reason = "settings changed: " + ", ".join(changed)
                self._commit(Commit(at, [Decision("config", at, reason, "user", detail=detail)]))
        self._catch_up_whole()

    def _changed(self, before: Spec) -> list[str]:
        """The settings that changed since the last checkpoint; refuse those that its arrays depend on."""
        names = (field.name for field in msgspec.structs.fields(Spec) if field.name not in _NO_MATTER)
        changed = [name for name in names if getattr(before, name) != getattr(self.spec, name)]
        if fixed := [name for name in changed if name in _FIXED]:
            raise ConfigError(
                f"{self.home.folder} was started with other settings: "
                + "; ".join(f"{name} was {_shown(before, name)}, is now {_shown(self.spec, name)}" for name in fixed)
                + ". Put them back, or start anew with another home"
            )
        return changed

    def _install(self, name: str, action: Literal["promote", "rollback"], reason: str) -> Version:
        """Append a user's decision; folding it carries it out."""
        self._ready()
        version = self.home.versions.find(name)
        champion = self.fold.roster.champion
        self.home.versions.load(version.id, spec=self.spec.model, like=champion.model.arrays)
        detail = {"examples": self.fold.learner.scored, "number": self.log.count("decision")}
        at = sum(self.fold.cursor.values())
        decision = Decision(action, at, reason, "user", "champion", version.id, champion.version, detail=detail)
        self.home.versions.note(decision)
        self._take([decision])
        self._commit(Commit(at, []))
        return version


def _shown(spec: Spec, name: str) -> Any:
    return msgspec.to_builtins(getattr(spec, name))
