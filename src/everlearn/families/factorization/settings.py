"""The settings of factorization machines, and their arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.families import row_loops, specs
from everlearn.families.factorization.rows import loops
from everlearn.families.row_loops import RowModel
from everlearn.records import Arrays, Loss, RowTask

FAMILY = "factorization"
MOST_FACTORS = 256


class FactorizationSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a factorization machine.

    `factors` is the length of the vector of each input, `rate` the rate of AdaGrad (None: .1 for two classes, .2 for
    numbers), `l2` the penalty on weights and factors that a row has, and `spread` the deviation of the factors at their
    start. `seed` draws these.
    """

    family: str = FAMILY
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    factors: int = 8
    rate: float | None = None
    l2: float = 0.0
    spread: float = 0.05
    seed: int = 0


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained factorization machine. Raises `ConfigError` for an unknown setting or a wrong value.

    Arrays: `dense` float32 (dense + 1, 2, 1 + factors) and `hashed` float32 (hashed, 2, 1 + factors): weight and
    factors of each input, and the sums of the squares of their gradients; the intercept is the last of `dense`.
    `moments` float64 (3, dense), and one more column of the numbers to predict: weight, mean and squared deviations.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 0, "hashed": 8})
    >>> pairs = np.random.default_rng(0).integers(0, 4, (4000, 2)) + [0, 4]
    >>> y = (pairs.sum(axis=1) % 2).astype(float)  # depends on the pair alone
    >>> rows = Batch(np.zeros((4000, 0), "f4"), np.arange(0, 8001, 2), pairs.ravel().astype("i4"), np.ones(8000, "f4"))
    >>> scores = model.learn(rows, y, np.ones(4000, np.float32))
    >>> float((scores.argmax(1) == y)[2000:].mean()) > 0.99
    True
    """
    chosen = row_loops.read(spec, FactorizationSettings, FAMILY, ("binary", "regression"))
    numbers = chosen.task == "regression"
    if chosen.rate is None:
        chosen = msgspec.structs.replace(chosen, rate=0.2 if numbers else 0.1)
    check_factors(FAMILY, chosen)
    arrays: Arrays = {
        "dense": np.zeros((chosen.dense + 1, 2, 1 + chosen.factors), np.float32),
        "hashed": np.zeros((chosen.hashed, 2, 1 + chosen.factors), np.float32),
        "moments": np.zeros((3, chosen.dense + numbers)),
    }
    settings = np.array([chosen.rate, chosen.l2, chosen.spread, chosen.seed, float(numbers)])
    return RowModel(specs.written(chosen, {}), settings, arrays, loops, Loss("squared") if numbers else None)


def check_factors(family: str, chosen: Any) -> None:
    """Raise `ConfigError` for factors, a rate, a penalty, a spread or a seed out of range."""
    fits = 1 <= chosen.factors <= MOST_FACTORS
    row_loops.expect(family, fits, "factors", chosen.factors, f"a number from 1 to {MOST_FACTORS}")
    row_loops.expect_number(family, chosen, "rate", 1e-9, 10.0)
    row_loops.expect_number(family, chosen, "l2", 0.0, 1.0)
    row_loops.expect_number(family, chosen, "spread", 0.0, 10.0)
    row_loops.expect(family, 0 <= chosen.seed < 1 << 53, "seed", chosen.seed, "a number from 0 to below 2**53")
