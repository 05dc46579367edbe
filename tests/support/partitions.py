"""Rows, learners and dealings for the tests of partitions."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from everlearn import model
from everlearn.evaluate import dealt_rows
from everlearn.merge import partitions
from everlearn.model import Model, copied
from everlearn.records import Arrays, Batch, Examples
from everlearn.scale.partitions.dealing import Dealing
from everlearn.scale.partitions.learner import DealtRows, PartitionRows

BINARY: dict[str, Any] = {"task": "binary", "dense": 3, "hashed": 16, "classes": 2}
NUMBERS: dict[str, Any] = {"task": "regression", "dense": 3, "hashed": 16, "classes": 0}


def labelled(n: int, seed: int = 0, task: str = "binary") -> Examples:
    """Return rows with 3 numbers and 2 hashed entries each, and labels that follow from them with noise."""
    draw = np.random.default_rng(seed)
    dense = (draw.normal(size=(n, 3)) * [1.0, 5.0, 0.2] + np.array([0.0, 2.0, 0.0])).astype(np.float32)
    entries = draw.integers(0, 8, size=(n, 2)) + np.array([0, 8])
    score = dense[:, 0] + 0.2 * dense[:, 1] + 0.5 * (entries[:, 0] % 2) + 0.3 * draw.normal(size=n)
    y = (score > 0.6).astype(np.float64) if task == "binary" else score.astype(np.float64)
    indptr = np.arange(0, 2 * n + 1, 2, dtype=np.int64)
    batch = Batch(dense, indptr, entries.ravel().astype(np.int32), np.ones(2 * n, np.float32))
    return Examples(batch, y, np.ones(n, np.float32), np.arange(1, n + 1))


def learner(spec: dict[str, Any], *parts: Examples) -> Model:
    """Return a model that has learned some rows."""
    made = model.build(spec)
    for part in parts:
        made.learn(part.batch, part.y, part.weight)
    return made


def grown(spec: dict[str, Any], base: Arrays, partition: int, count: int, rows: Examples) -> Model:
    """Return the learner of a partition that began at a base and learned its rows."""
    made = model.build(spec)
    made.arrays = copied(base)
    partitions.rules(made.spec).own(made, partition, count)
    made.learn(rows.batch, rows.y, rows.weight)
    return made


def dealt(examples: Examples, dealing: Dealing, partition: int, size: int = 7) -> PartitionRows:
    """Return the rows of one partition of examples in memory, in pieces of at most `size` rows of the stream."""
    pieces = []
    for start in range(0, len(examples.y), size):
        part = model.cut(examples, start, min(start + size, len(examples.y)))
        owner = dealing.owners(part.position)
        pieces.append(DealtRows(model.select(part, (owner == partition) | (owner < 0)), (), int(part.position[-1])))
    return PartitionRows(pieces)


def same(first: Arrays, second: Arrays) -> bool:
    """Return True if two dicts of arrays have the same bytes."""
    return first.keys() == second.keys() and all(
        first[name].tobytes() == second[name].tobytes() and first[name].dtype == second[name].dtype for name in first
    )


def deadly_rows(source: Any, dealing: Dealing, partition: int, after: int) -> list[DealtRows]:
    """End this process as a lack of memory does, instead of opening its rows."""
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def dying_rows(source: dict[str, Any], dealing: Dealing, partition: int, after: int) -> Iterator[DealtRows]:
    """Yield short pieces of rows; end this process once at each of `places`, if the partition is `dying`.

    A mark in the folder `marks` says that a place was reached before.
    """
    for piece in dealt_rows.rows_of(source, dealing, partition, after):
        position = piece.examples.position
        for begin in range(0, len(position), 50):
            part = model.cut(piece.examples, begin, min(begin + 50, len(position)))
            last = piece.last if begin + 50 >= len(position) else int(part.position[-1])
            for place in source["places"] if partition == source["dying"] else ():
                mark = Path(source["marks"]) / f"reached-{place}"
                if last >= place and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            yield DealtRows(part, (), last)
