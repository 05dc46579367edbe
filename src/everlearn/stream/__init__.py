"""Files, tables and standard input as streams of encoded examples, in order, in little memory.

    read(source, label="y") -> Stream;  for chunk in stream.chunks(): chunk.examples, chunk.rejected

A row that cannot be used becomes a `Rejected` with its line, and still has a position, so that a stream can be taken
up again after any row. `docs/reference/schema.md` lists what becomes of each kind of dirt.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Batch, Examples, Floats, Rejected, Scalar, Task
from everlearn.schema import Encoder, columnar, infer, meaning, require
from everlearn.spec import Schema
from everlearn.stream import sources
from everlearn.stream.sources import Block, Files, Piped, Source, Table

_SAMPLE = 10_000  # rows that a schema is guessed from
_COUNTED = 10_000  # different labels that are counted; a stream with more of them is a regression
_RAW = 1_000  # characters kept of a row that was rejected
_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".gz")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that follow each other: those that can be used, those that cannot, and the position of the last of both."""

    examples: Examples
    rejected: tuple[Rejected, ...]
    last: int


@dataclass(frozen=True, slots=True)
class Records:
    """The same rows as a `Chunk`, as plain values that JSON can hold; missing values are left out of `features`."""

    positions: list[int]
    features: list[dict[str, Any]]
    labels: list[Scalar]
    rejected: tuple[Rejected, ...]
    last: int


