"""Rows of series with times, as models of forecasts take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Batch, Examples, Floats
from everlearn.schema import Encoder
from everlearn.spec import Schema

SCHEMA = Schema(label="y", task="regression", fields={"at": "datetime"})
ENCODER = Encoder(SCHEMA)


def timed(at: NDArray[Any], y: Floats, keys: NDArray[np.int32] | None = None) -> Examples:
    """Return rows of the times `at`, datetime64 (n,), with a hashed entry each where `keys`, int32 (n,), are given."""
    batch = ENCODER.rows([{"at": str(moment)} for moment in at])
    if keys is not None:
        n = len(keys)
        batch = Batch(batch.dense, np.arange(n + 1, dtype=np.int64), keys.astype(np.int32), np.ones(n, np.float32))
    return Examples(batch, np.asarray(y, np.float64), np.ones(len(y), np.float32), np.arange(1, len(y) + 1))


def hours(count: int, start: str = "2026-01-01T00:00") -> NDArray[Any]:
    """Return times an hour apart."""
    return np.datetime64(start, "m") + np.arange(count) * np.timedelta64(60, "m")
