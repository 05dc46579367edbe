"""The row loops of trees: predict and learn rows, in blocks, one member after another.

Members never look at each other. So each member predicts and learns all rows of a block in order, and the votes are
summed afterwards in the order of the members: the result is that of one row at a time, and does not depend on how rows
are cut into blocks, nor on how many threads learn members.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.drift.detectors import adwin_reset, adwin_step
from everlearn.families.kernel_parts import block_rows, first_fault, inlined, merged, mislabelled, outlined
from everlearn.families.trees.columns import count, prepare
from everlearn.families.trees.growing import learn_at
from everlearn.families.trees.layout import (
    BACKGROUND,
    DETECTS,
    NONE,
    PREPARED,
    RATE,
    ROOT,
    SEED,
    SIZES,
    SWAPS,
    WINDOW,
    WINDOW_BUCKETS,
    WINDOW_ROWS,
)
from everlearn.families.trees.leaves import largest, predict_leaf, walk
from everlearn.families.trees.pool import free_tree, plant
from everlearn.families.trees.tables import draw
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
    hashed: int, settings: Floats, trees: Ints, nodes: Nodes, counts: Singles, blocks: Singles, choices: Nodes,
    moments: Floats, drawn: int, dense: Singles, indptr: Ints, indices: Nodes, values: Singles, out: Singles,
) -> int:  # fmt: skip
    """Write the prediction of each row to `out`; return 0, or a fault with nothing written."""
    fault = first_fault(hashed, indptr, indices, values)
    if fault == 0:
        classes, columns = out.shape[1], dense.shape[1]
        rows, seen = np.empty((1, PREPARED, columns)), np.empty((PREPARED, drawn))
        p, votes = np.empty((2, classes)), np.empty((1, classes))
        for i in range(len(indptr) - 1):
            prepare(dense, i, moments, rows, 0)
            votes[:] = 0.0
            low, high = indptr[i], indptr[i + 1]
            for t in range(trees.shape[0]):
                p[0] = 1.0 / classes
                if trees[t, ROOT] != NONE:
                    node = walk(nodes, t, trees[t, ROOT], rows, 0, indices, values, low, high)
                    predict_leaf(settings, t, nodes, counts, blocks, choices, node, rows, 0, indices, values, low,
                                 high, seen, p)  # fmt: skip
                for k in range(classes):
                    votes[0, k] += p[0, k]
            average(votes, 0, trees.shape[0], out, i)
    return fault


@merged
def watch(trees: Ints, t: int, windows: Floats, wrong: float) -> int:
    """Feed ADWIN with the error of a tree; return 2 after a drift of rising errors, 1 for a warning of one."""
    buckets = windows[t, :WINDOW].reshape(WINDOW_ROWS, 2, WINDOW_BUCKETS)
    sizes, sums = trees[t, SIZES:], windows[t, WINDOW:]
    level = adwin_step(buckets, sizes, sums, wrong, DRIFT, WARNING, CLOCK, SHORTEST, LEAST_WINDOW, 1.0)
    if abs(level) == 2:
        adwin_reset(buckets, sizes, sums)
    return level


@outlined
def learn_member(
    settings: Floats, table: Floats, drawn: int, trees: Ints, t: int, nodes: Nodes, counts: Singles, blocks: Singles,
    choices: Nodes, windows: Floats, rows: Floats, numbers: Ints, start: int, held: int, indptr: Ints, indices: Nodes,
    values: Singles, y: Floats, weight: Singles, seen: Floats, p: Floats, votes: Floats,
) -> None:  # fmt: skip
    """Let a member predict and learn the rows of a block, in order, and add its votes.

    A warning of ADWIN begins a background tree, a drift gives it the place of the tree.
    """
    classes, begin = counts.shape[2], NONE
    for b in range(held):
        i, number = start + b, numbers[b]
        low, high, target = indptr[i], indptr[i + 1], 0
        if trees[t, ROOT] == NONE and number >= 0:
            begin = ROOT
        w = 0.0
        if number >= 0:
            target = int(y[i])
            w = min(np.float64(weight[i]), MOST_ROW_WEIGHT)
            if settings[RATE] > 0.0:
                w *= draw(uniform(int(settings[SEED]), t, number), table)
        if begin != NONE:
            plant(settings, drawn, rows.shape[2], trees, t, nodes, counts, blocks, choices, begin)
            begin = NONE
        for place in (ROOT, BACKGROUND):
            p[0] = 1.0 / classes
            majority = guess = node = 0
            if trees[t, place] != NONE and (place == ROOT or w > 0.0):
                node = walk(nodes, t, trees[t, place], rows, b, indices, values, low, high)
                majority, guess = predict_leaf(settings, t, nodes, counts, blocks, choices, node, rows, b, indices,
                                               values, low, high, seen, p)  # fmt: skip
            if place == ROOT:
                for k in range(classes):
                    votes[b, k] += p[0, k]
                if number >= 0 and settings[DETECTS] > 0.0:
                    wrong = 0.0 if largest(p, 0) == target else 1.0
                    level = watch(trees, t, windows, wrong)
                    if level == 2:
                        begin = SWAPS
                    elif level == 1 and trees[t, BACKGROUND] == NONE:
                        begin = BACKGROUND
            if trees[t, place] != NONE and w > 0.0:
                learn_at(settings, table, place == BACKGROUND, number, trees, t, nodes, counts, blocks, choices, node,
                         rows, b, indices, values, low, high, seen, majority, guess, target, w)  # fmt: skip
        if begin == SWAPS:
            begin = NONE
            free_tree(trees, t, nodes, choices, ROOT)
            trees[t, ROOT] = trees[t, BACKGROUND]
            trees[t, BACKGROUND] = NONE
            trees[t, SWAPS] += 1


@merged
def learn_rows(
    hashed: int, settings: Floats, table: Floats, trees: Ints, nodes: Nodes, counts: Singles, blocks: Singles,
    choices: Nodes, windows: Floats, moments: Floats, clock: Ints, drawn: int, dense: Singles, indptr: Ints,
    indices: Nodes, values: Singles, y: Floats, weight: Singles, out: Singles,
) -> int:  # fmt: skip
    """Write the prediction of each row to `out`, then learn it; return 0, or a fault with nothing learned."""
    fault = first_fault(hashed, indptr, indices, values)
    if fault == 0:
        fault = mislabelled(y, out.shape[1])
    n, columns, classes = (len(indptr) - 1 if fault == 0 else 0), dense.shape[1], out.shape[1]
    most = block_rows(columns)
    rows, votes = np.empty((most, PREPARED, columns)), np.empty((most, classes))
    seen, p, numbers = np.empty((PREPARED, drawn)), np.empty((2, classes)), np.empty(most, np.int64)
    for start in range(0, n, most):
        held = min(most, n - start)
        votes[:] = 0.0
        for b in range(held):
            i = start + b
            prepare(dense, i, moments, rows, b)
            numbers[b] = NONE
            if weight[i] > 0.0 and weight[i] < math.inf and abs(y[i]) < math.inf:
                count(dense, i, moments, rows, b)
                numbers[b] = clock[0]
                clock[0] += 1
        for t in range(trees.shape[0]):
            learn_member(settings, table, drawn, trees, t, nodes, counts, blocks, choices, windows, rows, numbers,
                         start, held, indptr, indices, values, y, weight, seen, p, votes)  # fmt: skip
        for b in range(held):
            average(votes, b, trees.shape[0], out, start + b)
    return fault