class Stream:
    """Labelled rows of one source, read as often as wanted if it is `replayable`.

    `schema` says what they hold, `name` where they come from.
    """

    def __init__(self, source: Source, schema: Schema) -> None:
        self.schema = schema
        self.name = source.name
        self.replayable = not isinstance(source, Piped)
        self._source = source
        self._encoder = Encoder(schema)
        self._wanted = [*schema.fields, schema.label]

    @cached_property
    def rows(self) -> int | None:
        """How many raw rows there are; text is read through once to count them. None for standard input."""
        return self._source.count()

    def parts(self) -> list[Stream]:
        """The files of a folder or a glob as streams of their own, since there may be more of them tomorrow."""
        if isinstance(self._source, Files) and self._source.apart:
            return [Stream(one, self.schema) for one in self._source.sources]
        return [self]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits: of a file from its name, columns and first row, so that it stays the same when the
        file grows; of a table in memory from all that it holds."""
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

    def chunks(self, after: int = 0, size: int = 8192) -> Iterator[Chunk]:
        """The rows from position after + 1 on, at most `size` in a chunk.

        Positions count raw rows from 1, rejected ones too. A source that is not replayable goes on with the rows not
        read yet, and numbers them from after + 1. Raises `InputError` if the source is damaged.
        """
        for block in self._source.blocks(after, size, self._wanted):
            batch, y, faults = self._encoded(block)
            good = _good(block, faults)
            if not good.all():
                batch, y = _selected(batch, good), y[good]
            position = block.kept[good] + (block.before + 1)
            examples = Examples(batch, y, np.ones(len(y), np.float32), position)
            yield Chunk(examples, set_apart(block, faults), block.before + block.rows)

    def records(self, after: int = 0, size: int = 8192) -> Iterator[Records]:
        """The same rows as `chunks`, as plain values: what is learned from them later is the same to the bit."""
        kinds = self.schema.fields.items()
        for block in self._source.blocks(after, size, self._wanted):
            _, y, faults = self._encoded(block)
            good = _good(block, faults)
            columns = {name: _plain(block.columns[name], kind) for name, kind in kinds if name in block.columns}
            features = _dicts(columns, len(y))
            if not good.all():
                features = [one for one, keep in zip(features, good.tolist(), strict=True) if keep]
            positions = (block.kept[good] + (block.before + 1)).tolist()
            last = block.before + block.rows
            yield Records(positions, features, self._named(y[good]), set_apart(block, faults), last)

    def _named(self, y: Floats) -> list[Scalar]:
        classes = self.schema.classes
        return [classes[index] for index in y.astype(np.int64).tolist()] if classes else y.tolist()

    def _encoded(self, block: Block) -> tuple[Batch, Floats, dict[int, str]]:
        """The readable rows of a block, and for each raw row that cannot be used, why."""
        n = len(block.kept)
        batch, problems = self._encoder.columns(block.columns, n)
        y, more = self._encoder.labels(block.columns.get(self.schema.label), n)
        faults = dict(block.faults)
        for problem in (*problems, *more):
            row = int(block.kept[problem.row])
            where = "label" if problem.field == self.schema.label else "field"
            reason = f"{where} {problem.field!r}: {problem.reason}"
            faults[row] = f"{faults[row]}; {reason}" if row in faults else reason
        return batch, y, faults


def _good(block: Block, faults: Mapping[int, str]) -> NDArray[np.bool_]:
    """Which of the readable rows have nothing wrong with them."""
    good = np.ones(block.rows, np.bool_)
    good[list(faults)] = False
    return good[block.kept]


def _selected(batch: Batch, good: NDArray[np.bool_]) -> Batch:
    """The rows of a batch that are good."""
    lengths = np.diff(batch.indptr)
    entries = np.repeat(good, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths[good])]).astype(np.int64)
    return Batch(batch.dense[good], indptr, batch.indices[entries], batch.values[entries])


def set_apart(block: Block, faults: Mapping[int, str]) -> tuple[Rejected, ...]:
    """The rows of a block that cannot be used, with the reasons why."""
    return tuple(
        Rejected(block.source, block.lines[row], faults[row], block.raw(row)[:_RAW], block.before + row + 1)
        for row in sorted(faults)
    )


def _plain(column: Any, kind: str) -> list[Any]:
    """A column as values that JSON can hold and that are encoded as the column is; None where missing."""
    part = columnar.native(column)
    if kind == "numeric":
        return _without_nan(columnar.numbers(part)[0])
    if kind == "boolean":
        return [None if value is None else value == 1 for value in _without_nan(columnar.booleans(part)[0])]
    if kind.startswith("vector"):
        rows = columnar.vectors(part, int(kind[7:-1]))[0].tolist()
        plain = [[None if value != value else value for value in row] for row in rows]
        return [None if not any(value is not None for value in row) else row for row in plain]
    values = columnar.values_of(part)
    if set(map(type, values)) <= {bool, int, NoneType} or (columnar.is_arrow(part) and str(part.type) == "string"):
        return values
    return [_plain_value(value) for value in values]


def _dicts(columns: Mapping[str, list[Any]], n: int) -> list[dict[str, Any]]:
    """Columns as records, without what is missing."""
    if not columns:
        return [{} for _ in range(n)]
    rows = zip(*columns.values(), strict=True)
    if any(None in column for column in columns.values()):
        return [{name: value for name, value in zip(columns, row, strict=True) if value is not None} for row in rows]
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in rows]


def digest(examples: Examples, row: int) -> str:
    """What an encoded row is, in 16 hexadecimal digits."""
    batch = examples.batch
    entries = slice(batch.indptr[row], batch.indptr[row + 1])
    parts = (batch.dense[row], batch.indices[entries], batch.values[entries], examples.y[row : row + 1])
    return hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=8).hexdigest()


def plain(value: Any, kind: str) -> Any:
    """One value of a record as JSON can hold it, and as it is encoded; None where missing or unusable."""
    return _plain([value], kind)[0]


def _without_nan(values: Floats) -> list[float | None]:
    found: list[float | None] = values.tolist()
    return [None if value != value else value for value in found] if np.isnan(values).any() else found


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if meaning.is_missing(value):
        return None
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, date):
        return value.isoformat()
    try:
        return meaning.category(value).decode()
    except InputError:
        return None  # the row is rejected


def read(source: Any, *, label: str | None = None, schema: Schema | None = None, task: Task | None = None) -> Stream:
    """Open a stream: give its `schema`, or the `label` to predict and let the schema be inferred (see `infer_file`).

    `source` is a path to CSV, TSV, JSON lines (these packed with gzip or not) or Parquet, a folder or a glob of such
    files, a list of paths, "-" for standard input, a DataFrame, an Arrow table, or a dict of columns. The format is
    seen from the content. Raises `InputError` for a source that cannot be read or has no such label.

    >>> chunk = next(read({"x": [1.5, 2.5, float("inf")], "y": ["no", "yes", "no"]}, label="y").chunks())
    >>> chunk.examples.y.tolist(), chunk.rejected[0].reason
    ([0.0, 1.0], "field 'x': got infinity, expected a finite number")
    """
    opened = source_of(source, peek=sources.PEEK if schema is None else 0)
    if schema is None:
        if label is None:
            raise InputError("which column is to be predicted? give read(..., label=...) or a schema")
        schema = _inferred(opened, label, task)
    for one in opened.sources if isinstance(opened, Files) else [opened]:
        require(schema.label, one.names, one.name)
        if not any(field in one.names for field in schema.fields):
            raise InputError(
                f"{one.name} has none of the fields {', '.join(list(schema.fields)[:20])}; its columns are "
                f"{', '.join(one.names[:20])}; is it the right file?"
            )
    return Stream(opened, schema)


def infer_file(source: Any, label: str, task: Task | None = None) -> Schema:
    """Guess the schema of a source (see `everlearn.schema.infer` for the rules).

    It is read through once: the fields are judged by up to 20,000 rows spread evenly over it, the classes by all
    labels. Of standard input only the first 64 KiB are looked at, and they are still there to be read.
    """
    return _inferred(source_of(source, sources.PEEK), label, task)


def source_of(source: Any, peek: int) -> Source:
    """The source that is meant by a path, a glob, a list of paths, "-", or a table."""
    if isinstance(source, str) and source == "-":
        return Piped(cast(io.BufferedReader, sys.stdin.buffer), "standard input", peek)
    if isinstance(source, str | Path):
        paths = _paths(source)
        return (
            sources.file(paths[0])
            if paths == [Path(source)]
            else Files(str(source), list(map(sources.file, paths)), True)
        )
    if isinstance(source, list | tuple):
        if not source or not all(isinstance(one, str | Path) for one in source):
            raise InputError("got a list that does not hold paths, expected paths of files, or a dict of columns")
        paths = [path for one in source for path in _paths(one)]
        return Files(", ".join(map(str, paths)), list(map(sources.file, paths)))
    return sources.Table(source)


def _paths(source: str | Path) -> list[Path]:
    """The files meant by a path, a folder or a glob, in the order of their names."""
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.name.lower().endswith(_ENDINGS)]
    elif path.exists() or not any(sign in str(source) for sign in "*?["):
        return [path]
    else:
        found = [file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if file.is_file()]
    if not found:
        raise InputError(f"no file matches {source}; expected CSV, JSON-lines or Parquet files")
    return sorted(found)


def _inferred(source: Source, label: str, task: Task | None) -> Schema:
    for one in source.sources if isinstance(source, Files) else [source]:
        require(label, one.names, one.name)
    blocks = source.peek(8192) if isinstance(source, Piped) else source.blocks(0, 8192, None)
    sample: dict[str, list[Any]] = {}
    labels: dict[Any, int] = {}
    stride, seen, kept = 1, 0, 0
    for block in blocks:
        _count(labels, block.columns.get(label))
        taken = range(-seen % stride, len(block.kept), stride)
        for name in {**sample, **block.columns}:
            column = sample.setdefault(name, [None] * kept)
            column += _some(block.columns[name], taken) if name in block.columns else [None] * len(taken)
        seen += len(block.kept)
        kept += len(taken)
        while kept > 2 * _SAMPLE:
            sample = {name: column[::2] for name, column in sample.items()}
            stride, kept = stride * 2, (kept + 1) // 2
    if not kept:
        raise InputError(f"{source.name} has no row that can be read; expected some to see what its columns hold")
    return infer(sample, label, task=task, labels=labels)


def _count(labels: dict[Any, int], column: Any) -> None:
    """Add a column of labels to the counts, of which there are never more than a bound."""
    values = [] if column is None else columnar.values_of(columnar.native(column))
    for value, n in Counter(map(_label, values)).items():
        if value is not None and (value in labels or len(labels) < _COUNTED):
            labels[value] = labels.get(value, 0) + n


def _label(value: Any) -> Any:
    """The label, or None for what cannot be one."""
    if isinstance(value, str | int | float):
        return None if value != value else value
    return _plain_value(value)


def _some(column: Any, taken: range) -> list[Any]:
    """Some values of a column; NaN, not None, for missing numbers, so that an empty column keeps its type."""
    part = columnar.native(column)
    values = columnar.values_of(part[taken.start :: taken.step])
    if columnar.is_arrow(part) and str(part.type).startswith(("int", "uint", "float", "double", "halffloat")):
        return [math.nan if value is None else value for value in values]
    return values
