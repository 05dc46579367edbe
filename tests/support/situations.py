"""Situations of every kind, and networks and rows to try advice on."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.records import Batch

CLASSES = 4

CENTRES = 2.0 * np.random.default_rng(99).normal(size=(CLASSES, 8))


def blobs(n: int, seed: int, ordered: bool = False, moved: bool = False) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Return points around one centre for each class; `ordered` by class, `moved` with their columns reversed."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, CLASSES, n)
    y = np.sort(y) if ordered else y
    x = CENTRES[y][:, ::-1] if moved else CENTRES[y]
    x = (x + draw.normal(size=x.shape)).astype(np.float32)
    rows = Batch(x, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return rows, y.astype(np.float64), np.ones(n, np.float32)


def table_of(part: tuple[Batch, np.ndarray, np.ndarray]) -> dict[str, Any]:
    rows, y, _ = part
    return {f"x{i}": rows.dense[:, i] for i in range(8)} | {"y": y.astype(int)}


def accuracy(answers: np.ndarray, y: np.ndarray) -> float:
    return float((answers.argmax(1) == y).mean())
