"""Find and open the source behind a path, a glob, a list of paths, "-" or a table, and infer its schema."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from everlearn.errors import InputError, did_you_mean
from everlearn.records import RowTask, Task
from everlearn.schema import actions, columnar, guessing
from everlearn.schema.guessing import Survey
from everlearn.spec import RULES, Schema
from everlearn.stream import sources
from everlearn.stream.formats import NAMES
from everlearn.stream.json_values import json_value
from everlearn.stream.sampling import Sampler
from everlearn.stream.sources import Files, Piped, Source
from everlearn.stream.stream import Stream

NORMAL, ANOMALY = "normal", "anomaly"  # classes of rows without labels; the second names their label, too
_NEW = "a time: every one is new"
_SAMPLE = 10_000  # rows from which a schema is guessed
_COUNTED = 10_000  # different labels that are counted; with more, the stream is a regression
_ENDINGS = (
    *(".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".arff", ".svm", ".libsvm", ".vw"),
    *(".gz", ".bz2", ".xz"),
)  # of the files of a folder that are data; a .txt may be a note
_NUMBER_NAME = re.compile(r"[+-]?[0-9.,]*[0-9]")


def read(
    source: Any,
    *,
    label: str | None = None,
    schema: Schema | None = None,
    task: Task | Literal["anomaly"] | None = None,
) -> Stream:
    """Open a stream, with a `schema`, or with the `label` to predict and an inferred schema (see `infer_file`).

    `source` is a path to CSV, TSV, JSON lines, ARFF, LIBSVM or Vowpal Wabbit (plain, or packed with gzip, bzip2 or xz)
    or Parquet, a folder or a glob of such files, a list of paths, "-" for standard input, a DataFrame, an Arrow table,
    or a dict of columns. The format is detected from the content. With the task "anomaly" no label is needed: rows
    without one are of the class "normal", the other class is "anomaly". Raises `InputError` for a source that cannot be
    read or lacks the label.

    >>> chunk = next(read({"x": [1.5, 2.5, float("inf")], "y": ["no", "yes", "no"]}, label="y").chunks())
    >>> chunk.examples.y.tolist(), chunk.rejected[0].reason
    ([0.0, 1.0], "field 'x': got infinity, expected a finite number")
    """
    if task not in (None, ANOMALY, *get_args(Task)):
        hint = ". Forecasts are of the task 'regression'" if str(task) == "forecast" else ""
        known = ", ".join(map(repr, (*get_args(RowTask), ANOMALY)))
        raise InputError(f"read: task: got {task!r}; expected one of {known}{hint}")
    opened = source_of(source, peek=sources.PEEK if schema is None else 0, rules=schema.rules if schema else RULES)
    survey = None
    if schema is None:
        if task == "anomaly":
            survey = unlabelled(opened, label)
        elif label is None:
            raise InputError("got no label and no schema; expected read(..., label=COLUMN) or read(..., schema=...)")
        else:
            survey = _surveyed(opened, label, task)
        schema = survey.schema
    for part in opened.sources if isinstance(opened, Files) else [opened]:
        if schema.unlabelled is None:
            _require(schema.label, part)
        _require_actions(schema, part)
        if not any(field in part.names for field in schema.fields):
            raise InputError(
                f"{part.name} has none of the fields {', '.join(list(schema.fields)[:20])}; its columns are "
                f"{', '.join(part.names[:20])}; is it the right file?"
            )
    return Stream(opened, schema, survey)


def about(source: str, label: str = "") -> str:
    """Return a path with the format of its file. Raises `InputError` as `read` does, after its first bytes.

    Without a label, no column is required.
    Nothing is read of standard input ("-"), since it can be read only once.
    """
    if source == "-":
        return "standard input"
    opened = source_of(source, peek=0)
    parts = opened.sources if isinstance(opened, Files) else [opened]
    for part in parts if label else ():
        _require(label, part)
    return f"{source} ({parts[0].about})"


def columns(source: str) -> list[str]:
    """Return the names of the columns of a file; of several, those of the first. Raises as `read` does."""
    opened = source_of(source, peek=sources.PEEK)
    return list((opened.sources[0] if isinstance(opened, Files) else opened).names)


def infer_file(source: Any, label: str, task: Task | None = None) -> Schema:
    """Guess the schema of a source (see `everlearn.schema.infer` for the rules).

    The source is read through once: up to 20,000 rows of all its stretches, at no regular stride, decide the fields,
    and all labels decide the classes. Of standard input only the first 64 KiB are examined, and they remain to be read.
    Raises `InputError` for a source that cannot be read or lacks the label.
    """
    return _surveyed(source_of(source, sources.PEEK), label, task).schema


def source_of(source: Any, peek: int, rules: int = RULES) -> Source:
    """Return the source for a path, a glob, a list of paths, "-", or a table. Raises `InputError` if there is none."""
    if isinstance(source, str) and source == "-":
        return Piped(cast(io.BufferedReader, sys.stdin.buffer), "standard input", peek, rules)
    if isinstance(source, str | Path):
        paths = _paths(source)
        return (
            sources.file(paths[0], rules)
            if paths == [Path(source)]
            else Files(str(source), [sources.file(path, rules) for path in paths], True)
        )
    if isinstance(source, list | tuple):
        if not source or not all(isinstance(path, str | Path) for path in source):
            raise InputError("got a list that does not hold paths; expected paths of files, or a dict of columns")
        paths = [path for pattern in source for path in _paths(pattern)]
        return Files(", ".join(map(str, paths)), [sources.file(path, rules) for path in paths])
    return sources.Table(source, rules)


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
        hint = ", or name files with another ending by a glob such as FOLDER/*.txt" if path.is_dir() else ""
        raise InputError(f"no file matches {source}; expected CSV, JSON-lines or Parquet files{hint}")
    return sorted(found)


def _require(label: str, part: Source) -> None:
    """Raise `InputError` if a source has no column for the label, with what to do."""
    if label in part.names:
        return
    form, names = NAMES.get(part.form, ""), [name for name in part.names if name]
    hint = did_you_mean(label, names)
    if part.form in ("libsvm", "vowpal"):
        hint = "; the format has no names, and its label is called 'label'"
    elif names and sum(_NUMBER_NAME.fullmatch(name) is not None for name in names) > len(names) / 2:
        hint = "; its first line looks like data: put a line with the names of the columns on top"
    elif len(names) == 1 and part.form == "csv":
        hint = "; it seems to have one column: are its cells separated by comma, semicolon, tab, bar or blanks?"
    shown = ", ".join(map(repr, names[:50])) + (", ..." if len(names) > 50 else "")
    where = f"{part.name} (read as {form})" if form else part.name
    raise InputError(f"{where} has no column {label!r} for the label; its columns are {shown}{hint}")


def _require_actions(schema: Schema, part: Source) -> None:
    """Raise `InputError` if a source lacks what was taken in its rows, or the probability of that, with what to do."""
    if schema.task != "bandit":
        return
    shown = ", ".join(map(repr, part.names[:50])) + (", ..." if len(part.names) > 50 else "")
    if schema.action not in part.names:
        raise InputError(
            f"{part.name} has no column {schema.action!r} for the action that was taken; its columns are {shown}. Name "
            "it as schema.action"
        )
    if schema.propensity != actions.UNIFORM and schema.propensity not in part.names:
        raise InputError(
            f"{part.name} has no column {schema.propensity!r} for the probability with which it was chosen; its "
            f'columns are {shown}. Name it as schema.propensity, or set that to "uniform" if all actions had the same: '
            "without it no policy can be judged fairly"
        )


def _surveyed(source: Source, label: str, task: Task | None) -> Survey:
    """Return what the columns of a source hold, and its label."""
    for part in source.sources if isinstance(source, Files) else [source]:
        _require(label, part)
    sampler, labels, notes = _sampled(source, label)
    survey = guessing.survey(sampler.columns, label, task=task, labels=labels, sample=sampler.sample)
    return dataclasses.replace(survey, notes=(*survey.notes, *notes))


def unlabelled(source: Source, label: str | None) -> Survey:
    """Return what the columns of a source hold, for a model that finds anomalies.

    The column `label`, where there is one, has two classes, of which the rarer one is the anomaly. Rows without a label
    are normal. Times are left out, since each is new. Raises `InputError` for a label with other than two classes.
    """
    if label is not None:
        for part in source.sources if isinstance(source, Files) else [source]:
            _require(label, part)
    name = label or ANOMALY
    sampler, labels, notes = _sampled(source, name)
    if label is None:
        sampler.columns[name] = [NORMAL] * len(sampler.sample.places)
        labels = {NORMAL: 2, ANOMALY: 1}
    survey = guessing.survey(sampler.columns, name, task="binary", labels=labels, sample=sampler.sample)
    classes = survey.schema.classes
    counts = {str(value).strip().lower(): n for value, n in labels.items()}
    first, second = (counts.get(str(value).strip().lower(), 0) for value in classes)
    classes = classes if second <= first else classes[::-1]
    fields = {field: kind for field, kind in survey.schema.fields.items() if kind != "datetime"} or survey.schema.fields
    guesses = {
        field: guess if field in fields or guess.kind is None else dataclasses.replace(guess, kind=None, why=_NEW)
        for field, guess in survey.guesses.items()
    }
    dates = {field: order for field, order in survey.schema.dates.items() if field in fields}
    missing = {field: codes for field, codes in survey.schema.missing.items() if field in fields or field == name}
    schema = msgspec.structs.replace(
        survey.schema, classes=classes, unlabelled=classes[0], fields=fields, dates=dates, missing=missing
    )
    return dataclasses.replace(survey, schema=schema, guesses=guesses, notes=(*survey.notes, *notes))


def _sampled(source: Source, label: str) -> tuple[Sampler, dict[Any, int], list[str]]:
    """Return a sample of the rows of a source, the number of each label, and notes."""
    blocks = source.peek(8192) if isinstance(source, Piped) else source.blocks(0, 8192, None)
    sampler = Sampler(_SAMPLE)
    labels: dict[Any, int] = {}
    faults: Counter[str] = Counter()
    first: dict[str, str] = {}  # the first fault of each kind
    for block in blocks:
        _count(labels, block.columns.get(label))
        sampler.add(block.columns, len(block.kept))
        for reason in block.faults.values():
            kind = re.sub(r"[0-9]+", "N", reason)
            first.setdefault(kind, reason)
            faults[kind] += 1
    if not len(sampler.sample.places):
        raise InputError(f"{source.name} has no row that can be read; expected some to see what its columns hold")
    notes = [
        f"1 row cannot be read: {first[kind]}" if n == 1 else f"{n:,} rows cannot be read; the first: {first[kind]}"
        for kind, n in faults.most_common(3)
    ]
    if source.foreign:
        notes.append(
            f"{source.foreign:,} lines are not UTF-8: they are read as Windows-1252 (Latin-1). If letters look wrong, "
            "convert the file: iconv -f ENCODING -t UTF-8"
        )
    return sampler, labels, notes


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
