"""Products of hashed entries: each pair in a row becomes an entry of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.families.linear.inline_kernel import part
from everlearn.records import Batch, Ints, Singles

MOST = 64  # entries of a row that are paired: the first ones; it bounds the work a row can ask for


@part
def _mixed(low: int, high: int, hashed: int) -> int:
    """One index for an unordered pair (the finaliser of splitmix64, Steele et al. 2014)."""
    z = np.uint64(low) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(high)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))) % np.uint64(hashed))


@exact_kernel
def _fill(
    hashed: int, indptr: Ints, indices: Any, values: Singles, starts: Ints, to_indices: Any, to_values: Singles
) -> None:
    for i in range(len(indptr) - 1):
        first, end, at = indptr[i], indptr[i + 1], starts[i]
        for e in range(first, end):
            to_indices[at] = indices[e]
            to_values[at] = values[e]
            at += 1
        stop = min(end, first + MOST)
        for e in range(first, stop):
            for f in range(e + 1, stop):
                one, two = indices[e], indices[f]
                product = values[e] * values[f]
                to_indices[at] = _mixed(min(one, two), max(one, two), hashed)
                to_values[at] = product if abs(product) < math.inf else np.nan
                at += 1


def crossed(batch: Batch, hashed: int) -> Batch:
    """The batch with, after each row's entries, the products of all pairs of its first 64.

    A batch whose `indptr` is wrong comes back as it is, for the model to refuse.

    >>> entries = np.arange(3, dtype=np.int32), np.ones(3, np.float32)
    >>> len(crossed(Batch(np.zeros((1, 0), np.float32), np.array([0, 3]), *entries), 1024).indices)
    6
    """
    lengths = np.diff(batch.indptr)
    entries = min(len(batch.indices), len(batch.values))
    if len(batch) < 1 or batch.indptr[0] < 0 or batch.indptr[-1] > entries or lengths.min() < 0:
        return batch
    paired = np.minimum(lengths, MOST)
    starts = np.zeros(len(batch) + 1, np.int64)
    np.cumsum(lengths + paired * (paired - 1) // 2, out=starts[1:])
    indices = np.empty(starts[-1], np.int32)
    values = np.empty(starts[-1], np.float32)
    _fill(hashed, batch.indptr, batch.indices, batch.values, starts, indices, values)
    return Batch(batch.dense, starts, indices, values)
