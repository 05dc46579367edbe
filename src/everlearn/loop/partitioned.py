"""Runs with `partitions.count` above 1: files through several learners, in a home of another kind.

    home/lock                 held by the one process that runs
    home/partitions.sqlite    the settings, a decision for each merge with its cursors, and checkpoints
    home/blobs/               the last two checkpoints: merged arrays, what stays in partitions, and metrics

A run begins at the last checkpoint. Merges that were recorded after it are made again at the same cursors, and give the
same bytes. Such a home has no versions, guard or challengers: see docs/how-to/partitions.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from everlearn import _private, events, metrics, report, schema
from everlearn.config import default_model
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate.partitioned import Costs, PartitionedScores, Scoring, learned
from everlearn.evaluate.scoring import task_of
from everlearn.events import Log
from everlearn.loop import commands
from everlearn.loop.home import held
from everlearn.loop.journal import PARTITIONED
from everlearn.model import Model, copied, own_loss, prefixed, restore, within
from everlearn.records import Arrays, Checkpoint, Decision
from everlearn.scale.partitions.dealing import OPENING, Dealing, checked
from everlearn.scale.partitions.group import Barrier, Group, Position, Saved, SavedScores
from everlearn.schema import moments
from everlearn.spec import LogSpec, Schema, Spec
from everlearn.stream import Stream
from everlearn.version.blobs import blobs_of

KEPT = 2  # checkpoints

Progress = Callable[[int], None]
Watch = Callable[[Group, Barrier | Saved], None]

# Settings of parts that a run in partitions does not have
_ABSENT = (
    *("gate", "drift", "replay", "feedback", "decision", "bandit", "log", "limits", "class_weight", "strict"),
    *("challengers", "mlflow"),
)


class Origin(msgspec.Struct, frozen=True):
    """The settings with which a home began, in its first decision; `warm` rows are learned and not scored."""

    dealing: Dealing
    model: dict[str, Any]
    schema: dict[str, Any]
    segment: str
    warm: int
    fingerprint: str


class PartitionedRun:
    """An open home of a run in partitions. Use `opened`."""

    def __init__(self, spec: Spec, folder: Path, stream: Stream, log: Log) -> None:
        self.spec, self.stream = spec, stream
        self._log, self._blobs, self._epoch = log, blobs_of(folder, LogSpec()), log.acquire()
        self.origin = self._settle()
        self.model: Model = commands.build(self.spec, self.spec.model)
        self.scores = _scores(self.spec, self.model, self.origin.warm)
        self.rows = [0] * self.origin.dealing.count
        self.merges = 0
        self._last: Barrier | None = None
        self._recorded = {found.number: found for found in self.barriers()}
        self._checkpoints: list[str] = []
        self.start = self._restore()
        self._saved = 0 if self.start is None else self.start.position.at

    @property
    def at(self) -> int:
        """The row of the stream after which the last checkpoint is."""
        return self._saved

    def barriers(self) -> list[Barrier]:
        """Return all recorded barriers, in order."""
        found = [event.payload for event in events.scan(self._log, kinds=("decision",))]
        return [
            msgspec.convert(one.detail["barrier"], Barrier)
            for one in found
            if isinstance(one, Decision) and "barrier" in one.detail
        ]

    def run(self, progress: Progress | None = None, watch: Watch | None = None) -> dict[str, Any]:
        """Learn what the stream has after the last checkpoint, and return the report. Raises as `learned` does.

        At each barrier, `progress(row)` and `watch(group, reached)` are called after it was recorded; `watch` also with
        each checkpoint.
        """
        began, before = time.perf_counter(), sum(self.rows)

        def note(group: Group, reached: Barrier | Saved) -> None:
            if isinstance(reached, Saved):
                self._save(reached)
            else:
                self._note(reached)
                if progress is not None:
                    progress(reached.at)
            if watch is not None:
                watch(group, reached)

        _, costs = learned(
            self.model, self.stream, self.origin.dealing, self.scores, segment=self.spec.metrics.segment,
            start=self.start, keep=self.spec.checkpoint, watch=note,
        )  # fmt: skip
        return self._report(costs, sum(self.rows) - before, time.perf_counter() - began)

    def _settle(self) -> Origin:
        """Return the settings of the home, and store those of a new one.

        Raises `ConfigError` where they differ, and `InputError` for another file.
        """
        first = next(iter(events.scan(self._log, kinds=("decision",))), None)
        stored = None
        if first is not None and isinstance(first.payload, Decision):
            stored = msgspec.convert(first.payload.detail, Origin)
        if stored is None:
            self.spec = default_model.completed(self.spec, schema.shape(self.spec.schema))
        else:
            self.spec = default_model.kept(self.spec, stored.model)
        dealing = dealing_of(self.spec)
        warm = int(self.spec.warm_start)
        if 0.0 < self.spec.warm_start < 1.0 and stored is None:
            warm = int(self.spec.warm_start * (self.stream.rows or 0))
        dealing = msgspec.structs.replace(dealing, opening=max(OPENING, warm))
        model = msgspec.json.decode(msgspec.json.encode({"seed": self.spec.seed, **self.spec.model}))
        known = msgspec.json.decode(msgspec.json.encode(self.spec.schema))
        now = Origin(dealing, model, known, self.spec.metrics.segment, warm, self.stream.fingerprint)
        if stored is None:
            detail = msgspec.to_builtins(now)
            self._log.save([Decision("config", 0, "the settings of this run", "loop", detail=detail)], self._epoch)
            return now
        now = msgspec.structs.replace(
            now, dealing=msgspec.structs.replace(dealing, opening=stored.dealing.opening), warm=stored.warm
        )
        for name in ("dealing", "model", "schema", "segment"):
            if getattr(now, name) != getattr(stored, name):
                raise ConfigError(
                    f"{name}: got {getattr(now, name)}; expected {getattr(stored, name)}, with which this home began. "
                    "Set it back, or name another home"
                )
        if now.fingerprint != stored.fingerprint:
            raise InputError(
                f"{self.stream.name} is not the file that this home has learned; a file may grow, not change. Name "
                "another home for other files"
            )
        return stored

    def _restore(self) -> Saved | None:
        """Load the last checkpoint, with which learning begins; None if there is none."""
        saved = [event.payload for event in events.scan(self._log, kinds=("checkpoint",))]
        checkpoints = [one for one in saved if isinstance(one, Checkpoint)]
        if not checkpoints:
            return None
        self._checkpoints = [one.blob for one in checkpoints[-KEPT:]]
        arrays, header = self._blobs.get(checkpoints[-1].blob)
        restore(self.model, within(arrays, "model/"))
        scores = SavedScores(within(arrays, "scores/"), header["scores"])
        self.scores.load(*scores)
        self.rows = [int(rows) for rows in header["rows"]]
        self.merges = int(header["number"])
        position = Position(self.merges, checkpoints[-1].at)
        return Saved(position, copied(self.model.arrays), within(arrays, "local/"), scores)

    def _note(self, barrier: Barrier) -> None:
        """Record a barrier, or check that one made again is the recorded one."""
        self._last, self.merges = barrier, barrier.number
        own = [barrier.rows[0], *[0] * (len(self.rows) - 1)] if barrier.opening else barrier.rows
        self.rows = [before + more for before, more in zip(self.rows, own, strict=True)]
        known = self._recorded.get(barrier.number)
        if known is not None:
            if known != barrier:
                raise InputError(
                    f"{self.stream.name}: merge {barrier.number} is at {barrier.cursors} now, and was recorded at "
                    f"{known.cursors}; the file has changed in rows that were learned. Put it back, or name another "
                    "home"
                )
        elif barrier.at % self.origin.dealing.every == 0 or barrier.at == self.origin.dealing.opening:
            self._log.save([_decision(barrier)], self._epoch)  # the last one is recorded with its checkpoint
            self._recorded[barrier.number] = barrier

    def _save(self, saved: Saved) -> None:
        """Write a checkpoint at the last barrier, with the decision of that if it is not recorded."""
        number, at = saved.position
        arrays: Arrays = prefixed("model/", saved.arrays) | prefixed("local/", saved.local)
        arrays |= prefixed("scores/", saved.scores.arrays)
        whole = {"scores": saved.scores.header, "rows": self.rows, "number": number}
        blob = self._blobs.put(arrays, whole, packed=True)
        more = [] if self._last is None or number in self._recorded else [_decision(self._last)]
        self._log.save([*more, Checkpoint(at, blob)], self._epoch)
        self._recorded |= {} if self._last is None else {number: self._last}
        self._saved = at
        self._checkpoints = [*[one for one in self._checkpoints if one != blob][-(KEPT - 1) :], blob]
        for other in self._blobs.sizes().keys() - set(self._checkpoints):
            self._blobs.remove(other)

    def _report(self, costs: Costs, rows: int, seconds: float) -> dict[str, Any]:
        """Return the report as plain values: what `everlearn run --json` prints."""
        task = task_of({**schema.shape(self.spec.schema), **self.model.spec})[0]
        found, naive = self.scores.scored.results(), self.scores.naive.results()
        partitions = [
            {"partition": number, "rows": own, "cpu_seconds": spent}
            for number, (own, spent) in enumerate(zip(self.rows, costs.partitions, strict=True))
        ]
        return {
            "task": task,
            "metric": metrics.chosen(self.spec.metric, task, self.scores.scored.arrays, own_loss(self.model)),
            "metrics": {"champion": found["metrics"], **naive["baselines"]},
            "segments": found["segments"],
            "events": self.scores.events,
            "examples": self.scores.events,
            "rejected": self.scores.rejected,
            "partitions": partitions,
            "merges": self.merges,
            "restarts": costs.restarts,
            "rows": rows,
            "seconds": seconds,
            "events_per_second": costs.rate,
        }

    def picture(self, path: Path, title: str) -> bool:
        """Draw the headline metric over the stream; return False if no row was scored."""
        if not self.scores.events:
            return False
        found, naive = self.scores.scored.results(), self.scores.naive.results()
        curves = {"champion": found["curve"], **naive["baseline_curves"]}
        task = task_of({**schema.shape(self.spec.schema), **self.model.spec})[0]
        chosen = metrics.chosen(self.spec.metric, task, self.scores.scored.arrays, own_loss(self.model))
        report.picture(curves, (), path, title, report.drawable(chosen, found["curve"]))
        path.chmod(_private.MODE)
        return True


@contextmanager
def opened(spec: Spec, folder: Path, stream: Stream) -> Iterator[PartitionedRun]:
    """Open or create the home of a run in partitions.

    Raises `ConfigError` for settings that such a run does not have, and for a home of another kind; `InUse` while
    another process has it open.
    """
    check(spec)
    if events.exists(folder):
        raise ConfigError(
            f"{folder} is the home of a loop with one learner; partitions expect another home. Set `home` to "
            "another folder, or partitions.count to 1"
        )
    lock = held(folder)
    try:
        log = events.connect(str(folder / PARTITIONED))
        try:
            yield PartitionedRun(spec, folder, stream, log)
        finally:
            log.close()
    finally:
        lock.close()


def saved_arrays(folder: str | Path) -> Arrays:
    """Return the merged arrays of the last checkpoint of a home. Raises `InputError` if there is none."""
    folder = Path(folder)
    with _reading(folder) as log:
        saved = log.last("checkpoint")
        if saved is None or not isinstance(saved.payload, Checkpoint):
            raise InputError(f"{folder} has no checkpoint yet; run it first")
        return copied(within(blobs_of(folder, LogSpec()).get(saved.payload.blob)[0], "model/"))


@contextmanager
def _reading(folder: Path) -> Iterator[Log]:
    if not (folder / PARTITIONED).exists():
        raise InputError(f"{folder} is not the home of a run in partitions; expected one with {PARTITIONED}")
    log = events.connect(str(folder / PARTITIONED))
    try:
        yield log
    finally:
        log.close()


def dealing_of(spec: Spec) -> Dealing:
    """Return the rule that deals rows, as the settings say. Raises `ConfigError` for a wrong number."""
    chosen = spec.partitions
    return checked(Dealing(count=chosen.count, every=chosen.every, key=chosen.key or spec.subject))


def check(spec: Spec) -> None:
    """Raise ConfigError for settings that a run in partitions does not have."""
    without = Spec(schema=Schema(label="", task="binary", fields={}))
    hint = f"partitions.count = {spec.partitions.count}"
    if spec.mode != "live":
        raise ConfigError(f"mode: got {spec.mode!r} with {hint}; expected 'live', since no gate compares learners")
    if spec.schema.task not in ("binary", "multiclass", "regression") or spec.schema.unlabelled is not None:
        task = spec.schema.task if spec.schema.unlabelled is None else "anomaly"
        raise ConfigError(
            f"schema.task: got {task!r} with {hint}; expected 'binary', 'multiclass' or 'regression'. Set "
            "partitions.count to 1"
        )
    for name in _ABSENT:
        given, usual = getattr(spec, name), getattr(without, name)
        if name == "log":
            given = msgspec.structs.replace(given, rows=usual.rows, layout=usual.layout)
        if given != usual:
            field, value, default = _difference(name, given, usual)
            raise ConfigError(
                f"{field}: got {value!r} with {hint}; expected the default, {default!r}, since a run in partitions has "
                "no such part. Leave it out, or set partitions.count to 1"
            )
    if spec.serve.canary:
        raise ConfigError(f"serve.canary: got {spec.serve.canary} with {hint}; expected 0. Leave it out")


def _difference(name: str, given: Any, usual: Any) -> tuple[str, Any, Any]:
    """Return the name of the setting that differs, in a table of settings that of the first one, and both values."""
    if isinstance(given, msgspec.Struct) and type(given) is type(usual):
        for field in given.__struct_fields__:
            own, default = getattr(given, field), getattr(usual, field)
            if own != default:
                return _difference(f"{name}.{field}", own, default)
    return name, given, usual


def _scores(spec: Spec, model: Model, warm: int) -> PartitionedScores:
    task, classes = task_of({**schema.shape(spec.schema), **model.spec})
    scoring = Scoring(
        task=task, classes=classes, own=own_loss(model), share=spec.metrics.share, segment=spec.metrics.segment,
        clock=moments.clock(spec.schema), warm=warm,
    )  # fmt: skip
    return PartitionedScores(scoring)


def _decision(barrier: Barrier) -> Decision:
    """Return the record of a merge."""
    count = len(barrier.cursors)
    what = "the first rows, which all learned" if barrier.opening else f"{count} learners merged"
    detail = {"barrier": msgspec.to_builtins(barrier)}
    return Decision("config", barrier.at, f"{what} after row {barrier.at}", "loop", detail=detail)
