"""Rows of pairs, as `everlearn.schema.pairs` lays them out, read back into prompts, answers and numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.families.preference import first_come
from everlearn.records import Batch, Floats, Ints
from everlearn.schema import pairs as columns

Tokens = NDArray[np.int32]
GOLD = columns.ARMS.index("gold")


class PairRows(NamedTuple):
    """n pairs of answers: their tokens, and the columns of their rows.

    `who`, `kind` and `group` are digests, int64 (n,), 0 for none; those of trusted sources have kind 0. `arm` is an
    index in `schema.pairs.ARMS`. `side` is 1 where the first answer was shown on the left, else -1. `reference` holds
    the summed log-probabilities of both answers, float32 (n, 2), NaN where unknown.
    """

    prompts: list[Tokens]
    first: list[Tokens]
    second: list[Tokens]
    who: Ints
    kind: Ints
    group: Ints
    arm: Ints
    side: Floats
    trusted: NDArray[np.bool_]
    reference: NDArray[np.float32]


def read(batch: Batch) -> PairRows:
    """Return the pairs of n rows.

    >>> dense = np.zeros((1, 14), np.float32)
    >>> dense[0, :3] = 1, 2, 1
    >>> batch = Batch(dense, np.array([0, 4]), np.int32([5, 7, 2, 8]), np.zeros(4, np.float32))
    >>> [part[0].tolist() for part in read(batch)[:3]]
    [[5], [7, 2], [8]]
    """
    dense = batch.dense
    parts: tuple[list[Tokens], list[Tokens], list[Tokens]] = ([], [], [])
    for row, start in enumerate(batch.indptr[:-1].tolist()):
        for part, length in zip(parts, dense[row, : columns.SECOND + 1].astype(int).tolist(), strict=True):
            part.append(batch.indices[start : start + length])
            start += length
    trusted = dense[:, columns.TRUSTED] > 0
    kind = dense[:, columns.KIND].astype(np.int64)
    return PairRows(
        *parts,
        who=first_come.joined(dense[:, columns.WHO_LOW], dense[:, columns.WHO_HIGH]),
        kind=np.where(trusted, 0, kind),
        group=dense[:, columns.GROUP].astype(np.int64),
        arm=dense[:, columns.ARM].astype(np.int64),
        side=1.0 - 2.0 * dense[:, columns.SWAPPED].astype(np.float64),
        trusted=trusted,
        reference=dense[:, [columns.REF_FIRST, columns.REF_SECOND]],
    )
