"""Learn one row at a leaf of numbers: count it, examine the leaf from time to time, and split it.

The rules are those of FIMT-DD (Ikonomovska, Gama & Dzeroski 2011, "Learning model trees from evolving data streams"):
a leaf is split when the gain of its second column is, with the confidence of a Hoeffding bound, less than that of its
best column. The gain is about the errors of the leaf, not the targets, and must be more than chance gives.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn.families.kernel_parts import outlined, uncounted
from everlearn.families.trees.growing import MOST_WEIGHT, PATIENCE, REVIVED, ROUNDING
from everlearn.families.trees.layout import (
    AROUND,
    BITS,
    CEILING,
    CHOICES,
    COLUMN_FLOATS,
    FIRST_CELL,
    FLOOR,
    GRACE,
    INACTIVE,
    KEY,
    LEFT,
    LINE_LOSS,
    LINE_SHIFT,
    LINE_START,
    LINE_WEIGHT,
    MEAN_LOSS,
    MEAN_SHIFT,
    MOST_LINE,
    NEXT,
    NODE_MEAN,
    NODE_SQUARES,
    NODE_WEIGHT,
    NONE,
    NUMBER_HEAD,
    NUMBER_PART,
    OWN,
    OWN_MEAN,
    OWN_SQUARES,
    RATE,
    SOLVE,
    TIE,
    VISITS,
)
from everlearn.families.trees.number_cells import learn_cells, learn_number_entries
from everlearn.families.trees.number_leaves import learn_answers
from everlearn.families.trees.number_lines import inherit_line, keep_line, learn_line, line_at, line_floats, solve_line
from everlearn.families.trees.number_splits import (
    KNOWN_SUM,
    KNOWN_WEIGHT,
    LEFT_SUM,
    LEFT_WEIGHT,
    NUMBER_BEST,
    try_cells,
    try_number_entries,
)
from everlearn.families.trees.pool import branch, open_leaf, room_finder
from everlearn.families.trees.splits import AT, GAIN, SECOND_GAIN, WHERE
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

INHERITED = 0.05  # of a branch's weight in the mean of a child, so that a new leaf is not that of its first row
CHANCE, LATE_CHANCE = 15.0, 6.0  # a split must explain so many times the variance left, for each row
SETTLED = 300.0  # rows after which a leaf takes the second: no single split shows what only two of them explain
PRIOR_ROWS = 20.0  # that the linear model of a parent counts for in its children
RESOLVED = 0.125  # a linear model is solved for again after so much of its weight, or a period of grace


@uncounted
def squares_promised(counts: Floats, t: int, node: int, visits: float) -> float:
    """Return the sum of squares about the mean of a leaf, times its visits."""
    return float(counts[t, node, NODE_SQUARES] * visits)


find_room = room_finder(squares_promised)


@uncounted
def count_target(counts: Floats, t: int, node: int, target: float, weight: float) -> None:
    """Add a target to the weight, mean and sum of squares of a node (Welford 1962, weighted)."""
    n = counts[t, node, NODE_WEIGHT] + weight
    away = target - counts[t, node, NODE_MEAN]
    counts[t, node, NODE_WEIGHT] = n
    counts[t, node, NODE_MEAN] += away * weight / n
    counts[t, node, NODE_SQUARES] += max(weight * away * (target - counts[t, node, NODE_MEAN]), 0.0)


@uncounted
def count_own(blocks: Singles, t: int, block: int, target: float, away: float, weight: float) -> None:
    """Count a row in the head of a block: the range of targets; weight, mean and squares of the errors."""
    beside = target - blocks[t, block, AROUND]
    blocks[t, block, FLOOR] = min(np.float64(blocks[t, block, FLOOR]), beside)
    blocks[t, block, CEILING] = max(np.float64(blocks[t, block, CEILING]), beside)
    own = blocks[t, block, OWN] + weight
    beside = away - blocks[t, block, OWN_MEAN]
    mean = blocks[t, block, OWN_MEAN] + beside * weight / own
    blocks[t, block, OWN] = own
    blocks[t, block, OWN_MEAN] = mean
    squares = blocks[t, block, OWN_SQUARES] + max(weight * beside * (away - mean), 0.0)
    blocks[t, block, OWN_SQUARES] = min(squares, 1e37)


@uncounted
def halve_numbers(counts: Floats, blocks: Singles, t: int, node: int, block: int, m: int, columns: int) -> None:
    """Halve all weights of a leaf, so that they stay in the range in which a float32 counts exactly."""
    half = np.float32(0.5)
    counts[t, node, NODE_WEIGHT] *= 0.5
    counts[t, node, NODE_SQUARES] *= 0.5
    for i in (NEXT, VISITS, OWN, OWN_SQUARES, SOLVE, LINE_WEIGHT):
        blocks[t, block, i] *= half
    for j in range(m):
        at = NUMBER_HEAD + j * COLUMN_FLOATS
        for i in range(at + FIRST_CELL, at + COLUMN_FLOATS):
            blocks[t, block, i] *= half
    line = line_at(m)
    for i in range(line + 2 * min(columns, MOST_LINE), blocks.shape[2]):
        blocks[t, block, i] *= half


@merged
def split(
    settings: Floats, behind: bool, trees: Ints, t: int, nodes: Nodes, counts: Floats, blocks: Singles,
    choices: Nodes, node: int, rows: Floats, m: int, best: Floats,
) -> bool:  # fmt: skip
    """Split a leaf by its best split; return False if there are no more nodes."""
    block = -1 - nodes[t, node, LEFT]
    own, around = np.float64(blocks[t, block, OWN]), blocks[t, block, AROUND]
    variance = blocks[t, block, OWN_SQUARES] / own
    within = max(variance - best[GAIN], 0.0)
    shift = blocks[t, block, MEAN_SHIFT] * math.sqrt(within / variance)
    losses = blocks[t, block, MEAN_LOSS], blocks[t, block, LINE_LOSS]
    floor, ceiling = blocks[t, block, FLOOR], blocks[t, block, CEILING]
    line = keep_line(blocks, t, block, m, rows.shape[2], PRIOR_ROWS * max(settings[RATE], 1.0))
    least = squares_promised(counts, t, node, blocks[t, block, VISITS])
    pair, other = find_room(behind, trees, t, nodes, counts, blocks, choices, least, 1)
    if pair != NONE:
        middle = best[KNOWN_SUM] / best[KNOWN_WEIGHT]
        for side in range(2):
            weight = best[LEFT_WEIGHT] if side == 0 else best[KNOWN_WEIGHT] - best[LEFT_WEIGHT]
            total = best[LEFT_SUM] if side == 0 else best[KNOWN_SUM] - best[LEFT_SUM]
            counts[t, pair + side, NODE_WEIGHT] = INHERITED * weight
            counts[t, pair + side, NODE_MEAN] = counts[t, node, NODE_MEAN] + total / weight - middle
            counts[t, pair + side, NODE_SQUARES] = INHERITED * weight * within
        right = 1 if best[KNOWN_WEIGHT] > 2.0 * best[LEFT_WEIGHT] else 0
        branch(settings, m, rows.shape[2], trees, t, nodes, blocks, choices, node, pair, block, other,
               int(best[WHERE]), best[AT], right)  # fmt: skip
        for side in range(1 if other == NONE else 2):
            child = block if side == 0 else other
            inherit_line(blocks, t, child, m, line)
            blocks[t, child, SOLVE] = settings[GRACE] if line[SOLVE - NUMBER_PART] > 0.0 else 0.0
            blocks[t, child, MEAN_SHIFT] = shift
            blocks[t, child, MEAN_LOSS], blocks[t, child, LINE_LOSS] = losses
            blocks[t, child, AROUND], blocks[t, child, FLOOR], blocks[t, child, CEILING] = around, floor, ceiling
    return pair != NONE


@outlined
def examine(
    settings: Floats, behind: bool, trees: Ints, t: int, nodes: Nodes, counts: Floats, blocks: Singles,
    choices: Nodes, node: int, rows: Floats, m: int,
) -> None:  # fmt: skip
    """Split a leaf if the Hoeffding bound says that its best split is the best."""
    block = -1 - nodes[t, node, LEFT]
    own, done = np.float64(blocks[t, block, OWN]), False
    blocks[t, block, NEXT] = own + settings[GRACE]
    if blocks[t, block, OWN_SQUARES] > 0.0:
        best = np.zeros(NUMBER_BEST)
        for j in range(m):
            try_cells(blocks, t, block, j, choices[t, block, CHOICES + j], best)
        if choices.shape[2] > CHOICES + m:
            try_number_entries(blocks, choices, t, block, m, line_at(m) + line_floats(rows.shape[2]), best)
        bound = math.sqrt(settings[BITS] / (2.0 * own))
        left = max(blocks[t, block, OWN_SQUARES] / own - best[GAIN], 0.0)
        rate = max(settings[RATE], 1.0)
        chance = CHANCE if own < SETTLED * rate else LATE_CHANCE
        certain = best[GAIN] * own > chance * rate * left and best[GAIN] > 0.0
        if certain and (best[SECOND_GAIN] < (1.0 - bound) * best[GAIN] or bound < settings[TIE]):
            blocks[t, block, NEXT] = own + PATIENCE * settings[GRACE]
            done = split(settings, behind, trees, t, nodes, counts, blocks, choices, node, rows, m, best)
    if own > MOST_WEIGHT and not done:
        halve_numbers(counts, blocks, t, node, block, m, rows.shape[2])


@uncounted
def number_learn_at(
    settings: Floats, table: Floats, behind: bool, number: int, trees: Ints, t: int, nodes: Nodes, counts: Floats,
    blocks: Singles, choices: Nodes, node: int, rows: Floats, b: int, indices: Nodes, values: Singles, low: int,
    high: int, seen: Floats, first: float, second: float, target: float, weight: float,
) -> None:  # fmt: skip
    """Learn a row at its leaf; `seen` are the columns of the leaf, `first` and `second` its two predictions."""
    count_target(counts, t, node, target, weight)
    m, left = seen.shape[1], nodes[t, node, LEFT]
    if left == INACTIVE:
        least = squares_promised(counts, t, node, REVIVED / 2.0) if number % REVIVED == 0 else 0.0
        _, block = find_room(behind or least == 0.0, trees, t, nodes, counts, blocks, choices, least, 0)
        if block != NONE:
            open_leaf(settings, m, rows.shape[2], trees, t, nodes, blocks, choices, node, block)
    else:
        block = -1 - left
        if blocks[t, block, LINE_WEIGHT] == 0.0:
            blocks[t, block, AROUND] = target
            blocks[t, block, LINE_START] = (choices[t, block, KEY] + t) * MOST_LINE % max(rows.shape[2], 1)
        blocks[t, block, VISITS] += np.float32(1.0)
        line_leads = blocks[t, block, SOLVE] > 0.0 and blocks[t, block, LINE_LOSS] <= blocks[t, block, MEAN_LOSS]
        away = target - (second if line_leads else first)
        learn_answers(settings, blocks, t, block, first, second, target, weight)
        learn_line(blocks, t, block, m, rows, b, target, weight)
        count_own(blocks, t, block, target, away, weight)
        learn_cells(blocks, t, block, seen, away, weight)
        if choices.shape[2] > CHOICES + m and high > low:
            at = line_at(m) + line_floats(rows.shape[2])
            learn_number_entries(settings, blocks, choices, t, block, m, at, indices, values, low, high, away, weight)
        own = np.float64(blocks[t, block, OWN])
        if own * ROUNDING >= max(np.float64(blocks[t, block, SOLVE]), settings[GRACE]):
            if blocks[t, block, SOLVE] == 0.0:
                blocks[t, block, LINE_SHIFT] = blocks[t, block, MEAN_SHIFT]
            solve_line(blocks, t, block, m, rows.shape[2], max(settings[RATE], 1.0))
            blocks[t, block, SOLVE] = own + max(settings[GRACE], RESOLVED * own)
        if own * ROUNDING >= blocks[t, block, NEXT]:
            examine(settings, behind, trees, t, nodes, counts, blocks, choices, node, rows, m)
