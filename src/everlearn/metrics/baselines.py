"""Naive baselines: repeat the last known label; answer with the shares of the classes, or the mean.

They know what a model could know: only labels that were known when the prediction was made. They are scored beside the
models and never promoted. A model that loses to one of them has learned nothing that is worth its cost.

`answers` takes labels in the order in which they became known, and returns what both baselines answer in between. Their
state is arrays, with the same bytes however the labels are split into calls.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn import metrics
from everlearn._jit import exact_kernel, inlined
from everlearn.metrics import seasonal
from everlearn.records import Arrays, Floats, Ints, Loss, Singles, Task

LAST = "last_label"
_CERTAIN = (LAST, seasonal.NAME)  # answer with a label, not with probabilities, so they have no log loss
COMMON = {"regression": "mean", "binary": "majority", "multiclass": "majority"}


def names(task: Task) -> tuple[str, str]:
    """Return the words for both baselines in reports.

    >>> names("binary"), names("regression")
    (('last_label', 'majority'), ('last_label', 'mean'))
    """
    return LAST, COMMON[task]


def start(task: Task, classes: int) -> Arrays:
    """Return the state before any label: `last` float64 (1,), NaN at first, and `known` float64.

    `known` is (classes,), the weight of each class, or for a regression (2,), the weight and the mean of the labels.
    """
    return {"last": np.full(1, np.nan), "known": np.zeros(2 if task == "regression" else classes)}


def measures(task: Task, classes: int, own: Loss | None = None) -> Arrays:
    """Return arrays for the metrics of one baseline: those of `metrics.start` without ranks, alerts and segments."""
    made = metrics.start(task, classes, own=own)
    rooms = ("rank_", "alert_", "bins", "segments")
    return {name: array for name, array in made.items() if not name.startswith(rooms)}


def answers(arrays: Arrays, task: Task, y: Floats, weight: Singles, known: Ints) -> tuple[Singles, Singles]:
    """Return the answers of both baselines to n rows, float32 (n, classes) or (n, 1), and learn m labels.

    `y` float64 (m,) and `weight` float32 (m,) are labels in the order in which they became known. `known` int64 (n,),
    ascending, is how many of them were known when each row was predicted. A label that is unusable, or without weight,
    is passed over. Before the first label, the last one is NaN, the mean is 0 and classes are equally frequent. The
    share of a class is (w + 1) / (W + classes) for its weight w and the total W (Laplace's rule of succession).

    >>> state = start("regression", 0)
    >>> last, mean = answers(state, "regression", np.array([4.0, 8.0]), np.ones(2, np.float32), np.array([0, 1, 2]))
    >>> last[:, 0].tolist(), mean[:, 0].tolist()
    ([nan, 4.0, 8.0], [0.0, 4.0, 6.0])
    """
    columns = 1 if task == "regression" else len(arrays["known"])
    last, common = np.empty((len(known), columns), np.float32), np.empty((len(known), columns), np.float32)
    _answer(arrays, task, y, weight, known, last, common, np.empty((0, 2)))
    return last, common


def labelled_answers(
    arrays: Arrays, task: Task, y: Floats, weight: Singles, known: Ints, only: Collection[str]
) -> tuple[dict[str, Singles], Floats]:
    """Return the answers of the baselines `only`, and what `labels` returns for both; learn as `answers` does.

    Of classes, answers that nothing reads are not made.
    """
    if task == "regression":
        both = answers(arrays, task, y, weight, known)
        return dict(zip(names(task), both, strict=True)), labels(*both)
    n, columns = len(known), len(arrays["known"])
    last, common = (np.empty((n if name in only else 0, columns), np.float32) for name in names(task))
    answered = np.empty((n, 2))
    _answer(arrays, task, y, weight, known, last, common, answered)
    found = dict(zip(names(task), (last, common), strict=True))
    return {name: answer for name, answer in found.items() if name in only}, answered


def _answer(
    arrays: Arrays, task: Task, y: Floats, weight: Singles, known: Ints, last: Singles, common: Singles, both: Floats
) -> None:
    y, weight = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
    known = np.ascontiguousarray(known, np.int64)
    if task == "regression":
        _answer_numbers(y, weight, known, arrays["last"], arrays["known"], last, common)
    else:
        _answer_classes(y, weight, known, arrays["last"], arrays["known"], last, common, both)


def labels(last: Singles, common: Singles) -> Floats:
    """Return the labels that both baselines answer with, float64 (n, 2), for `metrics.update`; NaN where unknown."""
    known = np.empty((len(last), 2))
    _label(last, common, known)
    return known


def report(name: str, arrays: Arrays, task: Task) -> dict[str, float]:
    """Return the metrics of the baseline `name`; one that answers with a label has no log loss."""
    found = metrics.report(arrays, task)
    certain = name in _CERTAIN
    return {key: value for key, value in found.items() if not (certain and key.startswith("log_loss"))}


def curve(name: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the curve of the baseline `name`; see `metrics.curve` and `report`."""
    return {key: line for key, line in metrics.curve(arrays).items() if not (name in _CERTAIN and key == "log_loss")}


@exact_kernel
def _label(last: Singles, common: Singles, known: Floats) -> None:
    classes = last.shape[1]
    for row in range(len(known)):
        if classes == 1:
            known[row, 0], known[row, 1] = last[row, 0], common[row, 0]
            continue
        repeated, most = 0, 0
        for k in range(1, classes):
            repeated = k if last[row, k] > last[row, repeated] else repeated
            most = k if common[row, k] > common[row, most] else most
        known[row, 0] = np.nan if np.isnan(last[row, 0]) else np.float64(repeated)
        known[row, 1] = most


@exact_kernel
def _answer_numbers(
    y: Floats, weight: Singles, known: Ints, last: Floats, moments: Floats, repeated: Singles, mean: Singles
) -> None:
    learned = 0
    for row in range(len(known) + 1):
        upto = known[row] if row < len(known) else len(y)
        for label in range(learned, upto):
            w = np.float64(weight[label])
            if np.isfinite(y[label]) and 0 < w < np.inf:
                last[0] = y[label]
                moments[0] += w
                moments[1] += (y[label] - moments[1]) * w / moments[0]
        learned = max(learned, upto)
        if row < len(known):
            repeated[row, 0], mean[row, 0] = last[0], moments[1]


@exact_kernel
def _answer_classes(
    y: Floats,
    weight: Singles,
    known: Ints,
    last: Floats,
    held: Floats,
    repeated: Singles,
    shares: Singles,
    both: Floats,
) -> None:
    """Write answers to `repeated` and `shares`, and the labels of both to `both`; each may have no rows."""
    learned, classes = 0, len(held)
    for row in range(len(known) + 1):
        upto = known[row] if row < len(known) else len(y)
        for label in range(learned, upto):
            w = np.float64(weight[label])
            if 0 <= y[label] < classes and y[label] == np.floor(y[label]) and 0 < w < np.inf:
                last[0] = y[label]
                held[np.int64(y[label])] += w
        learned = max(learned, upto)
        if row == len(known):
            break
        if len(repeated):
            for k in range(classes):
                repeated[row, k] = np.nan if np.isnan(last[0]) else np.float64(last[0] == k)
        if len(shares):
            total = held[0]
            for k in range(1, classes):
                total += held[k]
            for k in range(classes):
                shares[row, k] = (held[k] + 1) / (total + classes)
        if len(both):
            both[row, 0], both[row, 1] = last[0], _most_common(held)


@inlined
def _most_common(held: Floats) -> int:
    """Return the class with the largest share; the first one of those whose shares are equal as float32."""
    classes, most = len(held), 0
    for k in range(1, classes):
        most = k if held[k] > held[most] else most
    near = (held[most] + 1) * (1 - 1e-6)
    for k in range(most):
        if held[k] + 1 >= near:
            total = held[0]
            for other in range(1, classes):
                total += held[other]
            if np.float32((held[k] + 1) / (total + classes)) == np.float32((held[most] + 1) / (total + classes)):
                return k
    return most
