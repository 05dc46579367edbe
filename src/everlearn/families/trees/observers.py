"""The observers of a leaf: what it knows of each class and column, and of hashed entries.

A column has five numbers for each class: weight of known values, mean, sum of squared deviations, lowest and highest.
Hashed entries lie in a table of buckets of four. A new entry takes the place of the lightest of its bucket once that
has lost as much weight as it had (Misra & Gries 1982, "Finding repeated elements"), so that frequent entries stay.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._random import uniform
from everlearn.families.kernel_parts import inlined, uncounted
from everlearn.families.trees.layout import (
    CHOICES,
    HEAD,
    HIGHEST,
    KEY,
    LOWEST,
    MEAN,
    PARTS,
    SHARE,
    SQUARES,
    VALUE,
    WAYS,
    WEIGHT,
)
from everlearn.records import Floats, Singles

LARGEST_SQUARES = 1e37  # float32
Nodes = NDArray[np.int32]

EMPTY = -1  # an entry of a table that is free


@uncounted
def learn_columns(blocks: Singles, t: int, block: int, seen: Floats, y: int, weight: float) -> None:
    """Add the columns of a row, float64 (3, m) as prepared, to those of class y (Welford 1962, weighted)."""
    m = seen.shape[1]
    at = HEAD + y * PARTS * m
    for j in range(m):
        v = seen[VALUE, j]
        if math.isnan(v):
            continue
        n = blocks[t, block, at + WEIGHT * m + j] + weight
        mean = np.float64(blocks[t, block, at + MEAN * m + j])
        away = v - mean
        mean += away * weight / n
        blocks[t, block, at + WEIGHT * m + j] = n
        blocks[t, block, at + MEAN * m + j] = mean
        squares = blocks[t, block, at + SQUARES * m + j] + weight * away * (v - mean)
        blocks[t, block, at + SQUARES * m + j] = min(squares, LARGEST_SQUARES)
        if n == weight:
            blocks[t, block, at + LOWEST * m + j] = v
            blocks[t, block, at + HIGHEST * m + j] = v
        elif v < blocks[t, block, at + LOWEST * m + j]:
            blocks[t, block, at + LOWEST * m + j] = v
        elif v > blocks[t, block, at + HIGHEST * m + j]:
            blocks[t, block, at + HIGHEST * m + j] = v


@inlined
def is_drawn(share: float, key: int, index: int) -> bool:
    """Return True if the leaf with this key looks at a hashed index."""
    return share >= 1.0 or uniform(0x4A5D, key, index) < share


@inlined
def bucket_of(entries: int, index: int) -> int:
    """Return the first place of the bucket of a hashed index."""
    return (index * 40503 >> 4) % (entries // WAYS) * WAYS


@uncounted
def find_entry(choices: Nodes, t: int, block: int, first: int, index: int, value: float, share: float) -> int:
    """Return the place of a hashed index in the table of a leaf; -1 if not there, -2 if the leaf does not look at it.

    An entry counts as present if its value is not 0.
    """
    if value == 0.0 or not abs(value) < math.inf or not is_drawn(share, choices[t, block, KEY], index):
        return -2
    bucket = bucket_of(choices.shape[2] - first, index)
    for way in range(bucket, bucket + WAYS):
        if choices[t, block, first + way] == index:
            return way
    return -1


@uncounted
def claim_entry(
    settings: Floats, blocks: Singles, choices: Nodes, t: int, block: int, first: int, at: int, sums: int, index: int,
    value: float, weight: float,
) -> int:  # fmt: skip
    """Return the place of a hashed index in the table of a leaf, with its weight counted; -1 if there is none.

    The table begins at `first` in the choices and at `at` in the block: a weight for each entry, then `sums` numbers
    for each, which are cleared where the entry is new.
    """
    entries = choices.shape[2] - first
    place = find_entry(choices, t, block, first, index, value, settings[SHARE])
    if place == -2:
        return -1
    if place < 0:
        place = bucket_of(entries, index)
        for way in range(place, place + WAYS):
            if blocks[t, block, at + way] < blocks[t, block, at + place]:
                place = way
        blocks[t, block, at + place] -= np.float32(weight)
        if choices[t, block, first + place] != EMPTY and blocks[t, block, at + place] > 0.0:
            return -1
        choices[t, block, first + place] = index
        blocks[t, block, at + place] = 0.0
        for k in range(sums):
            blocks[t, block, at + entries + place * sums + k] = 0.0
    blocks[t, block, at + place] += np.float32(weight)
    return place


@uncounted
def learn_entries(
    settings: Floats, blocks: Singles, choices: Nodes, t: int, block: int, m: int, classes: int, indices: Nodes,
    values: Singles, low: int, high: int, y: int, weight: float,
) -> None:  # fmt: skip
    """Add the hashed entries `low` to `high` - 1 of a row to those of class y."""
    first, at = CHOICES + m, HEAD + PARTS * classes * m
    entries = choices.shape[2] - first
    for e in range(low, high):
        index = int(indices[e])
        place = claim_entry(settings, blocks, choices, t, block, first, at, classes, index, values[e], weight)
        if place >= 0:
            blocks[t, block, at + entries + place * classes + y] += np.float32(weight)


@uncounted
def halve(counts: Singles, blocks: Singles, t: int, node: int, block: int, m: int, end: int) -> None:
    """Halve all weights of a leaf, in the first `end` numbers of its block: a float32 counts exactly in a range."""
    half, classes = np.float32(0.5), counts.shape[2]
    for k in range(classes):
        counts[t, node, k] *= half
        at = HEAD + k * PARTS * m
        for j in range(m):
            blocks[t, block, at + WEIGHT * m + j] *= half
            blocks[t, block, at + SQUARES * m + j] *= half
    for i in range(HEAD):
        blocks[t, block, i] *= half
    for i in range(HEAD + PARTS * classes * m, end):
        blocks[t, block, i] *= half
