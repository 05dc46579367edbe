"""Metrics by segment: the rows of each value of one categorical field, apart.

The first fifty values that the loop meets have a segment each. Rows without a value have one, and all further values
share the last one. A `SegmentTable` numbers the values; the sums of each model are in its metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare
from everlearn.metrics.judging import Bits, surprise
from everlearn.metrics.recent import BEST, GROUP, HIGH, LABEL, MASS, PREDICTED, SEGMENT, TRUE, TRUTH, WEIGHT
from everlearn.records import Arrays, Floats, Ints, Task

VALUES = 50  # with a segment each
WIDTH = 32  # bytes kept of a value's name, in UTF-8
OTHER, MISSING = VALUES, VALUES + 1
_ROWS, _MASS, _GOOD, _LOSS, _PREDICTED, _LABELLED = range(6)  # columns of arrays["segments"]
_NOTHING = np.zeros((0, 6))

Names = NDArray[np.bytes_]


class SegmentTable:
    """The segments of one field, numbered in the order in which their values came.

    A value is known by the first 32 bytes of its name, so two long names with the same beginning share a segment.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self._known: dict[bytes, int] = {}

    def number(self, names: Sequence[bytes] | Names) -> Ints:
        """Return the segment of each row, int64 (n,); `names` are UTF-8, and empty where the value is missing."""
        return np.array([self._one(bytes(name)[:WIDTH]) for name in names], np.int64)

    def _one(self, name: bytes) -> int:
        if not name:
            return MISSING
        known = self._known.get(name)
        if known is None:
            known = len(self._known)
            if known >= VALUES:
                return OTHER
            self._known[name] = known
        return known

    def names(self) -> list[str]:
        """Return the name of each segment, in order of their numbers."""
        values = [name.decode("utf-8", "ignore") for name in self._known]
        return [*values, *[""] * (VALUES - len(values)), "(other)", "(missing)"]

    def state(self) -> Arrays:
        """Return `field` and `names`, uint8 (64,) and (50, 32): the names in UTF-8, with zeros behind."""
        if not self.field:
            return {}
        names = np.zeros((VALUES, WIDTH), np.uint8)
        for number, name in enumerate(self._known):
            names[number, : len(name)] = np.frombuffer(name, np.uint8)
        return {"field": _field(self.field), "names": names}

    def load(self, arrays: Arrays) -> bool:
        """Restore the result of `state`; return False, and know no value, if it is of another field."""
        self._known = {}
        if not self.field or "names" not in arrays or (arrays["field"] != _field(self.field)).any():
            return not self.field and "names" not in arrays
        for row in arrays["names"]:
            if name := row.tobytes().rstrip(b"\0"):
                self._known[name] = len(self._known)
        return True


def _field(name: str) -> NDArray[np.uint8]:
    held = np.zeros(64, np.uint8)
    text = name.encode()[:64]
    held[: len(text)] = np.frombuffer(text, np.uint8)
    return held


def start() -> Arrays:
    """Return empty sums: `segments` float64 (52, 6), for each segment the rows, weight and sums of the metrics."""
    return {"segments": np.zeros((VALUES + 2, 6))}


def held(arrays: Arrays) -> Floats:
    """Return the sums; an empty array where there are no segments."""
    return arrays.get("segments", _NOTHING)


def report(sums: Floats, task: Task, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each segment with weight; the segments with the most weight come first.

    `examples`, then for classes `accuracy` and `log_loss`, for a regression `mae` and `rmse`. `predicted` and
    `observed` are the mean prediction and the mean label: of a binary task the probability of class 1 and its share, of
    several classes the probability of the predicted class and the accuracy. A model is calibrated on a segment where
    both agree.
    """
    found: dict[str, dict[str, Any]] = {}
    for number in np.argsort(-sums[:, _MASS], kind="stable"):
        rows, mass, good, loss, predicted, labelled = (float(value) for value in sums[number])
        if not mass > 0:
            continue
        measured = {"accuracy": good / mass, "log_loss": loss / mass}
        if task == "regression":
            measured = {"mae": good / mass, "rmse": float(np.sqrt(loss / mass))}
        found[names[number]] = {
            "examples": int(rows),
            **measured,
            "predicted": predicted / mass,
            "observed": labelled / mass,
        }
    return found


@bare
def add_classes(ints: Bits, floats: Floats, first: int, end: int, classes: int, sums: Floats) -> None:
    """Add the rows first..end-1 of the ring of `recent`."""
    scores = ints.view(np.float32)
    for row in range(first, end):
        segment = ints[SEGMENT, row]
        if segment < 0:
            continue
        w, hit = floats[WEIGHT, row], ints[LABEL, row] == ints[BEST, row]
        finite = ints[BEST, row] >= 0
        sums[segment, _ROWS] += 1
        sums[segment, _MASS] += w
        sums[segment, _GOOD] += w * hit
        sums[segment, _LOSS] += w * surprise(ints[TRUE, row])
        sums[segment, _PREDICTED] += w * np.float64(scores[HIGH, row]) if finite else 0.0
        sums[segment, _LABELLED] += w * (ints[LABEL, row] == 1 if classes == 2 else hit)


@bare
def add_numbers(floats: Floats, first: int, end: int, sums: Floats) -> None:
    """Add the rows first..end-1 of the ring of `recent`."""
    for row in range(first, end):
        segment = np.int64(floats[GROUP, row])
        if segment < 0:
            continue
        w, gap = floats[MASS, row], floats[PREDICTED, row] - floats[TRUTH, row]
        sums[segment, _ROWS] += 1
        sums[segment, _MASS] += w
        sums[segment, _GOOD] += w * abs(gap)
        sums[segment, _LOSS] += w * gap * gap
        sums[segment, _PREDICTED] += w * floats[PREDICTED, row]
        sums[segment, _LABELLED] += w * floats[TRUTH, row]
