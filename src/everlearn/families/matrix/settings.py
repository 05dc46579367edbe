"""The settings of matrix factorisation, and its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.families import row_loops, specs
from everlearn.families.factorization.settings import check_factors
from everlearn.families.matrix.rows import BPR, PLAIN, SOFTMAX, loops
from everlearn.families.row_loops import RowModel
from everlearn.records import Arrays, Loss, RowTask

FAMILY = "matrix"
LOSSES = {"squared": PLAIN, "log_loss": PLAIN, "bpr": BPR, "softmax": SOFTMAX}
TASK_LOSSES = {"regression": ("squared",), "binary": ("softmax", "bpr", "log_loss")}  # the first is the default
MOST_NEGATIVES = 1000


class MatrixSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of matrix factorisation.

    `factors` is the length of the vector of each user and item. `loss` is "squared" for ratings; for two classes it is
    "softmax" or "bpr", which compare each choice (class 1) with `negatives` items drawn from those known so far, or
    "log_loss", which learns both classes as they come. "auto" is "squared" or "softmax". `rate` is that of AdaGrad,
    `l2` the penalty on biases and factors, and `spread` the deviation of the factors at their start. `seed` draws these
    and the items.
    """

    family: str = FAMILY
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    factors: int = 16
    loss: Literal["auto", "squared", "softmax", "bpr", "log_loss"] = "auto"
    negatives: int = 20
    rate: float = 0.25
    l2: float = 0.005
    spread: float = 0.1
    seed: int = 0


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained matrix factorisation. Raises `ConfigError` for an unknown setting or a wrong value.

    The first two hashed entries of a row are its user and its item: make them the first two categorical fields of the
    schema. Rows with fewer are predicted by the bias that is known, and not learned; other inputs have no effect.

    Arrays: `hashed` float32 (hashed, 2, 1 + factors): bias and factors of each user and item, and fading sums of the
    squares of their gradients. `moments` float64 (3, 1) weight, mean and squared deviations of the ratings (of classes
    float64 (3, 0)), `known` bool (hashed,) and `items` int32 (hashed,) the items that were chosen, in the order of
    their first choice, and `clock` int64 (2,): rows learned, and items known.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "regression", "dense": 0, "hashed": 64})
    >>> pairs = np.random.default_rng(0).integers(0, 32, (20000, 2)) + [0, 32]
    >>> y = 3.0 + np.where((pairs[:, 0] + pairs[:, 1]) % 2, 1.0, -1.0)  # even users like even items
    >>> ones = np.ones(40000, np.float32)
    >>> rows = Batch(np.zeros((20000, 0), "f4"), np.arange(0, 40001, 2), pairs.ravel().astype("i4"), ones)
    >>> found = model.learn(rows, y, ones[:20000])[:, 0]
    >>> float(abs(found - y)[10000:].mean()) < 0.1
    True
    """
    chosen = row_loops.read(spec, MatrixSettings, FAMILY, ("binary", "regression"))
    losses = TASK_LOSSES[chosen.task]
    chosen = msgspec.structs.replace(chosen, loss=losses[0] if chosen.loss == "auto" else chosen.loss)
    row_loops.expect(FAMILY, chosen.loss in losses, "loss", chosen.loss, f"one of {losses} for task {chosen.task!r}")
    fits = 1 <= chosen.negatives <= MOST_NEGATIVES
    row_loops.expect(FAMILY, fits, "negatives", chosen.negatives, f"a number from 1 to {MOST_NEGATIVES:,}")
    check_factors(FAMILY, chosen)
    numbers = chosen.task == "regression"
    arrays: Arrays = {
        "hashed": np.zeros((chosen.hashed, 2, 1 + chosen.factors), np.float32),
        "moments": np.zeros((3, int(numbers))),
        "known": np.zeros(chosen.hashed, np.bool_),
        "items": np.zeros(chosen.hashed, np.int32),
        "clock": np.zeros(2, np.int64),
    }
    settings = np.array([
        *(chosen.rate, chosen.l2, chosen.spread, chosen.seed, float(numbers)),
        *(LOSSES[chosen.loss], chosen.negatives),
    ])  # fmt: skip
    return RowModel(specs.written(chosen, {}), settings, arrays, loops, Loss("squared") if numbers else None)
