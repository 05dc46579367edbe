"""The sums and the curve of classes: kernels that add judged rows of the ring of `recent`."""

from __future__ import annotations

import numpy as np

from everlearn._jit import bare, exact_kernel
from everlearn.metrics.curves import COUNT, GOOD, LAST, LOSS, MASS, SHIFT, put, widen
from everlearn.metrics.judging import Bits, surprise
from everlearn.metrics.recent import BEST, BRIER, COMMON, INDEX, KNOWN, LABEL, TRUE, WEIGHT
from everlearn.records import Floats, Ints

TOTAL, LOG_LOSS, BRIER_SUM, REPEATED = range(4)  # in arrays["sums"]
COMPARED, OURS, LAST_KNOWN, MOST_COMMON = range(4)  # in arrays["naive"]: weight, then hits
_TRUE, _PREDICTED, _HIT = range(3)  # columns of arrays["by_class"]


@exact_kernel
def add(
    ints: Bits,
    floats: Floats,
    first: int,
    end: int,
    counts: Ints,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    by_class: Floats,
) -> None:
    """Add the judged rows first..end-1 to the sums and the curve."""
    last, shift = counts[LAST], counts[SHIFT]
    compared, ours, repeats, common = naive[COMPARED], naive[OURS], naive[LAST_KNOWN], naive[MOST_COMMON]
    total, surprised, squared, repeated = sums[TOTAL], sums[LOG_LOSS], sums[BRIER_SUM], sums[REPEATED]
    _confuse(ints, floats, first, end, by_class)
    # The current stretch of the curve is held in registers, because its memory would be the slowest part.
    bucket, count, mass, good, loss = -1, 0.0, 0.0, 0.0, 0.0
    weight, brier, place = floats[WEIGHT][first:end], floats[BRIER][first:end], floats[INDEX][first:end]
    last_label, common_label = floats[KNOWN][first:end], floats[COMMON][first:end]
    label, best, bits = ints[LABEL][first:end], ints[BEST][first:end], ints[TRUE][first:end]
    for row in range(end - first):
        index = np.int64(place[row])
        if index >> shift != bucket:
            if bucket >= 0:
                put(curve, bucket, count, mass, good, loss)
            if index >> shift >= len(curve):
                shift = widen(int(index), counts, curve)
            bucket = index >> shift
            count, mass = curve[bucket, COUNT], curve[bucket, MASS]
            good, loss = curve[bucket, GOOD], curve[bucket, LOSS]
        w, true, predicted, known = weight[row], label[row], best[row], last_label[row]
        log_loss = w * surprise(bits[row])
        hit, answered = w * (predicted == true), w * (known != -np.inf)  # 0 where the baselines did not answer
        total += w
        surprised += log_loss
        squared += w * brier[row]
        repeated += w * (true == last)
        last = true
        compared += answered
        ours += hit if answered > 0 else 0.0
        repeats += answered * (known == true)
        common += answered * (common_label[row] == true)
        count += 1
        mass += w
        good += hit
        loss += log_loss
    if bucket >= 0:
        put(curve, bucket, count, mass, good, loss)
    counts[LAST] = last
    sums[TOTAL], sums[LOG_LOSS], sums[BRIER_SUM], sums[REPEATED] = total, surprised, squared, repeated
    naive[COMPARED], naive[OURS], naive[LAST_KNOWN], naive[MOST_COMMON] = compared, ours, repeats, common


