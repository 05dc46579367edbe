"""A model of a few lines that keeps the contract, and rows for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.records import Arrays, Batch, Examples, Floats, Singles


class Mean:
    """A model that predicts the share of each class so far, and ignores the features."""

    def __init__(self, spec: Mapping[str, Any] | None = None) -> None:
        self.spec = {"family": "tests.support.models:Mean", "task": "binary", "classes": 2} | dict(spec or {})
        self.arrays: Arrays = {"count": np.zeros((), np.int64), "ones": np.zeros((), np.float64)}

    def predict(self, batch: Batch) -> Singles:
        share = (self.arrays["ones"] + 1) / (self.arrays["count"] + 2)
        return np.tile(np.array([1 - share, share], np.float32), (len(batch), 1))

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        scores = np.empty((len(y), 2), np.float32)
        for row, label in enumerate(y):
            scores[row] = self.predict(part(batch, row))[0]
            if np.isfinite(label):
                self.arrays["count"] += 1
                self.arrays["ones"] += label
        return scores


class Fragile(Mean):
    """A mean that cannot learn a row whose first feature is above 50."""

    def __init__(self, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__({"family": "tests.support.models:Fragile"} | dict(spec or {}))

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        if (batch.dense[:, 0] > 50.0).any():
            raise ValueError("broken on purpose")
        return super().learn(batch, y, weight)


class Uncopied(Mean):
    """A mean that cannot be copied any more once it has learned more than 50 rows."""

    def __init__(self, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__({"family": "tests.support.models:Uncopied"} | dict(spec or {}))

    def __copy__(self) -> Uncopied:
        if self.arrays["count"] > 50:
            raise ValueError("broken on purpose")
        return Uncopied(self.spec)


def part(batch: Batch, row: int) -> Batch:
    return Batch(batch.dense[row : row + 1], batch.indptr[row : row + 2], batch.indices, batch.values)


def examples(n: int, seed: int = 0, dense: int = 3) -> Examples:
    """Return separable binary rows without hashed features."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, dense)).astype(np.float32)
    batch = Batch(x, np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    y = (x[:, 0] + 0.3 * draw.normal(size=n) > 0).astype(np.float64)
    return Examples(batch, y, np.ones(n, np.float32), np.arange(1, n + 1))


def mixed_rows() -> Batch:
    """Return 5 rows of 10 dense columns and one hashed entry each."""
    some = examples(5, dense=10).batch
    return Batch(some.dense, np.arange(6), np.arange(5, dtype=np.int32), np.ones(5, np.float32))


def wide(spec: Mapping[str, Any]) -> Mean:
    """Build a model of two classes that predicts five."""
    made = Mean(spec)
    made.predict = lambda batch: np.zeros((len(batch), 5), np.float32)  # type: ignore[method-assign]
    return made
