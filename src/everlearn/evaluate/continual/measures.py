"""Measures of continual learning, as functions of arrays, each with its definition and source.

`matrix` is float64 (T, T): R[i, j] is the accuracy on the test rows of task j after task i was learned (Lopez-Paz and
Ranzato 2017, "Gradient Episodic Memory for Continual Learning"). Formulas count tasks from 1. Functions raise
`InputError` for a matrix of another shape, or for fewer than two tasks where a measure needs two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Floats

FIRST = 200  # rows of a task in the measure of learning speed
LOWER_IS_BETTER = frozenset({"forgetting"})


def average_accuracy(matrix: Floats) -> float:
    """Return the mean accuracy over tasks after the last one: ACC = 1/T sum_j R[T, j].

    Lopez-Paz and Ranzato 2017, eq. 2.

    >>> average_accuracy(np.array([[0.9, 0.0], [0.5, 0.8]]))
    0.65
    """
    return float(matrix[-1].mean())


def forgetting(matrix: Floats) -> float:
    """Return the mean loss against the best accuracy ever reached, over all tasks but the last; less is better.

    F = 1/(T-1) sum_{j<T} (max_{l<T} R[l, j] - R[T, j]) (Chaudhry et al. 2018, "Riemannian Walk for Incremental
    Learning", eq. 3). It is the negative of backward transfer if every task is best right after it was learned. Raises
    `InputError` for fewer than two tasks.

    >>> round(forgetting(np.array([[0.9, 0.0, 0.0], [0.95, 0.8, 0.0], [0.55, 0.7, 0.9]])), 6)
    0.25
    """
    square = _square(matrix)
    return float((square[:-1, :-1].max(axis=0) - square[-1, :-1]).mean())


def backward_transfer(matrix: Floats) -> float:
    """Return the effect of later tasks on a task: BWT = 1/(T-1) sum_{i<T} (R[T, i] - R[i, i]).

    Lopez-Paz and Ranzato 2017, eq. 3. Raises `InputError` for fewer than two tasks.

    >>> round(backward_transfer(np.array([[0.9, 0.0], [0.5, 0.8]])), 6)
    -0.4
    """
    square = _square(matrix)
    return float((square[-1, :-1] - np.diag(square)[:-1]).mean())


def forward_transfer(matrix: Floats, untrained: Floats) -> float:
    """Return the effect of earlier tasks on a task not seen yet: FWT = 1/(T-1) sum_{i>1} (R[i-1, i] - b[i]).

    `untrained` float64 (T,) is b: the accuracy on each task before any learning (Lopez-Paz and Ranzato 2017, eq. 4). It
    means little where each task has new classes, since unseen classes are hardly ever predicted. Raises `InputError`
    for fewer than two tasks.

    >>> round(forward_transfer(np.array([[0.9, 0.3], [0.5, 0.8]]), np.array([0.1, 0.1])), 6)
    0.2
    """
    square = _square(matrix)
    return float((np.diag(square, 1) - untrained[1:]).mean())


def learning_accuracy(matrix: Floats) -> float:
    """Return the mean accuracy on each task right after it was learned (plasticity): 1/T sum_i R[i, i].

    Riemer et al. 2019, "Learning to Learn without Forgetting by Maximizing Transfer and Minimizing Interference".

    >>> round(learning_accuracy(np.array([[0.9, 0.3], [0.5, 0.8]])), 6)
    0.85
    """
    return float(np.diag(_square(matrix, 1)).mean())


def plasticity_slope(online: Floats) -> float:
    """Return the slope of the online accuracy over tasks; below 0, the network loses plasticity.

    `online` float64 (T,) is the accuracy of the predictions before learning, task by task; the slope is that of the
    least-squares line (after the curves of Dohare et al. 2024, "Loss of plasticity in deep continual learning"). It is
    meaningful for tasks of equal difficulty, such as permuted or rotated ones. Raises `InputError` for fewer than two
    tasks.

    >>> round(plasticity_slope(np.array([0.9, 0.85, 0.8])), 6)
    -0.05
    """
    if len(online) < 2:
        raise InputError("got the accuracy of one task; expected at least two tasks for a slope")
    return float(np.polyfit(np.arange(len(online)), online, 1)[0])


def learning_speed(right: NDArray[Any], starts: Sequence[int]) -> float:
    """Return the online accuracy in the first 200 rows of each task, averaged over tasks.

    `right` (n,) is 1 for each row of the stream that was predicted correctly before learning, and `starts` has the
    first row of each task. It is the area under the learning curve (Chaudhry et al. 2019, "Efficient Lifelong Learning
    with A-GEM", LCA), with the accuracy on the coming rows in place of that on a test set.

    >>> learning_speed(np.array([0, 1, 1, 1, 0, 0, 1, 1]), starts=[0, 4])
    0.625
    """
    ends = [*starts[1:], len(right)]
    parts = [right[start : min(start + FIRST, end)] for start, end in zip(starts, ends, strict=True)]
    return float(np.mean([part.mean() for part in parts]))


def anytime_accuracy(scores: Floats, seen: NDArray[Any]) -> float:
    """Return the mean over moments of the mean accuracy over the tasks seen by then (averaged anytime accuracy).

    `scores` float64 (moments, T) is the accuracy on each task at moments throughout the stream, and `seen` int
    (moments,) the number of tasks begun by each moment (Caccia et al. 2022, "New Insights on Reducing Abrupt
    Representation Change in Online Continual Learning").

    >>> round(anytime_accuracy(np.array([[0.8, 0.0], [0.6, 0.4]]), np.array([1, 2])), 6)
    0.65
    """
    return float(seen_accuracy(scores, seen).mean())


def seen_accuracy(scores: Floats, seen: NDArray[Any]) -> Floats:
    """Return the mean accuracy over the tasks seen by each moment, float64 (moments,); see `anytime_accuracy`."""
    begun = np.arange(scores.shape[1]) < np.asarray(seen)[:, None]
    result: Floats = (scores * begun).sum(axis=1) / begun.sum(axis=1)
    return result


def minimum_accuracy(points: NDArray[Any], scores: Floats, borders: Sequence[int]) -> float:
    """Return the lowest accuracy of a task after it was learned, averaged over all tasks but the last (min-ACC).

    `points` int (moments,) are the rows learned at each moment, `scores` float64 (moments, T) the accuracies then,
    `borders` (T,) the rows at which tasks end. min-ACC = 1/(T-1) sum_{i<T} min_n A(E_i, f_n) over the moments n after
    task i ended (De Lange, van de Ven and Tuytelaars 2023, "Continual evaluation for lifelong learning: Identifying the
    stability gap"). The drop right after a border is visible only if moments are close together. Raises `InputError`
    for fewer than two tasks.

    >>> minimum_accuracy(np.array([10, 12, 20]), np.array([[0.9, 0.1], [0.2, 0.5], [0.7, 0.8]]), [10, 20])
    0.2
    """
    if len(borders) < 2:
        raise InputError("got one task; expected at least two tasks for the lowest accuracy of earlier ones")
    least = [scores[np.asarray(points) > border, task].min() for task, border in enumerate(borders[:-1])]
    return float(np.mean(least))


def worst_case_accuracy(points: NDArray[Any], scores: Floats, borders: Sequence[int]) -> float:
    """Return the accuracy in the worst case: WC-ACC = 1/T A(E_T, f) + (1 - 1/T) min-ACC, f the model at the end.

    Arguments, errors and source as for `minimum_accuracy`; it trades plasticity off against the worst stability.

    >>> round(worst_case_accuracy(np.array([10, 12, 20]), np.array([[0.9, 0.1], [0.2, 0.5], [0.7, 0.8]]), [10, 20]), 6)
    0.5
    """
    tasks = len(borders)
    return float(scores[-1, tasks - 1] / tasks + (1 - 1 / tasks) * minimum_accuracy(points, scores, borders))


def _square(matrix: Floats, least: int = 2) -> Floats:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < least:
        raise InputError(
            f"the accuracy matrix has shape {matrix.shape}; expected (T, T) with T from {least}: a row after each "
            "task, a column for each task"
        )
    return matrix
