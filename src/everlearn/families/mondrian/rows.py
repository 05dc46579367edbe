"""The row loops: predict rows, and learn rows in order, a block of rows member by member.

Members do not look at each other, so each learns all rows of a block before the next member does, which keeps one pool
in the cache. Votes are added in the order of members: the bytes are those of one row at a time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.drift.detectors import adwin_reset, adwin_step
from everlearn.families.kernel_parts import block_rows, first_fault, inlined, merged, mislabelled, outlined
from everlearn.families.mondrian.aggregating import aggregate
from everlearn.families.mondrian.columns import gather, prepare
from everlearn.families.mondrian.growing import learn_at
from everlearn.families.mondrian.layout import (
    BACKGROUND,
    DETECTS,
    NONE,
    RESETS,
    ROOT,
    SCALING,
    SIZES,
    WINDOW,
    WINDOW_BUCKETS,
    WINDOW_ROWS,
)
from everlearn.families.mondrian.pool import free_tree, plant
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

MOST_ROW_WEIGHT = 100.0  # of one row
FLOOR = 1e-4  # of the probability of all classes together that is spread evenly
WARNING, DRIFT = 0.01, 0.001  # ADWIN's probabilities of false alarms
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
        rows, scales = np.empty((1, dense.shape[1]), np.float32), np.empty((1, dense.shape[1]), np.float32)
        x, scale, none = np.empty(wide, np.float32), np.empty(wide, np.float32), np.empty((0, 0))
        p, votes = np.empty(classes), np.empty((1, classes))
        for i in range(len(indptr) - 1):
            prepare(dense, i, none, False, rows, scales, 0)
            votes[:] = 0.0
            for t in range(trees.shape[0]):
                p[:] = 1.0 / classes
                if trees[t, ROOT] != NONE:
                    gather(settings, columns, t, rows, scales, 0, False, indices, values, indptr[i], indptr[i + 1], x,
                           scale)  # fmt: skip
                    aggregate(settings, nodes, beliefs, counts, t, int(trees[t, ROOT]), x, p)
                for k in range(classes):
                    votes[0, k] += p[k]
            average(votes, 0, trees.shape[0], out, i)
    return fault


@outlined
def watch(trees: Ints, t: int, windows: Floats, wrong: float) -> int:
    """Feed ADWIN with the error of a tree; return 2 after a drift of rising errors, 1 for a warning of one."""
    buckets = windows[t, :WINDOW].reshape(WINDOW_ROWS, 2, WINDOW_BUCKETS)
    sizes, sums = trees[t, SIZES:], windows[t, WINDOW:]
    level = adwin_step(buckets, sizes, sums, wrong, DRIFT, WARNING, CLOCK, SHORTEST, LEAST_WINDOW, 1.0)
    if abs(level) == 2:
        adwin_reset(buckets, sizes, sums)
    return level


@inlined
def largest(p: Floats) -> int:
    """Return the first of the largest numbers."""
    best = 0
    for k in range(1, len(p)):
        if p[k] > p[best]:
            best = k
    return best


@outlined
def learn_member(
    settings: Floats, trees: Ints, t: int, nodes: Nodes, beliefs: Floats, counts: Singles, boxes: Singles,
    columns: Nodes, windows: Floats, rows: Singles, scales: Singles, numbers: Ints, start: int, held: int,
    indptr: Ints, indices: Nodes, values: Singles, y: Floats, weight: Singles, p: Floats, votes: Floats,
) -> None:  # fmt: skip
    """Let a member predict and learn the rows of a block, in order, and add its votes."""
    classes, wide = len(p), boxes.shape[3]
    x, scale, gaps = np.empty(wide, np.float32), np.empty(wide, np.float32), np.empty(wide)
    path, own = np.empty(nodes.shape[1], np.int32), np.empty(nodes.shape[1])
    scaled = settings[SCALING] == 1.0 or (settings[SCALING] == 2.0 and t % 2 == 1)
    for b in range(held):
        i, number = start + b, numbers[b]
        gather(settings, columns, t, rows, scales, b, scaled, indices, values, indptr[i], indptr[i + 1], x, scale)
        if number >= 0 and trees[t, ROOT] == NONE:
            plant(trees, t, nodes, beliefs, counts, boxes, ROOT, number)
        p[:] = 1.0 / classes
        if trees[t, ROOT] != NONE:
            aggregate(settings, nodes, beliefs, counts, t, int(trees[t, ROOT]), x, p)
        for k in range(classes):
            votes[b, k] += p[k]
        if number < 0:
            continue
        target, level = int(y[i]), 0
        if settings[DETECTS] > 0.0:
            level = watch(trees, t, windows, 0.0 if largest(p) == target else 1.0)
        if level == 2:
            free_tree(trees, t, nodes, ROOT)
            trees[t, ROOT] = trees[t, BACKGROUND]
            trees[t, BACKGROUND] = NONE
            trees[t, RESETS] += 1
            if trees[t, ROOT] == NONE:
                plant(trees, t, nodes, beliefs, counts, boxes, ROOT, number)
        elif level == 1 and trees[t, BACKGROUND] == NONE and settings[DETECTS] > 1.0:
            plant(trees, t, nodes, beliefs, counts, boxes, BACKGROUND, number)
        for place in (ROOT, BACKGROUND):
            if trees[t, place] != NONE:
                learn_at(settings, trees, t, place, nodes, beliefs, counts, boxes, x, scale, gaps, path, own, target,
                         min(np.float64(weight[i]), MOST_ROW_WEIGHT), number)  # fmt: skip


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
    for start in range(0, n, most):
        held = min(most, n - start)
        votes[:] = 0.0
        for b in range(held):
            i = start + b
            known = weight[i] > 0.0 and weight[i] < math.inf and abs(y[i]) < math.inf
            prepare(dense, i, moments, known, rows, scales, b)
            numbers[b] = clock[0] if known else NONE
            clock[0] += known
        for t in range(trees.shape[0]):
            learn_member(settings, trees, t, nodes, beliefs, counts, boxes, columns, windows, rows, scales, numbers,
                         start, held, indptr, indices, values, y, weight, p, votes)  # fmt: skip
        for b in range(held):
            average(votes, b, trees.shape[0], out, start + b)
    return fault
