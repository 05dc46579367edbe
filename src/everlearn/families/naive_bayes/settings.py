"""The settings of naive Bayes, and its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn.families import row_loops, specs
from everlearn.families.naive_bayes.rows import LOSS, SCALE, VALUES, loops
from everlearn.families.row_loops import RowModel
from everlearn.records import RowTask

FAMILY = "naive_bayes"


class BayesSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of naive Bayes.

    One half of the model counts all rows alike. In the other older rows fade: `memory` is the number of rows that count
    there (0: there is no such half). `shrink` is the number of rows
    that the variance of a class is drawn towards that of the stream, and `smoothing` the count that each hashed entry
    has before it is seen. `seed` has no effect: nothing here is random.
    """

    family: str = FAMILY
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    memory: float = 200.0
    shrink: float = 10.0
    smoothing: float = 1.0
    seed: int = 0


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained naive Bayes model. Raises `ConfigError` for an unknown setting or a wrong value.

    Arrays, for B banks of counts (2; 1 without `memory`), K classes and d columns: `counts` float64 (B, K), `columns`
    float64 (B, K, 3, d) weight, mean and squared deviations, `moments` float64 (B, 6, d) the same of the stream, two
    values and how many there were; `table` float32 (B, hashed, K) sums of values, `totals` float64 (B, K + 1) their
    sums and the number of entries seen; `state` float64 (B, 4): the weight of the next row, the logarithm of the
    temper, squares of its gradients, and the log loss of late.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 1})
    >>> x = np.random.default_rng(0).normal(np.arange(1000) % 2 * 4.0, 1.0).astype(np.float32)
    >>> rows = Batch(x[:, None], np.zeros(1001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, np.arange(1000) % 2.0, np.ones(1000, np.float32))
    >>> float((scores.argmax(1) == np.arange(1000) % 2)[50:].mean()) > 0.96
    True
    """
    chosen = row_loops.read(spec, BayesSettings, FAMILY, ("binary", "multiclass"))
    row_loops.expect(FAMILY, chosen.memory == 0.0 or chosen.memory >= 2.0, "memory", chosen.memory, "0, or 2 and more")
    row_loops.expect_number(FAMILY, chosen, "memory", 0.0)
    row_loops.expect_number(FAMILY, chosen, "shrink", 1e-6)
    row_loops.expect_number(FAMILY, chosen, "smoothing", 1e-6)
    k, d, banks = chosen.classes, chosen.dense, 2 if chosen.memory else 1
    arrays = {
        "counts": np.zeros((banks, k)),
        "columns": np.zeros((banks, k, 3, d)),
        "moments": np.zeros((banks, VALUES + 1, d)),
        "table": np.zeros((banks, chosen.hashed, k), np.float32),
        "totals": np.zeros((banks, k + 1)),
        "state": np.zeros((banks, LOSS + 1)),
    }
    arrays["state"][:, SCALE] = 1.0
    fade = 1.0 / chosen.memory if chosen.memory else 0.0
    settings = np.array([fade, chosen.shrink, chosen.smoothing])
    return RowModel(specs.written(chosen, {}), settings, arrays, loops)
