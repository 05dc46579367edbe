"""Raw records to batches: the same pure encoding when serving, when learning, and however the rows come.

Dense columns, in field order: a number is itself, a truth value 0 or 1, a vector its numbers, and a moment five
numbers (sine and cosine of the time of day and of the week, and years since 2000). Hashed columns: each category and
each word counts 1 where the hash of field and value says. `docs/reference/schema.md` lists what becomes of odd values.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from everlearn.errors import ConfigError, InputError
from everlearn.records import Batch, Floats, Scalar, Singles, Task
from everlearn.schema import columnar, guessing, meaning
from everlearn.schema.meaning import LARGEST
from everlearn.spec import LAYOUT, Schema

FEWEST_BITS, MOST_BITS = 10, 18  # of the hash, as they are inferred
KINDS = ("numeric", "boolean", "categorical", "text", "datetime", "vector[n]")

_VECTOR = re.compile(r"vector\[([1-9][0-9]{0,5})\]")
_NO_INDICES = np.empty(0, np.int32)
_NO_VALUES = np.empty(0, np.float32)
_HANDFUL = 64  # rows from which on whole columns are quicker
_PLAIN = {float, int, bool, type(None)}  # what numpy takes for the number that we take it for


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that cannot be used: the row (from 0 in its batch), the field, and why."""

    row: int
    field: str
    reason: str


def shape(schema: Schema) -> dict[str, Any]:
    """What a model must know of its inputs: task, number of dense columns, of hashed columns, and of classes.

    `hashed` is 0 when no field is hashed; `classes` is 0 for a regression. Raises `ConfigError` for a schema that
    contradicts itself.

    >>> shape(Schema(label="y", task="binary", classes=(0, 1), fields={"age": "numeric", "at": "datetime"}))
    {'task': 'binary', 'dense': 6, 'hashed': 0, 'classes': 2}
    """
    check(schema)
    hashed = any(kind in ("categorical", "text") for kind in schema.fields.values())
    return {
        "task": schema.task,
        "dense": sum(width(kind) for kind in schema.fields.values()),
        "hashed": 1 << schema.bits if hashed else 0,
        "classes": len(schema.classes),
    }


def width(kind: str) -> int:
    """How many dense columns a kind of field takes; `ConfigError` if there is no such kind."""
    if kind in ("numeric", "boolean"):
        return 1
    if kind == "datetime":
        return 5
    if kind in ("categorical", "text"):
        return 0
    found = _VECTOR.fullmatch(kind)
    if not found:
        raise ConfigError(f"got the kind {kind!r}, expected one of {', '.join(KINDS)}")
    return int(found[1])


def check(schema: Schema) -> None:
    """Raise `ConfigError` where a schema contradicts itself, or has a layout that this release does not know."""
    if not 1 <= schema.layout <= LAYOUT:
        raise ConfigError(
            f"schema.layout: got {schema.layout}; this release encodes rows in layouts 1 to {LAYOUT}. If a newer "
            "release of Everlearn wrote it, upgrade"
        )
    if not schema.fields:
        raise ConfigError("the schema has no fields; name at least one under [schema.fields]")
    if schema.label in schema.fields:
        raise ConfigError(f"the label {schema.label!r} is also a field; a model must not see what it is to predict")
    for name, kind in schema.fields.items():
        try:
            width(kind)
        except ConfigError as error:
            raise ConfigError(f"field {name!r}: {error}") from None
    if not 1 <= schema.bits <= 30:
        raise ConfigError(f"got bits = {schema.bits}, expected 1 to 30")
    count = len(schema.classes)
    if schema.task == "regression" and count:
        raise ConfigError(f"a regression has no classes, got {count}; leave `classes` out, or set task = 'multiclass'")
    if schema.task == "binary" and count != 2:
        raise ConfigError(f"a binary task has 2 classes, got {count}: {list(schema.classes)}")
    if schema.task == "multiclass" and count < 2:
        raise ConfigError(f"a multiclass task has 2 classes or more, got {count}: {list(schema.classes)}")
    if len({meaning.category(value) for value in schema.classes}) < count:
        raise ConfigError(f"two classes have the same spelling: {list(schema.classes)}")


