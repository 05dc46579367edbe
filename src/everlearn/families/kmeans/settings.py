"""The settings of online k-means, and its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import row_loops, specs
from everlearn.families.kmeans.rows import HASHED_COLUMNS, loops
from everlearn.families.row_loops import RowModel
from everlearn.records import Arrays, RowTask

FAMILY = "kmeans"
START = 20  # first rows for each cluster


class ClusterSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of online k-means.

    `classes` is the number of clusters. `memory` is the number of rows that count: older ones fade (0: all count
    alike). `seed` draws the first centres.
    """

    family: str = FAMILY
    task: RowTask = "multiclass"
    dense: int
    hashed: int = 0
    classes: int = 0
    memory: float = 1000.0
    seed: int = 0


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained k-means model. Raises `ConfigError` for an unknown setting or a wrong value.

    Its answer is the share of each of `classes` clusters in a row; the likeliest is the cluster of the nearest centre.
    Before the first 20 rows for each cluster came, all shares are alike. Labels are ignored, also missing ones: each
    row with a weight above 0 is learned. A cluster has no meaning beside its number: on a stream with labels, measure
    with `everlearn.cluster`, not by accuracy.

    Arrays, for k clusters and D columns (those of the batch, and 32 of hashed entries): `centres` float64 (k, D),
    `counts` and `errors` float64 (k,) fading weights and squared distances of their rows, `moments` float64 (3, dense),
    `first` float64 (20 k, D) and `weights` float64 (20 k,) the first rows, `state` float64 (2,) fading sums of squared
    distances and of weights, and `clock` int64 (1,) rows learned.

    >>> from everlearn.records import Batch
    >>> model = build({"dense": 1, "classes": 2})
    >>> x = np.random.default_rng(0).normal(np.arange(1000) % 2 * 10.0, 1.0).astype(np.float32)
    >>> rows = Batch(x[:, None], np.zeros(1001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> found = model.learn(rows, np.full(1000, np.nan), np.ones(1000, np.float32)).argmax(axis=1)[100:]
    >>> bool((found == found[0]).sum() == 450 and (found[::2] == found[0]).all())
    True
    """
    if spec.get("task", "multiclass") != "multiclass":
        raise ConfigError(
            f"kmeans model: task: got {spec['task']!r}; expected 'multiclass', a class for each cluster. On a stream "
            'use everlearn.cluster({"family": "kmeans", "classes": 3}, stream)'
        )
    chosen = row_loops.read({"task": "multiclass", **spec}, ClusterSettings, FAMILY, ("multiclass",))
    row_loops.expect(FAMILY, chosen.classes <= 10_000, "classes", chosen.classes, "2 to 10,000 clusters")
    row_loops.expect(FAMILY, chosen.memory == 0.0 or chosen.memory >= 2.0, "memory", chosen.memory, "0, or 2 and more")
    row_loops.expect_number(FAMILY, chosen, "memory", 0.0)
    row_loops.expect(FAMILY, 0 <= chosen.seed < 1 << 53, "seed", chosen.seed, "a number from 0 to below 2**53")
    k, columns = chosen.classes, chosen.dense + (HASHED_COLUMNS if chosen.hashed else 0)
    arrays: Arrays = {
        "centres": np.zeros((k, columns)),
        "counts": np.zeros(k),
        "errors": np.zeros(k),
        "moments": np.zeros((3, chosen.dense)),
        "first": np.zeros((START * k, columns)),
        "weights": np.zeros(START * k),
        "state": np.zeros(2),
        "clock": np.zeros(1, np.int64),
    }
    settings = np.array([1.0 / chosen.memory if chosen.memory else 0.0, chosen.seed])
    return RowModel(specs.written(chosen, {}), settings, arrays, loops)
