"""Walk to a leaf, and predict there: by the share of its classes or by naive Bayes, whichever was right more often.

Naive Bayes takes a column as normal, with a variance that is drawn towards that of the stream, or as one of two values.
Hashed entries count where they are present. A missing value counts nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, uncounted
from everlearn.families.trees.layout import (
    BAYES_RIGHT,
    CHOICES,
    COLUMN,
    CUT,
    HEAD,
    INACTIVE,
    LEFT,
    MAJORITY_RIGHT,
    MEAN,
    PARTS,
    SECOND,
    SHARE,
    SHRINK,
    SIDE,
    SPREAD,
    SQUARES,
    VALUE,
    WEIGHT,
)
from everlearn.families.trees.observers import find_entry
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

LEAST_SHRINK = 1.0  # rows of the stream's shares in each share of a binary column
FACTORS = 4  # of a product before its logarithm is taken


@uncounted
def walk(
    nodes: Nodes, t: int, root: int, rows: Floats, b: int, indices: Nodes, values: Singles, low: int, high: int
) -> int:
    """Return the leaf of row b of prepared rows, float64 (n, 4, columns), with hashed entries `low` to `high` - 1."""
    node = root
    while True:
        left = nodes[t, node, LEFT]
        if left < 0:
            return node
        column = nodes[t, node, COLUMN]
        if column >= 0:
            v = rows[b, VALUE, column]
            cut = np.int32(nodes[t, node, CUT]).view(np.float32)
            right = nodes[t, node, SIDE] if math.isnan(v) else np.int32(v > cut)
        else:
            right = np.int32(1)
            for e in range(low, high):
                if indices[e] == -1 - column and values[e] != 0.0 and abs(values[e]) < math.inf:
                    right = np.int32(0)
        node = left + right


@inlined
def gather(rows: Floats, b: int, choices: Nodes, t: int, block: int, seen: Floats) -> None:
    """Copy the columns of a leaf from a prepared row."""
    for j in range(seen.shape[1]):
        column = choices[t, block, CHOICES + j]
        seen[VALUE, j] = rows[b, VALUE, column]
        seen[SPREAD, j] = rows[b, SPREAD, column]
        seen[SECOND, j] = rows[b, SECOND, column]


@inlined
def share_factors(n: float, mean: float, seen: Floats, j: int, shrink: float) -> tuple[float, float]:
    """Return the squared share of a binary value, as numerator and denominator."""
    second = np.float64(mean) / seen[SECOND, j]
    weight = max(shrink, LEAST_SHRINK)
    part = min(max(second, 0.0), 1.0) * n + weight * seen[SPREAD, j]
    if seen[VALUE, j] != seen[SECOND, j]:
        part = n + weight - part
    part = max(part, 1e-9)
    return part * part, (n + weight) * (n + weight)


@uncounted
def log_likelihood(blocks: Singles, t: int, block: int, k: int, seen: Floats, shrink: float) -> float:
    """Return the logarithm of the density of a row's columns in class k, less a part that all classes share."""
    m = seen.shape[1]
    at = HEAD + k * PARTS * m
    squares, logs, top, bottom = 0.0, 0.0, 1.0, 1.0
    for j in range(m):
        v, spread = seen[VALUE, j], seen[SPREAD, j]
        if math.isnan(v) or not spread > 0.0:
            continue
        n = np.float64(blocks[t, block, at + WEIGHT * m + j])
        mean = np.float64(blocks[t, block, at + MEAN * m + j])
        if seen[SECOND, j] != 0.0:
            share, whole = share_factors(n, mean, seen, j, shrink)
            top *= whole
            bottom *= share
        else:
            total = blocks[t, block, at + SQUARES * m + j] + shrink * spread
            away = v - mean
            away *= away
            if n == 0.0:
                away = spread
            squares += away * (n + shrink) / total
            top *= total
            bottom *= n + shrink
        if j % FACTORS == FACTORS - 1:
            logs += math.log(top / bottom)
            top = bottom = 1.0
    return -0.5 * (squares + logs + math.log(top / bottom))


@uncounted
def entry_likelihood(
    settings: Floats, counts: Singles, blocks: Singles, choices: Nodes, t: int, node: int, block: int, m: int,
    indices: Nodes, values: Singles, low: int, high: int, p: Floats,
) -> None:  # fmt: skip
    """Add the logarithms of the shares of hashed entries in each class to row 1 of `p`."""
    classes = counts.shape[2]
    first, at = CHOICES + m, HEAD + PARTS * classes * m
    entries = choices.shape[2] - first
    for e in range(low, high):
        place = find_entry(choices, t, block, first, int(indices[e]), values[e], settings[SHARE])
        if place < 0:
            continue
        for k in range(classes):
            part = np.float64(blocks[t, block, at + entries + place * classes + k])
            p[1, k] += math.log((part + 0.5) / (max(np.float64(counts[t, node, k]), part) + 1.0))


@inlined
def largest(p: Floats, row: int) -> int:
    """Return the first of the largest numbers of a row."""
    best = 0
    for k in range(1, p.shape[1]):
        if p[row, k] > p[row, best]:
            best = k
    return best


@uncounted
def predict_leaf(
    settings: Floats, t: int, nodes: Nodes, counts: Singles, blocks: Singles, choices: Nodes, node: int,
    rows: Floats, b: int, indices: Nodes, values: Singles, low: int, high: int, seen: Floats, p: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Write the probabilities of a leaf to row 0 of `p`; return what its majority and naive Bayes predict.

    Row 1 of `p`, float64 (2, classes), is used for those of naive Bayes.
    """
    classes, left = p.shape[1], nodes[t, node, LEFT]
    total = 0.0
    for k in range(classes):
        total += counts[t, node, k]
    for k in range(classes):
        p[0, k] = counts[t, node, k] / total if total > 0.0 else 1.0 / classes
    majority = largest(p, 0)
    if left == INACTIVE:
        return majority, majority
    block = -1 - left
    gather(rows, b, choices, t, block, seen)
    if total <= 0.0:
        return majority, majority
    for k in range(classes):
        n = np.float64(counts[t, node, k])
        p[1, k] = math.log(n) + log_likelihood(blocks, t, block, k, seen, settings[SHRINK]) if n > 0.0 else -math.inf
    if high > low:
        m = seen.shape[1]
        entry_likelihood(settings, counts, blocks, choices, t, node, block, m, indices, values, low, high, p)
    guess = largest(p, 1)
    if blocks[t, block, BAYES_RIGHT] >= blocks[t, block, MAJORITY_RIGHT]:
        highest, total = p[1, guess], 0.0
        for k in range(classes):
            p[0, k] = math.exp(p[1, k] - highest)
            total += p[0, k]
        for k in range(classes):
            p[0, k] /= total
    return majority, guess
