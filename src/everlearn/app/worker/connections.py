"""Bounds on the connections of one worker: their number, the size of a request's head, and the time of each phase.

A connection is always in one phase. It sends the head of a request (`HEAD`), has a request under way (`BUSY`), waits
for its next request (`IDLE`), or leaves replies unread (`UNREAD`). Data that completes nothing does not prolong a
phase. The body reader bounds the time of bodies, and the process that answers bounds the time of an answer.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from everlearn.app.worker.known_heads import KnownHeads

HEAD, BUSY, IDLE, UNREAD, CLOSING = range(5)

HEAD_BYTES = 32 << 10  # of a request's head
HEADERS = 200  # of a request, trailers included
HEAD_SECONDS = 10.0  # from the first byte of a head, or from the opening of a connection, to the end of the head
UNREAD_SECONDS = 60.0  # for which a client may leave a reply unread
CLOSING_SECONDS = 5.0  # for which a closed connection may take to send the rest of its reply
PIPELINED = 64  # requests that may wait behind an unanswered one
MOST = 4096  # connections to one worker
_KEPT = 64  # file descriptors that a worker needs for other things
_BATCH = 64  # a 64th of the connections are closed at a time where there are too many


class Connection(Protocol):
    """A connection as its bounds see it: its phase, and the time of the event loop at which that began."""

    phase: int
    since: float

    def expire(self) -> None:
        """Close the connection, because another one needs its place."""
        ...


class Connections:
    """All connections of one worker; `counted(name)` counts what was refused or closed."""

    def __init__(self, most: int = MOST, counted: Callable[[str], None] = lambda name: None) -> None:
        self.most = most
        self.counted = counted
        self.heads = KnownHeads()
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Add a connection; return False if there is no room, even without those that have no request under way.

        Where there are too many, the ones that have waited longest make room: first those that send no request, then
        those that rest between two requests, then those that do not read.
        """
        if len(self._open) >= self.most:
            waiting = [one for one in self._open if one.phase in (HEAD, IDLE, UNREAD)]
            if not waiting:
                self.counted("connections_refused")
                return False
            waiting.sort(key=lambda one: (one.phase, one.since))
            for one in waiting[: max(1, self.most // _BATCH)]:
                self.remove(one)
                self.counted("connections_closed")
                one.expire()
        self._open.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)


def allowed() -> int:
    """Raise the limit of open files as far as this user may; return the number of connections that fit below it."""
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST + _KEPT if hard == resource.RLIM_INFINITY else min(MOST + _KEPT, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft - _KEPT))
