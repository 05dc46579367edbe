"""Take rows from streams: count the rows taken from each source, and fold or append the next ones.

A stream that can be read again is its own log: its rows are folded, and only decisions are written. The rows of any
other stream are appended to the log first, and so are all rows of a loop with a `subject`, since only events in the log
can be erased. Nothing here writes: the loop makes the results durable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import ConfigError, InputError
from everlearn.events import Log
from everlearn.feedback.names import FieldNames, report
from everlearn.loop.fold import Fold
from everlearn.loop.offsets import StreamOffsets
from everlearn.loop.stretch import Commit
from everlearn.model import select
from everlearn.records import Decision, Example, Examples, Payload, Rejected
from everlearn.stream import Stream, digest

_READ = 4096  # rows appended to the log at a time
_FOLDED = 8192  # rows of a stream that is its own log: what they decide becomes durable with one checkpoint


class Ingest:
    """The progress in each source; `sources` maps a source's fingerprint to it, and is part of checkpoints.

    `names` counts the names in rows and records that no field has, and the fields that they lack.
    """

    def __init__(self, fold: Fold, log: Log, names: FieldNames) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self.names = names
        self._fold = fold
        self._log = log

    @property
    def rows(self) -> int:
        """Rows taken so far from all sources."""
        return sum(source["rows"] for source in self.sources.values())

    def named(self) -> dict[str, Any]:
        """Return the unknown names and the missing fields of rows and records since the loop was opened."""
        return {"fields": report(self.names.counts, self._fold.spec.schema.fields)}

    def parts(self, stream: Stream, times: Collection[str] = ()) -> list[Stream]:
        """Return the files of a stream, read by the rules of the home.

        `times` are columns of times beside the fields. Raises InputError for a file with unknown or missing columns,
        if the loop is strict.
        """
        found = stream.under(self._fold.spec.schema.rules).parts()
        for part in found:
            self.names.require(self._columns(part, times), part.name)
        return found

    def _columns(self, part: Stream, times: Collection[str]) -> list[str]:
        """Return the columns of a file without those of times that are no fields."""
        fields = self._fold.spec.schema.fields
        return [name for name in part.names if name in fields or name not in times]

    def count_names(self, part: Stream, times: Collection[str], rows: int) -> None:
        """Count the names in some rows of a file with columns of times."""
        self.names.add_rows(self._columns(part, times), rows)

    def is_log(self, stream: Stream) -> bool:
        """Return True if the rows of a stream are themselves the log."""
        return stream.replayable and self._fold.spec.log.rows == "auto"

    def folded(self, stream: Stream) -> Iterator[tuple[int, Iterator[Commit]]]:
        """Yield the next chunks of a stream that is its own log: the rows taken so far, and the fold of the chunk.

        A chunk is folded while its commits are drawn. Draw them all before the next chunk.
        """
        taken = self._taken(stream)
        # Rows of several sources are numbered on: this source's row r is position base + r.
        base = self.rows - taken
        pending: list[Rejected] = []
        before = taken
        for chunk in stream.chunks(taken, _FOLDED, self._fold.spec.metrics.segment):
            self.names.add_rows(stream.names, chunk.last - before)
            before = chunk.last
            examples, refused = self._fit(chunk.examples, stream.name)
            if base:
                examples = dataclasses.replace(examples, position=examples.position + base)
            aside = sorted([*chunk.rejected, *refused], key=lambda row: row.at)
            pending += [msgspec.structs.replace(row, at=row.at + base) for row in aside]
            yield chunk.last, self._fold_rows(stream.fingerprint, examples, base, chunk.last, pending)
        if pending:
            yield chunk.last, self._set_aside(pending)

    def before(self, stream: Stream) -> int:
        """Return the number of the last row that was taken from a stream with its label, as a row or an example."""
        as_rows = int(self.sources.get(stream.fingerprint, {}).get("rows", 0))
        return max(as_rows, self._fold.taken.rows.get(stream.fingerprint, 0)) if stream.replayable else 0

    def appended(self, stream: Stream) -> Iterator[tuple[int, list[Payload]]]:
        """Yield the next chunks of a stream: the number of rows taken by this call, and the events to append."""
        taken, number = 0, 0
        if not stream.replayable:
            # Every reading of standard input is a new stretch of one stream; a raw row is an example or rejected.
            number = self._log.count("example") + self._log.count("rejected")
        else:
            known, last = StreamOffsets(self._fold.taken.rows), self._log.last("example")
            if last is not None and isinstance(last.payload, Example):  # of a loop whose fold has not counted them
                known.note([last.payload.id])
            taken = known.rows.get(stream.fingerprint, 0)
        before = taken
        for chunk in stream.records(taken, _READ, person=self._fold.spec.subject):
            self.names.add_rows(stream.names, chunk.last - before)
            before = chunk.last
            labelled = zip(chunk.positions, chunk.features, chunk.labels, chunk.persons, strict=True)
            examples = [
                Example(f"{stream.fingerprint}:{number + row}", record, label, subject=person)
                for row, record, label, person in labelled
            ]
            aside = [msgspec.structs.replace(rejected, at=rejected.at + number) for rejected in chunk.rejected]
            yield chunk.last - taken, [*examples, *aside]

    def settle_warm_start(self, stream: Stream, is_log: bool) -> Decision | None:
        """Count the rows of the warm start, unless the loop has started; `is_log` if the rows are themselves the log.

        Returns the decision to append to the log, if any: a fold of the log must find all its inputs there. Raises
        ConfigError for a share of a stream of unknown length.
        """
        fold, warm_start = self._fold, self._fold.spec.warm_start
        if fold.started or not 0 < warm_start < 1:
            return None
        if stream.rows is None:
            raise ConfigError(
                f"warm_start: got {warm_start:g}, a share of {stream.name}, whose length is not known. Give a number "
                "of rows instead, for instance warm_start = 1000"
            )
        fold.warm_up.rows = int(warm_start * stream.rows)
        if is_log:
            return None
        detail = {"warm_rows": fold.warm_up.rows}
        return Decision("config", 0, f"warm start of {fold.warm_up.rows} rows", "loop", detail=detail)

    def _fit(self, examples: Examples, name: str) -> tuple[Examples, list[Rejected]]:
        """Return the rows that the loop's models can take, and the rejected ones."""
        refused = self._fold.refused(examples.batch) if len(examples.y) else {}
        at = examples.position
        aside = [Rejected(name, int(at[row]), why, "", int(at[row])) for row, why in sorted(refused.items())]
        return select(examples, ~np.isin(np.arange(len(at)), list(refused))), aside

    def _fold_rows(
        self, name: str, examples: Examples, base: int, last: int, pending: list[Rejected]
    ) -> Iterator[Commit]:
        """Fold one chunk; move rejected rows from `pending` into the first commit after them."""
        for commit in self._fold.examples(examples, "row") if len(examples.y) else ():
            self._mark(name, examples, base, commit.at - base)
            known = [row for row in pending if row.at <= commit.at]
            del pending[: len(known)]
            yield Commit(commit.at, [*known, *commit.payloads], commit.waits)
        self._mark(name, examples, base, last)
        self._fold.cursor["row"] = base + last

    def _set_aside(self, rejected: list[Rejected]) -> Iterator[Commit]:
        """Yield a commit of the rejected rows at the end of a stream."""
        if not self._fold.started:
            yield from self._fold.start(sum(self._fold.cursor.values()))
        yield Commit(self._fold.cursor["row"], list(rejected))

    def _mark(self, name: str, examples: Examples, base: int, rows: int) -> None:
        """Note the number of rows taken from a source, and the digest of the last usable one."""
        source = self.sources.setdefault(name, {"rows": 0, "row": 0, "digest": ""})
        source["rows"] = rows
        at = int(np.searchsorted(examples.position, base + rows, "right")) - 1
        if at >= 0:
            source["row"], source["digest"] = int(examples.position[at]) - base, digest(examples, at)

    def _taken(self, stream: Stream) -> int:
        """Return the number of rows taken before from a stream that is its own log.

        Raises InputError for a file that has changed in these rows.
        """
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
