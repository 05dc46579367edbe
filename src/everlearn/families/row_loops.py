"""Models that are named arrays and two compiled row loops: the class and the parts of kernels that they share.

A family writes a function `loops(sources)`, which returns two exact kernels: `predict(settings, hashed, *arrays,
dense, indptr, indices, values, out)`, which reads the arrays in their order, and `learn`, with `y, weight` before
`out`, which writes them. Both return a fault of `everlearn.families.batches`, or 0, and enclose `sources`, a hash of
the sources, so that a change of a part in another file compiles them again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from everlearn.errors import ConfigError
from everlearn.families import batches, specs
from everlearn.families.batches import Labels, Rows
from everlearn.families.kernel_parts import compiled, inlined, outlined, source_hash
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Loss, Singles

HEAVIEST = 100.0  # what one row weighs at most
FURTHEST = 100.0  # running deviations from the mean at which a value is cut before it is counted
SETTLED = 10.0  # the weight of rows after which values are cut
LARGEST = 1e15  # a larger number counts as missing
TEMPER_RATE, LEAST_TEMPER = 0.2, -7.0  # the rate of a temper, and the logarithm of the smallest
LOSS_KEPT, LEAST_RIGHT = 0.99, 1e-3  # of the log loss of late; a smaller probability counts as this one
MOST_HASHED = 1 << 31
_BATCH = "float32:2 int64:1 int32:1 float32:1"


Loops = Callable[[str], tuple[Any, Any]]


class RowLoops(NamedTuple):
    """The compiled loops of a family."""

    predict: Callable[..., int]
    learn: Callable[..., int]


class RowModel:
    """A model that predicts and learns one row at a time by compiled loops over its arrays.

    `arrays` keep their order, in which loops take them. The family's page and settings say what each holds.
    """

    def __init__(
        self, spec: Mapping[str, Any], settings: Floats, arrays: Arrays, loops: Loops, loss: Loss | None = None
    ) -> None:
        self.spec = spec
        self.loss = loss
        self.arrays = arrays
        self._names, self._settings = tuple(arrays), settings
        self._columns, self._hashed = int(spec["dense"]), int(spec["hashed"])
        self._outputs = int(spec["classes"]) or 1
        self._loops = compiled_loops(loops, _state(arrays, "!"), _state(arrays, ""))

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit the model.
        """
        return batches.predicted(batches.rows(batch, self._columns), self._outputs, self._hashed, self._predict_rows)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the batch does not fit or a label is not a class.
        """
        rows = batches.rows(batch, self._columns)
        return batches.learned(rows, y, weight, self._outputs, self._hashed, self._learn_rows)

    def _predict_rows(self, rows: Rows, out: Singles) -> int:
        held = [self.arrays[name] for name in self._names]
        return self._loops.predict(self._settings, self._hashed, *held, *rows, out)

    def _learn_rows(self, rows: Rows, labels: Labels, out: Singles) -> int:
        held = [self.arrays[name] for name in self._names]
        return self._loops.learn(self._settings, self._hashed, *held, *rows, *labels, out)


@cache
def compiled_loops(loops: Loops, written: str, read: str) -> RowLoops:
    """Return the compiled loops of a family for arrays of some types, once for all its models."""
    file = sys.modules[loops.__module__].__file__
    sources = source_hash(Path(str(file)).parent, ()) + source_hash(Path(__file__).parent, ())
    predict, learn = loops(sources)
    return RowLoops(
        compiled(predict, f"float64:1 int {read} {_BATCH} float32:2!"),
        compiled(learn, f"float64:1 int {written} {_BATCH} float64:1 float32:1 float32:2!"),
    )


def _state(arrays: Arrays, mark: str) -> str:
    return " ".join(f"{array.dtype.name}:{array.ndim}{mark}" for array in arrays.values())


def read(spec: Mapping[str, Any], kind: type[Any], family: str, tasks: tuple[str, ...]) -> Any:
    """Return the record of a family's settings from a spec, with the shape of its rows checked.

    Raises `ConfigError` for an unknown setting, a task that is none of `tasks`, or a shape that does not fit.
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    chosen = specs.convert(given, kind, family, {})
    expect(family, chosen.task in tasks, "task", chosen.task, f"one of {', '.join(map(repr, tasks))}")
    expect(family, chosen.dense >= 0, "dense", chosen.dense, "a number of columns from 0")
    expect(family, 0 <= chosen.hashed < MOST_HASHED, "hashed", chosen.hashed, f"a hash space of 0 to {MOST_HASHED - 1}")
    least, most = {"binary": (2, 2), "regression": (0, 0)}.get(chosen.task, (2, 1 << 20))
    fits = least <= chosen.classes <= most
    wanted = f"{least}" if least == most else f"at least {least}"
    expect(family, fits, "classes", chosen.classes, f"{wanted} for task {chosen.task!r}")
    return chosen


def expect(family: str, fits: bool, setting: str, got: object, expected: str) -> None:
    """Raise `ConfigError` unless a setting fits."""
    if not fits:
        raise ConfigError(f"{family} model: {setting}: got {got!r}; expected {expected}")


