"""First-come tables against a dict that grows until it is full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.families.preference.first_come import admit, joined, numbers, start

DIGESTS = st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=6)


@given(DIGESTS, st.integers(2, 9))
def test_numbers_are_those_of_a_dict_that_grows_until_it_is_full(calls: list[list[int]], capacity: int) -> None:
    table, known, overflow = start(capacity), dict[int, int](), 0
    for digests in calls:
        wanted = []
        for one in digests:
            if one and one not in known and len(known) < capacity - 1:
                known[one] = len(known) + 1
            overflow += bool(one) and one not in known
            wanted.append(known.get(one, 0))
        assert admit(table, np.array(digests, np.int64)).tolist() == wanted
    assert table["counts"].tolist() == [len(known), overflow]
    everything = np.arange(13)
    assert numbers(table, everything).tolist() == [known.get(one, 0) for one in range(13)]


def test_digests_of_48_bits_survive_two_float32_columns() -> None:
    digests = np.array([1, 2**24 - 1, 2**24, 2**48 - 1, 123_456_789_012], np.int64)
    low, high = (digests % 2**24).astype(np.float32), (digests // 2**24).astype(np.float32)
    assert joined(low, high).tolist() == digests.tolist()


def test_a_table_for_no_digest_is_refused() -> None:
    with pytest.raises(InputError, match="capacity: got 1"):
        start(1)
