"""Carry names of loops between processes: a worker asks for a loop to be resident, and reports what has new events.

One JSON document a line, over the Unix socket of a learner. `LoopCalls` is the learner's end, `LoopLink` the end of a
worker or of the admin process. No event, model or reply of HTTP takes this way.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import msgspec
from msgspec import Struct

from everlearn.app.problems import Refused

log = logging.getLogger("everlearn.many")

LONGEST = 1 << 20  # bytes of a line
PATIENCE = 30.0  # seconds that a loop may take to become resident: kernels may have to be compiled
AGAIN = 0.05  # seconds between two attempts to reach a learner
_SEND = struct.pack("ll", 1, 0)  # a client that reads nothing for a second is let go


class LoopCall(Struct, array_like=True):
    """A call to a learner.

    "open" makes one loop resident, "create" creates it first if needed, "watch" also has its status written for a
    while; each has one reply. "touch" names loops with new events, and has none.
    """

    id: int
    what: Literal["open", "create", "watch", "touch"]
    names: list[str]


class LoopReply(Struct, array_like=True):
    """The reply to the call `id`: status 200 or 201, or a refusal. The call 0 names a loop that is resident no more."""

    id: int
    status: int
    text: str = ""


class Caller:
    """One connection of a learner: it takes replies, from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND)

    def reply(self, reply: LoopReply) -> None:
        """Send a reply; a connection that does not take it is closed."""
        with self._sending:
            try:
                self._connection.sendall(msgspec.json.encode(reply) + b"\n")
            except OSError:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)


class LoopCalls:
    """The calls that arrive at one learner, in order: pairs of a caller and a call."""

    def __init__(self, path: Path) -> None:
        self.queue: SimpleQueue[tuple[Caller, LoopCall]] = SimpleQueue()
        self._callers: set[Caller] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen()
        threading.Thread(target=self._accept, name="everlearn-calls", daemon=True).start()

    def gone(self, name: str) -> None:
        """Report to all callers that a loop is resident no more."""
        for caller in list(self._callers):
            caller.reply(LoopReply(0, 200, name))

    def close(self) -> None:
        """Take no more calls."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        caller = Caller(connection)
        self._callers.add(caller)
        with suppress(OSError, msgspec.MsgspecError), connection.makefile("rb") as lines:
            while line := lines.readline(LONGEST):
                self.queue.put((caller, msgspec.json.decode(line, type=LoopCall)))
        self._callers.discard(caller)
        connection.close()


class LoopLink:
    """The way from one event loop to one learner; `gone` is called with the name of a loop that was evicted there.

    While the learner is away, calls wait for the next one, and names with new events are kept.
    """

    def __init__(self, path: Path, gone: Callable[[str], None] = lambda name: None) -> None:
        self._path = path
        self._gone = gone
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[LoopReply]] = {}
        self._number = 0
        self._connecting: asyncio.Task[None] | None = None
        self._touched: dict[str, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def ask(self, what: Literal["open", "create", "watch"], name: str) -> LoopReply:
        """Make a loop resident, and return the reply. Raises Refused: what the learner refuses, or 503 without one."""
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await self._replied(what, name)
        except TimeoutError:
            detail = f"the loop {name} did not become available within {PATIENCE:.0f} s; try again"
            raise Refused(503, "", detail, headers=[(b"retry-after", b"1")]) from None
        if reply.status < 300:
            return reply
        retry = [(b"retry-after", b"1")] if reply.status in (429, 503) else []
        raise Refused(reply.status, "", reply.text, {"where": "loop"}, headers=retry)

    def touch(self, names: Sequence[str]) -> None:
        """Report loops with new events; after `close` do nothing."""
        if self._closed:
            return
        self._touched.update(dict.fromkeys(names))
        if self._writer is None:
            self._connect()
        else:
            self._flush()

    async def close(self) -> None:
        """Close the connection."""
        self._closed, self._touched = True, {}
        while tasks := [*self._tasks]:  # a connection that has just been made begins another task
            for task in tasks:
                task.cancel()
            writer = self._writer
            await asyncio.gather(*tasks, return_exceptions=True)
            if writer is not None:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _replied(self, what: Literal["open", "create", "watch"], name: str) -> LoopReply:
        while True:
            while self._writer is None:
                await asyncio.shield(self._connect())
            self._number += 1
            number, future = self._number, asyncio.get_running_loop().create_future()
            self._waiting[number] = future
            self._send(LoopCall(number, what, [name]))
            try:
                return await future  # type: ignore[no-any-return]
            except ConnectionResetError:
                continue  # the learner has gone: ask the next one
            finally:
                self._waiting.pop(number, None)

    def _connect(self) -> asyncio.Task[None]:
        if self._connecting is None:
            self._connecting = self._keep(self._connected())
        return self._connecting

    async def _connected(self) -> None:
        """Reach the learner, however long that takes, and read its replies from then on."""
        try:
            while True:
                with suppress(OSError):
                    reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LONGEST)
                    break
                await asyncio.sleep(AGAIN)
        finally:
            self._connecting = None
        self._keep(self._read(reader))
        self._flush()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                reply = msgspec.json.decode(line, type=LoopReply)
                if not reply.id:
                    self._gone(reply.text)
                elif (future := self._waiting.get(reply.id)) is not None and not future.done():
                    future.set_result(reply)
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning("the connection to a learner broke off: %s", error)
        finally:
            if self._writer is not None:
                self._writer.close()
            self._writer = None
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError())
            if self._touched:
                self._connect()

    def _flush(self) -> None:
        if self._touched:
            names, self._touched = [*self._touched], {}
            self._send(LoopCall(0, "touch", names))

    def _send(self, call: LoopCall) -> None:
        if self._writer is not None:
            self._writer.write(msgspec.json.encode(call) + b"\n")

    def _keep(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
