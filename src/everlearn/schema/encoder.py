"""Raw records to batches: the same encoding in serving and in learning, for a single row and for whole columns.

Dense columns, in field order: a number is itself less the origin of its field, a truth value 0 or 1, a vector its
numbers, and a moment five numbers (sine and cosine of the time of day and of the week, and years since 2000). Hashed
columns: each category and each word counts 1 where the hash of field and value says. `docs/reference/schema.md` lists
what becomes of odd values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from everlearn.errors import ConfigError, InputError
from everlearn.records import (
    Batch,
    Example,
    Feedback,
    Floats,
    Ints,
    Label,
    Prediction,
    Preference,
    Reward,
    Scalar,
    Singles,
    Target,
)
from everlearn.schema import actions, columnar, meaning, origins
from everlearn.schema.field import Field, fields_of
from everlearn.schema.layout import CATEGORIES, NUMBERS, shape, width
from everlearn.schema.meaning import LARGEST
from everlearn.spec import Schema

_NO_INDICES = np.empty(0, np.int32)
_NO_VALUES = np.empty(0, np.float32)
UNLABELLED = "the label is missing"
_ANY_CASE = b"\0any case:"  # before the spelling in lower case of a class
_HANDFUL = 64  # rows from which encoding whole columns is faster
_PLAIN = {float, int, bool, type(None)}  # types that numpy converts to the same number as `meaning.number`
_NUMBERS = _PLAIN - {type(None)}
_VALUES = frozenset([float, int, bool, str, list])  # types of the values that JSON has, without null and objects


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that cannot be used: its row (from 0 in the batch), its field, and the reason."""

    row: int
    field: str
    reason: str


