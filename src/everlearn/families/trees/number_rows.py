"""Rows of numbers: their targets, their votes and their errors, and the row loops of trees that predict them.

A target counts from the first one of the stream, in units of about the distance between its first two different
targets: a power of two, so that nothing is rounded. So neither the size nor the origin of targets matters.
"""

from __future__ import annotations

import math

from everlearn.families.kernel_parts import inlined, uncounted
from everlearn.families.trees.columns import FURTHEST
from everlearn.families.trees.layout import (
    CENTRE,
    COUNT,
    DEVIATIONS,
    ERRORS,
    ERRORS_SEEN,
    ORIGIN,
    OTHER,
    TARGET,
    TARGET_MEAN,
    TARGET_ORIGIN,
    TARGET_UNIT,
    WINDOW,
    WINDOW_SUMS,
)
from everlearn.families.trees.number_growing import find_room, number_learn_at
from everlearn.families.trees.number_leaves import number_answer
from everlearn.families.trees.rows import Kind, learning, predicting
from everlearn.records import Floats, Singles

LONGEST_ERRORS = 1000.0  # rows over which the error of a member is averaged
LARGEST_PREDICTION = 3.4e38  # predictions are float32
LARGEST_TARGET = 1e100


@uncounted
def no_fault(y: Floats, out: Singles) -> int:
    """Return 0: each finite number is a target."""
    return 0


@inlined
def scale(moments: Floats, targets: Floats, b: int) -> None:
    """Write origin, unit and mean of the targets so far; they are the last column of `moments`."""
    last = moments.shape[1] - 1
    targets[b, TARGET_ORIGIN] = moments[ORIGIN, last]
    targets[b, TARGET_UNIT] = moments[OTHER, last]
    targets[b, TARGET_MEAN] = moments[CENTRE, last]


@uncounted
def aim(label: float, moments: Floats, targets: Floats, b: int) -> None:
    """Count a target, and write it less the origin, in units; 0 until there are two different ones."""
    last = moments.shape[1] - 1
    label = min(max(label, -LARGEST_TARGET), LARGEST_TARGET)
    if moments[COUNT, last] == 0.0:
        moments[ORIGIN, last] = label
    away = label - moments[ORIGIN, last]
    if away != 0.0 and moments[OTHER, last] == 0.0:
        _, power = math.frexp(abs(away))
        moments[OTHER, last] = math.ldexp(1.0, max(power, -1000))
    if away != 0.0:
        away = min(max(away / moments[OTHER, last], -FURTHEST), FURTHEST)
    targets[b, TARGET] = away
    moments[COUNT, last] += 1.0
    beside = away - moments[CENTRE, last]
    moments[CENTRE, last] += beside / moments[COUNT, last]
    moments[DEVIATIONS, last] += beside * (away - moments[CENTRE, last])


@inlined
def mean_so_far(targets: Floats, b: int, p: Floats) -> None:
    """Write the mean of the targets before row b."""
    p[0, 0] = targets[b, TARGET_MEAN]


@inlined
def vote(p: Floats, windows: Floats, t: int, votes: Floats, b: int) -> None:
    """Add the prediction of a member to those of row b."""
    votes[b, 0] += p[0, 0]


@inlined
def missed(p: Floats, targets: Floats, b: int, windows: Floats, t: int) -> float:
    """Return the absolute error e of a member as e / (e + its mean so far), which is within 0 and 1 in any unit."""
    at = WINDOW + WINDOW_SUMS
    error, mean = abs(p[0, 0] - targets[b, TARGET]), windows[t, at + ERRORS]
    windows[t, at + ERRORS_SEEN] = min(windows[t, at + ERRORS_SEEN] + 1.0, LONGEST_ERRORS)
    windows[t, at + ERRORS] += (error - mean) / windows[t, at + ERRORS_SEEN]
    return error / (error + mean) if error > 0.0 else 0.0


@inlined
def average(votes: Floats, b: int, members: int, targets: Floats, out: Singles, i: int) -> None:
    """Write the mean of the predictions of row b's members to row i of the result, in the units of the stream."""
    found = targets[b, TARGET_ORIGIN] + targets[b, TARGET_UNIT] * (votes[b, 0] / members)
    out[i, 0] = min(max(found, -LARGEST_PREDICTION), LARGEST_PREDICTION)


NUMBERS = Kind(no_fault, scale, aim, mean_so_far, number_answer, vote, missed, average, find_room, number_learn_at)
predict_number_rows, learn_number_rows = predicting(NUMBERS), learning(NUMBERS)
