"""Snapshots of small models for the tests of merging."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.families import linear
from everlearn.merge import METHODS, adapters
from everlearn.records import Arrays, Batch, Floats


def ends(method: str) -> dict[str, Any]:
    """Return the settings with which a method changes nothing that all parents agree on."""
    return {"density": 1.0} if METHODS[method].density else {}


def adapter(seed: int, rank: int = 3, into: int = 7, out: int = 5) -> adapters.Adapter:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rank, into)), draw.normal(size=(out, rank))


A, B = "weights/fc.lora_A.default.weight", "weights/fc.lora_B.default.weight"


def snapshot(seed: int) -> Arrays:
    a, b = adapter(seed)
    return {A: a.astype(np.float32), B: b.astype(np.float32), "weights/fc.bias": np.full(5, float(seed), np.float32)}


def rows(n: int, seed: int, shift: float = 0.0, stretch: float = 1.0) -> tuple[Batch, Floats]:
    """Return rows with 3 dense columns and 2 hashed entries each, and the number that a linear rule gives them."""
    draw = np.random.default_rng(seed)
    dense = (shift + stretch * draw.normal(size=(n, 3)) * [1.0, 5.0, 0.2]).astype(np.float32)
    indices = draw.integers(0, 64, size=2 * n).astype(np.int32)
    y = dense @ [1.0, -0.3, 2.0] + 0.5 + 0.3 * (indices.reshape(n, 2) % 3 - 1).sum(axis=1)
    return Batch(dense, np.arange(0, 2 * n + 1, 2, dtype=np.int64), indices, np.ones(2 * n, np.float32)), y


def trained(spec: dict[str, Any], seed: int, n: int = 4000, **how: float) -> linear.Linear:
    found = linear.build({"dense": 3, "hashed": 64, **spec})
    batch, y = rows(n, seed, **how)
    if spec["task"] == "binary":
        y = (y > 0.5).astype(float)
    elif spec["task"] == "multiclass":
        y = np.digitize(y, [-1.0, 1.0]).astype(float)
    found.learn(batch, y, np.ones(n, np.float32))
    return found
