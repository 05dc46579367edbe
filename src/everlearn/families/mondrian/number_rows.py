"""The row loops of numbers: as those of `rows`, with targets in units of the stream.

A target counts from the first one of the stream, in units of about the distance between its first two different
targets: a power of two, so that nothing is rounded. After the columns of a tree, a row holds its dense columns with
missing values replaced by their means, room for their distances from the means of a node, and 1 / the scale of losses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn.families.kernel_parts import block_rows, first_fault, inlined, outlined
from everlearn.families.mondrian.columns import FURTHEST, gather, measure, prepare
from everlearn.families.mondrian.layout import (
    CEILING,
    CENTRE,
    DETECTS,
    ERRORS,
    ERRORS_SEEN,
    FIRST,
    FLOOR,
    LOSS,
    NONE,
    ORIGIN,
    QUANTILE,
    RESETS,
    SEEN_TARGETS,
    SQUARES,
    STEP,
    TARGET_MEAN,
    UNIT,
    USED_PAIRS,
    WATCHED,
    WINDOW,
    WINDOW_SUMS,
)
from everlearn.families.mondrian.number_nodes import aggregate_numbers, learn_number, number_loss
from everlearn.families.mondrian.pool import AGES, plant
from everlearn.families.mondrian.rows import MOST_ROW_WEIGHT, watch
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

LONGEST_ERRORS = 1000.0  # rows over which the error of a member is averaged
LARGEST_PREDICTION = 3.4e38  # predictions are float32
LARGEST_TARGET = 1e100
WIDENED = 0.1  # share of the range of targets by which a prediction may leave it
STEEPEST = 10.0  # deviations of targets along a deviation of a column: no slope counts for more
BENT = 0.5  # share of the chance of a split that follows where slopes change


@outlined
def aim(label: float, target: Floats) -> float:
    """Count a target, and return it less the first one, in units of the distance of the first two different ones."""
    label = min(max(label, -LARGEST_TARGET), LARGEST_TARGET)
    if target[SEEN_TARGETS] == 0.0:
        target[ORIGIN] = label
    away = label - target[ORIGIN]
    if away != 0.0 and target[UNIT] == 0.0:
        _, power = math.frexp(abs(away))
        target[UNIT] = math.ldexp(1.0, max(power, -1000))
    if away != 0.0:
        away = min(max(away / target[UNIT], -FURTHEST), FURTHEST)
    target[SEEN_TARGETS] += 1.0
    target[TARGET_MEAN] += (away - target[TARGET_MEAN]) / target[SEEN_TARGETS]
    target[FLOOR] = min(target[FLOOR], away)
    target[CEILING] = max(target[CEILING], away)
    return float(away)


@inlined
def fill(rows: Singles, b: int, centres: Floats, fills: Singles) -> None:
    """Write the values of row b without missing ones."""
    for j in range(len(centres)):
        v = rows[b, j]
        fills[b, j] = np.float32(centres[j]) if math.isnan(v) else v


@inlined
def extend_row(x: Singles, wide: int, fills: Singles, b: int) -> None:
    """Write the values without missing ones after the columns of a row."""
    for j in range(fills.shape[1]):
        x[wide + j] = fills[b, j]


@inlined
def finish(vote: float, members: int, target: Floats, out: Singles, i: int) -> None:
    """Write the mean of the members to row i of the result, in the units of the stream."""
    wider = WIDENED * (target[CEILING] - target[FLOOR])
    mean = min(max(vote / members, target[FLOOR] - wider), target[CEILING] + wider)
    found = target[ORIGIN] + target[UNIT] * mean
    out[i, 0] = min(max(found, -LARGEST_PREDICTION), LARGEST_PREDICTION)


@merged
def predict_number_rows(
    hashed: int, settings: Floats, trees: Ints, nodes: Nodes, beliefs: Floats, counts: Singles, columns: Nodes,
    wide: int, centres: Floats, target: Floats, dense: Singles, indptr: Ints, indices: Nodes, values: Singles,
    out: Singles,
) -> int:  # fmt: skip
    """Write the prediction of each row to `out`; return 0, or a fault with nothing written."""
    fault = first_fault(hashed, indptr, indices, values)
    if fault == 0:
        lined = len(centres)
        rows, x = np.empty((1, dense.shape[1]), np.float32), np.zeros(wide + 2 * lined + 1, np.float32)
        fills = np.empty((1, lined), np.float32)
        for i in range(len(indptr) - 1):
            prepare(dense, i, rows, 0)
            fill(rows, 0, centres, fills)
            extend_row(x, wide, fills, 0)
            vote = 0.0
            for t in range(trees.shape[0]):
                p = target[TARGET_MEAN]
                if trees[t, USED_PAIRS] > 0:
                    gather(settings, columns, t, rows, 0, indices, values, indptr[i], indptr[i + 1], x[:wide])
                    p, _ = aggregate_numbers(nodes, beliefs, counts, t, x, wide)
                vote += p
            finish(vote, trees.shape[0], target, out, i)
    return fault


@inlined
def missed(error: float, windows: Floats, t: int) -> float:
    """Return the absolute error e of a member as e / (e + its mean so far), which is within 0 and 1 in any unit."""
    at = WINDOW + WINDOW_SUMS
    mean = windows[t, at + ERRORS]
    windows[t, at + ERRORS_SEEN] = min(windows[t, at + ERRORS_SEEN] + 1.0, LONGEST_ERRORS)
    windows[t, at + ERRORS] += (error - mean) / windows[t, at + ERRORS_SEEN]
    return error / (error + mean) if error > 0.0 else 0.0


@inlined
def precision(settings: Floats, windows: Floats, t: int, loss: float) -> float:
    """Count the loss of a member, and return what losses are multiplied by: 1 / their mean, half for squares."""
    at = WINDOW + WINDOW_SUMS
    windows[t, at + LOSS] += (loss - windows[t, at + LOSS]) / windows[t, at + ERRORS_SEEN]
    scale = windows[t, at + LOSS] * (2.0 if settings[QUANTILE] == 0.0 else 1.0)
    return min(1.0 / scale, 1e30) if scale > 0.0 else 1e30


@inlined
def steer(beliefs: Floats, counts: Singles, t: int, node: int, windows: Floats, scale: Singles) -> None:
    """Scale columns for the chance of a split: half of it goes to columns along which slopes change.

    A row counts how far the slopes of its node are from those of the root, in deviations. A split helps little along a
    column whose slope is the same everywhere.
    """
    at = WINDOW + WINDOW_SUMS + WATCHED
    lined, total = windows.shape[1] - at, 0.0
    share = 1.0 / windows[t, WINDOW + WINDOW_SUMS + ERRORS_SEEN]
    most = STEEPEST * math.sqrt(beliefs[t, 0, SQUARES])
    for j in range(lined):
        away = abs(np.float64(counts[t, node, lined + j]) - np.float64(counts[t, 0, lined + j]))
        steep = min(away / np.float64(scale[j]), most) if scale[j] > 0.0 else 0.0
        windows[t, at + j] += share * (steep - windows[t, at + j])
        total += windows[t, at + j]
    for j in range(lined):
        scale[j] *= (1.0 - BENT) + BENT * windows[t, at + j] * lined / total if total > 0.0 else 1.0


@outlined
def learn_number_member(
    settings: Floats, trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles,
    columns: Nodes, windows: Floats, rows: Singles, scales: Singles, fills: Singles, numbers: Ints,
    start: int, held: int, indptr: Ints, indices: Nodes, values: Singles, aims: Floats, means: Floats,
    weight: Singles, votes: Floats,
) -> None:  # fmt: skip
    """Let a member predict and learn the rows of a block, in order, and add its votes.

    A drift of ADWIN begins the tree again, with the row that showed it.
    """
    wide, drawn = boxes.shape[3], columns.shape[1]
    x, scale, gaps = np.zeros(wide + 2 * fills.shape[1] + 1, np.float32), np.ones(wide, np.float32), np.empty(wide)
    path, own = np.empty(nodes.shape[1], np.int32), np.empty(nodes.shape[1])
    for b in range(held):
        i, number = start + b, numbers[b]
        gather(settings, columns, t, rows, b, indices, values, indptr[i], indptr[i + 1], x[:wide])
        extend_row(x, wide, fills, b)
        p, steady = means[b], 0
        if trees[t, USED_PAIRS] > 0:
            p, steady = aggregate_numbers(nodes, beliefs, counts, t, x, wide)
        votes[b] += p
        if number < 0:
            continue
        drifted, wrong = False, missed(abs(p - aims[b]), windows, t)
        x[len(x) - 1] = precision(settings, windows, t, number_loss(p - aims[b], settings[QUANTILE]))
        if settings[DETECTS] > 0.0:
            drifted = watch(trees, t, windows, wrong)
            trees[t, RESETS] += drifted
        if drifted or trees[t, USED_PAIRS] == 0:
            plant(trees, t, nodes, beliefs, counts, boxes, number & AGES)
            steady = 0
        for j in range(drawn):
            scale[j] = scales[b, columns[t, j]]
        if fills.shape[1] > 0:
            steer(beliefs, counts, t, steady, windows, scale)
        learn_number(settings, trees, t, nodes, beliefs, counts, boxes, x, scale, gaps, path, own, aims[b],
                     min(np.float64(weight[i]), MOST_ROW_WEIGHT), number & AGES)  # fmt: skip


@merged
def learn_number_rows(
    hashed: int, settings: Floats, trees: Ints, nodes: Nodes, beliefs: Floats, counts: Singles, columns: Nodes,
    boxes: Singles, windows: Floats, moments: Floats, clock: Ints, centres: Floats, target: Floats, dense: Singles,
    indptr: Ints, indices: Nodes, values: Singles, y: Floats, weight: Singles, out: Singles,
) -> int:  # fmt: skip
    """Write the prediction of each row to `out`, then learn it; return 0, or a fault with nothing learned."""
    fault = first_fault(hashed, indptr, indices, values)
    n, width, lined = (len(indptr) - 1 if fault == 0 else 0), dense.shape[1], len(centres)
    most = block_rows(width)
    rows, scales = np.empty((most, width), np.float32), np.empty((most, width), np.float32)
    fills = np.empty((most, lined), np.float32)
    aims, means, votes, numbers = np.zeros(most), np.empty(most), np.empty(most), np.empty(most, np.int64)
    ranges = np.empty((most, len(target)))
    first, step, none = int(settings[FIRST]), int(settings[STEP]), np.full(most, NONE)
    for start in range(0, n, most):
        held = min(most, n - start)
        votes[:] = 0.0
        for b in range(held):
            i = start + b
            prepare(dense, i, rows, b)
            fill(rows, b, centres, fills)
            ranges[b] = target
            means[b] = target[TARGET_MEAN]
            numbers[b] = NONE
            if weight[i] > 0.0 and weight[i] < math.inf and abs(y[i]) < math.inf:
                measure(rows, b, moments, scales)
                aims[b] = aim(y[i], target)
                numbers[b] = clock[0]
                clock[0] += 1
                for j in range(lined):
                    centres[j] = moments[CENTRE, j]
        for t in range(trees.shape[0]):
            trained = numbers if t % step == first else none  # a tree of another partition only votes
            learn_number_member(settings, trees, t, nodes, beliefs, counts, boxes, columns, windows, rows, scales,
                                fills, trained, start, held, indptr, indices, values, aims, means, weight,
                                votes)  # fmt: skip
        for b in range(held):
            finish(votes[b], trees.shape[0], ranges[b], out, start + b)
    return fault
