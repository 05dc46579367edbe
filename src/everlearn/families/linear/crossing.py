"""Products of hashed entries, for stored models with `interactions` "hashed" or "all" (retired settings)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from everlearn._jit import exact_kernel, inlined
from everlearn.records import Batch, Ints, Singles

PAIRED_ENTRIES = 64  # the first entries of a row, which are paired; this bounds the work of a row


@inlined
def _pair_index(low: int, high: int, hashed: int) -> int:
    """Return the index of an unordered pair (the finaliser of splitmix64, Steele et al. 2014)."""
    z = np.uint64(low) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(high)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))) % np.uint64(hashed))


@exact_kernel
def _append_pairs(
    hashed: int, indptr: Ints, indices: Any, values: Singles, starts: Ints, to_indices: Any, to_values: Singles
) -> None:
    for i in range(len(indptr) - 1):
        first, end, at = indptr[i], indptr[i + 1], starts[i]
        for e in range(first, end):
            to_indices[at] = indices[e]
            to_values[at] = values[e]
            at += 1
        stop = min(end, first + PAIRED_ENTRIES)
        for e in range(first, stop):
            for f in range(e + 1, stop):
                left, right = indices[e], indices[f]
                product = values[e] * values[f]
                to_indices[at] = _pair_index(min(left, right), max(left, right), hashed)
                to_values[at] = product if abs(product) < math.inf else np.nan
                at += 1


def crossed(batch: Batch, hashed: int) -> Batch:
    """Return the batch with the products of all pairs of the first 64 entries of each row after its entries.

    A batch with a wrong `indptr` is returned unchanged; the model then refuses it.

    >>> entries = np.arange(3, dtype=np.int32), np.ones(3, np.float32)
    >>> len(crossed(Batch(np.zeros((1, 0), np.float32), np.array([0, 3]), *entries), 1024).indices)
    6
    """
    lengths = np.diff(batch.indptr)
    entries = min(len(batch.indices), len(batch.values))
    if len(batch) < 1 or batch.indptr[0] < 0 or batch.indptr[-1] > entries or lengths.min() < 0:
        return batch
    paired = np.minimum(lengths, PAIRED_ENTRIES)
    starts = np.zeros(len(batch) + 1, np.int64)
    np.cumsum(lengths + paired * (paired - 1) // 2, out=starts[1:])
    indices = np.empty(starts[-1], np.int32)
    values = np.empty(starts[-1], np.float32)
    _append_pairs(hashed, batch.indptr, batch.indices, batch.values, starts, indices, values)
    return Batch(batch.dense, starts, indices, values)
