"""Streams of encoded examples, read from a source in order and in little memory.

    read(source, label="y") -> Stream;  for chunk in stream.chunks(): chunk.examples, chunk.rejected

A row that cannot be used becomes a `Rejected` with its line and still has a position, so that reading can resume after
any row. `docs/reference/schema.md` lists the treatment of each kind of invalid value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Batch, Examples, Floats, Rejected, Scalar
from everlearn.schema import Encoder, actions, columnar, forms, meaning
from everlearn.schema.encoder import UNLABELLED, Problem
from everlearn.schema.field import Field
from everlearn.schema.guessing import Survey
from everlearn.schema.segments import segment_names
from everlearn.spec import Schema
from everlearn.stream.blocks import Block
from everlearn.stream.dealt import Dealt, Keep
from everlearn.stream.json_values import json_column, records_of
from everlearn.stream.sources import Beginning, Files, Parquet, Piped, Source, Table, Text

if TYPE_CHECKING:
    from everlearn.stream.generated.choices import ChoiceGenerator
    from everlearn.stream.generated.generator import Generator

_RAW = 1_000  # characters kept of a rejected row
_SHOWN = 8  # fields that a repr names


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a stream: the usable ones, the rejected ones, and the position of the last row."""

    examples: Examples
    rejected: tuple[Rejected, ...]
    last: int


@dataclass(frozen=True, slots=True)
class Records:
    """The rows of a `Chunk` as plain values that JSON can hold; missing values are left out of `features`.

    `times` maps columns of times that were requested to seconds since 1970, float64 (n,), NaN where missing. `persons`
    names the person whose data each row is, if a column for that was given; "" where missing.
    """

    positions: list[int]
    features: list[dict[str, Any]]
    labels: list[Scalar]
    rejected: tuple[Rejected, ...]
    last: int
    times: Mapping[str, Floats]
    persons: list[str]


