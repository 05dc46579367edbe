"""The row loops of trees: predict and learn rows, in blocks, one member after another.

Members never look at each other. So each member predicts and learns all rows of a block in order, and the votes are
summed afterwards in the order of the members: the result is that of one row at a time, and does not depend on how rows
are cut into blocks.

Trees of classes and of numbers share these loops. What differs is a `Kind`, whose functions are compiled into them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn._random import uniform
from everlearn.drift.detectors import adwin_reset, adwin_step
from everlearn.families.kernel_parts import block_rows, first_fault, uncounted
from everlearn.families.trees.columns import count, prepare
from everlearn.families.trees.layout import (
    BACKGROUND,
    DETECTS,
    FIRST,
    NONE,
    RATE,
    ROOT,
    SEED,
    SEEN,
    SIZES,
    STEP,
    SWAPS,
    TARGET,
    TARGETS,
    WINDOW,
    WINDOW_BUCKETS,
    WINDOW_ROWS,
    WINDOW_SUMS,
)
from everlearn.families.trees.leaves import walk
from everlearn.families.trees.pool import free_tree, plant
from everlearn.families.trees.tables import draw
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

MOST_ROW_WEIGHT = 100.0  # of one row
WARNING, DRIFT = 0.01, 0.001  # ADWIN's probabilities of false alarms
CLOCK, SHORTEST, LEAST_WINDOW = 32, 5.0, 10.0  # ADWIN looks at each so many values; River's settings


class Kind(NamedTuple):
    """The functions in which trees of classes and of numbers differ, for the same loops.

    `fault(y, out)` is the fault of the first row with a wrong label. `scale(moments, targets, b)` writes what row b
    needs to be predicted, and `aim(label, moments, targets, b)` counts its label. `default(targets, b, p)` is the
    prediction without a tree, `answer` that of a leaf, and `vote(p, windows, t, votes, b)` counts it.
    `missed(p, targets, b, windows, t)` is the error that ADWIN watches, `finish(votes, b, members, targets, out, i)`
    the prediction of all members. `find_room` and `learn_at` are those of the pool and of the growing of leaves.
    """

    fault: Callable[..., int]
    scale: Callable[..., None]
    aim: Callable[..., None]
    default: Callable[..., None]
    answer: Callable[..., tuple[Any, Any]]
    vote: Callable[..., None]
    missed: Callable[..., float]
    finish: Callable[..., None]
    find_room: Callable[..., tuple[int, int]]
    learn_at: Callable[..., None]


def predicting(kind: Kind) -> Callable[..., int]:
    """Return the loop that predicts rows with trees of a kind."""
    fault_of, scale, default, answer, vote, finish = (
        first_fault, kind.scale, kind.default, kind.answer, kind.vote, kind.finish,
    )  # fmt: skip

    @merged
    def predict_rows(
        hashed: int, settings: Floats, trees: Ints, nodes: Nodes, counts: Singles, blocks: Singles, choices: Nodes,
        windows: Floats, moments: Floats, drawn: int, dense: Singles, indptr: Ints, indices: Nodes, values: Singles,
        out: Singles,
    ) -> int:  # fmt: skip
        """Write the prediction of each row to `out`; return 0, or a fault with nothing written."""
        fault = fault_of(hashed, indptr, indices, values)
        if fault == 0:
            width, columns = counts.shape[2], dense.shape[1]
            rows, seen = np.empty((1, SEEN, columns)), np.empty((SEEN, drawn))
            p, votes, targets = np.empty((2, width)), np.empty((1, width)), np.empty((1, TARGETS))
            for i in range(len(indptr) - 1):
                prepare(dense, i, moments, rows, 0)
                scale(moments, targets, 0)
                votes[:] = 0.0
                low, high = indptr[i], indptr[i + 1]
                for t in range(trees.shape[0]):
                    default(targets, 0, p)
                    if trees[t, ROOT] != NONE:
                        node = walk(nodes, t, trees[t, ROOT], rows, 0, indices, values, low, high)
                        answer(settings, t, nodes, counts, blocks, choices, node, rows, 0, indices, values, low, high,
                               seen, p)  # fmt: skip
                    vote(p, windows, t, votes, 0)
                finish(votes, 0, trees.shape[0], targets, out, i)
        return fault

    return predict_rows


@merged
def watch(trees: Ints, t: int, windows: Floats, wrong: float) -> int:
    """Feed ADWIN with the error of a tree; return 2 after a drift of rising errors, 1 for a warning of one."""
    buckets = windows[t, :WINDOW].reshape(WINDOW_ROWS, 2, WINDOW_BUCKETS)
    sizes, sums = trees[t, SIZES:], windows[t, WINDOW : WINDOW + WINDOW_SUMS]
    level = adwin_step(buckets, sizes, sums, wrong, DRIFT, WARNING, CLOCK, SHORTEST, LEAST_WINDOW, 1.0)
    if abs(level) == 2:
        adwin_reset(buckets, sizes, sums)
    return level


def member_learning(kind: Kind) -> Callable[..., None]:
    """Return the loop in which a tree of a kind learns a block of rows."""
    default, answer, vote, missed = kind.default, kind.answer, kind.vote, kind.missed
    find_room, learn_at = kind.find_room, kind.learn_at

    @uncounted
    def learn_member(
        settings: Floats, table: Floats, drawn: int, trees: Ints, t: int, nodes: Nodes, counts: Singles,
        blocks: Singles, choices: Nodes, windows: Floats, rows: Floats, targets: Floats, numbers: Ints, start: int,
        held: int, indptr: Ints, indices: Nodes, values: Singles, weight: Singles, seen: Floats, p: Floats,
        votes: Floats,
    ) -> None:  # fmt: skip
        """Let a member predict and learn the rows of a block, in order, and add its votes.

        A warning of ADWIN begins a background tree, a drift gives it the place of the tree.
        """
        begin = NONE
        for b in range(held + 1):  # once more, so that what the last row began is there in the next call
            if b < held and trees[t, ROOT] == NONE and numbers[b] >= 0:
                begin = ROOT
            if begin != NONE:
                pair, block = find_room(True, trees, t, nodes, counts, blocks, choices, 0.0, 1)
                plant(settings, drawn, rows.shape[2], trees, t, nodes, counts, blocks, choices, begin, pair, block)
                begin = NONE
            if b == held:
                break
            i, number, w = start + b, numbers[b], 0.0
            low, high = indptr[i], indptr[i + 1]
            if number >= 0:
                w = min(np.float64(weight[i]), MOST_ROW_WEIGHT)
                if settings[RATE] > 0.0:
                    w *= draw(uniform(int(settings[SEED]), t, number), table)
            for place in (ROOT, BACKGROUND):
                default(targets, b, p)
                first = second = p[0, 0]
                node = 0
                if trees[t, place] != NONE and (place == ROOT or w > 0.0):
                    node = walk(nodes, t, trees[t, place], rows, b, indices, values, low, high)
                    first, second = answer(settings, t, nodes, counts, blocks, choices, node, rows, b, indices,
                                           values, low, high, seen, p)  # fmt: skip
                if place == ROOT:
                    vote(p, windows, t, votes, b)
                    if number >= 0:
                        wrong = missed(p, targets, b, windows, t)
                        level = watch(trees, t, windows, wrong) if settings[DETECTS] > 0.0 else 0
                        if level == 2:
                            begin = SWAPS
                        elif level == 1 and trees[t, BACKGROUND] == NONE:
                            begin = BACKGROUND
                if trees[t, place] != NONE and w > 0.0:
                    learn_at(settings, table, place == BACKGROUND, number, trees, t, nodes, counts, blocks, choices,
                             node, rows, b, indices, values, low, high, seen, first, second, targets[b, TARGET],
                             w)  # fmt: skip
            if begin == SWAPS:
                begin = NONE
                free_tree(trees, t, nodes, choices, ROOT)
                trees[t, ROOT] = trees[t, BACKGROUND]
                trees[t, BACKGROUND] = NONE
                trees[t, SWAPS] += 1

    return learn_member


def learning(kind: Kind) -> Callable[..., int]:
    """Return the loop that learns rows with trees of a kind."""
    fault_of, scale, aim, finish = kind.fault, kind.scale, kind.aim, kind.finish
    learn_member = member_learning(kind)

    @merged
    def learn_rows(
        hashed: int, settings: Floats, table: Floats, trees: Ints, nodes: Nodes, counts: Singles, blocks: Singles,
        choices: Nodes, windows: Floats, moments: Floats, clock: Ints, drawn: int, dense: Singles, indptr: Ints,
        indices: Nodes, values: Singles, y: Floats, weight: Singles, out: Singles,
    ) -> int:  # fmt: skip
        """Write the prediction of each row to `out`, then learn it; return 0, or a fault with nothing learned."""
        fault = first_fault(hashed, indptr, indices, values)
        if fault == 0:
            fault = fault_of(y, out)
        n, columns, width = (len(indptr) - 1 if fault == 0 else 0), dense.shape[1], counts.shape[2]
        most = block_rows(columns)
        rows, votes, targets = np.empty((most, SEEN, columns)), np.empty((most, width)), np.zeros((most, TARGETS))
        seen, p, numbers = np.empty((SEEN, drawn)), np.empty((2, width)), np.empty(most, np.int64)
        first, step, none = int(settings[FIRST]), int(settings[STEP]), np.full(most, NONE)
        for start in range(0, n, most):
            held = min(most, n - start)
            votes[:] = 0.0
            for b in range(held):
                i = start + b
                prepare(dense, i, moments, rows, b)
                scale(moments, targets, b)
                numbers[b] = NONE
                if weight[i] > 0.0 and weight[i] < math.inf and abs(y[i]) < math.inf:
                    count(dense, i, moments, rows, b)
                    aim(y[i], moments, targets, b)
                    numbers[b] = clock[0]
                    clock[0] += 1
            for t in range(trees.shape[0]):
                known = numbers if t % step == first else none  # a tree of another partition only votes
                learn_member(settings, table, drawn, trees, t, nodes, counts, blocks, choices, windows, rows, targets,
                             known, start, held, indptr, indices, values, weight, seen, p, votes)  # fmt: skip
            for b in range(held):
                finish(votes, b, trees.shape[0], targets, out, start + b)
        return fault

    return learn_rows
