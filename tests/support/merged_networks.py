"""Networks to merge: rows that they learn, and a module with batch normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn._torch import nn, torch
from everlearn.families.neural import Neural, build
from everlearn.records import Batch, Floats

MADE = "tests.support.merged_networks"


def normed() -> nn.Module:
    """Two layers with batch normalisation between."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))


def rows(n: int, seed: int, shift: float = 0.0) -> tuple[Batch, Floats]:
    dense = (np.random.default_rng(seed).normal(size=(n, 4)) + shift).astype(np.float32)
    y = (dense[:, 0] - dense[:, 1] * dense[:, 2] > 0).astype(float)
    return Batch(dense, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)), y


def learned(spec: dict[str, Any], seed: int, n: int = 600, shift: float = 0.0) -> Neural:
    one = build({"family": "neural", "task": "binary", "dense": 4, "optimizer": {"name": "adam", "lr": 0.01}, **spec})
    batch, y = rows(n, seed, shift)
    one.learn(batch, y, np.ones(n, np.float32))
    return one


NORMED = {"module": f"{MADE}:normed", "normalize": False, "ema": 0.9}