class Encoder:
    """Encoder of raw records into batches, compiled from a schema and never changed afterwards.

    `columns`, `records` and `record` give the same numbers for the same data, in any container. A value that cannot be
    used is encoded as missing and reported as a `Problem`; the caller drops the row.

    >>> fields = {"age": "numeric", "town": "categorical"}
    >>> encoder = Encoder(Schema(label="y", task="binary", classes=("no", "yes"), fields=fields))
    >>> batch, problems = encoder.records([{"age": 31, "town": "Delft"}, {"age": "old", "town": None}])
    >>> batch.dense.tolist(), batch.indptr.tolist()
    ([[31.0], [nan]], [0, 1, 1])
    >>> problems
    [Problem(row=1, field='age', reason="got 'old', expected a number")]
    """

    late = False  # models predict a row when its prediction event is folded

    def __init__(self, schema: Schema) -> None:
        if schema.task == "preference":
            raise ConfigError(
                "schema.task: got 'preference', whose rows are pairs of answers; expected a task with records of fields"
            )
        self.shape = shape(schema)
        self.schema = schema
        known = actions.columns(schema)
        fields = known.items()
        self.fields = fields_of(schema)
        self._label = self.fields.pop(schema.label)
        self._names = tuple(known)
        self._dense = tuple((self.fields[name], width(kind)) for name, kind in fields if width(kind))
        self._categories = tuple(name for name, kind in fields if kind in CATEGORIES)
        self._hashed = self._categories + tuple(name for name, kind in fields if kind == "text")
        self._tokens = tuple(name for name, kind in fields if kind == "tokens")
        self._only_numbers = tuple(field.name for field, _ in self._dense if field.kind == "numeric" and field.is_plain)
        if len(self._only_numbers) < len(self._dense):
            self._only_numbers = ()
        self._origins = origins.subtracted(schema)
        self._mask = np.uint64((1 << schema.bits) - 1)
        self._index = _index(schema.classes, self._label)
        if self._hashed or self._tokens:
            from everlearn.schema import hashing

            self._kernels = hashing
            self._seeds = np.array([hashing.seed_of(name) for name in self._hashed + self._tokens], np.uint64)

    @property
    def _crossed(self) -> bool:
        """True if pairs of categories are hashed as well."""
        return self.schema.interactions and len(self._categories) > 1

    def columns(self, columns: Mapping[str, Any], n: int) -> tuple[Batch, list[Problem]]:
        """Encode n rows given as one column for each field: numpy arrays, lists, Arrow arrays or pandas Series.

        Columns that are not in the schema are ignored; a field without a column is missing in every row. Raises
        `InputError` if a column has another length than n.
        """
        parts = {name: _native(columns[name], name, n) for name in self._names if columns.get(name) is not None}
        problems: list[Problem] = []
        dense = np.full((n, self.shape["dense"]), np.nan, np.float32)
        at = 0
        for field, wide in self._dense:
            if (name := field.name) in parts:
                values, faults = _dense_column(parts[name], field, wide)
                dense[:, at : at + wide] = self._float32(values.reshape(n, wide), at)
                problems += [Problem(row, name, reason) for row, reason in faults]
                if field.kind == "integer":
                    parts[name] = values  # hashed as read, too
            elif field.kind == "offered":
                dense[:, at] = 1.0
            at += wide
        dense[np.isnan(dense)] = np.nan  # NaN has several bit patterns; keep one
        rows = self._hashed_columns(parts, n, problems) if self._hashed else None
        for j, name in enumerate(self._tokens, len(self._hashed)):
            cells, places, faults = columnar.tokens(parts.get(name, [None] * n), self.fields[name])
            problems += [Problem(row, name, reason) for row, reason in faults]
            rows = self._with_tokens(rows, cells, places, j)
        problems.sort(key=lambda problem: problem.row)
        batch = Batch(dense, *(rows or (np.zeros(n + 1, np.int64), _NO_INDICES, _NO_VALUES)))
        return actions.logged(self.schema, batch), problems

    def records(self, records: Sequence[Mapping[str, Any]]) -> tuple[Batch, list[Problem]]:
        """Encode n records. Keys outside the schema are ignored; absent keys are missing values."""
        columns = {name: [record.get(name) for record in records] for name in self._names}
        return self.columns(columns, len(records))

    def record(self, features: Mapping[str, Any]) -> Batch:
        """Encode one record, fast. Raises `InputError`, with the field, for a value that cannot be used."""
        numbers: list[float] = []
        name = ""
        try:
            for name in self._only_numbers:
                value = features.get(name)
                kind = type(value)
                if (kind is float or kind is int) and -LARGEST <= value <= LARGEST:  # type: ignore[operator]
                    numbers.append(value)  # type: ignore[arg-type]
                else:
                    numbers.append(self.fields[name].number(value))
            if not self._only_numbers:
                for field, wide in self._dense:
                    name = field.name
                    numbers += _dense_value(features.get(name), field, wide)
            cells, tokens = [], []
            for name in self._hashed:
                cells.append(self.fields[name].category(features.get(name)))  # noqa: PERF401
            for name in self._tokens:
                tokens.append(self.fields[name].tokens(features.get(name)))
        except InputError as error:
            raise InputError(f"field {name!r}: {error}") from None
        dense = self._float32(np.array([numbers], np.float64))
        if not cells and not tokens:
            return Batch(dense, np.zeros(2, np.int64), _NO_INDICES, _NO_VALUES)
        rows = None
        if cells:
            data, offsets = meaning.joined(cells)
            rows = self._kernels.one_row(data, offsets, self._seeds, len(self._categories), self._mask, self._crossed)
        for j, found in enumerate(tokens, len(cells)):
            rows = self._with_tokens(rows, meaning.joined(found), np.array([0, len(found)]), j)
        return Batch(dense, *rows)  # type: ignore[misc]  # there are cells or tokens

    def _with_tokens(self, rows: Any, cells: columnar.Cells, places: Ints, j: int) -> Any:
        """Return rows with the tokens of one more field."""
        found = self._kernels.token_rows(*cells, places, self._seeds[j], self._mask)
        return self._kernels.joined_rows(rows, found) if rows else found

    def rows(self, records: Sequence[Mapping[str, Any]]) -> Batch:
        """Encode a few records at once: the same numbers as `records`, at a fraction of the cost.

        Raises `InputError`, with the row (from 0) and the field, for a value that cannot be used.
        """
        dense = self._plain_numbers(records) if self._only_numbers else None
        if dense is not None and not self._hashed and not self._tokens:
            return Batch(dense, np.zeros(len(records) + 1, np.int64), _NO_INDICES, _NO_VALUES)
        try:
            if len(records) == 1:
                return self.record(records[0])
            if len(records) < _HANDFUL and not self._tokens:
                dense = self._dense_rows(records) if dense is None else dense
                return Batch(dense, *self._hashed_rows(records))
        except InputError:
            pass  # encode column by column below, to find the row
        batch, problems = self.records(records)
        if problems:
            raise InputError(f"row {problems[0].row}: field {problems[0].field!r}: {problems[0].reason}")
        return batch

    def is_whole(self, record: Mapping[str, Any]) -> bool:
        """Return True for a record from JSON that has a value for each field and nothing else: it is kept as it is.

        Values of the fields are not objects, whose parts could be other fields.

        >>> encoder = Encoder(Schema(label="y", task="regression", fields={"age": "numeric"}))
        >>> encoder.is_whole({"age": 31}), encoder.is_whole({"age": None}), encoder.is_whole({"age": 31, "x": 1})
        (True, False, False)
        """
        if tuple(record) != self._names and record.keys() != self.fields.keys():
            return False
        return _VALUES.issuperset(map(type, record.values()))

    def whole_numbers(self, records: Sequence[Mapping[str, Any]]) -> Batch | None:
        """Encode n records from JSON that are whole (see `is_whole`), and numbers in the order of the fields.

        Returns None, at little cost, for any other records, or fields: `rows` encodes or refuses them.
        """
        names, values = self._names, list[Any]()
        if names != self._only_numbers:
            return None
        for record in records:
            if tuple(record) != names:
                return None
            values += record.values()
        dense = self._numbers(values, len(records)) if _NUMBERS.issuperset(map(type, values)) else None
        if dense is None:
            return None
        return Batch(dense, np.zeros(len(records) + 1, np.int64), _NO_INDICES, _NO_VALUES)

    def read(self, predictions: Sequence[Prediction]) -> Batch:
        """Encode n predictions: their features, and the action that each answered, for a bandit.

        Raises `InputError` as `rows` does.
        """
        return actions.served(self.schema, self.rows([one.features for one in predictions]), predictions)

    def sift(self, events: Sequence[Prediction | Example]) -> tuple[Batch, set[int]]:
        """Encode n predictions and examples, as `read` does; return the places of those that cannot be used, too."""
        batch, problems = self.records([event.features for event in events])
        if self.schema.actions:
            for row, event in enumerate(events):
                if isinstance(event, Prediction):
                    chosen = actions.index(self.schema, event.value)
                    batch.dense[row, [actions.ACTION, actions.PROPENSITY]] = chosen, event.propensity
        return batch, {problem.row for problem in problems}

    def judge(self, feedback: Feedback) -> tuple[Target, ...]:
        """Return the one lesson of feedback: the target, with the whole weight.

        A label is the answer itself. A reward is what a regression learns to predict, and a bandit. Raises `InputError`
        where the feedback does not fit the task, or is out of range.
        """
        task = self.schema.task
        match feedback:
            case Label(value=value):
                return (Target(self.label(value), 1.0),)
            case Reward(value=value) if task in ("regression", "bandit"):
                return (Target(self.label(value), 1.0),)
            case Reward():
                raise InputError(
                    f"got a reward for prediction {feedback.id!r}, but this loop's task is {task}: "
                    "send a label, or declare the task a regression to learn rewards"
                )
            case Preference():
                raise InputError(
                    f"got a preference for prediction {feedback.id!r}, but this loop's task is {task}: "
                    "send a label; preferences are learned by preference families"
                )

    def mark(self, row: Batch, feedback: Feedback) -> Batch:
        """Return the row: all that is known about a record is known at its prediction."""
        return row

    def scores(self, row: Batch) -> bool:
        """Return True: models are scored on all records."""
        return True

    def labels(self, values: Any, n: int) -> tuple[Floats, list[Problem]]:
        """Return the targets of n labels, float64 (n,), and the problems.

        A target is the class index, or the number itself for a regression; it is NaN where there is a `Problem`.
        """
        name = self.schema.label
        part = _native([None] * n if values is None else values, name, n)
        if not self.schema.classes:
            y, faults = columnar.bounded(part, self._label)
            bad = {row for row, _ in faults}
            faults += [(row, UNLABELLED) for row in np.flatnonzero(np.isnan(y)).tolist() if row not in bad]
        else:
            y, faults = columnar.each(part, self.label)
        return y, [Problem(row, name, reason) for row, reason in sorted(faults)]

    def label(self, value: Scalar) -> float:
        """Return the target of one label. Raises `InputError` if it is missing, not a number, or not a known class."""
        if not self.schema.classes:
            y = self._label.bounded(value)
        else:
            y = self._index.get(cell := self._label.category(value), math.nan)
            if y != y and self.schema.rules > 1:
                y = self._index.get(_ANY_CASE + cell.lower(), math.nan)
        if y == y:
            return y
        if not self.schema.classes or not self._label.category(value):
            raise InputError(UNLABELLED)
        known = ", ".join(map(repr, self.schema.classes[:20]))
        more = f" and {len(self.schema.classes) - 20} more" if len(self.schema.classes) > 20 else ""
        raise InputError(f"got the label {meaning.show(value)}, expected one of {known}{more}")

    def decode(self, scores: Singles) -> list[Scalar]:
        """Return the predictions for the scores (n, classes) or (n, 1) of n rows: likeliest classes, or numbers.

        Of equally likely classes it is the first.
        """
        if not self.schema.classes:
            numbers: list[Scalar] = scores[:, 0].tolist()
            return numbers
        classes = self.schema.classes
        return [classes[best] for best in scores.argmax(1).tolist()]

    def _plain_numbers(self, records: Sequence[Mapping[str, Any]]) -> Singles | None:
        """Return the dense columns of records that hold only numbers in range, float32 (n, d); None otherwise."""
        values: list[Any] = []
        names = self._only_numbers
        for record in records:
            values += record.values() if tuple(record) == names else map(record.get, names)
        dense = self._numbers(values, len(records)) if _PLAIN.issuperset(map(type, values)) else None
        if dense is not None:
            dense[np.isnan(dense)] = np.nan  # keep one bit pattern of NaN
        return dense

    def _numbers(self, values: list[Any], n: int) -> Singles | None:
        """Return the values of n rows of numbers, float32 (n, d); None if one is out of range."""
        try:
            numbers = np.array(values, np.float64)
        except OverflowError:  # an integer beyond the range of float64
            return None
        if (np.abs(numbers) > LARGEST).any():
            return None
        return self._float32(numbers.reshape(n, len(self._only_numbers)))

    def _dense_rows(self, records: Sequence[Mapping[str, Any]]) -> Singles:
        numbers: list[float] = []
        for record in records:
            for field, wide in self._dense:
                numbers += _dense_value(record.get(field.name), field, wide)
        return self._float32(np.array(numbers, np.float64).reshape(len(records), self.shape["dense"]))

    def _float32(self, numbers: Floats, at: int = 0) -> Singles:
        """Return numbers, float64 (..., columns), as float32, less the origins of the columns from `at` on."""
        if self._origins is not None:
            moved = numbers - self._origins[at : at + numbers.shape[-1]]
            numbers = np.clip(moved, -LARGEST, LARGEST)  # a difference may leave the range of float32
        return numbers.astype(np.float32)

    def _hashed_rows(self, records: Sequence[Mapping[str, Any]]) -> Any:
        """Return the same rows as `_hashed_columns`, faster for a few rows."""
        if not self._hashed:
            return np.zeros(len(records) + 1, np.int64), _NO_INDICES, _NO_VALUES
        kernels, rows = self._kernels, None
        cells = [
            meaning.joined([self.fields[name].category(record.get(name)) for record in records])
            for name in self._hashed
        ]
        if self._categories:
            hashes = np.empty((len(records), len(self._categories)), np.uint64)
            present = np.empty((len(records), len(self._categories)), np.bool_)
            for j in range(len(self._categories)):
                hashes[:, j], present[:, j] = kernels.hash_cells(*cells[j], self._seeds[j])
            rows = kernels.category_rows(hashes, present, self._mask, self._crossed)
        for j in range(len(self._categories), len(cells)):
            text = kernels.text_rows(*cells[j], self._seeds[j], self._mask)
            rows = kernels.joined_rows(rows, text) if rows else text
        return rows

    def _hashed_columns(self, parts: Mapping[str, Any], n: int, problems: list[Problem]) -> Any:
        kernels, rows = self._kernels, None
        if self._categories:
            hashes = np.zeros((n, len(self._categories)), np.uint64)
            present = np.zeros((n, len(self._categories)), np.bool_)
            for j, name in enumerate(self._categories):
                if name in parts:
                    hashes[:, j], present[:, j], faults = self._category_column(
                        parts[name], self._seeds[j], self.fields[name]
                    )
                    problems += [Problem(row, name, reason) for row, reason in faults]
            rows = kernels.category_rows(hashes, present, self._mask, self._crossed)
        for j, name in enumerate(self._hashed[len(self._categories) :], len(self._categories)):
            if name in parts:
                (data, offsets), faults = columnar.cells(parts[name], self.fields[name])
                problems += [Problem(row, name, reason) for row, reason in faults]
                text = kernels.text_rows(data, offsets, self._seeds[j], self._mask)
                rows = kernels.joined_rows(rows, text) if rows else text
        return rows or (np.zeros(n + 1, np.int64), _NO_INDICES, _NO_VALUES)

    def _category_column(self, part: Any, seed: np.uint64, field: Field) -> tuple[Any, Any, columnar.Faults]:
        """Return the hash of each category, a mask of the rows that have one, and the faults."""
        read = field.kind == "integer"  # its numbers were read, and are NaN where missing
        whole = None if field.gone and not read else columnar.whole_numbers(part)
        if whole is not None:
            return self._kernels.hash_integers(whole[0], seed), whole[1], []
        if columnar.is_arrow(part) and str(part.type).startswith("dictionary"):
            hashes, present, faults = self._category_column(columnar.native(part.dictionary), seed, field)
            if not faults:
                codes = part.indices.fill_null(len(hashes)).to_numpy(zero_copy_only=False)
                return np.append(hashes, np.uint64(0))[codes], np.append(present, False)[codes], []
        (data, offsets), faults = columnar.cells(part, field)
        return *self._kernels.hash_cells(data, offsets, seed), faults


