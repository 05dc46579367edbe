"""The settings of nearest neighbours, and their arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn.families import row_loops, specs
from everlearn.families.neighbours.rows import loops
from everlearn.families.row_loops import RowModel
from everlearn.records import Arrays, Loss, RowTask

FAMILY = "neighbours"
MOST_NEIGHBOURS, MOST_ROWS, NUMBERS_OF_NEIGHBOURS = 100, 1_000_000, 8


class NeighbourSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of nearest neighbours.

    `window` is the number of newest rows that are searched, and `nearest` how many of them answer: one number, or up to
    8; the answer is then the average, weighted by the likelihood of the last labels. `entries` is the number of hashed
    entries of a row that count, the first ones. `seed` has no effect: nothing here is random.
    """

    family: str = FAMILY
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    window: int = 1000
    nearest: int | tuple[int, ...] = (1, 2, 5, 12)
    entries: int = 64
    seed: int = 0


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained model of nearest neighbours. Raises `ConfigError` for an unknown setting or a wrong value.

    Arrays, for a window of W rows: `window` float32 (dense, W), `entries` int32 and `amounts` float32 (W, entries) the
    hashed entries (-1: none), `labels` float64 and `weights` float32 (W,), `sums` float64 (classes,) the weights of
    each class in the window, `moments` float64 (3, dense) weight, mean and squared deviations, `state` float64
    (numbers of neighbours, 1) their loss of late, and `clock` int64 (1,) rows learned.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 2})
    >>> x = np.random.default_rng(0).random((3000, 2)).astype(np.float32)
    >>> y = ((x[:, 0] > 0.5) ^ (x[:, 1] > 0.5)).astype(float)
    >>> rows = Batch(x, np.zeros(3001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, y, np.ones(3000, np.float32))
    >>> float((scores.argmax(1) == y)[1000:].mean()) > 0.95
    True
    """
    chosen = row_loops.read(spec, NeighbourSettings, FAMILY, ("binary", "multiclass", "regression"))
    rows, given, numbers = chosen.window, chosen.nearest, chosen.task == "regression"
    each = given if isinstance(given, tuple) else (given,)
    fits = 1 <= len(each) <= NUMBERS_OF_NEIGHBOURS and all(1 <= one <= MOST_NEIGHBOURS for one in each)
    row_loops.expect(FAMILY, 1 <= rows <= MOST_ROWS, "window", rows, f"a number of rows from 1 to {MOST_ROWS:,}")
    wanted = f"a number from 1 to {MOST_NEIGHBOURS}, or 1 to {NUMBERS_OF_NEIGHBOURS} of them"
    row_loops.expect(FAMILY, fits, "nearest", given, wanted)
    row_loops.expect(FAMILY, 1 <= chosen.entries <= 4096, "entries", chosen.entries, "a number from 1 to 4,096")
    entries = chosen.entries if chosen.hashed else 0
    arrays: Arrays = {
        "window": np.zeros((chosen.dense, rows), np.float32),
        "entries": np.full((rows, entries), -1, np.int32),
        "amounts": np.zeros((rows, entries), np.float32),
        "labels": np.zeros(rows),
        "weights": np.zeros(rows, np.float32),
        "sums": np.zeros(chosen.classes),
        "moments": np.zeros((3, chosen.dense)),
        "state": np.zeros((len(each), 1)),
        "clock": np.zeros(1, np.int64),
    }
    settings = np.array([float(numbers), *each])
    return RowModel(specs.written(chosen, {}), settings, arrays, loops, Loss("squared") if numbers else None)
