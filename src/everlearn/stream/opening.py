"""Find and open the source behind a path, a glob, a list of paths, "-" or a table, and infer its schema."""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

from everlearn.errors import InputError
from everlearn.records import Task
from everlearn.schema import columnar, infer, require
from everlearn.spec import Schema
from everlearn.stream import sources
from everlearn.stream.json_values import json_value
from everlearn.stream.sources import Files, Piped, Source
from everlearn.stream.stream import Stream

_SAMPLE = 10_000  # rows from which a schema is guessed
_COUNTED = 10_000  # different labels that are counted; with more, the stream is a regression
_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".gz")


def read(source: Any, *, label: str | None = None, schema: Schema | None = None, task: Task | None = None) -> Stream:
    """Open a stream, with a `schema`, or with the `label` to predict and an inferred schema (see `infer_file`).

    `source` is a path to CSV, TSV, JSON lines (plain or gzip) or Parquet, a folder or a glob of such files, a list of
    paths, "-" for standard input, a DataFrame, an Arrow table, or a dict of columns. The format is detected from the
    content. Raises `InputError` for a source that cannot be read or lacks the label.

    >>> chunk = next(read({"x": [1.5, 2.5, float("inf")], "y": ["no", "yes", "no"]}, label="y").chunks())
    >>> chunk.examples.y.tolist(), chunk.rejected[0].reason
    ([0.0, 1.0], "field 'x': got infinity, expected a finite number")
    """
    opened = source_of(source, peek=sources.PEEK if schema is None else 0)
    if schema is None:
        if label is None:
            raise InputError("got no label and no schema; expected read(..., label=COLUMN) or read(..., schema=...)")
        schema = _inferred(opened, label, task)
    for part in opened.sources if isinstance(opened, Files) else [opened]:
        require(schema.label, part.names, part.name)
        if not any(field in part.names for field in schema.fields):
            raise InputError(
                f"{part.name} has none of the fields {', '.join(list(schema.fields)[:20])}; its columns are "
                f"{', '.join(part.names[:20])}; is it the right file?"
            )
    return Stream(opened, schema)


def infer_file(source: Any, label: str, task: Task | None = None) -> Schema:
    """Guess the schema of a source (see `everlearn.schema.infer` for the rules).

    The source is read through once: up to 20,000 rows spread evenly over it decide the fields, and all labels decide
    the classes. Of standard input only the first 64 KiB are examined, and they remain to be read. Raises `InputError`
    for a source that cannot be read or lacks the label.
    """
    return _inferred(source_of(source, sources.PEEK), label, task)


def source_of(source: Any, peek: int) -> Source:
    """Return the source for a path, a glob, a list of paths, "-", or a table. Raises `InputError` if there is none."""
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
        if not source or not all(isinstance(path, str | Path) for path in source):
            raise InputError("got a list that does not hold paths; expected paths of files, or a dict of columns")
        paths = [path for pattern in source for path in _paths(pattern)]
        return Files(", ".join(map(str, paths)), list(map(sources.file, paths)))
    return sources.Table(source)


def _paths(source: str | Path) -> list[Path]:
    """Return the files of a path, a folder or a glob, sorted. Raises `InputError` if there are none."""
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
    for part in source.sources if isinstance(source, Files) else [source]:
        require(label, part.names, part.name)
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
    """Add a column of labels to the counts, whose number is bounded."""
    values = [] if column is None else columnar.values_of(columnar.native(column))
    for value, n in Counter(map(_label, values)).items():
        if value is not None and (value in labels or len(labels) < _COUNTED):
            labels[value] = labels.get(value, 0) + n


def _label(value: Any) -> Any:
    """Return the label; None if the value cannot be a label."""
    if isinstance(value, str | int | float):
        return None if value != value else value
    return json_value(value)


def _some(column: Any, taken: range) -> list[Any]:
    """Return the values at `taken`; NaN, not None, for missing numbers, so that an empty column keeps its type."""
    part = columnar.native(column)
    values = columnar.values_of(part[taken.start :: taken.step])
    if columnar.is_arrow(part) and str(part.type).startswith(("int", "uint", "float", "double", "halffloat")):
        return [math.nan if value is None else value for value in values]
    return values