class Stream:
    """The labelled rows of one source, which can be read again if it is `replayable`.

    `schema` describes the rows; `name` is the source, and `names` are its columns. `survey` has the reasons of an
    inferred schema. `generator` has the truth of a generated stream (`everlearn.generate`), and is None for any other.
    """

    def __init__(
        self,
        source: Source,
        schema: Schema,
        survey: Survey | None = None,
        generator: Generator | ChoiceGenerator | None = None,
    ) -> None:
        self.schema = schema
        self.survey = survey
        self.generator = generator
        self.name = source.name
        self.names: Sequence[str] = source.names
        self.replayable = not isinstance(source, Piped)
        self._source = source
        self._encoder = Encoder(schema)
        self._wanted = {**actions.columns(schema), schema.label: "label"}  # names to kinds

    def __repr__(self) -> str:
        """Name the source, the label and the fields."""
        fields = ", ".join(f"{name} ({kind})" for name, kind in list(self.schema.fields.items())[:_SHOWN])
        more = f" and {len(self.schema.fields) - _SHOWN} more" if len(self.schema.fields) > _SHOWN else ""
        return f"<Stream {self.name}: {self.schema.task} label {self.schema.label!r} from {fields}{more}>"

    @cached_property
    def rows(self) -> int | None:
        """Number of raw rows, counted by reading text through once; None for standard input."""
        return self._source.count()

    def under(self, rules: int) -> Stream:
        """Return the stream as a home with these `schema.rules` reads it."""
        if rules == self.schema.rules:
            return self
        return Stream(self._source.under(rules), msgspec.structs.replace(self.schema, rules=rules))

    def parts(self) -> list[Stream]:
        """Return the files of a folder or a glob as separate streams, since there may be more later; else this one."""
        if isinstance(self._source, Files) and self._source.apart:
            return [Stream(source, self.schema) for source in self._source.sources]
        return [self]

    def first(self, rows: int) -> Stream:
        """Return the stream of the first raw rows alone, as the source was before it grew."""
        return Stream(Beginning(self._source, rows), self.schema)

    def dealt(self, keep: Keep, key: str = "") -> Stream:
        """Return the stream of the rows for which `keep(positions, keys)` is True, at their positions in this one.

        `keys` are the values of the column `key` as text, or None without one.
        """
        return Stream(Dealt(self._source, keep, key), self.schema)

    def files(self) -> list[str]:
        """Return the paths of the files that the stream is read from; empty for any other source."""
        held = self._source.sources if isinstance(self._source, Files) else [self._source]
        return [source.name for source in held] if all(isinstance(one, Parquet | Text) for one in held) else []

    @cached_property
    def fingerprint(self) -> str:
        """Identifier of the content, 16 hexadecimal digits.

        For a file it depends on the name, the columns and the first row, so that it stays the same when the file grows.
        For a table in memory it depends on every value.
        """
        if isinstance(self._source, Table):
            content = hashlib.sha256()
            for chunk in self.chunks():
                batch = chunk.examples.batch
                for array in (batch.dense, batch.indptr, batch.indices, batch.values, chunk.examples.y):
                    content.update(array.tobytes())
            return content.hexdigest()[:16]
        parts: list[Any] = [Path(self.name).name]
        if self.replayable:
            first = next(self._source.blocks(0, 1, None), None)
            parts += [first and Path(first.source).name, list(self._source.names), first and first.raw(0)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def chunks(self, after: int = 0, size: int = 8192, segment: str = "") -> Iterator[Chunk]:
        """Yield the rows from position after + 1 on, at most `size` in a chunk.

        `segment` is the field by which metrics are split, if any: examples then hold its values.

        Positions count raw rows from 1, including rejected ones. A source that is not replayable continues with the
        rows not read yet, and numbers them from after + 1. Raises `InputError` if the source is damaged.
        """
        nothing: Examples | None = None
        for block in self._source.blocks(after, size, self._wanted):
            if not len(block.kept) and not block.faults:
                nothing = nothing or self._nothing(segment)  # the same each time, and as costly as a block of rows
                yield Chunk(nothing, (), block.before + block.rows)
                continue
            batch, y, faults = self._encoded(block)
            good = _good(block, faults)
            if not good.all():
                batch, y = _selected(batch, good), y[good]
            position = block.kept[good] + (block.before + 1)
            names = (
                segment_names(block.columns.get(segment), len(good), self._encoder.fields[segment])[good]
                if segment
                else None
            )
            examples = Examples(batch, y, np.ones(len(y), np.float32), position, names)
            yield Chunk(examples, rejected_rows(block, faults), block.before + block.rows)

    def records(
        self, after: int = 0, size: int = 8192, times: Sequence[str] = (), person: str = ""
    ) -> Iterator[Records]:
        """Yield the rows of `chunks` as plain values, whose encoding gives the same bytes. Raises as `chunks` does.

        `times` names columns of times to read as well, and `person` the column of the person whose data a row is. They
        need not be fields.
        """
        fields, wanted = self._encoder.fields, {**dict.fromkeys(times, "datetime"), **self._wanted}
        wanted |= {person: wanted.get(person, "categorical")} if person else {}
        for block in self._source.blocks(after, size, wanted):
            _, y, faults = self._encoded(block)
            persons = _persons(block, person, faults)
            moments = {name: _moments(block, self._time(name), faults) for name in times}
            good = _good(block, faults)
            columns = {name: json_column(block.columns[name], fields[name]) for name in fields if name in block.columns}
            features = records_of(columns, len(y))
            if not good.all():
                features = [record for record, keep in zip(features, good.tolist(), strict=True) if keep]
            positions = (block.kept[good] + (block.before + 1)).tolist()
            last = block.before + block.rows
            seconds = {name: column[good] for name, column in moments.items()}
            named = [one for one, keep in zip(persons, good.tolist(), strict=True) if keep]
            yield Records(positions, features, self._named(y[good]), rejected_rows(block, faults), last, seconds, named)

    def _nothing(self, segment: str) -> Examples:
        """Return no examples, of the shape of the rows."""
        batch, _ = self._encoder.columns({name: [] for name in self._encoder.fields}, 0)
        names = segment_names(None, 0) if segment else None
        return Examples(batch, np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64), names)

    def _time(self, name: str) -> Field:
        """Return a column of times, read as a field of times is; `schema.dates` may name it."""
        known = self._encoder.fields.get(name)
        if known is not None and known.kind == "datetime":
            return known
        return Field(name, "datetime", self.schema.rules, order=self.schema.dates.get(name, ""))

    def _named(self, y: Floats) -> list[Scalar]:
        classes = self.schema.classes
        return [classes[index] for index in y.astype(np.int64).tolist()] if classes else y.tolist()

    def _encoded(self, block: Block) -> tuple[Batch, Floats, dict[int, str]]:
        """Return the encoded readable rows of a block, their targets, and the faults of its raw rows."""
        n = len(block.kept)
        batch, problems = self._encoder.columns(block.columns, n)
        y, label_problems = self._encoder.labels(block.columns.get(self.schema.label), n)
        if self.schema.unlabelled is not None:
            label_problems = self._filled(y, label_problems)
        faults = dict(block.faults)
        for problem in (*problems, *label_problems):
            row = int(block.kept[problem.row])
            where = "label" if problem.field == self.schema.label else "field"
            reason = f"{where} {problem.field!r}: {problem.reason}"
            faults[row] = f"{faults[row]}; {reason}" if row in faults else reason
        return batch, y, faults

    def _filled(self, y: Floats, problems: list[Problem]) -> list[Problem]:
        """Give rows without a label that of `schema.unlabelled`; return the other problems."""
        missing = [problem.row for problem in problems if problem.reason == UNLABELLED]
        y[missing] = self._encoder.label(self.schema.unlabelled)  # type: ignore[arg-type]
        return [problem for problem in problems if problem.reason != UNLABELLED]


