"""Deal the rows of a stream to partitions: by a stable hash of a key, or in stretches of neighbouring rows.

Rows of one key are in one partition, in order. Rows without a key are dealt in stretches, so that a learner sees
neighbouring rows together: on streams whose neighbours are alike, dealing single rows costs accuracy (see
docs/why/partitions.md). The first rows, the opening, are learned by every partition, so that all learners begin with
one state: origins and scales of columns, first centres, first trees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.records import Ints

OPENING = 1000  # rows that all learners have in common; `families.partitions.kmeans` counts on them
EVERY = 8192  # rows of the stream between two merges
EVERYONE = -1  # in the place of a partition: a row of the opening


class Dealing(Struct, frozen=True, kw_only=True):
    """The rule that deals rows to `count` partitions, and that sets a barrier after each `every` rows.

    `key` names the field whose values are keys; "" deals in stretches of `every` / `count` rows. Every partition learns
    the rows up to `opening`.
    """

    count: int
    every: int = EVERY
    key: str = ""
    opening: int = OPENING

    def next_barrier(self, at: int) -> int:
        """Return the position of the first barrier after position `at`.

        >>> [Dealing(count=2).next_barrier(at) for at in (0, 1000, 8192, 9000)]
        [1000, 8192, 16384, 16384]
        """
        return self.opening if at < self.opening else (at // self.every + 1) * self.every

    def owners(self, positions: Ints, keys: Sequence[str] | None = None) -> Ints:
        """Return the partition of each row, int64 (n,), or `EVERYONE` for rows of the opening.

        >>> Dealing(count=2, every=4, opening=0).owners(np.arange(1, 9)).tolist()
        [0, 0, 1, 1, 0, 0, 1, 1]
        """
        if keys is None:
            found: Ints = (positions - 1) // (self.every // self.count) % self.count
        else:
            known = {key: partition_of(key, self.count) for key in set(keys)}
            found = np.array([known[key] for key in keys], np.int64)
        return np.where(positions <= self.opening, EVERYONE, found)


def partition_of(key: str, count: int) -> int:
    """Return the partition of a key: the same on every machine and in every release.

    >>> [partition_of(key, 4) for key in ("a", "b", "c")]
    [3, 1, 3]
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % count


def checked(dealing: Dealing) -> Dealing:
    """Return the rule. Raises `ConfigError` for numbers out of range."""
    if not 1 <= dealing.count <= 256:
        raise ConfigError(f"partitions.count: got {dealing.count}; expected 1 to 256")
    if dealing.every < dealing.count or dealing.every % dealing.count:
        raise ConfigError(
            f"partitions.every: got {dealing.every} for {dealing.count} partitions; expected a multiple of "
            f"{dealing.count}, for instance {max(dealing.every // dealing.count, 1) * dealing.count}"
        )
    return dealing
