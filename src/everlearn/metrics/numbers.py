"""Metrics of a regression: recent rows wait in a ring, as those of `classes` do, and are added a thousand at a time."""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import bare, exact_kernel
from everlearn.metrics import segments
from everlearn.metrics.curves import COUNT, END, EXAMPLES, FOLDED, GOOD, LOSS, PINBALL, SHIFT, UNSCORED, put, widen
from everlearn.metrics.curves import MASS as WEIGHED
from everlearn.metrics.recent import AT, GROUP, LAST_KNOWN, MASS, MEAN, PREDICTED, TRUTH
from everlearn.records import Arrays, Floats, Ints, Singles

_WEIGHT, _ABSOLUTE, _SQUARED, _MEAN, _SPREAD = range(5)  # in arrays["sums"]
_COMPARED, _OURS, _LAST, _COMMON = range(4)  # in arrays["naive"]: weight, then absolute errors
_QUANTILE, _LOSS, _BELOW = range(3)  # in arrays["pinball"]
_NO_PINBALL = np.zeros(0)


def start_pinball(quantile: float) -> Arrays:
    """Return `pinball` float64 (3,): the quantile, the sum of the pinball losses, and the weight at or below."""
    return {"pinball": np.array([quantile, 0.0, 0.0])}


def update(
    arrays: Arrays, scores: Singles, y: Floats, weight: Singles, index: int, known: Floats, segment: Ints
) -> None:
    """Add n rows; the arrays are contiguous, and `known` or `segment` may be empty. See `metrics.update`."""
    counts, pinball = arrays["counts"], arrays.get("pinball", _NO_PINBALL)
    if "recent" not in arrays:
        naive = arrays["naive"] if "naive" in arrays else np.zeros(4)
        sums = counts, arrays["sums"], arrays["curve"], naive, pinball
        _add_directly(scores, y, weight, known, index, *sums)
        return
    done = _append(scores, y, weight, known, segment, index, 0, counts, arrays["recent"])
    if done >= 0:
        _absorb(scores, y, weight, known, segment, index, done, counts, arrays["recent"], *_held(arrays))


def settle(arrays: Arrays) -> None:
    """Add the rows that wait in the ring to the sums."""
    _fold(arrays["counts"], arrays["recent"], *_held(arrays))


def _held(arrays: Arrays) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    sums = arrays["sums"], arrays["curve"], arrays["naive"]
    return *sums, arrays.get("pinball", _NO_PINBALL), segments.held(arrays)


def report(sums: Floats, naive: Floats | None, pinball: Floats | None) -> dict[str, float]:
    """Return the metrics of the sums; empty without weight."""
    if not sums[_WEIGHT] > 0:
        return {}
    result = {
        "mae": float(sums[_ABSOLUTE] / sums[_WEIGHT]),
        "rmse": math.sqrt(sums[_SQUARED] / sums[_WEIGHT]),
    }
    if sums[_SPREAD] > 0:
        result["r2"] = float(1 - sums[_SQUARED] / sums[_SPREAD])
    if pinball is not None:
        result["pinball"] = float(pinball[_LOSS] / sums[_WEIGHT])
        result["coverage"] = float(pinball[_BELOW] / sums[_WEIGHT])
        result["quantile"] = float(pinball[_QUANTILE])
    for name, errors in (("skill_last", _LAST), ("skill_mean", _COMMON)):
        if naive is not None and naive[errors] > 0:
            result[name] = float(1 - naive[_OURS] / naive[errors])
    return result


def summed(floats: Floats, pinball: Floats | None) -> Floats:
    """Return the `sums` of the rows of a ring alone; add to `pinball` if it is given."""
    sums, counts, held = np.zeros(5), np.zeros(6, np.int64), _NO_PINBALL if pinball is None else pinball
    _add(floats, 0, floats.shape[1], counts, sums, np.zeros((2, 5)), np.zeros(4), held)
    return sums


