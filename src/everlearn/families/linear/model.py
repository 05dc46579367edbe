"""The linear model: its arrays, and the way from a batch to the kernels and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.families.linear import kernels, settings
from everlearn.families.linear.crossing import crossed
from everlearn.families.linear.rows import BAD_LABEL, BAD_ROWS, FAULTS, UNCLEAN
from everlearn.families.linear.settings import Settings
from everlearn.records import Arrays, Batch, Floats, Ints, Singles

Rows = tuple[Singles, Ints, NDArray[np.int32], Singles]

DENSE_SLOTS = {"auto": 0, "sgd": 0, "adagrad": 1, "adam": 2, "ftrl": 2, "normalized": 2}
HASHED_SLOTS = {**DENSE_SLOTS, "auto": 1}


class Linear:
    """A linear model that learns one row at a time.

    Arrays: `weights` float64 (1 + slots, scores, columns + 1), the intercept last; `hashed` float32
    (hashed, scores, 1 + slots); `moments` float64 (3, dense + 1): count, mean and sum of squared deviations of
    each dense column and, last, of the numbers to predict; `counts` float64 (3,): rows learned, their total
    weight, and the sum of squares that "normalized" keeps.
    """

    def __init__(self, spec: dict[str, Any], chosen: Settings) -> None:
        self.spec: Mapping[str, Any] = spec
        self._dials = settings.dials(chosen)
        self._predict = kernels.predictor(chosen.optimizer)
        self._learn = kernels.learner(chosen.optimizer)
        self._columns, self._hashed, self._outputs = chosen.dense, chosen.hashed, chosen.outputs
        self._cross = chosen.hashed if chosen.interactions in ("hashed", "all") else 0
        dense_slots, hashed_slots = DENSE_SLOTS[chosen.optimizer], HASHED_SLOTS[chosen.optimizer]
        self.arrays: Arrays = {
            "weights": np.zeros((1 + dense_slots, chosen.margins, chosen.columns)),
            "hashed": np.zeros((chosen.hashed, chosen.margins, 1 + hashed_slots), np.float32),
            "moments": np.zeros((3, chosen.dense + 1)),
            "counts": np.zeros(3),
        }
        if chosen.optimizer == "auto":
            self.arrays["hashed"][:, :, 1] = 1.0  # the whole of each rate is left

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit the model.
        """
        rows = self._read(batch)
        out = np.empty((len(rows[1]) - 1, self._outputs), np.float32)
        held = self.arrays
        state = (self._dials, held["weights"], held["hashed"], held["moments"])
        refused = self._predict(*state, *rows, out)
        if refused == UNCLEAN:
            refused = self._predict(*state, *_cleaned(*rows), out)
        if refused:
            raise self._refusal(refused, rows[2], None)
        return out

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        A row whose label is not finite, or whose weight is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the batch does not fit or a label is not a class.
        """
        rows = self._read(batch)
        n = len(rows[1]) - 1
        labels = (np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32))
        if labels[0].shape != (n,) or labels[1].shape != (n,):
            raise InputError(
                f"a batch of {n} rows came with y {labels[0].shape} and weight {labels[1].shape}; expected ({n},)"
            )
        out = np.empty((n, self._outputs), np.float32)
        held = self.arrays
        state = (self._dials, held["weights"], held["hashed"], held["moments"], held["counts"])
        refused = self._learn(*state, *rows, *labels, out)
        if refused == UNCLEAN:
            refused = self._learn(*state, *_cleaned(*rows), *labels, out)
        if refused:
            raise self._refusal(refused, rows[2], labels[0])
        return out

    def _read(self, batch: Batch) -> Rows:
        if self._cross:
            batch = crossed(batch, self._cross)
        dense = np.ascontiguousarray(batch.dense, np.float32)
        indptr = np.ascontiguousarray(batch.indptr, np.int64)
        if dense.shape != (len(indptr) - 1, self._columns):
            raise InputError(
                f"dense features have shape {dense.shape}, expected ({len(indptr) - 1}, {self._columns}): "
                "a row for each of indptr's, a column for each of the model's"
            )
        indices = np.ascontiguousarray(batch.indices, np.int32)
        return dense, indptr, indices, np.ascontiguousarray(batch.values, np.float32)

    def _refusal(self, refused: int, indices: NDArray[np.int32], y: Floats | None) -> InputError:
        row, why = divmod(refused, FAULTS)
        if why == BAD_LABEL and y is not None:
            return InputError(
                f"label {y[row]!r} in row {row} of the batch is not a class; "
                f"expected a whole number from 0 to {self._outputs - 1}"
            )
        if why == BAD_ROWS:
            return InputError(
                f"indptr is wrong at row {row} of the batch; expected numbers that do not fall, "
                f"within the {len(indices)} entries"
            )
        return InputError(
            f"row {row} of the batch has a hashed index outside the hash space; expected 0 to "
            f"{self._hashed - 1}: encode with the same number of bits as the model was built with"
        )


def _cleaned(dense: Singles, indptr: Ints, indices: NDArray[np.int32], values: Singles) -> Rows:
    """The same rows with 0, which says and changes nothing, for each hashed value that is not finite."""
    return dense, indptr, indices, np.where(np.isfinite(values), values, np.float32(0.0))


def build(spec: Mapping[str, Any]) -> Linear:
    """Make an untrained linear model; see `everlearn.families.linear.settings.Settings` for the dials.

    Raises `ConfigError` for an unknown dial or a wrong value.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 2})
    >>> sign = np.where(np.arange(2000) % 3 == 0, 1.0, -1.0)
    >>> dense = np.stack([sign, np.ones(2000)], axis=1).astype(np.float32)
    >>> rows = Batch(dense, np.zeros(2001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, (sign > 0).astype(float), np.ones(2000, np.float32))
    >>> float((scores.argmax(1) == (sign > 0)).mean()) > 0.99
    True
    """
    chosen = settings.read(spec)
    return Linear(msgspec.structs.asdict(chosen), chosen)
