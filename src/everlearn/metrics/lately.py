"""Metrics lately: the headline metrics of the last thousand scored rows, exactly, from the ring in which rows wait."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.metrics import classes, numbers, ranks
from everlearn.metrics.curves import EXAMPLES
from everlearn.metrics.recent import HIGH, LABEL, LOW, ROWS, WEIGHT
from everlearn.records import Arrays, Floats, Ints, Task

SUFFIX = "_lately"
NAMES = ("accuracy", "log_loss", "roc_auc", "pr_auc", "mae", "rmse", "pinball", "coverage")


def report(arrays: Arrays, task: Task) -> dict[str, float]:
    """Return the metrics of `NAMES` over the last 1,000 scored rows, as `accuracy_lately` and so on.

    Empty until there are more rows than that: before, they are the metrics of the whole stream.
    """
    if not arrays["counts"][EXAMPLES] > ROWS:
        return {}
    found = _numbers(arrays) if task == "regression" else _classes(arrays, task)
    return {f"{name}{SUFFIX}": found[name] for name in NAMES if name in found}


def _numbers(arrays: Arrays) -> dict[str, float]:
    pinball = numbers.start_pinball(float(arrays["pinball"][0]))["pinball"] if "pinball" in arrays else None
    return numbers.report(numbers.summed(arrays["recent"], pinball), None, pinball)


def _classes(arrays: Arrays, task: Task) -> dict[str, float]:
    ints, floats = arrays["recent_bits"], arrays["recent"]
    sums, by_class = classes.summed(ints, floats, len(arrays["by_class"]))
    found = classes.report(sums, by_class, None, task)
    if "rank_cells" in arrays:
        keys = ranks.keys(ints[LOW], ints[HIGH])
        found |= areas(keys, ints[LABEL] == 1, floats[WEIGHT])
    return found


def areas(keys: Ints, positive: NDArray[np.bool_], weight: Floats) -> dict[str, float]:
    """Return `roc_auc` and `pr_auc` (average precision) of rows that are held; empty if a class has no weight.

    `keys` have the order of the scores; equal ones are half a pair in the first, and one threshold in the second.

    >>> areas(np.array([3, 2, 1]), np.array([True, False, True]), np.ones(3))["roc_auc"]
    0.5
    """
    _, group = np.unique(-keys, return_inverse=True)  # the highest first
    favoured, against = np.bincount(group, weight * positive), np.bincount(group, weight * ~positive)
    positives, negatives = favoured.sum(), against.sum()
    if not (positives > 0 and negatives > 0):
        return {}
    found, ahead = np.cumsum(favoured), np.cumsum(against)
    pairs = favoured @ (negatives - ahead + against / 2)
    caught = favoured > 0
    precision = found[caught] / (found + ahead)[caught]
    return {
        "roc_auc": float(pairs / (positives * negatives)),
        "pr_auc": float(favoured[caught] @ precision / positives),
    }