@exact_kernel
def _append(
    scores: Singles,
    y: Floats,
    weight: Singles,
    known: Floats,
    segment: Ints,
    index: int,
    first: int,
    counts: Ints,
    floats: Floats,
) -> int:
    """Write rows from `first` on to the ring until it is full.

    Return the row that comes next, or -1 if the ring has room left after the last row.
    """
    rows, size = len(y), floats.shape[1]
    counts[END] = max(counts[END], index + rows)
    left, row = size - (counts[EXAMPLES] - counts[FOLDED]), first
    while row < rows and left > 0:
        n = _usable(scores[row : row + left], y[row : row + left], weight[row : row + left])
        if n == 0:
            counts[UNSCORED] += np.isfinite(y[row]) & (weight[row] >= 0) & (weight[row] < np.inf)
            row += 1
            continue
        at = counts[EXAMPLES] % size  # the rows fit behind: the ring is folded whenever it is full
        _write(scores, y, weight, known, segment, index, row, n, at, floats)
        counts[EXAMPLES] += n
        left -= n
        row += n
    return -1 if left > 0 else row


@bare
def _usable(scores: Singles, y: Floats, weight: Singles) -> int:
    """Return the number of rows that count before the first that does not; NaN fails every comparison."""
    unusable = 0
    for row in range(len(y)):  # a compiler makes this fast, and mostly it is all
        gap = np.float64(scores[row, 0]) - y[row]
        unusable += not ((gap * gap < np.inf) & (weight[row] >= 0) & (weight[row] < np.inf))
    if unusable == 0:
        return len(y)
    for row in range(len(y)):
        gap = np.float64(scores[row, 0]) - y[row]
        if not (gap * gap < np.inf and 0 <= weight[row] < np.inf):
            return row
    return len(y)


@bare
def _write(
    scores: Singles,
    y: Floats,
    weight: Singles,
    known: Floats,
    segment: Ints,
    index: int,
    first: int,
    rows: int,
    at: int,
    floats: Floats,
) -> None:
    """Write rows to the ring from `at` on."""
    # Slices of one dimension, with indices from 0: a compiler then needs no test for negative ones.
    end = at + rows
    truth, predicted, mass = floats[TRUTH][at:end], floats[PREDICTED][at:end], floats[MASS][at:end]
    last, mean, place, group = (
        floats[LAST_KNOWN][at:end],
        floats[MEAN][at:end],
        floats[AT][at:end],
        floats[GROUP][at:end],
    )
    scores, y, weight = scores[first : first + rows], y[first : first + rows], weight[first : first + rows]
    for row in range(rows):
        truth[row] = y[row]
        predicted[row] = np.float64(scores[row, 0])
        mass[row] = np.float64(weight[row])
        place[row] = np.float64(index + first + row)
    if len(known):
        known = known[first : first + rows]
        for row in range(rows):
            last[row], mean[row] = known[row, 0], known[row, 1]
    else:
        last[:], mean[:] = np.nan, np.nan
    if len(segment):
        segment = segment[first : first + rows]
        for row in range(rows):
            group[row] = np.float64(segment[row])
    else:
        group[:] = -1.0


@exact_kernel
def _absorb(
    scores: Singles,
    y: Floats,
    weight: Singles,
    known: Floats,
    segment: Ints,
    index: int,
    done: int,
    counts: Ints,
    floats: Floats,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    pinball: Floats,
    segment_sums: Floats,
) -> None:
    """Add the full ring to the sums and append the rows from `done` on; repeat while it is full."""
    while done >= 0:
        _fold(counts, floats, sums, curve, naive, pinball, segment_sums)
        done = _append(scores, y, weight, known, segment, index, done, counts, floats)


