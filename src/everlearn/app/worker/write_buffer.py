"""Join all bytes that are written to a connection in one turn of the event loop.

uvicorn writes the head and the body of a response separately, and uvloop makes a system call for each write. A small
response would cost two system calls, and wake its reader twice.
"""

from __future__ import annotations

import asyncio
from typing import Any


class WriteBuffer(asyncio.Transport):
    """A transport that holds written bytes until the next turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes together with all others of this turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_whole(self, data: bytes) -> None:
        """Write bytes that are complete by themselves: at once, unless others wait."""
        if self._held:
            self._held.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Write the held bytes, and close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, and drop the held bytes."""
        self._held.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Return True if the transport is closed or closing."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information about the connection, as `asyncio.BaseTransport.get_extra_info` does."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Stop reading, so that the peer waits."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))