def _native(column: Any, name: str, n: int) -> Any:
    if len(column) != n:
        raise InputError(f"the column {name!r} has {len(column)} rows, expected {n} like the other columns")
    return columnar.native(column)


def _dense_column(part: Any, field: Field, wide: int) -> tuple[Floats, columnar.Faults]:
    if field.kind in NUMBERS:
        return columnar.numbers(part, field)
    if field.kind == "boolean":
        return columnar.booleans(part, field)
    if field.kind == "offered":
        found, faults = columnar.booleans(part, field)
        return np.where(np.isnan(found), 1.0, found), faults
    if field.kind == "action":
        return columnar.each(part, field.choice)
    if field.kind == "propensity":
        return columnar.bounded(part, field)
    if field.kind == "datetime":
        seconds, faults = columnar.moments(part, field)
        return columnar.phases(seconds), faults
    return columnar.vectors(part, wide, field)


def _dense_value(value: Any, field: Field, wide: int) -> Sequence[float]:
    """Return the dense columns of one value."""
    if field.kind in NUMBERS:
        return (field.number(value),)
    if field.kind == "boolean":
        return (field.boolean(value),)
    if field.kind == "offered":
        return (field.offered(value),)
    if field.kind == "action":
        return (field.choice(value),)
    if field.kind == "propensity":
        return (field.bounded(value),)
    if field.kind == "datetime":
        return meaning.phases(field.moment(value))
    return field.vector(value, wide)


def _index(classes: Sequence[Scalar], label: Field) -> dict[bytes, float]:
    """Map the spelling of each class to its index; truth values and 0 and 1 are interchangeable."""
    index = {label.category(value): float(i) for i, value in enumerate(classes)}
    for i, value in enumerate(classes):
        if not isinstance(value, str) and value in (0, 1):
            for word in ("true", "True", "TRUE", "1") if value else ("false", "False", "FALSE", "0"):
                index.setdefault(word.encode(), float(i))
    lower = Counter(cell.lower() for cell in map(label.category, classes))
    folded = {_ANY_CASE + cell.lower(): y for cell, y in index.items() if lower[cell.lower()] == 1}
    return index | folded
