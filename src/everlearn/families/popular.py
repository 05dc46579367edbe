"""Popularity: each item by how often it was chosen of late, or by its mean rating, for all users alike.

The baseline of recommenders: a model that knows users must rank items better than this. Older choices fade, so that
items come into fashion and go out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn._jit import exact_kernel
from everlearn.families import row_loops, specs
from everlearn.families.kernel_parts import first_fault, inlined, mislabelled
from everlearn.families.row_loops import HEAVIEST, LARGEST, RowModel, usable
from everlearn.records import Arrays, Floats, Loss, RowTask

FAMILY = "popular"
PLACE, FADE, NUMBERS = range(3)  # settings
SCALE, TOTAL, SUM = range(3)  # state: weight of the next row, of all rows, and sum of their ratings
PRIOR = 10.0  # ratings at the mean of all items that each item has before its first
SWOLLEN = 1e9  # the weight of a row at which all counts are divided by it


class PopularSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of popularity.

    `memory` is the number of rows that count; older ones fade (0: all rows count alike). `place` is that of the item
    among the hashed entries of a row, from 0: the second, after the user. `seed` has no effect: nothing here is random.
    """

    family: str = FAMILY
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    memory: float = 5000.0
    place: int = 1
    seed: int = 0


@inlined
def answer_item(settings: Floats, counts: Floats, state: Floats, index: Any, out: Any, i: int) -> None:
    """Write the answer for an item: its share of all choices, or its mean rating; of no item where `index` is -1."""
    if settings[NUMBERS] != 0.0:
        mean = state[SUM] / state[TOTAL] if state[TOTAL] > 0.0 else 0.0
        prior = PRIOR * state[SCALE]
        if index >= 0:
            mean = (counts[1, index] + prior * mean) / (counts[0, index] + prior)
        out[i, 0] = np.float32(mean)
        return
    share = counts[0, index] / state[TOTAL] if index >= 0 and state[TOTAL] > 0.0 else 0.0
    out[i, 1] = np.float32(min(max(share, 0.0), 1.0))
    out[i, 0] = np.float32(1.0) - out[i, 1]


def loops(sources: str) -> tuple[Any, Any]:
    """Return the kernels that predict and learn."""

    @exact_kernel
    def predict(settings, hashed, counts, state, dense, indptr, indices, values, out):  # type: ignore[no-untyped-def]
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if fault:
            return fault
        for i in range(len(indptr) - 1):
            at = indptr[i] + int(settings[PLACE])
            index = np.int64(indices[at]) if at < indptr[i + 1] else np.int64(-1)
            answer_item(settings, counts, state, index, out, i)
        return 0

    @exact_kernel
    def learn(settings, hashed, counts, state, dense, indptr, indices, values, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        fault = first_fault(hashed, indptr, indices, values)
        if not fault and settings[NUMBERS] == 0.0:
            fault = mislabelled(y, 2)
        if fault:
            return fault
        for i in range(len(indptr) - 1):
            at = indptr[i] + int(settings[PLACE])
            index = np.int64(indices[at]) if at < indptr[i + 1] else np.int64(-1)
            answer_item(settings, counts, state, index, out, i)
            if index < 0 or not usable(y[i], np.float64(weight[i])):
                continue
            if settings[NUMBERS] == 0.0 and y[i] != 1.0:
                continue
            row_weight = min(np.float64(weight[i]), HEAVIEST) * state[SCALE]
            rating = row_weight * min(max(y[i], -LARGEST), LARGEST)
            counts[0, index] += row_weight
            state[TOTAL] += row_weight
            if settings[NUMBERS] != 0.0:
                counts[1, index] += rating
                state[SUM] += rating
            state[SCALE] /= 1.0 - settings[FADE]
            if state[SCALE] > SWOLLEN:
                factor = 1.0 / state[SCALE]
                for row in range(counts.shape[0]):
                    for k in range(counts.shape[1]):
                        counts[row, k] *= factor
                state[SCALE], state[TOTAL], state[SUM] = 1.0, state[TOTAL] * factor, state[SUM] * factor
        return 0

    return predict, learn


def build(spec: Mapping[str, Any]) -> RowModel:
    """Make an untrained model of popularity. Raises `ConfigError` for an unknown setting or a wrong value.

    For two classes the probability of class 1 is the share of the item among all choices (rows of class 1), which ranks
    items and is no probability that this user chooses it. For a regression the answer is the mean rating of the item,
    with ten ratings at the mean of all. Arrays: `counts` float64 (1, hashed) weights of each item, and (2, hashed) with
    the sums of its ratings; `state` float64 (3,): the weight of the next row, of all rows, and their sum.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 0, "hashed": 8, "memory": 0})
    >>> pairs = np.array([0, 5, 1, 5, 2, 6, 3, 5], np.int32)  # users and items
    >>> rows = Batch(np.zeros((4, 0), "f4"), np.arange(0, 9, 2), pairs, np.ones(8, "f4"))
    >>> scores = model.learn(rows, np.ones(4), np.ones(4, np.float32))
    >>> model.predict(rows)[:, 1].tolist()
    [0.75, 0.75, 0.25, 0.75]
    """
    chosen = row_loops.read(spec, PopularSettings, FAMILY, ("binary", "regression"))
    row_loops.expect(FAMILY, chosen.memory == 0.0 or chosen.memory >= 2.0, "memory", chosen.memory, "0, or 2 and more")
    row_loops.expect_number(FAMILY, chosen, "memory", 0.0)
    row_loops.expect(FAMILY, 0 <= chosen.place < 1000, "place", chosen.place, "a number from 0 to 999")
    numbers = chosen.task == "regression"
    arrays: Arrays = {"counts": np.zeros((1 + numbers, chosen.hashed)), "state": np.array([1.0, 0.0, 0.0])}
    settings = np.array([chosen.place, 1.0 / chosen.memory if chosen.memory else 0.0, float(numbers)])
    return RowModel(specs.written(chosen, {}), settings, arrays, loops, Loss("squared") if numbers else None)
