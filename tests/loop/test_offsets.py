"""The last row of each stream in the log, against the largest one of all its ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everlearn.loop.offsets import StreamOffsets

STREAMS = ["0123456789abcdef", "fedcba9876543210"]
ids = st.one_of(
    st.builds("{}:{}".format, st.sampled_from([*STREAMS, "short", "0123456789abcde:"]), st.integers(0, 12)),
    st.sampled_from(["", "chosen", f"{STREAMS[0]}:", f"{STREAMS[0]}:x", f"{STREAMS[0]}:1:2", f"{STREAMS[0]}1"]),
)


@given(st.lists(st.lists(ids, max_size=6), max_size=4))
def test_the_last_row_is_the_largest_of_the_ids(groups: list[list[str]]) -> None:
    taken = StreamOffsets()
    for group in groups:
        taken.note(group)
    parts = [id.rpartition(":") for group in groups for id in group]
    known = [(name, int(row)) for name, _, row in parts if len(name) == 16 and row.isdecimal()]
    assert taken.rows == {name: max(row for other, row in known if other == name) for name, _ in known}
