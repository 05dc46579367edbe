"""Metrics of classes: recent rows wait in a ring, and are added to the sums a thousand at a time.

A row that was just scored is only judged and written to the ring, in one small kernel. When the ring is full, one
kernel adds its rows to everything: sums, curve, ranks, calibration, alerts and segments. That happens after each
thousand scored rows of the stream, so the arrays have the same bytes however it is cut into calls. A report adds the
rows that still wait to copies of the arrays.

Records without a ring (homes of release 0.1.0, trials of the gate) add each row at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn._jit import bare, exact_kernel
from everlearn.metrics import alerts, calibration, histogram, ranks, segments
from everlearn.metrics.alerts import Smalls
from everlearn.metrics.class_sums import (
    BRIER_SUM,
    COMPARED,
    LAST_KNOWN,
    LOG_LOSS,
    MOST_COMMON,
    OURS,
    REPEATED,
    TOTAL,
    add,
    add_alike,
)
from everlearn.metrics.curves import END, EXAMPLES, FOLDED, widen
from everlearn.metrics.judging import LEAST, Bits, judge_row
from everlearn.metrics.recent import BEST, BRIER, COMMON, HIGH, INDEX, KNOWN, LABEL, LOW, SEGMENT, TRUE, WEIGHT
from everlearn.records import Arrays, Floats, Ints, Singles, Task


def update(
    arrays: Arrays, scores: Singles, y: Floats, weight: Singles, index: int, known: Floats, segment: Ints
) -> None:
    """Add n rows; the arrays are contiguous, and `known` or `segment` may be empty. See `metrics.update`."""
    if "recent_bits" not in arrays:
        _add_at_once(arrays, scores, y, weight, index, known)
        return
    counts, ints, floats = arrays["counts"], arrays["recent_bits"], arrays["recent"]
    done = _append(scores, y, weight, known, segment, index, 0, counts, ints, floats)
    if done >= 0:
        _absorb(scores, y, weight, known, segment, index, done, counts, ints, floats, *_held(arrays))


def settle(arrays: Arrays) -> None:
    """Add the rows that wait in the ring to the sums."""
    _fold(arrays["counts"], arrays["recent_bits"], arrays["recent"], *_held(arrays))


def _held(arrays: Arrays) -> tuple[Any, ...]:
    """Return the arrays that a full ring is added to, in the order of the kernels; absent ones are empty."""
    sums = arrays["sums"], arrays["curve"], arrays["naive"], arrays["by_class"]
    return *sums, *ranks.held(arrays), calibration.held(arrays), *alerts.held(arrays), segments.held(arrays)


def _add_at_once(arrays: Arrays, scores: Singles, y: Floats, weight: Singles, index: int, known: Floats) -> None:
    naive = arrays["naive"] if "naive" in arrays else np.zeros(4)
    bins = arrays["histogram"] if "histogram" in arrays else np.zeros((0, 0))
    sums = arrays["counts"], arrays["sums"], arrays["curve"], naive, arrays["by_class"], bins
    _add_directly(scores, y, weight, known, index, *sums)


def report(sums: Floats, by_class: Floats, naive: Floats | None, task: Task) -> dict[str, float]:
    """Return the metrics of the sums; empty without weight."""
    if not sums[TOTAL] > 0:
        return {}
    total = float(sums[TOTAL])
    true, predicted, hit = by_class.T
    accuracy = float(hit.sum()) / total
    result = {
        "accuracy": accuracy,
        "log_loss": float(sums[LOG_LOSS]) / total,
        "brier": float(sums[BRIER_SUM]) / total,
    }
    chance = float(true @ predicted) / total**2
    if chance < 1:
        result["kappa"] = (accuracy - chance) / (1 - chance)
    if naive is None or not naive[COMPARED] > 0:
        naive = np.array([total, hit.sum(), sums[REPEATED], total])  # the last one: no kappa_m
    for name, hits in (("kappa_t", LAST_KNOWN), ("kappa_m", MOST_COMMON)):
        ours, theirs = float(naive[OURS] / naive[COMPARED]), float(naive[hits]) / float(naive[COMPARED])
        if theirs < 1:
            result[name] = (ours - theirs) / (1 - theirs)
    labelled = true > 0
    result["balanced_accuracy"] = float((hit[labelled] / true[labelled]).mean())
    seen = np.array([False, True]) if task == "binary" else labelled | (predicted > 0)
    true, predicted, hit = true[seen], predicted[seen], hit[seen]
    # A mean over classes counts an empty denominator as 0; class 1 alone, with nothing to divide by, is left out.
    for name, parts in (("precision", predicted), ("recall", true), ("f1", (true + predicted) / 2)):
        if task == "multiclass" or parts[0] > 0:
            shares = np.divide(hit, parts, out=np.zeros(len(parts)), where=parts > 0)
            result[name] = float(shares.mean())
    return result


def summed(ints: Bits, floats: Floats, classes: int) -> tuple[Floats, Floats]:
    """Return `sums` and `by_class` of the rows of a ring alone."""
    sums, by_class, counts = np.zeros(4), np.zeros((classes, 3)), np.zeros(6, np.int64)
    add(ints, floats, 0, ints.shape[1], counts, sums, np.zeros((2, 4)), np.zeros(4), by_class)
    return sums, by_class


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
    ints: Bits,
    floats: Floats,
) -> int:
    """Judge rows from `first` on and write them to the ring until it is full.

    Return the row that comes next, or -1 if the ring has room left after the last row.
    """
    bits = scores.view(np.int32)
    rows, classes, size = len(y), scores.shape[1], ints.shape[1]
    left = size - (counts[EXAMPLES] - counts[FOLDED])
    counts[END] = max(counts[END], index + rows)
    row = first
    while row < rows and left > 0:
        n = _usable(y[row : row + left], weight[row : row + left], classes)
        if n == 0:
            row += 1
            continue
        at = counts[EXAMPLES] % size  # the rows fit behind: the ring is folded whenever it is full
        if classes == 2:
            _append_two(scores, bits, y, row, n, at, ints, floats)
        else:
            _append_many(scores, bits, y, row, n, at, ints, floats)
        _append_others(weight, known, segment, index, row, n, at, ints, floats)
        counts[EXAMPLES] += n
        left -= n
        row += n
    return -1 if left > 0 else row


@bare
def _usable(y: Floats, weight: Singles, classes: int) -> int:
    """Return the number of rows that count before the first that does not; NaN fails every comparison."""
    unusable = 0
    for row in range(len(y)):  # a compiler makes this fast, and mostly it is all
        fits = (y[row] >= 0) & (y[row] < classes) & (y[row] == np.floor(y[row]))
        unusable += not (fits & (weight[row] >= 0) & (weight[row] < np.inf))
    if unusable == 0:
        return len(y)
    row = 0
    while 0 <= y[row] < classes and y[row] == np.floor(y[row]) and 0 <= weight[row] < np.inf:
        row += 1
    return row


@bare
def _append_many(
    scores: Singles, bits: Bits, y: Floats, first: int, rows: int, at: int, ints: Bits, floats: Floats
) -> None:
    """Judge rows of several classes, and write them to the ring from `at` on."""
    end = at + rows
    label, best, true = ints[LABEL][at:end], ints[BEST][at:end], ints[TRUE][at:end]
    low, high, brier = ints[LOW][at:end], ints[HIGH][at:end], floats[BRIER][at:end]
    scores, bits, y = scores[first : first + rows], bits[first : first + rows], y[first : first + rows]
    for row in range(rows):
        k = np.int64(y[row])
        choice, brier[row], _ = judge_row(scores, row, int(k))
        label[row], best[row], low[row] = k, choice, 0
        true[row] = bits[row, k] if choice >= 0 else LEAST
        high[row] = bits[row, max(choice, 0)]


@bare
def _append_two(
    scores: Singles, bits: Bits, y: Floats, first: int, rows: int, at: int, ints: Bits, floats: Floats
) -> None:
    """Judge rows of two classes, and write them to the ring from `at` on."""
    # Slices of one dimension, with indices from 0: a compiler then needs no test for negative ones.
    end = at + rows
    label, best, true = ints[LABEL][at:end], ints[BEST][at:end], ints[TRUE][at:end]
    low, high, brier = ints[LOW][at:end], ints[HIGH][at:end], floats[BRIER][at:end]
    scores, bits, y = scores[first : first + rows], bits[first : first + rows], y[first : first + rows]
    for row in range(rows):
        negative, positive = np.float64(scores[row, 0]), np.float64(scores[row, 1])
        finite, gap = np.isfinite(positive + negative), positive - y[row]
        label[row] = np.int32(y[row])
        best[row] = np.int32(positive > negative) if finite else np.int32(-1)
        low[row], high[row] = bits[row, 0], bits[row, 1]
        true[row] = (bits[row, 1] if y[row] == 1.0 else bits[row, 0]) if finite else np.int32(LEAST)
        brier[row] = gap * gap if finite else 1.0


@bare
def _append_others(
    weight: Singles,
    known: Floats,
    segment: Ints,
    index: int,
    first: int,
    rows: int,
    at: int,
    ints: Bits,
    floats: Floats,
) -> None:
    """Write what rows have beside their scores and labels to the ring from `at` on."""
    end = at + rows
    masses, place, weight = floats[WEIGHT][at:end], floats[INDEX][at:end], weight[first : first + rows]
    last, common, group = floats[KNOWN][at:end], floats[COMMON][at:end], ints[SEGMENT][at:end]
    for row in range(rows):
        masses[row] = np.float64(weight[row])
        place[row] = np.float64(index + first + row)
    if len(known):
        known = known[first : first + rows]
        for row in range(rows):
            last[row], common[row] = known[row, 0], known[row, 1]
    else:
        last[:], common[:] = -np.inf, -np.inf
    if len(segment):
        segment = segment[first : first + rows]
        for row in range(rows):
            group[row] = np.int32(segment[row])
    else:
        group[:] = np.int32(-1)


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
    ints: Bits,
    floats: Floats,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    by_class: Floats,
    cells: Bits,
    rank_sums: Floats,
    free: Bits,
    limits: Floats,
    bins: Floats,
    alert_scores: Smalls,
    alert_counts: Smalls,
    alert_state: Ints,
    alert_sums: Floats,
    segment_sums: Floats,
) -> None:
    """Add the full ring to the sums and append the rows from `done` on; repeat while it is full."""
    while done >= 0:
        _fold(
            counts, ints, floats, sums, curve, naive, by_class, cells, rank_sums, free, limits, bins, alert_scores,
            alert_counts, alert_state, alert_sums, segment_sums,
        )  # fmt: skip
        done = _append(scores, y, weight, known, segment, index, done, counts, ints, floats)


@exact_kernel
def _fold(
    counts: Ints,
    ints: Bits,
    floats: Floats,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    by_class: Floats,
    cells: Bits,
    rank_sums: Floats,
    free: Bits,
    limits: Floats,
    bins: Floats,
    alert_scores: Smalls,
    alert_counts: Smalls,
    alert_state: Ints,
    alert_sums: Floats,
    segment_sums: Floats,
) -> None:
    """Add the rows that wait in the ring."""
    rows = counts[EXAMPLES] - counts[FOLDED]
    first = counts[FOLDED] % ints.shape[1]  # a full ring begins at 0, so the rows that wait are in one piece
    if (floats[WEIGHT][first : first + rows] == 1.0).all():
        add_alike(ints, floats, first, first + rows, counts, sums, curve, naive, by_class)
    else:
        add(ints, floats, first, first + rows, counts, sums, curve, naive, by_class)
    if len(cells):
        ranks.add(ints, floats, first, first + rows, cells, rank_sums, free, limits)
    if len(bins):
        calibration.add_classes(ints, floats, first, first + rows, len(by_class), bins)
    if len(alert_scores):
        alerts.add(ints, floats, first, first + rows, alert_scores, alert_counts, alert_state, alert_sums)
    if len(segment_sums):
        segments.add_classes(ints, floats, first, first + rows, len(by_class), segment_sums)
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
    by_class: Floats,
    bins: Floats,
) -> None:
    """Judge rows, and add them. One kernel, since a call costs as much as 100 rows."""
    rows = len(y)
    ints, floats = np.empty((6, rows), np.int32), np.empty((5, rows))
    own = np.zeros(6, np.int64)
    nothing = np.zeros(0, np.int64)
    if rows:
        _append(scores, y, weight, known, nothing, index, 0, own, ints, floats)
    add(ints, floats, 0, own[EXAMPLES], counts, sums, curve, naive, by_class)
    counts[EXAMPLES] += own[EXAMPLES]
    counts[END] = max(counts[END], index + rows)
    if rows:
        widen(index + rows - 1, counts, curve)
    if len(bins):
        histogram.add(ints, floats, own[EXAMPLES], bins)
