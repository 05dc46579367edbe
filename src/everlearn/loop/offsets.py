"""Count the rows of each stream already in the log, using example ids.

The fold counts them, because an erased row has no id any more, and must not be taken again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_LONG = 16  # characters of a stream's fingerprint
_MOST = 1000  # streams remembered: the latest


class StreamOffsets:
    """The last row of each stream that is in the log, by the stream's fingerprint.

    >>> taken = StreamOffsets()
    >>> taken.note(["0123456789abcdef:41", "0123456789abcdef:42", "an id that the user chose"])
    >>> taken.rows
    {'0123456789abcdef': 42}
    """

    def __init__(self, rows: Mapping[str, int] | None = None) -> None:
        self.rows: dict[str, int] = dict(rows or {})

    def note(self, ids: Iterable[str]) -> None:
        """Note that the rows with these ids are in the log, and so are those before them."""
        ids = list(ids)
        names, rows = {id[: _LONG + 1] for id in ids}, [id[_LONG + 1 :] for id in ids]
        if len(names) == 1 and "" not in rows and (name := names.pop()).endswith(":") and "".join(rows).isdecimal():
            self._keep(name[:-1], max(map(int, rows)))  # rows of one stream, as nearly always
            return
        newest, most = "", 0  # the last stream, and its last row: its next rows change nothing else
        for id in ids:
            name, _, row = id.rpartition(":")
            if name == newest and row.isdecimal():
                most = max(most, int(row))
            elif len(name) == _LONG and row.isdecimal():
                self._keep(newest, most)
                newest, most = name, int(row)
        self._keep(newest, most)

    def _keep(self, name: str, row: int) -> None:
        if name:
            self.rows[name] = max(row, self.rows.pop(name, 0))
            if len(self.rows) > _MOST:
                del self.rows[next(iter(self.rows))]
