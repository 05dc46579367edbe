"""Heads of requests that were parsed before: equal bytes are not parsed a second time.

A client sends the same head with each request, but for the length of the body. Parsing it is a fifth of the work of a
request. So the worker keeps the heads of requests that took the fast path, whole and simple, and looks a new request up
by the bytes of its head without the digits of its `content-length`. All connections of a worker share the heads, since
equal bytes mean the same everywhere.
"""

from __future__ import annotations

from msgspec import Struct

MOST = 4096  # heads, of two routes of 2,000 loops; clients whose heads all differ displace the others
LONGEST = 2048  # bytes of a head that is kept
_DIGITS = 18  # of a length; a longer one is parsed each time, and refused
_NAMES = b"\r\ncontent-length: ", b"\r\nContent-Length: "  # as clients write it; any other spelling is parsed each time


class RequestHead(Struct, eq=False):
    """The head of one request of a hot path; `length` is that of the body, in bytes, that came with it first.

    `source` is the name of its token, and `until` the moment (`time.monotonic`) up to which equal heads may be admitted
    without a check; 0.0 before the first one.
    """

    name: str  # of the route
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    length: int = -1
    source: str = ""
    until: float = 0.0


class KnownHeads:
    """The known heads by their bytes, up to the empty line and with it, but for the length of the body.

    >>> heads, sent = KnownHeads(), b"POST / HTTP/1.1\\r\\ncontent-length: 2\\r\\n\\r\\n{}"
    >>> heads.keep(sent, RequestHead("root", b"/", b"", [(b"content-length", b"2")], 2))
    >>> head, end = heads.find(sent.replace(b"2", b"3") + b" ")
    >>> head.name, end, heads.find(sent + b" ")
    ('root', 38, None)
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}

    def find(self, data: bytes) -> tuple[RequestHead, int] | None:
        """Return the head of one whole request, and where its body begins.

        None if the head is unknown, or if `data` is not one whole request.
        """
        end = data.find(b"\r\n\r\n") + 4
        key, length = _parted(data, end)
        head = self._heads.get(key)
        return (head, end) if head is not None and len(data) == end + length > end else None

    def keep(self, data: bytes, head: RequestHead) -> None:
        """Keep the head of a request that the parser found to be all of `data`, if its body has as many bytes as it.

        So the body of equal heads lies between the first empty line and the end; the parts of a chunked body are longer
        than what they hold. A head without a body, or a long one, is not kept.
        """
        end = data.find(b"\r\n\r\n") + 4
        key, length = _parted(data, end)
        if 4 < end <= LONGEST and length == head.length > 0 and len(data) == end + length:
            if len(self._heads) >= MOST:
                self._heads.clear()
            self._heads[key] = head


def _parted(data: bytes, end: int) -> tuple[bytes, int]:
    """Return a head without the digits of its `content-length`, and their number; -1 for a head without such a line.

    The parser accepts one such line only. So a known head with other digits is one head with another length.
    """
    for name in _NAMES:
        if (at := data.find(name, 0, end)) >= 0:
            at += len(name)
            stop = data.find(b"\r", at, end)
            digits = data[at:stop]
            if digits.isdigit() and len(digits) <= _DIGITS:
                return data[:at] + data[stop:end], int(digits)
            return data[:end], -1
    return data[:end], -1
