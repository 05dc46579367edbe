"""Rows of pairs, as `everlearn.schema.pairs` lays them out, read back into prompts, answers and numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.families.preference import first_come
from everlearn.records import Batch, Floats, Ints
from everlearn.schema import pairs as columns

Tokens = NDArray[np.int32]
RANDOM, ACTIVE, GOLD, AGAIN, REPEAT = (
    columns.ARMS.index(name) for name in ("random", "active", "gold", "again", "repeat")
)


class PairRows(NamedTuple):
    """n pairs of answers: their tokens, and the columns of their rows.

    `who`, `kind` and `group` are digests, int64 (n,), 0 for none; those of trusted sources have kind 0. `arm` is an
    index in `schema.pairs.ARMS`, or UNASKED. `side` is 1 where the first answer was shown on the left, else -1.
    `reference` holds the summed log-probabilities of both answers, float32 (n, 2), NaN where unknown. `seconds` is the
    time that the annotator took (0: unknown), and `before` the place of the answer that the annotator preferred earlier
    (-1: none).
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
    seconds: Floats
    before: Ints


def faults(batch: Batch, vocabulary: int) -> dict[int, str]:
    """Return the rows that are no pairs of tokens below `vocabulary`, with the reasons.

    >>> faults(Batch(np.zeros((1, 16), np.float32), np.array([0, 1]), np.int32([5]), np.zeros(1, np.float32)), 9)
    {0: 'got lengths of 0, 0 and 0 for 1 tokens; expected a prompt, and lengths that add up'}
    """
    found: dict[int, str] = {}
    for row in range(len(batch)):
        dense, ids = batch.dense[row], batch.indices[batch.indptr[row] : batch.indptr[row + 1]]
        lengths = dense[: columns.SECOND + 1]
        known = np.delete(dense, [columns.REF_FIRST, columns.REF_SECOND])
        if not np.isfinite(known).all() or (known < 0).any() or dense[columns.SWAPPED] > 1:
            found[row] = f"got the columns {dense.tolist()}; expected those of everlearn.schema.pairs"
        elif lengths[0] < 1 or lengths.astype(np.float64).sum() != len(ids) or (lengths % 1 != 0).any():
            shown = "{:g}, {:g} and {:g}".format(*lengths.tolist())
            found[row] = f"got lengths of {shown} for {len(ids)} tokens; expected a prompt, and lengths that add up"
        elif not 0 <= ids.min() <= ids.max() < vocabulary:
            found[row] = f"got tokens from {ids.min()} to {ids.max()}; expected ids from 0 to {vocabulary - 1}"
    return found


def read(batch: Batch) -> PairRows:
    """Return the pairs of n rows, which have no faults.

    >>> dense = np.zeros((1, 16), np.float32)
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
        seconds=dense[:, columns.SECONDS].astype(np.float64),
        before=dense[:, columns.BEFORE].astype(np.int64) - 1,
    )
