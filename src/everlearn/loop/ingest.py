"""Rows taken from streams: how far each source was taken, and what its next rows mean to the loop.

A stream that can be read again is its own log: its rows are folded, and only decisions are written. Of any other
stream each row is appended to the log first. Nothing here writes: what is to be made durable is handed to the loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import ConfigError, InputError
from everlearn.events import Log
from everlearn.loop.fold import Commit, Fold
from everlearn.loop.offsets import StreamOffsets
from everlearn.model import cut, select
from everlearn.records import Decision, Example, Examples, Payload, Rejected
from everlearn.spec import Spec
from everlearn.stream import Stream, digest

_READ = 4096  # rows taken from a stream at a time


class Ingest:
    """How far each source was taken; `sources` maps its fingerprint to that, and travels in checkpoints."""

    def __init__(self, spec: Spec, fold: Fold, log: Log) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self._spec = spec
        self._fold = fold
        self._log = log

    @property
    def rows(self) -> int:
        """Rows taken so far from all sources."""
        return sum(source["rows"] for source in self.sources.values())

    def is_log(self, stream: Stream) -> bool:
        """Whether the rows of a stream are themselves the log."""
        return stream.replayable and self._spec.log.rows == "auto"

    def folded(self, stream: Stream) -> Iterator[tuple[int, Iterator[Commit]]]:
        """For each chunk of a stream that is its own log, where it was left: its rows up to there, and its fold.

        A fold only happens while its commits are drawn, and must be drawn to its end before the next chunk is.
        """
        taken = self._taken(stream)
        # Rows of several sources are numbered on: this source's row r is position base + r.
        base = self.rows - taken
        pending: list[Rejected] = []
        for chunk in stream.chunks(taken, _READ):
            examples, refused = self._fit(chunk.examples, stream.name)
            if base:
                examples = dataclasses.replace(examples, position=examples.position + base)
            aside = sorted([*chunk.rejected, *refused], key=lambda one: one.at)
            pending += [msgspec.structs.replace(one, at=one.at + base) for one in aside]
            yield chunk.last, self._fold_rows(stream.fingerprint, examples, base, chunk.last, pending)
        if pending:
            yield chunk.last, self._set_aside(pending)

    def appended(self, stream: Stream) -> Iterator[tuple[int, list[Payload]]]:
        """For each chunk of a stream, where it was left: the rows taken, and what is to be appended to the log."""
        taken, number = 0, 0
        if not stream.replayable:
            # Every reading of standard input is a new stretch of one stream; a raw row is an example or rejected.
            number = self._log.count("example") + self._log.count("rejected")
        else:
            known, last = StreamOffsets(self._fold.taken.rows), self._log.last("example")
            if last is not None and isinstance(last.payload, Example):  # of a loop whose fold has not counted them
                known.note([last.payload.id])
            taken = known.rows.get(stream.fingerprint, 0)
        for chunk in stream.records(taken, _READ):
            labelled = zip(chunk.positions, chunk.features, chunk.labels, strict=True)
            examples = [
                Example(f"{stream.fingerprint}:{number + row}", record, label) for row, record, label in labelled
            ]
            aside = [msgspec.structs.replace(one, at=one.at + number) for one in chunk.rejected]
            yield chunk.last - taken, [*examples, *aside]

    def settle_warm_start(self, stream: Stream) -> Decision | None:
        """Before anything has started: say how many rows the warm start has, and make all its passes but the last.

        Returns what must be appended to the log, if anything: what is folded from the log must be in the log.
        """
        spec, fold, as_log = self._spec, self._fold, self.is_log(stream)
        if fold.started or not spec.warm_start:
            return None
        if spec.epochs > 1 and not as_log:
            raise ConfigError(f"epochs = {spec.epochs} needs a file that is itself the log; its rows are read again")
        if spec.warm_start < 1:
            if stream.rows is None:
                raise ConfigError(
                    f"warm_start = {spec.warm_start:g} is a share, but the length of {stream.name} is not known; "
                    "give a number of rows instead, for instance warm_start = 1000"
                )
            fold.warm_rows = int(spec.warm_start * stream.rows)
            if not as_log:
                detail = {"warm_rows": fold.warm_rows}
                return Decision("config", 0, f"warm start of {fold.warm_rows} rows", "loop", detail=detail)
        for _ in range(spec.epochs - 1):
            left = fold.warm_rows
            for chunk in stream.chunks(0, _READ):
                examples, _ = self._fit(chunk.examples, stream.name)
                used = min(left, len(examples.y))
                fold.rehearse(cut(examples, 0, used))
                left -= used
                if not left:
                    break
        return None

    def _fit(self, examples: Examples, name: str) -> tuple[Examples, list[Rejected]]:
        """The rows that the loop's models can take, and the others, by their number in the stream."""
        refused = self._fold.refused(examples.batch) if len(examples.y) else {}
        at = examples.position
        aside = [Rejected(name, int(at[row]), why, "", int(at[row])) for row, why in sorted(refused.items())]
        return select(examples, ~np.isin(np.arange(len(at)), list(refused))), aside

    def _fold_rows(
        self, name: str, examples: Examples, base: int, last: int, pending: list[Rejected]
    ) -> Iterator[Commit]:
        """Fold one chunk; rejected rows leave `pending` with the first commit after them."""
        for commit in self._fold.examples(examples, "row") if len(examples.y) else ():
            self._mark(name, examples, base, commit.at - base)
            known = [one for one in pending if one.at <= commit.at]
            del pending[: len(known)]
            yield Commit(commit.at, [*known, *commit.payloads])
        self._mark(name, examples, base, last)
        self._fold.cursor["row"] = base + last

    def _set_aside(self, rejected: list[Rejected]) -> Iterator[Commit]:
        """Commit the rejected rows that no commit came after."""
        if not self._fold.started:
            yield from self._fold.start(sum(self._fold.cursor.values()))
        yield Commit(self._fold.cursor["row"], list(rejected))

    def _mark(self, name: str, examples: Examples, base: int, rows: int) -> None:
        """Note how many rows of a source were taken, and what the last usable one of them was."""
        source = self.sources.setdefault(name, {"rows": 0, "row": 0, "digest": ""})
        source["rows"] = rows
        at = int(np.searchsorted(examples.position, base + rows, "right")) - 1
        if at >= 0:
            source["row"], source["digest"] = int(examples.position[at]) - base, digest(examples, at)

    def _taken(self, stream: Stream) -> int:
        """How many rows of a stream that is its own log were taken before; refuse a file that was changed there."""
        source = self.sources.get(stream.fingerprint)
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