@exact_kernel
def _fold(
    counts: Ints, floats: Floats, sums: Floats, curve: Floats, naive: Floats, pinball: Floats, segment_sums: Floats
) -> None:
    """Add the rows that wait in the ring."""
    rows, first = counts[EXAMPLES] - counts[FOLDED], counts[FOLDED] % floats.shape[1]
    _add(floats, first, first + rows, counts, sums, curve, naive, pinball)
    if len(segment_sums):
        segments.add_numbers(floats, first, first + rows, segment_sums)
    counts[FOLDED] += rows


@exact_kernel
def _add_directly(
    scores: Singles,
    y: Floats,
    weight: Singles,
    known: Floats,
    index: int,
    counts: Ints,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    pinball: Floats,
) -> None:
    rows = len(y)
    floats, own, nothing = np.empty((7, rows)), np.zeros(6, np.int64), np.zeros(0, np.int64)
    if rows:
        _append(scores, y, weight, known, nothing, index, 0, own, floats)
    _add(floats, 0, own[EXAMPLES], counts, sums, curve, naive, pinball)
    counts[EXAMPLES] += own[EXAMPLES]
    counts[END] = max(counts[END], index + rows)
    counts[UNSCORED] += own[UNSCORED]
    if rows:
        widen(index + rows - 1, counts, curve)


@exact_kernel
def _add(
    floats: Floats, first: int, end: int, counts: Ints, sums: Floats, curve: Floats, naive: Floats, pinball: Floats
) -> None:
    """Add the rows first..end-1 to the sums and the curve."""
    # The current stretch of the curve is held in registers, because its memory would be the slowest part.
    shift, bucket, quantile = counts[SHIFT], -1, 0.0
    count, weighed, missed, squares = 0.0, 0.0, 0.0, 0.0
    total, absolute, squared, mean, spread = sums[_WEIGHT], sums[_ABSOLUTE], sums[_SQUARED], sums[_MEAN], sums[_SPREAD]
    compared, ours, repeats, common = naive[_COMPARED], naive[_OURS], naive[_LAST], naive[_COMMON]
    truth, predicted, mass = floats[TRUTH][first:end], floats[PREDICTED][first:end], floats[MASS][first:end]
    last, average, place = floats[LAST_KNOWN][first:end], floats[MEAN][first:end], floats[AT][first:end]
    if len(pinball):
        quantile = pinball[_QUANTILE]
    for row in range(end - first):
        index, y, w = np.int64(place[row]), truth[row], mass[row]
        if index >> shift != bucket:
            if bucket >= 0:
                put(curve, bucket, count, weighed, missed, squares)
            if index >> shift >= len(curve):
                shift = widen(int(index), counts, curve)
            bucket = index >> shift
            count, weighed = curve[bucket, COUNT], curve[bucket, WEIGHED]
            missed, squares = curve[bucket, GOOD], curve[bucket, LOSS]
        gap = predicted[row] - y
        miss, square = w * abs(gap), w * gap * gap
        total += w
        absolute += miss
        squared += square
        if np.isfinite(last[row]):
            compared += w
            ours += miss
            repeats += w * abs(last[row] - y)
            common += w * abs(average[row] - y)
        if w > 0:  # the running weighted mean and spread of y, after West (1979)
            off = y - mean
            mean += off * w / total
            spread += w * off * (y - mean)
        count += 1
        weighed += w
        missed += miss
        squares += square
        if quantile > 0.0:
            loss = miss * (1.0 - quantile if gap > 0.0 else quantile)
            pinball[_LOSS] += loss
            pinball[_BELOW] += w * (gap >= 0.0)
            curve[bucket, PINBALL] += loss
    if bucket >= 0:
        put(curve, bucket, count, weighed, missed, squares)
    sums[_WEIGHT], sums[_ABSOLUTE], sums[_SQUARED], sums[_MEAN], sums[_SPREAD] = total, absolute, squared, mean, spread
    naive[_COMPARED], naive[_OURS], naive[_LAST], naive[_COMMON] = compared, ours, repeats, common
