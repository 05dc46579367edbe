"""The kernel that merges linear learners with the default optimiser, whose columns are quick and settled.

The rules are those of `everlearn.families.partitions.linear`. The numbers of a merge are few, and a learner of seven
columns learns 8,192 rows in less than a millisecond, so a merge in steps of numpy would take as long as the learning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel, inlined
from everlearn.records import Floats, Singles

QUICK, RATE, SETTLED = range(3)  # slots of a hashed entry
COUNT, MEAN, SQUARES = range(3)  # rows of moments


class BlendArrays(NamedTuple):
    """The arrays of a base, or of all parts with a first axis of parts; of hashed entries, those that have moved."""

    weights: NDArray[np.float64]
    hashed: NDArray[np.float32]
    moments: NDArray[np.float64]
    counts: NDArray[np.float64]
    blend: NDArray[np.float64]


@exact_kernel
def differing(base: Singles, part: Singles, moved: NDArray[np.bool_]) -> None:
    """Mark the entries that a part has changed; `moved` is bool (entries,)."""
    for entry in range(len(base)):
        for score in range(base.shape[1]):
            for slot in range(base.shape[2]):
                if base[entry, score, slot] != part[entry, score, slot]:
                    moved[entry] = True


@exact_kernel
def merge_blended(
    columns: int,
    standardize: bool,
    scaled: bool,
    first_count: int,
    classes: int,
    share: Floats,
    left: Floats,
    base: Any,
    parts: Any,
    found: Any,
) -> None:
    """Write the merged arrays into `found`.

    `columns` are dense; with `scaled`, weights are in units of the numbers to predict. In `blend`, the weights of
    `classes` begin at `first_count`. `share` float64 (parts,) is what each part counts in an average; `left` float64
    (parts + 1,) is what a settled column keeps of the base after the rows of each part, and after all.
    """
    count, entries = len(share), len(base.hashed)
    scores, length = base.weights.shape[1:]
    _pool(base.moments, parts.moments, found.moments)
    quick, settled = np.zeros((scores, length)), np.zeros((scores, length))
    before, row = np.zeros((scores, length)), np.zeros(length)
    stretch, shift = np.ones(columns), np.zeros(columns)
    origin = _units(base.moments, found.moments, columns, standardize, scaled, stretch, shift)
    for score in range(scores):
        _move(base.weights[1, score], stretch, shift, origin, before[score])
    unit = np.empty(count)
    for p in range(count):
        away = _units(parts.moments[p], found.moments, columns, standardize, scaled, stretch, shift)
        unit[p] = away[0]
        for score in range(scores):
            _move(parts.weights[p, 0, score], stretch, shift, away, row)
            quick[score] += share[p] * row
            if share[p] > 0.0 and parts.counts[p, 0] > base.counts[0]:  # the mean of this part's rows since the base
                _move(parts.weights[p, 1, score], stretch, shift, away, row)
                settled[score] += share[p] * (row - left[p] * before[score]) / (1.0 - left[p])
    found.weights[0] = quick
    found.weights[1] = left[count] * before + (1.0 - left[count]) * settled
    for entry in range(entries):
        for score in range(scores):
            _entry(base.hashed[entry, score], parts.hashed, entry, score, origin[0], unit, found.hashed[entry, score])
    found.counts[:] = base.counts
    found.blend[:] = 0.0
    for p in range(count):
        found.counts[:] += parts.counts[p] - base.counts
        found.blend[:] += share[p] * parts.blend[p]
    for label in range(first_count, first_count + classes):
        found.blend[label] = base.blend[label]
        for p in range(count):
            found.blend[label] += parts.blend[p, label] - base.blend[label]
        found.blend[label + classes] = np.log(found.blend[label])


@inlined
def _pool(base: Floats, parts: Floats, found: Floats) -> None:
    """Write the moments of the rows of the base and of all parts, as `merge.partitions.pooled_since` does."""
    for top in range(0, len(base), 3):
        for column in range(base.shape[1]):
            n, mean, squares = base[top, column], base[top + 1, column], base[top + 2, column]
            first, centre, spread_before = n, mean, squares
            fallen = -1
            for p in range(len(parts)):
                own, at, spread = parts[p, top, column], parts[p, top + 1, column], parts[p, top + 2, column]
                since = own - first
                if since < 0.0:
                    fallen = p
                if since > 0.0:
                    at = (own * at - first * centre) / since
                    between = first * since / own * (at - centre) ** 2
                    spread = max(spread - spread_before - between, 0.0)
                    total = n + since
                    away, part = at - mean, since / total
                    squares += spread + away * away * n * part
                    mean += away * part
                    n = total
            if fallen >= 0:
                n, mean, squares = (
                    parts[fallen, top, column],
                    parts[fallen, top + 1, column],
                    parts[fallen, top + 2, column],
                )
            found[top, column], found[top + 1, column], found[top + 2, column] = n, mean, squares


@inlined
def _deviation(moments: Floats, column: int) -> float:
    count = moments[COUNT, column]
    found: float = np.sqrt(max(moments[SQUARES, column], 0.0) / (count if count > 0.0 else 1.0))
    return found


@inlined
def _units(
    own: Floats, moments: Floats, columns: int, standardize: bool, scaled: bool, stretch: Floats, shift: Floats
) -> tuple[float, float]:
    """Write the stretch and shift that express weights in other moments; return the factor and shift of the scores."""
    for column in range(columns):
        spread = _deviation(own, column)
        stretch[column], shift[column] = 1.0, 0.0
        if standardize and spread > 0.0 and own[COUNT, column] > 0.0:
            stretch[column] = _deviation(moments, column) / spread
            shift[column] = (moments[MEAN, column] - own[MEAN, column]) / spread
    if not scaled:
        return 1.0, 0.0
    unit, now = _deviation(own, columns), _deviation(moments, columns)
    now = now if now > 0.0 else 1.0
    return (unit if unit > 0.0 else 1.0) / now, (own[MEAN, columns] - moments[MEAN, columns]) / now


@inlined
def _move(row: Floats, stretch: Floats, shift: Floats, unit: tuple[float, float], found: Floats) -> None:
    """Write the weights of one score after substituting z = stretch * z' + shift in each column, also in products."""
    columns = len(stretch)
    constant, place = row[-1], columns
    for column in range(columns):
        found[column] = row[column]
        constant += row[column] * shift[column]
    if len(row) > columns + 1:
        for first in range(columns):
            for second in range(first + 1, columns):
                pair = row[place]
                found[first] += pair * shift[second]
                found[second] += pair * shift[first]
                constant += pair * shift[first] * shift[second]
                found[place] = pair * stretch[first] * stretch[second] * unit[0]
                place += 1
    for column in range(columns):
        found[column] *= stretch[column] * unit[0]
    found[-1] = constant * unit[0] + unit[1]


@inlined
def _entry(base: Singles, parts: Singles, entry: int, score: int, origin: float, unit: Floats, found: Singles) -> None:
    """Merge one hashed entry: each part counts by the squared gradients that it has added."""
    first = np.float64(base[RATE]) ** -4.0
    quick, weight = 0.0, 0.0
    settled = first * base[SETTLED] * origin
    for p in range(len(parts)):
        own = parts[p, entry, score]
        seen = max(np.float64(own[RATE]) ** -4.0 - first, 0.0)
        quick += seen * own[QUICK] * unit[p]
        settled += (first + seen) * own[SETTLED] * unit[p] - first * base[SETTLED] * origin
        weight += seen
    found[QUICK] = quick / weight if weight > 0.0 else base[QUICK] * origin
    found[RATE] = (first + weight) ** -0.25
    found[SETTLED] = settled / (first + weight)
