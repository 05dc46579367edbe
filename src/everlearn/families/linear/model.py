"""The linear model: its arrays, the checks of a batch, and the calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families import batches
from everlearn.families.batches import Labels, Rows
from everlearn.families.linear import blend, kernels, settings
from everlearn.families.linear.checkpoints import ROWS
from everlearn.families.linear.crossing import crossed
from everlearn.families.linear.rows import NOT_FINITE
from everlearn.families.linear.settings import Settings
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Ints, Loss, LossKind, Singles

# Optimiser state of each weight, in numbers.
DENSE_SLOTS = {"blend": 1, "quick": 0, "sgd": 0, "adagrad": 1, "adam": 2, "ftrl": 2, "normalized": 2}
HASHED_SLOTS = {**DENSE_SLOTS, "blend": 2, "quick": 1}
UNBLENDED = np.zeros(0)  # what kernels of other optimisers take in the place of the array `blend`

# The loss of a regression, by the name that the gate has for it.
COMPARED: dict[str, LossKind] = {"squared": "squared", "absolute": "absolute", "quantile": "pinball", "huber": "huber"}


class Linear:
    """A linear model that learns one row at a time.

    Arrays: `weights` float64 (1 + slots, scores, columns + 1), the intercept last; `hashed` float32
    (hash space, scores, 1 + slots); `moments` float64 (3, dense + 1): count, mean and sum of squared deviations of
    each dense column and, last, of the numbers to predict; with `forget_bad_stretches` float64 (9, dense + 1), see
    `everlearn.families.linear.checkpoints`. `counts` float64 (3,): rows learned, and for "normalized" their total
    weight and sum of squares. With "blend" also `blend` float64 (4 + 2 * classes,), and settled weights in slot 1 of
    `weights` and slot 2 of `hashed`; see `everlearn.families.linear.blend`.
    """

    def __init__(self, spec: dict[str, Any], chosen: Settings) -> None:
        self.spec: Mapping[str, Any] = spec
        self.loss = _loss(chosen)
        self._settings = settings.kernel_settings(chosen)
        self._predict = kernels.predictor(chosen.optimizer)
        self._learn = kernels.learner(chosen.optimizer)
        self._columns, self._hashed, self._outputs = chosen.dense, chosen.hashed, chosen.outputs
        self._pairs_hashed = chosen.pairs_hashed
        dense_slots, hashed_slots = DENSE_SLOTS[chosen.optimizer], HASHED_SLOTS[chosen.optimizer]
        self.arrays: Arrays = {
            "weights": np.zeros((1 + dense_slots, chosen.margins, chosen.columns)),
            "hashed": np.zeros((chosen.hashed, chosen.margins, 1 + hashed_slots), np.float32),
            "moments": np.zeros((ROWS if chosen.forget_bad_stretches else 3, chosen.dense + 1)),
            "counts": np.zeros(3),
        }
        if chosen.optimizer in ("blend", "quick"):
            self.arrays["hashed"][:, :, 1] = 1.0  # each rate is at its first value
        if chosen.optimizer == "blend":
            self.arrays["blend"] = blend.start(chosen.classes)

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit the model.
        """
        return batches.predicted(self._read(batch), self._outputs, self._hashed, self._predict_rows)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the batch does not fit or a label is not a class.
        """
        rows = self._read(batch)
        return batches.learned(rows, y, weight, self._outputs, self._hashed, self._learn_rows)

    def _read(self, batch: Batch) -> Rows:
        return batches.rows(crossed(batch, self._hashed) if self._pairs_hashed else batch, self._columns)

    def _predict_rows(self, rows: Rows, out: Singles) -> int:
        held = self.arrays
        state = (self._settings, held["weights"], held["hashed"], held["moments"], held.get("blend", UNBLENDED))
        fault = self._predict(*state, *rows, out)
        return self._predict(*state, *_cleaned(*rows), out) if fault == NOT_FINITE else fault

    def _learn_rows(self, rows: Rows, labels: Labels, out: Singles) -> int:
        held = self.arrays
        mixture = held.get("blend", UNBLENDED)
        state = (self._settings, held["weights"], held["hashed"], held["moments"], held["counts"], mixture)
        fault = self._learn(*state, *rows, *labels, out)
        return self._learn(*state, *_cleaned(*rows), *labels, out) if fault == NOT_FINITE else fault


def _loss(chosen: Settings) -> Loss | None:
    """Return the loss of a regression by the name of the gate; None for classes, which need no other than usual."""
    kind = COMPARED.get(chosen.loss)
    return Loss(kind, chosen.loss_parameter or 0.0) if kind is not None else None


def _cleaned(dense: Singles, indptr: Ints, indices: NDArray[np.int32], values: Singles) -> Rows:
    """Return the rows with 0, which has no effect, for each hashed value that is not finite."""
    return dense, indptr, indices, np.where(np.isfinite(values), values, np.float32(0.0))


def build(spec: Mapping[str, Any]) -> Linear:
    """Make an untrained linear model; see `everlearn.families.linear.settings.Settings`.

    Raises `ConfigError` for an unknown setting or a wrong value.

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
    return Linear(settings.written(chosen), chosen)
