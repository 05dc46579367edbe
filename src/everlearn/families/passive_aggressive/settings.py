"""The settings of passive-aggressive models, and their arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from everlearn.families import row_loops, specs
from everlearn.families.passive_aggressive.rows import LOSS, loops
from everlearn.families.row_loops import RowModel
from everlearn.records import Arrays, Loss, RowTask

FAMILY = "passive_aggressive"
VARIANTS = ("PA", "PA-I", "PA-II")
MODELS = 8


class AggressiveSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a passive-aggressive model.

    `variant` says how the step is bounded. `aggressiveness` is the C of "PA-I" and "PA-II": one number, or up to 8, for
    each of which there is a model; the answer is their average, weighted by the likelihood of the last labels.
    `epsilon` is the error of a regression that is not corrected, in deviations of the numbers to predict. `seed` has no
    effect: nothing here is random.
    """

    family: str = FAMILY
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    variant: Literal["PA", "PA-I", "PA-II"] = "PA-II"
    aggressiveness: float | tuple[float, ...] = (0.005, 0.1)
    epsilon: float = 0.1
    seed: int = 0


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained passive-aggressive model. Raises `ConfigError` for an unknown setting or a wrong value.

    Arrays, for B models of M margins (one, or one for each of more than two classes): `weights` float64 (B, M,
    dense + 1), the intercept last; `hashed` float32 (B, hashed, M); `moments` float64 (3, dense), and one more column
    of the numbers to predict: weight, mean and squared deviations; `state` float64 (B, 3): the logarithm of the temper,
    squares of its gradients, and the loss of late.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 1})
    >>> x = np.random.default_rng(0).normal(np.arange(1000) % 2 * 4.0, 1.0).astype(np.float32)
    >>> rows = Batch(x[:, None], np.zeros(1001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, np.arange(1000) % 2.0, np.ones(1000, np.float32))
    >>> float((scores.argmax(1) == np.arange(1000) % 2)[100:].mean()) > 0.96
    True
    """
    chosen = row_loops.read(spec, AggressiveSettings, FAMILY, ("binary", "multiclass", "regression"))
    given = chosen.aggressiveness
    each = given if isinstance(given, tuple) else (given,)
    fits = 1 <= len(each) <= MODELS and all(1e-9 <= one < math.inf for one in each)
    row_loops.expect(FAMILY, fits, "aggressiveness", given, f"a finite number from 1e-09, or 1 to {MODELS} of them")
    row_loops.expect_number(FAMILY, chosen, "epsilon", 0.0)
    numbers = chosen.task == "regression"
    margins = chosen.classes if chosen.task == "multiclass" else 1
    arrays: Arrays = {
        "weights": np.zeros((len(each), margins, chosen.dense + 1)),
        "hashed": np.zeros((len(each), chosen.hashed, margins), np.float32),
        "moments": np.zeros((3, chosen.dense + numbers)),
        "state": np.zeros((len(each), LOSS + 1)),
    }
    settings = np.array([VARIANTS.index(chosen.variant), chosen.epsilon, float(numbers), *each])
    loss = Loss("absolute") if numbers else None
    return RowModel(specs.written(chosen, {}), settings, arrays, loops, loss)