def infer(columns: Any, label: str, *, task: Task | None = None, labels: Mapping[Any, int] | None = None) -> Schema:
    """Guess a schema from rows: a mapping of names to columns, a DataFrame or an Arrow table.

    `labels` counts the labels of the whole stream, where `columns` is only a sample of it. The guess follows these
    rules, and is meant to be looked over; a share of 2% of values that do not fit is taken for dirt.

    Label: truth values, text, and whole numbers of at most 20 values are classes; other numbers make a regression.
    Fields: numbers are numeric, but whole numbers are categorical if they are few, close and evenly used (3 to 31
    values, as for a weekday) or named like an identifier (`user_id`, `FlightNum`, `zip`); true/false and yes/no are
    boolean; ISO dates are datetime; mostly different texts of 3 words and more, or of 30 letters, are text; other texts
    are categorical; lists of numbers of one length are vectors. Left out are identifiers with another value in every
    row, and columns of nested values. `bits` leaves 64 hashed columns for each category
    found, and is 18 where there is text.

    Raises `InputError` if the label is not a column or cannot be learned.

    >>> infer({"age": [31, 42, 53], "town": ["Delft", "Delft", "Gouda"], "y": ["no", "yes", "no"]}, "y").fields
    {'age': 'numeric', 'town': 'categorical'}
    """
    parts = {name: columnar.native(column) for name, column in columnar.named(columns).items()}
    require(label, list(parts))
    counts = Counter(columnar.values_of(parts[label])) if labels is None else labels
    found, classes = guessing.target(label, counts, task)
    kinds = {name: guessing.kind_of(name, part) for name, part in parts.items() if name != label}
    fields = {name: kind for name, kind in kinds.items() if kind is not None}
    if not fields:
        raise InputError(f"no column beside the label {label!r} can be learned from; got {', '.join(parts)}")
    categories = sum(
        len(set(columnar.values_of(parts[name]))) for name, kind in fields.items() if kind == "categorical"
    )
    bits = MOST_BITS if "text" in fields.values() else min(max((64 * categories).bit_length(), FEWEST_BITS), MOST_BITS)
    return Schema(label=label, task=found, fields=fields, classes=classes, bits=bits)


def require(label: str, names: Sequence[str], where: str = "the data") -> None:
    """Raise `InputError` if there is no column for the label."""
    if label not in names:
        shown = ", ".join(map(repr, names[:50])) + (", ..." if len(names) > 50 else "")
        raise InputError(f"{where} has no column {label!r} for the label; its columns are {shown}")


