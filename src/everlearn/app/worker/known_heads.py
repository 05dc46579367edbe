"""Heads of requests that were parsed before: equal bytes are not parsed a second time.

A client sends the same head with each request, but for the length of the body. Parsing it is a fifth of the work of a
request. So the worker keeps the heads of requests that took the fast path, whole and simple, and looks a new request up
by the bytes of its head. All connections of a worker share the heads, since equal bytes mean the same everywhere.
"""

from __future__ import annotations

from msgspec import Struct

MOST = 512  # heads; clients whose heads all differ displace the others
LONGEST = 2048  # bytes of a head that is kept


class RequestHead(Struct, eq=False):
    """The head of one request of a hot path; `length` is that of its body, in bytes.

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
    """The known heads by their bytes, up to the empty line and with it.

    >>> heads, sent = KnownHeads(), b"POST / HTTP/1.1\\r\\ncontent-length: 2\\r\\n\\r\\n{}"
    >>> heads.keep(sent, RequestHead("root", b"/", b"", [(b"content-length", b"2")], 2))
    >>> heads.find(sent).length, heads.find(sent + b" ")
    (2, None)
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}

    def find(self, data: bytes) -> RequestHead | None:
        """Return the head of one whole request; None if the head is unknown, or if `data` is not one whole request."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(data[:end])
        return head if head is not None and len(data) == end + head.length else None

    def keep(self, data: bytes, head: RequestHead) -> None:
        """Keep the head of a request that the parser found to be all of `data`, if its body has as many bytes as it.

        So the body of equal heads lies between the first empty line and the end; the parts of a chunked body are longer
        than what they hold. A head without a body, or a long one, is not kept.
        """
        end = data.find(b"\r\n\r\n") + 4
        if 4 < end <= LONGEST and head.length > 0 and len(data) == end + head.length:
            if len(self._heads) >= MOST:
                self._heads.clear()
            self._heads[data[:end]] = head