def expect_number(family: str, chosen: msgspec.Struct, setting: str, least: float, most: float = math.inf) -> None:
    """Raise `ConfigError` for a setting that is not a finite number from `least` to `most`."""
    got = getattr(chosen, setting)
    bound = f" to {most:g}" if math.isfinite(most) else ""
    fits = math.isfinite(got) and least <= got <= most
    expect(family, fits, setting, got, f"a finite number from {least:g}{bound}")


# ---- parts of kernels ----------------------------------------------------------------------------------------------


@inlined
def usable(y: float, weight: float) -> bool:
    """Return True for a row that is learned: its label is finite, and its weight a finite number above 0."""
    return abs(y) < math.inf and 0.0 < weight < math.inf


@inlined
def known(v: float) -> bool:
    """Return True for a value that is not missing."""
    return abs(v) <= LARGEST


@inlined
def count_value(moments: Floats, j: int, v: float, weight: float) -> None:
    """Count a value in column j of `moments`: weight, mean and sum of squared deviations (West 1979).

    A value more than `FURTHEST` running deviations from the mean is cut there, so that one row does no lasting harm.
    """
    if moments[0, j] >= SETTLED and moments[2, j] > 0.0:
        far = FURTHEST * math.sqrt(moments[2, j] / moments[0, j])
        v = min(max(v, moments[1, j] - far), moments[1, j] + far)
    moments[0, j] += weight
    away = v - moments[1, j]
    moments[1, j] += away * weight / moments[0, j]
    moments[2, j] += weight * away * (v - moments[1, j])


@inlined
def standard(moments: Floats, j: int, v: float, most: float) -> float:
    """Return a value in running deviations from the mean of column j, within -most to most; 0 where it is missing."""
    if not abs(v) <= LARGEST or not moments[2, j] > 0.0:
        return 0.0
    z: float = (v - moments[1, j]) / math.sqrt(moments[2, j] / moments[0, j])
    return min(max(z, -most), most)


@inlined
def count_row(dense: Singles, i: int, moments: Floats, weight: float) -> None:
    """Count the known values of row i in the moments of their columns."""
    for j in range(dense.shape[1]):
        v = np.float64(dense[i, j])
        if abs(v) <= LARGEST:
            count_value(moments, j, v, weight)


@inlined
def value_of(values: Singles, e: int) -> float:
    """Return the value of a hashed entry, cut to -100 to 100; 0 where it is not finite."""
    v = np.float64(values[e])
    return min(max(v, -HEAVIEST), HEAVIEST) if abs(v) < math.inf else 0.0


@inlined
def softmax_into(scores: Floats, out: Singles, i: int) -> None:
    """Write the softmax of scores to row i."""
    highest, total = scores[0], 0.0
    for k in range(1, len(scores)):
        highest = max(highest, scores[k])
    for k in range(len(scores)):
        total += math.exp(scores[k] - highest)
    for k in range(len(scores)):
        out[i, k] = math.exp(scores[k] - highest) / total


@inlined
def learn_temper(scores: Floats, y: int, weight: float, state: Floats, at: int, most: float) -> None:
    """Learn the temper by which scores are multiplied, from the log loss of their softmax: a step of AdaGrad.

    `scores` float64 (classes,) are tempered, and none is far above 0. `state[at]` is the logarithm of the temper, at
    most `most`, and `state[at + 1]` the sum of the squares of its gradients.
    """
    total, mean = 0.0, 0.0
    for k in range(len(scores)):
        total += math.exp(scores[k])
    for k in range(len(scores)):
        mean += math.exp(scores[k]) / total * scores[k]
    slope = min(max(mean - scores[y], -1.0), 1.0) * min(weight, 1.0)
    state[at + 1] += slope * slope
    state[at] -= TEMPER_RATE * slope / math.sqrt(state[at + 1] + 1e-12)
    state[at] = min(max(state[at], LEAST_TEMPER), most)


@outlined
def average(scores: Floats, state: Floats, at: int, proba: Floats) -> None:
    """Write the average of the banks' probabilities, float64 (classes,), weighted by their likelihood of late.

    `scores` float64 (banks, classes) are tempered; they become the probabilities of each bank. `state` float64
    (banks, ...) has the log loss of late in column `at` (see `count_loss`).
    """
    banks, classes = scores.shape
    least = state[0, at]
    for b in range(1, banks):
        least = min(least, state[b, at])
    whole = 0.0
    for k in range(classes):
        proba[k] = 0.0
    for b in range(banks):
        total, share = 0.0, math.exp(least - state[b, at])
        whole += share
        for k in range(classes):
            scores[b, k] = math.exp(scores[b, k])
            total += scores[b, k]
        for k in range(classes):
            scores[b, k] /= total
            proba[k] += share * scores[b, k]
    for k in range(classes):
        proba[k] /= whole


@inlined
def count_loss(state: Floats, at: int, right: float, weight: float) -> None:
    """Count in `state[at]` the log loss of a bank that gave the right class the probability `right`."""
    state[at] = LOSS_KEPT * state[at] - min(weight, 1.0) * math.log(max(right, LEAST_RIGHT))
