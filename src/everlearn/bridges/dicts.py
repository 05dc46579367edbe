"""A model that learns from dicts whose names and labels are not known before.

A model has a fixed number of columns and classes, and names appear while a stream runs. So a name gets the next free
column when it is first learned, and a label the next free class. Where there is no room, a larger model takes over and
learns the rows of the memory. An absent number is 0; None and NaN are missing values. Text is hashed, and so are
numbers whose names come after the first `MOST_COLUMNS`.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from everlearn import model as contract
from everlearn.errors import InputError
from everlearn.model import Model, restore
from everlearn.records import Batch, Floats, Singles

KEPT = 500  # newest rows, from which a larger model learns
FEWEST_COLUMNS, MOST_COLUMNS = 8, 128  # of numbers; others are hashed
HASHED = 1 << 12  # columns of text, and of the numbers that have no column

Record = Mapping[Any, Any]


class DictModel:
    """A model of any family that takes dicts: `spec` without a shape, and labels of any hashable type.

    `labels` are those learned so far, in the order in which they came; a bool brings the other one.

    >>> model = DictModel({"family": "linear"}, classes=True)
    >>> for _ in range(50):
    ...     model.learn([{"x": 1.0}, {"x": -1.0, "new": 3}], ["up", "down"])
    >>> model.labels, bool(model.shares([{"x": 1.0}])[0, 0] > 0.8)
    (['up', 'down'], True)
    """

    def __init__(self, spec: Mapping[str, Any], classes: bool) -> None:
        self.spec, self.classes = dict(spec), classes
        self.labels: list[Any] = []
        self._places: dict[Any, int] = {}  # of labels
        self._columns: dict[Any, int] = {}  # of names
        self._kept: deque[tuple[dict[Any, Any], float, float]] = deque(maxlen=KEPT)  # record, label, weight
        self._hashed = 0
        self.model: Model | None = None

    def learn(self, records: Sequence[Record], labels: Iterable[Any], weights: Sequence[float] | None = None) -> None:
        """Learn records with their labels (numbers, for a regression), in order.

        Raises `InputError` for a label that is not a number, in a regression; a row whose weight is 0 teaches nothing.
        """
        weight = [1.0] * len(records) if weights is None else [float(one) for one in weights]
        y = np.array([self._place(label) if self.classes else _number(label) for label in labels], np.float64)
        if len(y) != len(records) or len(weight) != len(records):
            raise InputError(f"got {len(records)} records, {len(y)} labels and {len(weight)} weights; expected as many")
        for record in records:
            self._meet(record)
        if self._outgrown():
            self._grow()
        assert self.model is not None
        self.model.learn(self._batch(records), y, np.array(weight, np.float32))
        self._kept.extend((dict(one), float(at), heavy) for one, at, heavy in zip(records, y, weight, strict=True))

    def scores(self, records: Sequence[Record]) -> Singles:
        """Return the predicted numbers of n records, float32 (n, 1): 0 before the first label."""
        if self.model is None:
            return np.zeros((len(records), 1), np.float32)
        return self.model.predict(self._batch(records))

    def shares(self, records: Sequence[Record]) -> Floats:
        """Return the probabilities of n records, float64 (n, labels), of the labels known so far; they sum to 1."""
        if self.model is None:
            return np.zeros((len(records), 0))
        scores = self.model.predict(self._batch(records)).astype(np.float64)[:, : len(self.labels)]
        total = scores.sum(axis=1, keepdims=True)
        found: Floats = np.where(total > 0, scores / np.where(total > 0, total, 1.0), 1.0 / len(self.labels))
        return found

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        model = state.pop("model")
        state["whole"] = None if model is None else (dict(model.spec), contract.copied(model.arrays))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        whole = state.pop("whole")
        vars(self).update(state)
        self.model = None
        if whole is not None:
            self.model = contract.build(whole[0])
            restore(self.model, whole[1])

    def _place(self, label: Any) -> int:
        """Return the class of a label, which is a new one if it was not learned before."""
        own = label.item() if isinstance(label, np.generic) else label
        if own not in self._places:
            for one in (False, True) if isinstance(own, bool) and not self.labels else (own,):
                self._places[one] = len(self.labels)
                self.labels.append(one)
        return self._places[own]

    def _meet(self, record: Record) -> None:
        """Give new names of numbers the next columns, in an order that does not depend on that of the record."""
        new = [name for name, value in record.items() if name not in self._columns and _is_number(value)]
        for name in sorted(new, key=_sortable):
            if len(self._columns) < MOST_COLUMNS:
                self._columns[name] = len(self._columns)
            else:
                self._hashed = HASHED
        if not self._hashed and any(not _is_number(value) and value is not None for value in record.values()):
            self._hashed = HASHED

    def _outgrown(self) -> bool:
        """Return True if there is no model yet, or if it has too little room."""
        known = {} if self.model is None else self.model.spec
        few = len(self._columns) > known.get("dense", -1) or len(self.labels) > max(known.get("classes", 0), 2)
        return few or known.get("hashed") != self._hashed

    def _grow(self) -> None:
        """Build a model with room for all names and labels, and let it learn the rows of the memory."""
        columns, classes = max(len(self._columns), FEWEST_COLUMNS), max(len(self.labels), 2)
        known: dict[str, Any] = {"dense": min(1 << (columns - 1).bit_length(), MOST_COLUMNS), "hashed": self._hashed}
        known |= {"task": "regression", "classes": 0}
        if self.classes:
            room = 1 << (classes - 1).bit_length()
            known |= {"task": "binary" if room == 2 else "multiclass", "classes": room}
        self.model = contract.build(self.spec, known)
        if self._kept:
            records, y, weight = zip(*self._kept, strict=True)
            self.model.learn(self._batch(records), np.array(y, np.float64), np.array(weight, np.float32))

    def _batch(self, records: Sequence[Record]) -> Batch:
        """Encode records; a name without a column is left out, or hashed where no more columns are given.

        A number whose name is absent is 0, as in the models of River, so that words and counts say which are there.
        """
        assert self.model is not None
        dense = np.full((len(records), int(self.model.spec["dense"])), np.nan, np.float32)
        dense[:, : len(self._columns)] = 0.0
        full, entries, ends = len(self._columns) >= MOST_COLUMNS, [], [0]
        for row, record in enumerate(records):
            found = []
            for name, value in record.items():
                column = self._columns.get(name)
                if _is_number(value):
                    number = min(max(float(value), -3e38), 3e38)  # NaN stays
                    if column is not None:
                        dense[row, column] = number
                    elif full and self._hashed and math.isfinite(number):
                        found.append((_hash(repr(name)), number))
                    continue
                if column is not None:
                    dense[row, column] = np.nan
                if value is not None and self._hashed:
                    found.append((_hash(f"{name!r}={value!r}"), 1.0))
            entries += sorted(found)
            ends.append(len(entries))
        indices = np.array([index for index, _ in entries], np.int32)
        return Batch(dense, np.array(ends, np.int64), indices, np.array([value for _, value in entries], np.float32))


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _number(label: Any) -> float:
    """Return the label of a regression. Raises `InputError` for anything else."""
    if not _is_number(label):
        raise InputError(f"label: got {label!r}; expected a number. For classes, take a classifier")
    return float(label)


def _sortable(name: Any) -> tuple[str, str]:
    return type(name).__name__, str(name)


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % HASHED
