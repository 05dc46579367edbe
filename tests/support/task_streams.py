"""Streams of tasks, and models on them, for the tests of continual evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.evaluate import continual
from everlearn.evaluate.continual import TaskStream
from everlearn.model import Model, build
from everlearn.records import Arrays, Batch, Examples, Floats, Singles

Data = tuple[NDArray[Any], NDArray[Any]]


def blobs(rows: int, classes: int = 4, columns: int = 4, seed: int = 0, space: float = 3.0) -> Data:
    """Return classes around the corners of a cube, in random order."""
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=rows)
    return (space * np.eye(columns)[y] + random.normal(size=(rows, columns))).astype(np.float32), y


def whole(stream: TaskStream, begin: int = 0, end: int | None = None) -> Examples:
    pieces = list(stream.chunks(begin, end))
    dense = np.concatenate([piece.batch.dense for piece in pieces])
    batch = Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    y, weight, position = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("y", "weight", "position")
    )
    return Examples(batch, y, weight, position)


def held_out(stream: TaskStream, task: int) -> tuple[Singles, Floats]:
    pieces = list(stream.tests(task))
    return np.concatenate([piece.batch.dense for piece in pieces]), np.concatenate([piece.y for piece in pieces])


def linear(stream: TaskStream, seed: int = 0) -> Model:
    return build({"family": "linear"}, stream.shape)


class Counting:
    """A model that predicts the class numbered by the rows it has learned, and records its consolidations."""

    def __init__(self, classes: int = 1000) -> None:
        self.spec: Mapping[str, Any] = {"family": "counting"}
        self.arrays: Arrays = {"learned": np.zeros(1, np.int64)}
        self.classes = classes
        self.rows: list[float] = []
        self.consolidated: list[int] = []

    def predict(self, batch: Batch) -> Singles:
        return self._scores(np.full(len(batch), self.arrays["learned"][0]))

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        known = self.arrays["learned"][0] + np.arange(len(batch))
        self.arrays["learned"] += len(batch)
        self.rows += batch.dense[:, 0].tolist()
        return self._scores(known)

    def consolidate(self) -> None:
        self.consolidated.append(len(self.rows))

    def _scores(self, known: NDArray[Any]) -> Singles:
        return np.eye(self.classes, dtype=np.float32)[np.minimum(known, self.classes - 1)]


def sorted_stream(labels: list[int], tasks: int = 1) -> TaskStream:
    """Return a stream of the rows in this order, with these labels, in `tasks` equal tasks; tested on the same rows."""
    n = len(labels)
    x, y = np.arange(n, dtype=np.float32)[:, None], np.array(labels)
    order = np.stack([np.arange(n) * tasks // n, np.arange(n)], axis=1).astype(np.int32)
    rows = np.array_split(np.arange(n), tasks)
    parts = tuple(continual.StreamTask(str(number), tuple(range(1000)), part) for number, part in enumerate(rows))
    borders = tuple(int(part[-1]) + 1 for part in rows)
    return TaskStream("sorted", (x, y), (x, y), parts, order, borders, np.arange(1000))
