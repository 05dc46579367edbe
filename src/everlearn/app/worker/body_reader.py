"""Read request bodies whole, each within a bound and a time, and all unfinished ones within a common bound.

A compressed body is decoded, within the same bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from everlearn.app.problems import Refused
from everlearn.app.worker.encodings import coding_of, decoded
from everlearn.app.worker.requests import too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Headers = Sequence[tuple[bytes, bytes]]

HELD = 64 << 20  # bytes of all bodies that have not arrived whole
SLOWEST = 30.0  # seconds that a body may take to arrive


class BodyReader:
    """Reads bodies of at most `most` bytes; `full` makes the refusal where too many bytes are held."""

    def __init__(self, most: int, full: Callable[[], Refused]) -> None:
        self.most = most
        self._full = full
        self._held = 0  # bytes of bodies that have not arrived whole yet
        self._reading: dict[asyncio.Task[object] | None, float] = {}  # when each task began to wait for its body
        self._late: set[asyncio.Task[object]] = set()
        self._sweeping = False

    async def whole(self, receive: Receive, headers: Headers = ()) -> bytes:
        """Return the body of a request with these headers, decoded if it is compressed.

        Raises Refused: 400 (broken off, damaged), 408 (slow), 413 (too long), 415 (unknown coding) or 503 (full).
        """
        coding = coding_of(headers)
        body = await self._whole(receive)
        return decoded(body, coding, self.most) if coding else body

    async def _whole(self, receive: Receive) -> bytes:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        self._reading[task] = loop.time()
        if not self._sweeping:  # one timer for all: a timer for each body would cost more than reading it
            self._sweeping = True
            loop.call_later(SLOWEST / 4, self._sweep, loop)
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            if body and len(body) <= self.most and not message.get("more_body", False):
                return body
            return await self._joined(message, receive)
        except asyncio.CancelledError:
            if task is None or task not in self._late:
                raise
            task.uncancel()
            detail = f"the body did not come within {SLOWEST:g} seconds"
            raise Refused(408, "", detail, headers=[(b"connection", b"close")]) from None
        finally:
            del self._reading[task]
            if self._late and task is not None:
                self._late.discard(task)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the tasks whose body takes too long."""
        for task, since in list(self._reading.items()):
            if task is not None and loop.time() - since > SLOWEST:
                self._late.add(task)
                task.cancel()
        self._sweeping = bool(self._reading)
        if self._sweeping:
            loop.call_later(SLOWEST / 4, self._sweep, loop)

    async def _joined(self, message: Message, receive: Receive) -> bytes:
        """Return a body that does not arrive in one piece, or is empty. Raises Refused for one that is too long."""
        body = bytearray()  # a list of small parts would cost twenty times their bytes
        try:
            while True:
                if message["type"] == "http.disconnect":
                    raise Refused(400, "", "the connection was closed before the body had come")
                part = message.get("body", b"")
                body += part
                self._held += len(part)
                if len(body) > self.most:
                    raise too_large(self.most)
                if not message.get("more_body", False):
                    return bytes(body)
                if self._held > HELD:
                    raise self._full()
                message = await receive()
        finally:
            self._held -= len(body)