def _persons(block: Block, name: str, faults: dict[int, str]) -> list[str]:
    """Return the persons that the readable rows of a block are about; add a fault for a value that names none."""
    if name not in block.columns:
        return [""] * len(block.kept)
    found: list[str] = []
    for row, value in enumerate(columnar.values_of(columnar.native(block.columns[name]))):
        try:
            found.append(forms.spelled(meaning.category(value)).decode())
        except InputError as error:
            found.append("")
            faults.setdefault(int(block.kept[row]), f"field {name!r}: {error}")
    return found


def digest(examples: Examples, row: int) -> str:
    """Return a digest of an encoded row and its label, 16 hexadecimal digits."""
    batch = examples.batch
    entries = slice(batch.indptr[row], batch.indptr[row + 1])
    parts = (batch.dense[row], batch.indices[entries], batch.values[entries], examples.y[row : row + 1])
    return hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=8).hexdigest()


def rejected_rows(block: Block, faults: Mapping[int, str]) -> tuple[Rejected, ...]:
    """Return the rows of a block that cannot be used, with the reasons."""
    return tuple(
        Rejected(block.source, block.lines[row], faults[row], block.raw(row)[:_RAW], block.before + row + 1)
        for row in sorted(faults)
    )


def _moments(block: Block, field: Field, faults: dict[int, str]) -> Floats:
    """Return a column of times in seconds since 1970, NaN where missing; add the faults of the readable rows."""
    name = field.name
    if name not in block.columns:
        return np.full(len(block.kept), np.nan)
    seconds, problems = columnar.moments(columnar.native(block.columns[name]), field)
    for place, reason in problems:
        faults.setdefault(int(block.kept[place]), f"time {name!r}: {reason}")
    return seconds


def _good(block: Block, faults: Mapping[int, str]) -> NDArray[np.bool_]:
    """Return a mask of the readable rows without a fault, bool (n,)."""
    good = np.ones(block.rows, np.bool_)
    good[list(faults)] = False
    return good[block.kept]


def _selected(batch: Batch, good: NDArray[np.bool_]) -> Batch:
    """Return the rows of a batch where `good`, bool (n,), is true."""
    lengths = np.diff(batch.indptr)
    entries = np.repeat(good, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths[good])]).astype(np.int64)
    return Batch(batch.dense[good], indptr, batch.indices[entries], batch.values[entries])
