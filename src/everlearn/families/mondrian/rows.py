"""The row loops: predict rows, and learn rows in order, a block of rows member by member.

Members do not look at each other, so each learns all rows of a block before the next member does, which keeps one pool
in the cache. Votes are added in the order of members: the bytes are those of one row at a time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn.drift.detectors import adwin_reset, adwin_step
from everlearn.families.kernel_parts import block_rows, first_fault, inlined, mislabelled, outlined
from everlearn.families.mondrian.aggregating import aggregate
from everlearn.families.mondrian.class_nodes import learn_class
from everlearn.families.mondrian.columns import gather, measure, prepare
from everlearn.families.mondrian.layout import (
    DETECTS,
    FIRST,
    NONE,
    RESETS,
    SIZES,
    STEP,
    USED_PAIRS,
    WINDOW,
    WINDOW_BUCKETS,
    WINDOW_ROWS,
    WINDOW_SUMS,
)
from everlearn.families.mondrian.pool import AGES, plant
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

MOST_ROW_WEIGHT = 100.0  # of one row
FLOOR = 1e-4  # of the probability of all classes together that is spread evenly
DRIFT = 0.001  # ADWIN's probability of a false alarm
CLOCK, SHORTEST, LEAST_WINDOW = 32, 5.0, 10.0  # ADWIN looks at each so many values; River's settings


@inlined
def average(votes: Floats, b: int, members: int, out: Singles, i: int) -> None:
    """Write the mean of the votes of row b's members to row i of the result."""
    classes = out.shape[1]
    for k in range(classes):
        out[i, k] = (1.0 - FLOOR) * votes[b, k] / members + FLOOR / classes


@merged
def predict_rows(
    hashed: int, settings: Floats, trees: Ints, nodes: Nodes, beliefs: Floats, counts: Singles, columns: Nodes,
    wide: int, dense: Singles, indptr: Ints, indices: Nodes, values: Singles, out: Singles,
) -> int:  # fmt: skip
    """Write the prediction of each row to `out`; return 0, or a fault with nothing written."""
    fault = first_fault(hashed, indptr, indices, values)
    if fault == 0:
        classes = out.shape[1]
        rows, x = np.empty((1, dense.shape[1]), np.float32), np.empty(wide, np.float32)
        p, votes = np.empty(classes), np.empty((1, classes))
        for i in range(len(indptr) - 1):
            prepare(dense, i, rows, 0)
            votes[:] = 0.0
            for t in range(trees.shape[0]):
                p[:] = 1.0 / classes
                if trees[t, USED_PAIRS] > 0:
                    gather(settings, columns, t, rows, 0, indices, values, indptr[i], indptr[i + 1], x)
                    aggregate(settings, nodes, beliefs, counts, t, x, p)
                for k in range(classes):
                    votes[0, k] += p[k]
            average(votes, 0, trees.shape[0], out, i)
    return fault


@outlined
def watch(trees: Ints, t: int, windows: Floats, wrong: float) -> bool:
    """Feed ADWIN with the error of a tree; return True after a drift of rising errors."""
    buckets = windows[t, :WINDOW].reshape(WINDOW_ROWS, 2, WINDOW_BUCKETS)
    sizes, sums = trees[t, SIZES:], windows[t, WINDOW : WINDOW + WINDOW_SUMS]
    level = adwin_step(buckets, sizes, sums, wrong, DRIFT, DRIFT, CLOCK, SHORTEST, LEAST_WINDOW, 1.0)
    if abs(level) == 2:
        adwin_reset(buckets, sizes, sums)
    return level == 2


@inlined
def largest(p: Floats) -> int:
    """Return the first of the largest numbers."""
    best = 0
    for k in range(1, len(p)):
        if p[k] > p[best]:
            best = k
    return best


@merged
def learn_member(
    settings: Floats, trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles,
    columns: Nodes, windows: Floats, rows: Singles, scales: Singles, numbers: Ints, start: int, held: int,
    indptr: Ints, indices: Nodes, values: Singles, y: Floats, weight: Singles, p: Floats, votes: Floats,
) -> None:  # fmt: skip
    """Let a member predict and learn the rows of a block, in order, and add its votes.

    A drift of ADWIN begins the tree again, with the row that showed it.
    """
    classes, wide, drawn = len(p), boxes.shape[3], columns.shape[1]
    x, scale, gaps = np.empty(wide, np.float32), np.ones(wide, np.float32), np.empty(wide)
    path, own = np.empty(nodes.shape[1], np.int32), np.empty(nodes.shape[1])
    for b in range(held):
        i, number = start + b, numbers[b]
        gather(settings, columns, t, rows, b, indices, values, indptr[i], indptr[i + 1], x)
        p[:] = 1.0 / classes
        if trees[t, USED_PAIRS] > 0:
            aggregate(settings, nodes, beliefs, counts, t, x, p)
        for k in range(classes):
            votes[b, k] += p[k]
        if number < 0:
            continue
        target, drifted = int(y[i]), False
        if settings[DETECTS] > 0.0:
            drifted = watch(trees, t, windows, 0.0 if largest(p) == target else 1.0)
            trees[t, RESETS] += drifted
        if drifted or trees[t, USED_PAIRS] == 0:
            plant(trees, t, nodes, beliefs, counts, boxes, number & AGES)
        for j in range(drawn):
            scale[j] = scales[b, columns[t, j]]
        learn_class(settings, trees, t, nodes, beliefs, counts, boxes, x, scale, gaps, path, own, target,
                 min(np.float64(weight[i]), MOST_ROW_WEIGHT), number & AGES)  # fmt: skip


@merged
def learn_rows(
    hashed: int, settings: Floats, trees: Ints, nodes: Nodes, beliefs: Floats, counts: Singles, columns: Nodes,
    boxes: Singles, windows: Floats, moments: Floats, clock: Ints, dense: Singles, indptr: Ints, indices: Nodes,
    values: Singles, y: Floats, weight: Singles, out: Singles,
) -> int:  # fmt: skip
    """Write the prediction of each row to `out`, then learn it; return 0, or a fault with nothing learned."""
    fault = first_fault(hashed, indptr, indices, values)
    if fault == 0:
        fault = mislabelled(y, out.shape[1])
    n, width, classes = (len(indptr) - 1 if fault == 0 else 0), dense.shape[1], out.shape[1]
    most = block_rows(width)
    rows, scales = np.empty((most, width), np.float32), np.empty((most, width), np.float32)
    p, votes, numbers = np.empty(classes), np.empty((most, classes)), np.empty(most, np.int64)
    first, step, none = int(settings[FIRST]), int(settings[STEP]), np.full(most, NONE)
    for start in range(0, n, most):
        held = min(most, n - start)
        votes[:] = 0.0
        for b in range(held):
            i = start + b
            known = weight[i] > 0.0 and weight[i] < math.inf and abs(y[i]) < math.inf
            prepare(dense, i, rows, b)
            numbers[b] = NONE
            if known:
                measure(rows, b, moments, scales)
                numbers[b] = clock[0]
                clock[0] += 1
        for t in range(trees.shape[0]):
            trained = numbers if t % step == first else none  # a tree of another partition only votes
            learn_member(settings, trees, t, nodes, beliefs, counts, boxes, columns, windows, rows, scales, trained,
                         start, held, indptr, indices, values, y, weight, p, votes)  # fmt: skip
        for b in range(held):
            average(votes, b, trees.shape[0], out, start + b)
    return fault
