"""Naive Bayes at a leaf from numbers that are kept: a scale for each class and column, and one number for each class.

The logarithm of a normal density is a scale times a squared distance, plus a number that all rows share; that of a
binary column is a scale times the value, plus such a number. So a row takes one product for each class and column, and
no logarithm. Those of a class are written again with each of its rows, and those of all classes when a column is no
longer constant or binary. Rows with missing values are answered without them.

Variances are drawn towards those within the classes of the leaf's parent, as they were at its split: within a leaf
columns vary less than in the stream. A leaf without a parent takes those of the stream. A class without a row in the
leaf has no density there: it keeps its share of what the leaf inherited.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn.families.kernel_parts import inlined, outlined, uncounted
from everlearn.families.trees.layout import (
    BAYES_RIGHT,
    CHOICES,
    HEAD,
    INACTIVE,
    LEFT,
    MAJORITY_RIGHT,
    MEAN,
    MISSING,
    PARTS,
    SECOND,
    SHRINK,
    SPREAD,
    SQUARES,
    STATE,
    VALUE,
    WEIGHT,
)
from everlearn.families.trees.leaves import FACTORS, LEAST_SHRINK, entry_likelihood, largest
from everlearn.families.trees.observers import learn_columns
from everlearn.families.trees.tables import logarithm
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

PARENTAL = 1.0  # rows of the inherited variance in the variance that a leaf gives to its children
LEAST_PART = 1e-6  # of the variance in the stream, in that of a parent: in constant columns it falls at each split
SMALLEST = 1e-9  # weight of a value of a binary column
FURTHEST = -40.0  # of a logarithm below the largest, from which on a probability counts as 0


@inlined
def scales_at(classes: int, m: int, choices: Nodes) -> int:
    """Return where the scales of a block begin; then come, for each class, its number, and 1 if it has rows.

    After these are the variances of the parent, 0 where there are none, and the state of the columns.
    """
    return HEAD + PARTS * classes * m + (choices.shape[2] - CHOICES - m) * (1 + classes)  # type: ignore[no-any-return]


@inlined
def gather(rows: Floats, b: int, choices: Nodes, t: int, block: int, seen: Floats) -> None:
    """Copy the columns of a leaf from a prepared row, and write their state."""
    state = 0.0
    missing = 0.0
    for j in range(seen.shape[1]):
        column = choices[t, block, CHOICES + j]
        v, spread, second = rows[b, VALUE, column], rows[b, SPREAD, column], rows[b, SECOND, column]
        seen[VALUE, j] = v
        seen[SPREAD, j] = spread
        seen[SECOND, j] = second
        if spread > 0.0:
            state += 1.0 if second != 0.0 else 2.0
        if math.isnan(v) or (second != 0.0 and v != 0.0 and v != second):
            missing = MISSING
    if seen.shape[1] > 0:
        seen[STATE, 0] = state + missing


@inlined
def variance_of(blocks: Singles, t: int, block: int, at: int, j: int, seen: Floats) -> float:
    """Return the variance towards which those of column j are drawn; that of the stream where there is none."""
    found, spread = np.float64(blocks[t, block, at + j]), seen[SPREAD, j]
    return max(found, LEAST_PART * spread) if found > 0.0 else spread  # type: ignore[no-any-return]


@inlined
def share_of(n: float, mean: float, seen: Floats, j: int, shrink: float) -> tuple[float, float]:
    """Return the weights of the second and of the first value of a binary column."""
    weight = max(shrink, LEAST_SHRINK)
    part = min(max(np.float64(mean) / seen[SECOND, j], 0.0), 1.0) * n + weight * seen[SPREAD, j]
    return max(part, SMALLEST), max(n + weight - part, SMALLEST)


@uncounted
def weigh(settings: Floats, table: Floats, counts: Singles, blocks: Singles, t: int, node: int, block: int, k: int,
          first: int, seen: Floats) -> None:  # fmt: skip
    """Write the scales and the number of class k of a leaf, whose scales begin at `first`."""
    classes, m = counts.shape[2], seen.shape[1]
    at, scales, ends = HEAD + k * PARTS * m, first + k * m, first + classes * m
    variances, shrink, logs, product = ends + 2 * classes, settings[SHRINK], 0.0, 1.0
    for j in range(m):
        spread, second, scale = seen[SPREAD, j], seen[SECOND, j], 0.0
        if spread > 0.0:
            n = np.float64(blocks[t, block, at + WEIGHT * m + j])
            mean = np.float64(blocks[t, block, at + MEAN * m + j])
            if second != 0.0:
                other, one = share_of(n, mean, seen, j, shrink)
                share = one / (one + other)
                scale = logarithm(other / one, table) / second
                product *= share * share
            else:
                spread = variance_of(blocks, t, block, variances, j, seen)
                precision = (n + shrink) / (blocks[t, block, at + SQUARES * m + j] + shrink * spread)
                product *= precision
                if n > 0.0:
                    scale = -0.5 * precision
                else:
                    logs -= 1.0
        blocks[t, block, scales + j] = scale
        if j % FACTORS == FACTORS - 1:
            logs += logarithm(product, table)
            product = 1.0
    logs += logarithm(product, table)
    blocks[t, block, ends + k] = logarithm(np.float64(counts[t, node, k]), table) + 0.5 * logs
    blocks[t, block, ends + classes + k] = 1.0


@merged
def learn_scored(
    settings: Floats, table: Floats, counts: Singles, blocks: Singles, choices: Nodes, t: int, node: int, block: int,
    rows: Floats, b: int, seen: Floats, y: int, weight: float,
) -> None:  # fmt: skip
    """Learn a row of class y, whose columns are in `seen`, or in `rows` where a leaf looks at all."""
    classes, m = counts.shape[2], seen.shape[1]
    row = rows[b] if m == rows.shape[2] else seen
    learn_columns(blocks, t, block, row, y, weight)
    first = scales_at(classes, m, choices)
    kept, state = first + classes * m + classes, first + classes * m + 2 * classes + m
    now = math.floor(row[STATE, 0]) if m > 0 else 0.0
    changed = blocks[t, block, state] != now
    blocks[t, block, state] = now
    for k in range(classes):
        if k == y or (changed and blocks[t, block, kept + k] > 0.0):
            weigh(settings, table, counts, blocks, t, node, block, k, first, row)


@uncounted
def quick_score(blocks: Singles, t: int, block: int, means: int, scales: int, seen: Floats) -> float:
    """Return the sum of the scales of a class, each times the squared distance, or the value of a binary column."""
    total = 0.0
    for j in range(seen.shape[1]):
        v = seen[VALUE, j]
        away = v - blocks[t, block, means + j]
        total += (v if seen[SECOND, j] != 0.0 else away * away) * blocks[t, block, scales + j]
    return total


@uncounted
def full_score(
    settings: Floats, counts: Singles, blocks: Singles, t: int, node: int, block: int, k: int, variances: int,
    seen: Floats,
) -> float:  # fmt: skip
    """Return the logarithm of the share of class k and of its density, of all values that are not missing."""
    m = seen.shape[1]
    at, shrink = HEAD + k * PARTS * m, settings[SHRINK]
    squares, logs, product = 0.0, 0.0, 1.0
    for j in range(m):
        v, spread, second = seen[VALUE, j], seen[SPREAD, j], seen[SECOND, j]
        if not math.isnan(v) and spread > 0.0:
            n = np.float64(blocks[t, block, at + WEIGHT * m + j])
            mean = np.float64(blocks[t, block, at + MEAN * m + j])
            if second != 0.0:
                other, one = share_of(n, mean, seen, j, shrink)
                share = (other if v == second else one) / (one + other)
                product *= share * share
            else:
                spread = variance_of(blocks, t, block, variances, j, seen)
                precision = (n + shrink) / (blocks[t, block, at + SQUARES * m + j] + shrink * spread)
                squares += (v - mean) * (v - mean) * precision if n > 0.0 else 1.0
                product *= precision
        if j % FACTORS == FACTORS - 1:
            logs += math.log(product)
            product = 1.0
    return math.log(np.float64(counts[t, node, k])) + 0.5 * (logs + math.log(product) - squares)


@uncounted
def predict_scored_leaf(
    settings: Floats, t: int, nodes: Nodes, counts: Singles, blocks: Singles, choices: Nodes, node: int,
    rows: Floats, b: int, indices: Nodes, values: Singles, low: int, high: int, seen: Floats, p: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Do as `everlearn.families.trees.leaves.predict_leaf`, by kept scores."""
    classes, left, m = p.shape[1], nodes[t, node, LEFT], seen.shape[1]
    total = 0.0
    for k in range(classes):
        total += counts[t, node, k]
    for k in range(classes):
        p[0, k] = counts[t, node, k] / total if total > 0.0 else 1.0 / classes
    majority = largest(p, 0)
    if left == INACTIVE:
        return majority, majority
    block = -1 - left
    whole = m == rows.shape[2]
    if not whole:
        gather(rows, b, choices, t, block, seen)
    row = rows[b] if whole else seen
    first = scales_at(classes, m, choices)
    ends = first + classes * m
    quick = m == 0 or row[STATE, 0] == blocks[t, block, ends + 2 * classes + m]
    known = 0
    for k in range(classes):
        p[1, k] = -math.inf
        if blocks[t, block, ends + classes + k] > 0.0:
            known += 1
            if quick:
                means = HEAD + k * PARTS * m + MEAN * m
                p[1, k] = blocks[t, block, ends + k] + quick_score(blocks, t, block, means, first + k * m, row)
            else:
                p[1, k] = full_score(settings, counts, blocks, t, node, block, k, ends + 2 * classes, row)
    if known == 0:
        return majority, majority
    if high > low:
        entry_likelihood(settings, counts, blocks, choices, t, node, block, m, indices, values, low, high, p)
    guess = largest(p, 1)
    if blocks[t, block, BAYES_RIGHT] >= blocks[t, block, MAJORITY_RIGHT]:
        highest, total, share = p[1, guess], 0.0, 0.0
        for k in range(classes):
            if p[1, k] > -math.inf:
                away = p[1, k] - highest
                share += p[0, k]
                p[0, k] = math.exp(away) if away > FURTHEST else 0.0
                total += p[0, k]
        for k in range(classes):
            if p[1, k] > -math.inf:
                p[0, k] *= share / total
    return majority, guess


@outlined
def pooled(blocks: Singles, choices: Nodes, t: int, block: int, classes: int, m: int, columns: int) -> Floats:
    """Return the variance within the classes of a leaf that is split, for each column of the stream; 0 if unknown."""
    found = np.zeros(columns)
    variances = scales_at(classes, m, choices) + classes * m + 2 * classes
    for j in range(m):
        squares = np.float64(blocks[t, block, variances + j])
        weight = PARENTAL if squares > 0.0 else 0.0
        for k in range(classes):
            weight += blocks[t, block, HEAD + k * PARTS * m + WEIGHT * m + j]
            squares += blocks[t, block, HEAD + k * PARTS * m + SQUARES * m + j]
        found[choices[t, block, CHOICES + j]] = squares / max(weight, PARENTAL)
    return found


@uncounted
def hand_on(blocks: Singles, choices: Nodes, t: int, block: int, classes: int, m: int, found: Floats) -> None:
    """Give a new leaf the variances of its parent."""
    at = scales_at(classes, m, choices) + classes * m + 2 * classes
    for j in range(m):
        blocks[t, block, at + j] = found[choices[t, block, CHOICES + j]]
