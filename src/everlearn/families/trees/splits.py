"""Find the best split of a leaf, and split it (Domingos & Hulten 2000, "Mining high-speed data streams").

A numeric column is tried at ten thresholds between its lowest and its highest value; its classes are taken as normal.
A binary column and a hashed entry have one split, and their counts are exact. The gain of a split is that of
information, over the rows whose value is known, times their share.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, uncounted
from everlearn.families.trees.layout import (
    CHOICES,
    HEAD,
    HIGHEST,
    LOWEST,
    MEAN,
    PARTS,
    SQUARES,
    WEIGHT,
)
from everlearn.families.trees.observers import EMPTY
from everlearn.families.trees.tables import information, normal
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

THRESHOLDS = 10
ENTROPY_ERROR = 1e-5  # bits; more than tables and sums round
LEAST_BRANCH = 0.01  # share of the rows that the smaller branch has at least
GAIN, SECOND_GAIN, WHERE, AT = range(4)  # of the best split: gains, column (-1 less a hashed index) and threshold
BEST = 4  # numbers


@inlined
def gain(left: Floats, whole: Floats, kinds: int, entropy: float, total: float, table: Floats) -> float:
    """Return the gain of a split of the first `kinds` classes, in bits a row; -1 if a branch is too small."""
    lefts = rights = 0.0
    parts = 0.0
    for k in range(kinds):
        right = whole[k] - left[k]
        lefts += left[k]
        rights += right
        parts -= information(left[k], table) + information(right, table)
    if min(lefts, rights) < LEAST_BRANCH * total:
        return -1.0
    parts += information(lefts, table) + information(rights, table)
    return (entropy - parts) / total


@inlined
def remember(best: Floats, found: float, column: int, cut: float) -> None:
    """Keep the best split of a column if it is the best so far, or its gain if it is the second."""
    if found > best[GAIN]:
        best[SECOND_GAIN] = best[GAIN]
        best[GAIN], best[WHERE], best[AT] = found, column, cut
    elif found > best[SECOND_GAIN]:
        best[SECOND_GAIN] = found


@inlined
def summarize(blocks: Singles, t: int, block: int, k: int, m: int, j: int, normals: Floats, place: int) -> None:
    """Write the five numbers of class k of a column to a place of `normals`, with 1 / deviation for the squares."""
    at = HEAD + k * PARTS * m + j
    for part in range(PARTS):
        normals[part, place] = blocks[t, block, at + part * m]
    squares = normals[SQUARES, place]
    normals[SQUARES, place] = math.sqrt(normals[WEIGHT, place] / squares) if squares > 0.0 else 0.0


@inlined
def below(normals: Floats, place: int, second: float, cut: float, table: Floats) -> float:
    """Return the weight at most at the threshold of the class at a place of `normals`."""
    n, mean, scale = normals[WEIGHT, place], normals[MEAN, place], normals[SQUARES, place]
    if n <= 0.0:
        return 0.0
    if second != 0.0:
        part = min(max(mean / second, 0.0), 1.0) * n
        return part if second < 0.0 else n - part  # type: ignore[no-any-return]
    if cut < normals[LOWEST, place]:
        return 0.0
    if cut >= normals[HIGHEST, place]:
        return n  # type: ignore[no-any-return]
    if scale == 0.0:
        return n if mean <= cut else 0.0
    return n * normal((cut - mean) * scale, table)  # type: ignore[no-any-return]


@inlined
def entropy_of(whole: Floats, kinds: int, table: Floats) -> tuple[float, float]:
    """Return the entropy of the weights of the first `kinds` classes, times their sum, and the sum."""
    total = 0.0
    parts = 0.0
    for k in range(kinds):
        total += whole[k]
        parts += information(whole[k], table)
    return information(total, table) - parts, total


@uncounted
def may_gain(
    counts: Singles, blocks: Singles, choices: Nodes, t: int, node: int, block: int, m: int, known: float,
    whole: Floats, least: float, table: Floats,
) -> bool:  # fmt: skip
    """Return False if no split of a leaf can gain `least`, since its classes have less entropy than that."""
    classes = len(whole)
    for j in range(m):
        same = j > 0
        for k in range(classes):
            weight = np.float64(blocks[t, block, HEAD + k * PARTS * m + WEIGHT * m + j])
            same = same and weight == whole[k]
            whole[k] = weight
        if not same:
            entropy, total = entropy_of(whole, classes, table)
            if entropy * min(1.0, total / known) > (least - ENTROPY_ERROR) * total:
                return True
    if choices.shape[2] == CHOICES + m:
        return False
    for k in range(classes):
        whole[k] = counts[t, node, k]
    entropy, total = entropy_of(whole, classes, table)
    return entropy > (least - ENTROPY_ERROR) * total


@uncounted
def try_column(
    blocks: Singles, t: int, block: int, m: int, j: int, second: float, column: int, known: float, best: Floats,
    normals: Floats, whole: Floats, left: Floats, table: Floats,
) -> None:  # fmt: skip
    """Try all thresholds of the column at place j of a leaf; `known` is the weight of all rows of the leaf."""
    lowest, highest, kinds = math.inf, -math.inf, 0
    for k in range(len(whole)):
        if blocks[t, block, HEAD + k * PARTS * m + WEIGHT * m + j] > 0.0:
            summarize(blocks, t, block, k, m, j, normals, kinds)
            whole[kinds] = normals[WEIGHT, kinds]
            lowest = min(lowest, normals[LOWEST, kinds])
            highest = max(highest, normals[HIGHEST, kinds])
            kinds += 1
    if not lowest < highest:
        return
    entropy, total = entropy_of(whole, kinds, table)
    share = min(total / known, 1.0)
    most, where = -1.0, 0.0
    for i in range(1 if second != 0.0 else THRESHOLDS):
        cut = 0.5 * second if second != 0.0 else lowest + (highest - lowest) * ((i + 1) / (THRESHOLDS + 1))
        cut = np.float64(np.float32(cut))
        for k in range(kinds):
            left[k] = below(normals, k, second, cut, table)
        found = gain(left, whole, kinds, entropy, total, table) * share
        if found > most:
            most, where = found, cut
    remember(best, most, column, where)


@uncounted
def try_entries(
    counts: Singles, blocks: Singles, choices: Nodes, t: int, node: int, block: int, m: int, best: Floats,
    whole: Floats, left: Floats, table: Floats,
) -> None:  # fmt: skip
    """Try the presence of each hashed entry of a leaf."""
    classes = len(whole)
    first, at = CHOICES + m, HEAD + PARTS * classes * m
    entries = choices.shape[2] - first
    for k in range(classes):
        whole[k] = counts[t, node, k]
    entropy, total = entropy_of(whole, classes, table)
    for place in range(entries):
        if choices[t, block, first + place] == EMPTY:
            continue
        for k in range(classes):
            left[k] = min(np.float64(blocks[t, block, at + entries + place * classes + k]), whole[k])
        remember(best, gain(left, whole, classes, entropy, total, table), -1 - choices[t, block, first + place], 0.0)


@uncounted
def divide(
    counts: Singles, blocks: Singles, choices: Nodes, t: int, node: int, block: int, m: int, second: float,
    best: Floats, normals: Floats, left: Floats, table: Floats,
) -> None:  # fmt: skip
    """Write the weight of each class in the left branch of the best split, missing values by their class's shares."""
    column, classes = int(best[WHERE]), len(left)
    first, at = CHOICES + m, HEAD + PARTS * classes * m
    entries = choices.shape[2] - first
    for place in range(entries if column < 0 else 0):
        if choices[t, block, first + place] == -1 - column:
            for k in range(classes):
                part = np.float64(blocks[t, block, at + entries + place * classes + k])
                left[k] = min(part, np.float64(counts[t, node, k]))
    for j in range(m if column >= 0 else 0):
        if choices[t, block, CHOICES + j] == column:
            for k in range(classes):
                summarize(blocks, t, block, k, m, j, normals, k)
                under, n = below(normals, k, second, best[AT], table), normals[WEIGHT, k]
                left[k] = counts[t, node, k] * (under / n) if n > 0.0 else 0.0
