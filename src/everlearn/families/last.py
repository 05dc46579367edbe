"""The last known label: what comes after it, whatever the features are.

On a stream whose labels come in runs, the last label says more than any feature. As a member of a mix it leaves the
features to the others. Only labels that were known at a prediction count: the model keeps the newest label in the trace
of each prediction, so under late labels it learns what followed the label that was known then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn._jit import exact_kernel, inlined
from everlearn.errors import ConfigError, InputError
from everlearn.families import specs
from everlearn.families.batches import check_classes, labels
from everlearn.families.graphs import Graph, Row, constant_rows
from everlearn.families.parts import AnswerParts, Names
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Ints, RowTask, Singles

FADE = 0.999  # what a count keeps each time its label is the last one
LAST = "last label"  # the name of what it adds
PRIOR = 1.0  # rows that the shares of all labels count for, after each label


class LastSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a model of the last label: only its shape. `seed` has no effect: nothing here is random."""

    family: str = "last"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    seed: int = 0


class LastLabel:
    """A model that predicts from the last label alone.

    Arrays, for classes: `followed` float64 (classes + 1, classes), the fading number of times that each label came
    after each, last of all labels; `label` int64 (1,), the newest label, -1 before the first. For a regression the
    prediction is the newest number: `number` float64 (1,).
    """

    trace = 1

    def __init__(self, spec: Mapping[str, Any], settings: LastSettings) -> None:
        self.spec = spec
        self._classes, self._dense = settings.classes, settings.dense
        self.arrays: Arrays = {"number": np.zeros(1)}
        if self._classes:
            counts = np.zeros((self._classes + 1, self._classes))
            self.arrays = {"followed": counts, "label": np.full(1, -1, np.int64)}

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Score n rows, all alike: class probabilities float32 (n, classes), or float32 (n, 1) for a regression."""
        return self.predict_traced(batch)[0]

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Score n rows, and return the last label, float32 (n, 1); -1 before the first.

        Raises `InputError` for another number of dense columns.
        """
        n = self._rows(batch)
        if not self._classes:
            known = np.full((n, 1), self.arrays["number"][0], np.float32)
            return known, np.zeros((n, 1), np.float32)
        last = int(self.arrays["label"][0])
        scores = np.empty((n, self._classes), np.float32)
        scores[:] = _shares(self.arrays["followed"], last)
        return scores, np.full((n, 1), last, np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the shapes do not fit or a label is not a class.
        """
        n = self._rows(batch)
        y, weight = labels(y, weight, n)
        out = np.empty((n, max(self._classes, 1)), np.float32)
        if not self._classes:
            _follow_numbers(y, weight, self.arrays["number"], out)
            return out
        check_classes(y, self._classes)
        known = np.full(n, np.nan, np.float32) if trace is None else np.ascontiguousarray(trace[:, 0], np.float32)
        _follow(y, weight, known, self.arrays["followed"], self.arrays["label"], out)
        return out

    def _rows(self, batch: Batch) -> int:
        if batch.dense.shape[1] != self._dense:
            raise InputError(
                f"dense features: got {batch.dense.shape[1]} columns; expected {self._dense}, those of the model"
            )
        return len(batch)


def parts(model: LastLabel, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row: the shares of all labels, and what the last one adds.

    A number has no base, which is NaN: nothing but the last number is known.
    """
    return _known(model)


def _known(model: LastLabel) -> AnswerParts:
    if "number" in model.arrays:
        number = model.arrays["number"]
        return AnswerParts(np.full(1, np.nan), {LAST: number}, number)
    followed, last = model.arrays["followed"], int(model.arrays["label"][0])
    base, answer = _shares(followed, -1), _shares(followed, last)
    return AnswerParts(base, {LAST: answer - base}, answer)


def answer(model: LastLabel, graph: Graph, row: Row) -> str:
    """Add the nodes of a graph of ONNX: each row has the answer of now, float64 (n, outputs); nothing follows it."""
    return constant_rows(graph, row, _known(model).answer)


@inlined
def _divide(shares: Floats) -> None:
    """Divide numbers by their sum."""
    total = 0.0
    for k in range(len(shares)):
        total += shares[k]
    for k in range(len(shares)):
        shares[k] /= total


@exact_kernel
def _shares(followed: Floats, last: int) -> Floats:
    """Return the probability of each label after `last`; of all labels where that is -1."""
    classes = followed.shape[1]  # loops throughout: operations on arrays compile five times as long
    shares: Floats = np.empty(classes)
    for k in range(classes):
        shares[k] = followed[classes, k] + 1.0 / classes
    _divide(shares)
    if last >= 0:
        for k in range(classes):
            shares[k] = followed[last, k] + PRIOR * shares[k]
        _divide(shares)
    return shares


@exact_kernel
def _follow(y: Floats, weight: Singles, known: Singles, followed: Floats, label: Ints, out: Singles) -> None:
    """Predict each row, and count its label after the one that was known at its prediction."""
    classes = followed.shape[1]
    for i in range(len(y)):
        shares = _shares(followed, label[0])
        for k in range(classes):
            out[i, k] = shares[k]
        if not (np.isfinite(y[i]) and np.isfinite(weight[i]) and weight[i] > 0.0):
            continue
        before = label[0] if np.isnan(known[i]) else np.int64(known[i])
        if 0 <= before < classes:
            for k in range(classes):
                followed[before, k] *= FADE
            followed[before, int(y[i])] += weight[i]
        for k in range(classes):
            followed[classes, k] *= FADE
        followed[classes, int(y[i])] += weight[i]
        label[0] = int(y[i])


@exact_kernel
def _follow_numbers(y: Floats, weight: Singles, number: Floats, out: Singles) -> None:
    """Predict each row by the number before it."""
    for i in range(len(y)):
        out[i, 0] = number[0]
        if np.isfinite(y[i]) and np.isfinite(weight[i]) and weight[i] > 0.0:
            number[0] = y[i]


def build(spec: Mapping[str, Any]) -> LastLabel:
    """Make an untrained model of the last label. Raises `ConfigError` for an unknown setting or a wrong value.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 0})
    >>> rows = Batch(np.zeros((400, 0), np.float32), np.zeros(401, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))
    >>> runs = (np.arange(400) // 20 % 2).astype(float)
    >>> scores = model.learn(rows, runs, np.ones(400, np.float32))
    >>> float((scores.argmax(1) == runs)[40:].mean()) > 0.9
    True
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    settings = specs.convert(given, LastSettings, "last", {})
    if settings.dense < 0 or (settings.classes < 2) is not (settings.task == "regression"):
        raise ConfigError(
            f"last model: got dense {settings.dense} and classes {settings.classes} for task {settings.task!r}; "
            "expected 0 columns or more, and at least 2 classes (none for a regression)"
        )
    return LastLabel(specs.written(settings, {}), settings)
