"""Rows, batches and specs for tests of the linear family."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.families.linear.model import Linear
from everlearn.records import Batch, Floats, Singles

Array = NDArray[Any]


OPTIMIZERS = ("blend", "quick", "sgd", "adagrad", "adam", "ftrl", "normalized")


BINARY = {"task": "binary"}


REGRESSION = {"task": "regression"}


PLAIN = {"optimizer": "sgd", "standardize": False}


def dense_batch(x: Array) -> Batch:
    return Batch(np.asarray(x, np.float32), np.zeros(len(x) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, "f"))


def hashed_batch(rows: list[dict[int, float]]) -> Batch:
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([index for row in rows for index in row], np.int32)
    values = np.array([value for row in rows for value in row.values()], np.float32)
    return Batch(np.zeros((len(rows), 0), np.float32), indptr, indices, values)


def learn(model: Linear, x: Array, y: Array, weight: Array | None = None) -> Singles:
    weights = np.ones(len(y)) if weight is None else weight
    return model.learn(dense_batch(x), np.asarray(y, np.float64), np.asarray(weights, np.float32))


def coefficients(model: Linear) -> Floats:
    return model.arrays["weights"][0, 0]


def example_rows(n: int = 200, d: int = 3, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    x = random.uniform(-1.5, 1.5, (n, d)).astype(np.float32)
    return x, (x @ np.arange(1.0, d + 1) + random.normal(0, 0.5, n) > 0).astype(float)
