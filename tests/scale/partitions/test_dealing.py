from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import ConfigError
from everlearn.scale.partitions.dealing import EVERYONE, Dealing, checked, partition_of

COUNTS = st.integers(1, 9)


@given(st.text(max_size=20), COUNTS)
def test_a_key_has_one_partition_everywhere(key: str, count: int) -> None:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    assert partition_of(key, count) == int.from_bytes(digest, "big") % count


@given(COUNTS, st.integers(1, 5), st.integers(0, 20), st.integers(1, 60))
def test_neighbours_are_dealt_in_equal_stretches_between_barriers(
    count: int, length: int, opening: int, first: int
) -> None:
    dealing = Dealing(count=count, every=count * length, opening=opening)
    positions = np.arange(1, 8 * dealing.every + 1)
    owners = dealing.owners(positions)
    assert (owners[:opening] == EVERYONE).all()
    for start in range(-(-opening // dealing.every) * dealing.every, len(positions), dealing.every):
        whole = owners[start : start + dealing.every]
        assert whole.tolist() == np.repeat(np.arange(count), length).tolist()
    assert dealing.owners(positions[first:]).tolist() == owners[first:].tolist()  # wherever reading begins


def test_rows_of_one_key_are_together() -> None:
    keys = ["a", "b", "a", "c", "b"] * 3
    owners = Dealing(count=3, opening=2).owners(np.arange(1, 16), keys)
    assert owners[:2].tolist() == [EVERYONE, EVERYONE]
    assert owners[2:].tolist() == [partition_of(key, 3) for key in keys[2:]]


@given(COUNTS, st.integers(1, 50), st.integers(0, 100))
def test_barriers_follow_the_opening_and_then_every_so_many_rows(count: int, length: int, opening: int) -> None:
    dealing, at, found = Dealing(count=count, every=count * length, opening=opening), 0, []
    for _ in range(5):
        at = dealing.next_barrier(at)
        found.append(at)
    assert found == sorted(set(found))
    assert all(at == opening or at % dealing.every == 0 for at in found)
    assert found[0] == (opening or dealing.every)


@pytest.mark.parametrize(("count", "every", "match"), [(0, 8, "count: got 0"), (3, 8, "every: got 8.*instance 6")])
def test_numbers_out_of_range_are_refused(count: int, every: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        checked(Dealing(count=count, every=every))
