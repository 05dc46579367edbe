"""Rows that wait leave the bytes of rows that are added at once, whenever the metrics are read."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn import metrics
from everlearn.metrics.queued import QueuedMetrics
from everlearn.records import Arrays, Floats, Ints, Singles, Task


def scored(task: Task, rows: int, columns: int) -> tuple[Singles, Floats, Singles, Floats, Ints]:
    rng = np.random.default_rng(7)
    scores = rng.random((rows, columns)).astype(np.float32)
    y = rng.normal(size=rows) if task == "regression" else rng.integers(0, columns, rows).astype(np.float64)
    weight = rng.choice([0.5, 1.0, 2.0], rows).astype(np.float32)
    return scores, y, weight, rng.integers(0, 2, (rows, 2)).astype(np.float64), rng.integers(-1, 3, rows)


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize(("task", "columns"), [("binary", 2), ("multiclass", 3), ("regression", 1)])
@pytest.mark.parametrize("read", [0, 37, 1000], ids=lambda every: f"read every {every}")
def test_waiting_rows_leave_the_same_bytes(task: Task, columns: int, read: int) -> None:
    scores, y, weight, known, segment = scored(task, 2600, columns)
    at_once, held = (metrics.start(task, columns, segmented=True) for _ in range(2))
    metrics.update(at_once, task, scores, y, weight, 0, known, segment)
    queued = QueuedMetrics(held)
    for row in range(0, 2600, 13):
        part = slice(row, row + 13)
        queued.add(scores[part], y[part], weight[part], row, known[part], segment[part])
        if read and row % read < 13:
            assert queued.arrays is held
    assert same(queued.arrays, at_once)


def test_rows_after_a_gap_or_without_baselines_keep_their_index() -> None:
    scores, y, weight, known, _ = scored("binary", 300, 2)
    at_once, held = (metrics.start("binary", 2) for _ in range(2))
    queued = QueuedMetrics(held)
    for first, index, labels in ((0, 0, known[:100]), (100, 100, None), (200, 5000, None)):
        part = scores[first : first + 100], y[first : first + 100], weight[first : first + 100]
        metrics.update(at_once, "binary", *part, index, labels)
        queued.add(*part, index, labels)
    assert same(queued.arrays, at_once)
    assert metrics.curve(queued.arrays)["x"][-1] >= 5000
