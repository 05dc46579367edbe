"""Features of answers for the reward model: frozen hidden states, whitened by the first answers that were judged.

Which directions answers differ in is known only once answers come. So the first answers are kept as they are, and the
map is made again whenever their number has doubled, up to 256. Before a policy moves for the first time, `settle` makes
the map from many answers of the reference, and then it stays: answers of a policy that has begun to concentrate differ
in few directions.

    mapping, centre   the map, as `reward.whiten` makes it; 0 before the first pair
    learn/kept        the first answers, float32 (2, 128, D): the first and the second ones
    learn/pairs       the number of pairs so far, int64 (1,)
"""

from __future__ import annotations

import numpy as np

from everlearn.families.preference import reward
from everlearn.records import Arrays, Singles

KEPT = 128  # pairs whose answers make the map
KEPT_ANSWERS, PAIRS = "learn/kept", "learn/pairs"


def start(raw: int, width: int) -> Arrays:
    """Return the arrays of a map from `raw` features to at most `width`, before any answer.

    >>> {name: array.shape for name, array in start(9, 4).items()}
    {'centre': (9,), 'mapping': (9, 4), 'learn/kept': (2, 128, 9), 'learn/pairs': (1,)}
    """
    return {
        "centre": np.zeros(raw, np.float32),
        "mapping": np.zeros((raw, min(width, raw)), np.float32),
        KEPT_ANSWERS: np.zeros((2, KEPT, raw), np.float32),
        PAIRS: np.zeros(1, np.int64),
    }


def mapped(arrays: Arrays, raw: Singles) -> Singles:
    """Return the features of answers, float32 (n, width), of raw ones, (n, D)."""
    return reward.whitened(arrays, raw)


def add(arrays: Arrays, first: Singles, second: Singles, whitening: float = 1.0) -> bool:
    """Take note of a pair's raw features, (D,) each, in place; return True if that made the map again.

    `whitening` is that of `reward.whiten`.

    >>> arrays, x = start(2, 2), np.eye(2, dtype=np.float32)
    >>> [add(arrays, x[0], x[1]) for _ in range(4)]
    [True, True, False, True]
    """
    n = int(arrays[PAIRS][0])
    arrays[PAIRS] += 1
    if n >= KEPT:
        return False
    arrays[KEPT_ANSWERS][0, n], arrays[KEPT_ANSWERS][1, n] = first, second
    n += 1
    if n & (n - 1):
        return False
    _make(arrays, arrays[KEPT_ANSWERS][:, :n].reshape(2 * n, -1), whitening)
    return True


def settle(arrays: Arrays, answers: Singles, whitening: float = 1.0) -> None:
    """Make the map for the last time, in place, from kept answers and others with raw features (n, D).

    >>> arrays = start(2, 2)
    >>> settle(arrays, np.float32([[0, 1], [1, 0], [1, 1]]))
    >>> settled(arrays), add(arrays, np.float32([1, 2]), np.float32([2, 1]))
    (True, False)
    """
    kept = arrays[KEPT_ANSWERS][:, : int(arrays[PAIRS][0])].reshape(-1, answers.shape[1])
    _make(arrays, np.concatenate([kept, answers]), whitening)
    arrays[PAIRS][:] = KEPT


def settled(arrays: Arrays) -> bool:
    """Return True if the map stays as it is."""
    return bool(arrays[PAIRS][0] >= KEPT)


def _make(arrays: Arrays, answers: Singles, whitening: float) -> None:
    found = reward.whiten(answers, arrays["mapping"].shape[1], whitening)
    arrays["centre"][:], arrays["mapping"][:] = found["centre"], found["mapping"]
