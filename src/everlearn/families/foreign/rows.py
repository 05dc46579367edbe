"""Rows as models of River and scikit-learn take them, and their answers as scores.

River takes a dict of the values that are present: column j under the key j, and a hashed column under its number after
those. Keys are ints, which a pickle holds by value. scikit-learn takes a row of a matrix, sparse where columns are
hashed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from everlearn.records import Batch, Floats, Singles

LARGEST = 1e30  # a value beyond it is taken as missing
COUNT, MEAN, SQUARES = 0, 1, 2  # rows of the moments


class RiverRows:
    """Rows for a model of River."""

    standardizes = False

    def __init__(self, dense: int, hashed: int, classes: int, spec: Mapping[str, Any]) -> None:
        self._dense, self._classes = dense, classes

    def row(self, batch: Batch, i: int, moments: Floats) -> dict[int, float]:
        """Return row i as a dict."""
        found = {j: value for j, value in enumerate(batch.dense[i].tolist()) if abs(value) < LARGEST}
        part = slice(int(batch.indptr[i]), int(batch.indptr[i + 1]))
        for index, value in zip(batch.indices[part].tolist(), batch.values[part].tolist(), strict=True):
            if abs(value) < LARGEST:
                key = self._dense + index
                found[key] = found.get(key, 0.0) + value
        return found

    def measure(self, batch: Batch, i: int, moments: Floats) -> None:
        """Do nothing: a pipeline of River has its own scaler."""

    def score(self, model: Any, x: dict[int, float]) -> Singles:
        """Return the scores of a row, float32 (outputs,)."""
        if not self._classes:
            return _number(model.predict_one(x))
        try:
            shares = model.predict_proba_one(x)
        except NotImplementedError:
            label = model.predict_one(x)
            shares = {} if label is None else {label: 1.0}
        scores = np.zeros(self._classes)
        for label, share in shares.items():
            if 0 <= int(label) < self._classes:
                scores[int(label)] = share
        return _shares(scores)

    def learn(self, model: Any, x: dict[int, float], y: float, weight: float) -> None:
        """Learn a row with its label: an int for a class. Its weight counts where the model takes one."""
        label = int(y) if self._classes else y
        if "w" in _parameters(type(model).learn_one):
            model.learn_one(x, label, w=weight)
        else:
            model.learn_one(x, label)


class SklearnRows:
    """Rows for a model of scikit-learn."""

    def __init__(self, dense: int, hashed: int, classes: int, spec: Mapping[str, Any]) -> None:
        self._dense, self._hashed, self._classes = dense, hashed, classes
        self.standardizes = bool(spec["standardize"])

    def row(self, batch: Batch, i: int, moments: Floats) -> Any:
        """Return row i as a matrix of one row, float64: sparse if columns are hashed."""
        values = batch.dense[i].astype(np.float64)
        missing = ~(np.abs(values) < LARGEST)
        if self.standardizes:
            deviation = np.sqrt(moments[SQUARES] / np.maximum(moments[COUNT], 1.0))
            values = (values - moments[MEAN]) / np.where(deviation > 0.0, deviation, 1.0)
        values[missing] = 0.0
        if not self._hashed:
            return values[None, :]
        from scipy.sparse import csr_matrix

        part = slice(int(batch.indptr[i]), int(batch.indptr[i + 1]))
        weights = batch.values[part].astype(np.float64)
        weights[~(np.abs(weights) < LARGEST)] = 0.0
        entries = np.concatenate([values, weights])
        places = np.concatenate([np.arange(self._dense), self._dense + batch.indices[part].astype(np.int64)])
        shape = (1, self._dense + self._hashed)
        return csr_matrix((entries, (np.zeros(len(places), np.int64), places)), shape=shape)

    def measure(self, batch: Batch, i: int, moments: Floats) -> None:
        """Add row i to the moments of its columns (Welford 1962)."""
        if not self.standardizes:
            return
        values = batch.dense[i].astype(np.float64)
        known = np.abs(values) < LARGEST
        moments[COUNT, known] += 1.0
        away = values[known] - moments[MEAN, known]
        moments[MEAN, known] += away / moments[COUNT, known]
        moments[SQUARES, known] += away * (values[known] - moments[MEAN, known])

    def score(self, model: Any, x: Any) -> Singles:
        """Return the scores of a row, float32 (outputs,): equal shares, or 0, before the first label."""
        if not _is_trained(model):
            return _shares(np.zeros(self._classes)) if self._classes else np.zeros(1, np.float32)
        if not self._classes:
            return _number(model.predict(x)[0])
        found: Callable[[Any], Any] | None = getattr(model, "predict_proba", None)
        if found is not None:
            return _shares(np.asarray(found(x)[0], np.float64))
        scores = np.zeros(self._classes)
        scores[int(model.predict(x)[0])] = 1.0
        return _shares(scores)

    def learn(self, model: Any, x: Any, y: float, weight: float) -> None:
        """Learn a row with its label: an int for a class. Its weight counts where the model takes one."""
        named = _parameters(type(model).partial_fit)
        extra: dict[str, Any] = {"sample_weight": np.array([weight])} if "sample_weight" in named else {}
        if not self._classes:
            model.partial_fit(x, np.array([y]), **extra)
        elif "classes" in named:
            model.partial_fit(x, np.array([int(y)]), classes=np.arange(self._classes), **extra)
        else:
            model.partial_fit(x, np.array([int(y)]), **extra)


@lru_cache(maxsize=64)
def _parameters(method: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the parameters of a method of a class."""
    return frozenset(inspect.signature(method).parameters)


def _is_trained(model: Any) -> bool:
    """Return True if a model of scikit-learn has learned: it then has attributes that end with "_"."""
    return any(name.endswith("_") and not name.startswith("_") for name in vars(model))


def _number(value: Any) -> Singles:
    """Return a predicted number as a score; 0 for none, or one that is not finite."""
    number = float(value) if value is not None else 0.0
    return np.array([min(max(number, -LARGEST), LARGEST) if math.isfinite(number) else 0.0], np.float32)


def _shares(scores: Floats) -> Singles:
    """Return probabilities that add up to 1; equal ones where a model knows none."""
    known = np.where(np.isfinite(scores), np.maximum(scores, 0.0), 0.0)
    total = float(known.sum())
    found: Floats = known / total if 0.0 < total < math.inf else np.full(len(scores), 1.0 / len(scores))
    return found.astype(np.float32)