class Encoder:
    """Turns raw records into batches, by a schema; compiled once, then never changed.

    `columns`, `records` and `record` give the same numbers for the same data, whatever container it came in. A value
    that cannot be used is left out (as if it were missing) and reported as a `Problem`; the caller drops the row.

    >>> fields = {"age": "numeric", "town": "categorical"}
    >>> encoder = Encoder(Schema(label="y", task="binary", classes=("no", "yes"), fields=fields))
    >>> batch, problems = encoder.records([{"age": 31, "town": "Delft"}, {"age": "old", "town": None}])
    >>> batch.dense.tolist(), batch.indptr.tolist()
    ([[31.0], [nan]], [0, 1, 1])
    >>> problems
    [Problem(row=1, field='age', reason="got 'old', expected a number")]
    """

    def __init__(self, schema: Schema) -> None:
        self.shape = shape(schema)
        self.schema = schema
        fields = schema.fields.items()
        self._dense = tuple((name, kind, width(kind)) for name, kind in fields if width(kind))
        self._categories = tuple(name for name, kind in fields if kind == "categorical")
        self._texts = tuple(name for name, kind in fields if kind == "text")
        self._hashed = self._categories + self._texts
        self._only_numbers = tuple(name for name, kind, _ in self._dense if kind == "numeric")
        if len(self._only_numbers) < len(self._dense):
            self._only_numbers = ()
        self._crossed = schema.interactions and len(self._categories) > 1
        self._mask = np.uint64((1 << schema.bits) - 1)
        self._index = _index(schema.classes)
        if self._hashed:
            from everlearn.schema import hashing

            self._kernels = hashing
            self._seeds = np.array([hashing.seed_of(name) for name in self._hashed], np.uint64)

    def columns(self, columns: Mapping[str, Any], n: int) -> tuple[Batch, list[Problem]]:
        """Encode n rows given as one column for each field: numpy arrays, lists, Arrow arrays or pandas Series.

        Columns that are not in the schema are ignored; a field without a column is missing in every row. Raises
        `InputError` if a column has another length than n.
        """
        parts = {name: _native(columns[name], name, n) for name in self.schema.fields if columns.get(name) is not None}
        problems: list[Problem] = []
        dense = np.full((n, self.shape["dense"]), np.nan, np.float32)
        at = 0
        for name, kind, wide in self._dense:
            if name in parts:
                values, faults = self._dense_column(parts[name], kind, wide)
                dense[:, at : at + wide] = values.reshape(n, wide)
                problems += [Problem(row, name, reason) for row, reason in faults]
            at += wide
        dense[np.isnan(dense)] = np.nan  # a NaN may carry bits of its own; ours are all alike
        rows = self._hashed_columns(parts, n, problems) if self._hashed else None
        problems.sort(key=lambda problem: problem.row)
        return Batch(dense, *(rows or (np.zeros(n + 1, np.int64), _NO_INDICES, _NO_VALUES))), problems

    def records(self, records: Sequence[Mapping[str, Any]]) -> tuple[Batch, list[Problem]]:
        """Encode n records; keys that are not in the schema are ignored, and keys that are absent are missing."""
        columns = {name: [record.get(name) for record in records] for name in self.schema.fields}
        return self.columns(columns, len(records))

    def record(self, features: Mapping[str, Any]) -> Batch:
        """Encode one record, quickly; raises `InputError` naming the field for a value that cannot be used."""
        numbers: list[float] = []
        name = ""
        try:
            for name in self._only_numbers:
                value = features.get(name)
                kind = type(value)
                if (kind is float or kind is int) and -LARGEST <= value <= LARGEST:  # type: ignore[operator]
                    numbers.append(value)  # type: ignore[arg-type]
                else:
                    numbers.append(meaning.number(value))
            if not self._only_numbers:
                for name, kind_name, wide in self._dense:
                    numbers += _dense_value(features.get(name), kind_name, wide)
            cells = []
            for name in self._hashed:
                cells.append(meaning.category(features.get(name)))
        except InputError as error:
            raise InputError(f"field {name!r}: {error}") from None
        dense = np.array(numbers, np.float64).astype(np.float32).reshape(1, len(numbers))
        if not cells:
            return Batch(dense, np.zeros(2, np.int64), _NO_INDICES, _NO_VALUES)
        data, offsets = meaning.joined(cells)
        rows = self._kernels.one_row(data, offsets, self._seeds, len(self._categories), self._mask, self._crossed)
        return Batch(dense, *rows)

    def rows(self, records: Sequence[Mapping[str, Any]]) -> Batch:
        """Encode a handful of records at once: the numbers of `records`, at a fraction of its cost.

        Raises `InputError` naming the row (from 0) and the field for a value that cannot be used.
        """
        dense = self._plain_numbers(records) if self._only_numbers else None
        if dense is not None and not self._hashed:
            return Batch(dense, np.zeros(len(records) + 1, np.int64), _NO_INDICES, _NO_VALUES)
        try:
            if len(records) == 1:
                return self.record(records[0])
            if len(records) < _HANDFUL:
                dense = self._dense_rows(records) if dense is None else dense
                return Batch(dense, *self._hashed_rows(records))
        except InputError:
            pass  # the thorough way names the row
        batch, problems = self.records(records)
        if problems:
            raise InputError(f"row {problems[0].row}: field {problems[0].field!r}: {problems[0].reason}")
        return batch

    def labels(self, values: Any, n: int) -> tuple[Floats, list[Problem]]:
        """The y of n labels, float64: class indices, or the numbers themselves; NaN where there is a `Problem`."""
        name = self.schema.label
        part = _native([None] * n if values is None else values, name, n)
        if self.schema.task == "regression":
            y, faults = columnar.numbers(part)
            bad = {row for row, _ in faults}
            faults += [(row, "the label is missing") for row in np.flatnonzero(np.isnan(y)).tolist() if row not in bad]
        else:
            y, faults = columnar.each(part, self.label)
        return y, [Problem(row, name, reason) for row, reason in sorted(faults)]

    def label(self, value: Scalar) -> float:
        """The y of one label; raises `InputError` if it is missing, not a number, or not a known class."""
        if self.schema.task == "regression":
            y = meaning.number(value)
        else:
            y = self._index.get(meaning.category(value), math.nan)
        if y == y:
            return y
        if self.schema.task == "regression" or not meaning.category(value):
            raise InputError("the label is missing")
        known = ", ".join(repr(known) for known in self.schema.classes[:20])
        more = f" and {len(self.schema.classes) - 20} more" if len(self.schema.classes) > 20 else ""
        raise InputError(f"got the label {meaning.show(value)}, expected one of {known}{more}")

    def answer(self, scores: Singles) -> Scalar:
        """What the scores (classes,) of one row say: the likeliest class (the first of equals), or the number (1,)."""
        if self.schema.task == "regression":
            return float(scores[0])
        return self.schema.classes[int(scores.argmax())]

    def _plain_numbers(self, records: Sequence[Mapping[str, Any]]) -> Singles | None:
        """The dense columns of records that hold nothing but numbers in range; None if one does not."""
        values: list[Any] = []
        for record in records:
            values += map(record.get, self._only_numbers)
        if not _PLAIN.issuperset(map(type, values)):
            return None
        try:
            numbers = np.array(values, np.float64)
        except OverflowError:  # a whole number beyond the range of float64
            return None
        if (np.abs(numbers) > LARGEST).any():
            return None
        dense = numbers.astype(np.float32).reshape(len(records), len(self._only_numbers))
        dense[np.isnan(dense)] = np.nan  # ours are all alike
        return dense

    def _dense_rows(self, records: Sequence[Mapping[str, Any]]) -> Singles:
        numbers: list[float] = []
        for record in records:
            for name, kind, wide in self._dense:
                numbers += _dense_value(record.get(name), kind, wide)
        return np.array(numbers, np.float64).astype(np.float32).reshape(len(records), self.shape["dense"])

    def _hashed_rows(self, records: Sequence[Mapping[str, Any]]) -> Any:
        """As `_hashed_columns`, quicker for a few rows."""
        if not self._hashed:
            return np.zeros(len(records) + 1, np.int64), _NO_INDICES, _NO_VALUES
        kernels, rows = self._kernels, None
        cells = [meaning.joined([meaning.category(record.get(name)) for record in records]) for name in self._hashed]
        if self._categories:
            hashes = np.empty((len(records), len(self._categories)), np.uint64)
            present = np.empty((len(records), len(self._categories)), np.bool_)
            for j in range(len(self._categories)):
                hashes[:, j], present[:, j] = kernels.hash_cells(*cells[j], self._seeds[j])
            rows = kernels.category_rows(hashes, present, self._mask, self._crossed)
        for j in range(len(self._categories), len(cells)):
            more = kernels.text_rows(*cells[j], self._seeds[j], self._mask)
            rows = kernels.joined_rows(rows, more) if rows else more
        return rows

    def _dense_column(self, part: Any, kind: str, wide: int) -> tuple[Floats, columnar.Faults]:
        if kind == "numeric":
            return columnar.numbers(part)
        if kind == "boolean":
            return columnar.booleans(part)
        if kind == "datetime":
            seconds, faults = columnar.moments(part)
            return columnar.phases(seconds), faults
        return columnar.vectors(part, wide)

    def _hashed_columns(self, parts: Mapping[str, Any], n: int, problems: list[Problem]) -> Any:
        kernels, rows = self._kernels, None
        if self._categories:
            hashes = np.zeros((n, len(self._categories)), np.uint64)
            present = np.zeros((n, len(self._categories)), np.bool_)
            for j, name in enumerate(self._categories):
                if name in parts:
                    hashes[:, j], present[:, j], faults = self._category_column(parts[name], self._seeds[j])
                    problems += [Problem(row, name, reason) for row, reason in faults]
            rows = kernels.category_rows(hashes, present, self._mask, self._crossed)
        for j, name in enumerate(self._texts, len(self._categories)):
            if name in parts:
                (data, offsets), faults = columnar.cells(parts[name])
                problems += [Problem(row, name, reason) for row, reason in faults]
                more = kernels.text_rows(data, offsets, self._seeds[j], self._mask)
                rows = kernels.joined_rows(rows, more) if rows else more
        return rows or (np.zeros(n + 1, np.int64), _NO_INDICES, _NO_VALUES)

    def _category_column(self, part: Any, seed: np.uint64) -> tuple[Any, Any, columnar.Faults]:
        """The hash of each category, whether there is one, and faults."""
        whole = columnar.whole_numbers(part)
        if whole is not None:
            return self._kernels.hash_integers(whole[0], seed), whole[1], []
        if columnar.is_arrow(part) and str(part.type).startswith("dictionary"):
            hashes, present, faults = self._category_column(columnar.native(part.dictionary), seed)
            if not faults:
                codes = part.indices.fill_null(len(hashes)).to_numpy(zero_copy_only=False)
                return np.append(hashes, np.uint64(0))[codes], np.append(present, False)[codes], []
        (data, offsets), faults = columnar.cells(part)
        return *self._kernels.hash_cells(data, offsets, seed), faults


def _native(column: Any, name: str, n: int) -> Any:
    if len(column) != n:
        raise InputError(f"the column {name!r} has {len(column)} rows, expected {n} as in the others")
    return columnar.native(column)


def _dense_value(value: Any, kind: str, wide: int) -> Sequence[float]:
    """The dense columns of one value."""
    if kind == "numeric":
        return (meaning.number(value),)
    if kind == "boolean":
        return (meaning.boolean(value),)
    if kind == "datetime":
        return meaning.phases(meaning.moment(value))
    return meaning.vector(value, wide)


def _index(classes: Sequence[Scalar]) -> dict[bytes, float]:
    """Class index by spelling; truth values and 0 and 1 stand for each other."""
    index = {meaning.category(value): float(i) for i, value in enumerate(classes)}
    for i, value in enumerate(classes):
        if not isinstance(value, str) and value in (0, 1):
            for word in ("true", "True", "TRUE", "1") if value else ("false", "False", "FALSE", "0"):
                index.setdefault(word.encode(), float(i))
    return index