@bare
def add_alike(
    ints: Bits,
    floats: Floats,
    first: int,
    end: int,
    counts: Ints,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    by_class: Floats,
) -> None:
    """Add the judged rows first..end-1, all of weight 1, to the sums and the curve, as `add` does.

    Hits are counted in integers, and losses added in four parts, which is much faster. Only a fold does this, so the
    parts are the same however a stream is cut.
    """
    rows = end - first
    brier, place = floats[BRIER][first:end], floats[INDEX][first:end]
    last_label, common_label = floats[KNOWN][first:end], floats[COMMON][first:end]
    label, best, bits = ints[LABEL][first:end], ints[BEST][first:end], ints[TRUE][first:end]
    if len(by_class) == 2:
        _confuse_two(ints, first, end, by_class)
    else:
        _confuse(ints, floats, first, end, by_class)
    loss = np.empty(rows)
    for row in range(rows):
        loss[row] = surprise(bits[row])
    answered, ours, repeats, common, repeated = 0, 0, 0, 0, 0
    for row in range(rows):
        known = last_label[row] != -np.inf
        answered += known
        ours += known & (label[row] == best[row])
        repeats += last_label[row] == np.float64(label[row])
        common += common_label[row] == np.float64(label[row])
    for row in range(rows - 1):
        repeated += label[row] == label[row + 1]
    if rows:
        repeated += counts[LAST] == label[0]
        counts[LAST] = label[rows - 1]
    naive[COMPARED] += answered
    naive[OURS] += ours
    naive[LAST_KNOWN] += repeats
    naive[MOST_COMMON] += common
    sums[TOTAL] += rows
    sums[BRIER_SUM] += _total(brier)
    sums[REPEATED] += repeated
    _curve_alike(loss, label, best, place, counts, sums, curve)


@bare
def _curve_alike(
    loss: Floats, label: Bits, best: Bits, place: Floats, counts: Ints, sums: Floats, curve: Floats
) -> None:
    """Add the losses and hits of rows of weight 1 to the curve, stretch by stretch, and losses to the sums."""
    rows, shift = len(loss), counts[SHIFT]
    start = 0
    while start < rows:
        index = np.int64(place[start])
        if index >> shift >= len(curve):
            shift = widen(int(index), counts, curve)
        bucket, stop = index >> shift, rows
        if np.int64(place[rows - 1]) >> shift != bucket:
            stop = start + 1
            while np.int64(place[stop]) >> shift == bucket:
                stop += 1
        hits = 0
        for row in range(start, stop):
            hits += label[row] == best[row]
        total = _total(loss[start:stop])
        sums[LOG_LOSS] += total
        curve[bucket, COUNT] += stop - start
        curve[bucket, MASS] += stop - start
        curve[bucket, GOOD] += hits
        curve[bucket, LOSS] += total
        start = stop


@bare
def _total(values: Floats) -> float:
    """Return the sum of values, added in four parts."""
    rows = len(values)
    whole = rows - rows % 4
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, whole, 4):
        a += values[i]
        b += values[i + 1]
        c += values[i + 2]
        d += values[i + 3]
    for i in range(whole, rows):
        a += values[i]
    return (a + b) + (c + d)


@bare
def _confuse(ints: Bits, floats: Floats, first: int, end: int, by_class: Floats) -> None:
    """Add rows to the weights by class: true, predicted, and hit."""
    weight, label, best = floats[WEIGHT][first:end], ints[LABEL][first:end], ints[BEST][first:end]
    for row in range(end - first):
        w, true, predicted = weight[row], label[row], best[row]
        by_class[true, _TRUE] += w
        by_class[true, _HIT] += w * (predicted == true)
        by_class[max(predicted, 0), _PREDICTED] += w * (predicted >= 0)


@bare
def _confuse_two(ints: Bits, first: int, end: int, by_class: Floats) -> None:
    """Add rows to the weights by class as `_confuse` does, for two classes and rows of weight 1."""
    label, best = ints[LABEL][first:end], ints[BEST][first:end]
    true, none, ones, hits, all_hits = 0, 0, 0, 0, 0
    for row in range(end - first):
        true += label[row]
        none += best[row] < 0
        ones += best[row] == 1
        hits += label[row] & (best[row] == 1)
        all_hits += label[row] == best[row]
    by_class[0, _TRUE] += end - first - true
    by_class[0, _PREDICTED] += end - first - ones - none
    by_class[0, _HIT] += all_hits - hits
    by_class[1, _TRUE] += true
    by_class[1, _PREDICTED] += ones
    by_class[1, _HIT] += hits
