"""Metrics over time: a curve of at most `points` points, whose stretches double when the stream outgrows them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare
from everlearn.records import Floats, Ints

EXAMPLES, UNSCORED, LAST, SHIFT, END, FOLDED = range(6)  # in arrays["counts"]; the last one only beside recent rows
COUNT, MASS, GOOD, LOSS, PINBALL = range(5)  # columns of arrays["curve"]; for a regression absolute and squared errors


def points(counts: Ints, curve: Floats, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the points with weight: `x`, `count`, `weight`, and the means of its last columns, under `names`."""
    (used,) = np.nonzero(curve[:, MASS] > 0)
    rows = curve[used]
    ends = np.minimum((used + 1) << counts[SHIFT], counts[END])
    means = {name: rows[:, GOOD + i] / rows[:, MASS] for i, name in enumerate(names)}
    return {
        "x": ends.astype(np.int64),
        "count": rows[:, COUNT].astype(np.int64),
        "weight": rows[:, MASS].copy(),
    } | means


@bare
def widen(x: int, counts: Ints, curve: Floats) -> int:
    """Merge neighbours of the curve until example number x fits in; return the number of doublings so far."""
    points, columns = curve.shape
    while (x >> counts[SHIFT]) >= points:
        counts[SHIFT] += 1
        for point in range(points):
            for column in range(columns):
                merged = 0.0
                for old in range(2 * point, min(2 * point + 2, points)):
                    merged += curve[old, column]
                curve[point, column] = merged
    return int(counts[SHIFT])


@bare
def put(curve: Floats, bucket: int, count: float, mass: float, good: float, loss: float) -> None:
    """Write the sums of one stretch of the curve."""
    curve[bucket, COUNT], curve[bucket, MASS], curve[bucket, GOOD], curve[bucket, LOSS] = count, mass, good, loss
