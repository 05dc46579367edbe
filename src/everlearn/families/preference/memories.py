"""What a policy learns from between labels: rings of the newest prompts, and of the newest judged pairs.

Both have a fixed size. A prompt that is judged again moves to the newest place.
"""

from __future__ import annotations

import numpy as np

from everlearn.families.preference.methods import TokenPairs
from everlearn.families.preference.pair_rows import PairRows, Tokens
from everlearn.records import Arrays

GROUP, SIZE, STAMP = range(3)  # columns of "prompts": the number of the group, of tokens, and of the label


def prompts(capacity: int, width: int) -> Arrays:
    """Return the arrays of a pool of `capacity` prompts of at most `width` tokens.

    >>> sorted(prompts(4, 8))
    ['ids', 'prompts']
    """
    return {"ids": np.zeros((capacity, width), np.int32), "prompts": np.zeros((capacity, 3), np.int64)}


def add_prompt(arrays: Arrays, ids: Tokens, group: int, stamp: int) -> None:
    """Put a prompt in, in place of itself or of the oldest one; `stamp` is the number of the label, from 1.

    >>> pool = prompts(2, 3)
    >>> for stamp, token in enumerate([7, 8, 7, 9], 1):
    ...     add_prompt(pool, np.array([token], np.int32), 0, stamp)
    >>> [[ids.tolist() for ids in part] for part in since(pool, 4)]
    [[[9]], [[7]]]
    """
    held, table = arrays["ids"], arrays["prompts"]
    same = (table[:, SIZE] == len(ids)) & (held[:, : len(ids)] == ids).all(1) & (table[:, STAMP] > 0)
    at = int(same.argmax()) if same.any() else int(table[:, STAMP].argmin())
    held[at] = 0
    held[at, : len(ids)] = ids
    table[at] = group, len(ids), stamp


def since(arrays: Arrays, stamp: int) -> tuple[list[Tokens], list[Tokens]]:
    """Return the prompts from the label `stamp` on, and those before, each by age."""
    held, table = arrays["ids"], arrays["prompts"]
    order = [at for at in np.argsort(table[:, STAMP], kind="stable").tolist() if table[at, STAMP] > 0]
    new = [held[at, : table[at, SIZE]] for at in order if table[at, STAMP] >= stamp]
    return new, [held[at, : table[at, SIZE]] for at in order if table[at, STAMP] < stamp]


def newest(arrays: Arrays, count: int) -> list[Tokens]:
    """Return the newest prompts, at most `count`, the oldest of them first.

    >>> newest(prompts(2, 3), 2)
    []
    """
    return since(arrays, 1)[0][-count:]


def groups(arrays: Arrays) -> dict[bytes, int]:
    """Return the number of the group of each prompt of the pool, by the bytes of its ids."""
    held, table = arrays["ids"], arrays["prompts"]
    return {
        held[at, : table[at, SIZE]].tobytes(): int(table[at, GROUP]) for at in range(len(table)) if table[at, STAMP] > 0
    }


# ---- judged pairs --------------------------------------------------------------------------------------------------

_NUMBERS = "preferred", "reference_first", "reference_second", "weight", "reliability"


def judged(capacity: int, width: int) -> Arrays:
    """Return the arrays of a ring of `capacity` judged pairs of at most `width` tokens.

    >>> sorted((name, array.shape) for name, array in judged(4, 8).items())
    [('ids', (4, 8)), ('next', (1,)), ('numbers', (4, 5)), ('sizes', (4, 3))]
    """
    return {
        "ids": np.zeros((capacity, width), np.int32),
        "sizes": np.zeros((capacity, 3), np.int64),
        "numbers": np.zeros((capacity, len(_NUMBERS)), np.float32),
        "next": np.zeros(1, np.int64),
    }


def add_judged(arrays: Arrays, rows: PairRows, row: int, label: float, weight: float, reliability: float) -> None:
    """Put one judged pair in, in place of the oldest one."""
    at = int(arrays["next"][0]) % len(arrays["ids"])
    parts = rows.prompts[row], rows.first[row], rows.second[row]
    ids = np.concatenate(parts)
    arrays["ids"][at] = 0
    arrays["ids"][at, : len(ids)] = ids
    arrays["sizes"][at] = [len(part) for part in parts]
    arrays["numbers"][at] = label, *rows.reference[row].tolist(), weight, reliability
    arrays["next"] += 1


def held(arrays: Arrays) -> TokenPairs:
    """Return the pairs of the ring, the oldest first."""
    n, capacity = int(arrays["next"][0]), len(arrays["ids"])
    order = [at % capacity for at in range(max(0, n - capacity), n)]
    parts: tuple[list[Tokens], list[Tokens], list[Tokens]] = ([], [], [])
    for at in order:
        start = 0
        for part, size in zip(parts, arrays["sizes"][at].tolist(), strict=True):
            part.append(arrays["ids"][at, start : start + size])
            start += size
    prompts_, first, second = ([one.tolist() for one in part] for part in parts)
    return TokenPairs(prompts_, first, second, *arrays["numbers"][order].T.copy())
