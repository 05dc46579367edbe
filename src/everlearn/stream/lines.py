"""Lines of a piece of text, found by their line breaks: a line becomes a string when it is looked at.

Most lines of a file go to a parser that takes bytes, or belong to another partition and are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self, overload

import numpy as np

from everlearn.records import Ints

_BREAK = 10


class PlainLines(Sequence[str]):
    """Neighbouring lines of text: `data` in UTF-8, and `starts` int64 (n + 1,), where each line begins.

    The last start is behind the break that ends the last line.

    >>> found = plain_lines(b"one\\ntwo\\nthree")
    >>> list(found), found[1], found[1:].encoded(), "two" in found
    (['one', 'two', 'three'], 'two', b'two\\nthree', True)
    """

    def __init__(self, data: bytes, starts: Ints) -> None:
        self._data, self._starts = data, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> str | Self:
        if isinstance(place, slice):
            begin, end, step = place.indices(len(self))
            if step != 1:
                raise ValueError("lines are taken without gaps")
            return type(self)(self._data, self._starts[begin : max(begin, end) + 1])
        place = range(len(self))[place]
        return self._data[self._starts[place] : self._starts[place + 1] - 1].decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self.encoded().decode().split("\n") if len(self) else ())

    def __contains__(self, line: object) -> bool:
        if not isinstance(line, str) or line.encode("utf-8", "surrogateescape") not in self.encoded():
            return False
        return line in list(self)

    @property
    def longest(self) -> int:
        """The bytes of the longest line, its break included."""
        return int(np.diff(self._starts).max(initial=0))

    def encoded(self) -> bytes:
        """Return the lines as bytes, without the last break."""
        return self._data[self._starts[0] : self._starts[-1] - 1] if len(self) else b""

    def followed_by(self, others: PlainLines) -> PlainLines:
        """Return these lines and some others as one piece.

        >>> list(plain_lines(b"a\\nb").followed_by(plain_lines(b"c")))
        ['a', 'b', 'c']
        """
        data, first, second = self.encoded(), self._starts - self._starts[0], others._starts - others._starts[0]
        return PlainLines(b"%b\n%b" % (data, others.encoded()), np.concatenate([first, second[1:] + first[-1]]))


def plain_lines(piece: bytes) -> PlainLines | None:
    """Return the lines of a piece of text that needs no other look: no quotes, no empty line, nothing but UTF-8.

    Returns None for any other piece.

    >>> plain_lines(b'a,"b"'), plain_lines(b"a\\n\\nb"), plain_lines(b"caf\\xe9")
    (None, None, None)
    """
    if b'"' in piece or b"\r" in piece:
        return None
    if not piece.isascii():
        try:
            piece.decode()
        except UnicodeDecodeError:
            return None
    breaks = np.flatnonzero(np.frombuffer(piece, np.uint8) == _BREAK)
    starts = np.concatenate([[0], breaks + 1, [len(piece) + 1]])
    return PlainLines(piece, starts) if np.diff(starts).min() > 1 else None
