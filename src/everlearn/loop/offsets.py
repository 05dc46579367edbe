"""How many rows of each stream the log holds, told by the names of its examples.

It is counted as the log is folded, because a name is gone once its row was erased, and an erased row must not be taken
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_LONG = 16  # characters of a stream's fingerprint
_MOST = 1000  # streams that are remembered: those that came last


class StreamOffsets:
    """The last row of each stream that is in the log, by its fingerprint.

    >>> taken = Taken()
    >>> taken.note(["0123456789abcdef:41", "0123456789abcdef:42", "a name of the user's"])
    >>> taken.rows
    {'0123456789abcdef': 42}
    """

    def __init__(self, rows: Mapping[str, int] | None = None) -> None:
        self.rows: dict[str, int] = dict(rows or {})

    def note(self, ids: Iterable[str]) -> None:
        """Rows with these names are in the log, and so are those before them."""
        for id in ids:
            name, _, row = id.rpartition(":")
            if len(name) == _LONG and row.isdecimal():
                self.rows[name] = max(int(row), self.rows.pop(name, 0))
                if len(self.rows) > _MOST:
                    del self.rows[next(iter(self.rows))]
