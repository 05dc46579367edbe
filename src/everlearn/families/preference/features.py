"""Features of answers for the reward model: frozen hidden states, whitened by the first answers that were judged.

Which directions answers differ in is known only once answers come. So the first answers are kept as they are, and the
map is made again whenever their number has doubled, up to 256. Before a policy moves for the first time, `settle` makes
the map from many answers of the reference, and then it stays: answers of a policy that has begun to concentrate differ
in few directions.

    mapping, centre   the map, as `reward.whiten` makes it; 0 before the first pair
    learn/kept        the first answers, float32 (2, 128, D): the first and the second ones; 0 where there is no second
    learn/pairs       the number of labels so far, of pairs and of single answers, int64 (1,)
"""

from __future__ import annotations

import numpy as np

from everlearn.families.preference import reward
from everlearn.records import Arrays, Ints, Singles

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


def add(arrays: Arrays, first: Singles, second: Singles | None, whitening: float = 1.0) -> bool:
    """Take note of a label's raw features, (D,) each, in place; return True if that made the map again.

    To be called once for each label that the reward model learns, so that both number labels alike. `second` is None
    where a single answer was rated. `whitening` is that of `reward.whiten`.

    >>> arrays, x = start(2, 2), np.eye(2, dtype=np.float32)
    >>> [add(arrays, x[0], x[1]) for _ in range(4)]
    [True, True, False, True]
    """
    n = int(arrays[PAIRS][0])
    arrays[PAIRS] += 1
    if n >= KEPT:
        return False
    arrays[KEPT_ANSWERS][0, n] = first
    arrays[KEPT_ANSWERS][1, n] = 0.0 if second is None else second
    n += 1
    if n & (n - 1):
        return False
    answers = _answers(arrays)
    if len(answers) > 1:  # else one single answer: there are no directions yet
        _make(arrays, answers, whitening)
    return len(answers) > 1


def kept(arrays: Arrays, labels: Ints) -> tuple[Singles, Singles]:
    """Return the mapped features of the first and the second answers of some labels, (n, width) each, by their numbers.

    Those of a second answer that is missing are 0.

    >>> arrays = start(2, 2)
    >>> added = [add(arrays, np.float32([1, at]), None if at else np.float32([2, 0])) for at in range(2)]
    >>> [half.any(1).tolist() for half in kept(arrays, np.array([1, 0]))]
    [[True, True], [False, True]]
    """
    first, second = arrays[KEPT_ANSWERS][:, labels]
    found = mapped(arrays, second)
    found[~second.any(1)] = 0.0
    return mapped(arrays, first), found


def settle(arrays: Arrays, answers: Singles, whitening: float = 1.0) -> None:
    """Make the map for the last time, in place, from kept answers and others with raw features (n, D).

    >>> arrays = start(2, 2)
    >>> settle(arrays, np.float32([[0, 1], [1, 0], [1, 1]]))
    >>> settled(arrays), add(arrays, np.float32([1, 2]), np.float32([2, 1]))
    (True, False)
    """
    _make(arrays, np.concatenate([_answers(arrays), answers]), whitening)
    arrays[PAIRS][:] = KEPT


def settled(arrays: Arrays) -> bool:
    """Return True if the map stays as it is."""
    return bool(arrays[PAIRS][0] >= KEPT)


def _answers(arrays: Arrays) -> Singles:
    """Return the raw features of all answers that are kept, (n, D)."""
    held = arrays[KEPT_ANSWERS]
    found = held[:, : int(arrays[PAIRS][0])].reshape(-1, held.shape[2])
    return np.asarray(found[found.any(1)])


def _make(arrays: Arrays, answers: Singles, whitening: float) -> None:
    found = reward.whiten(answers, arrays["mapping"].shape[1], whitening)
    arrays["centre"][:], arrays["mapping"][:] = found["centre"], found["mapping"]
