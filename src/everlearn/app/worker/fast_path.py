"""The short way: a request that has come whole is answered without a task, an event and messages of its own.

So come nearly all requests of the hot path: POST, HTTP/1.1, in one piece, on a connection that waits for nothing else.
uvicorn's own way, which is ASGI, takes the others: a body that comes in parts, a request behind one that is not
answered yet, `Expect`, a client that does not read. Both ways lead through the same groups.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from everlearn.app import problems
from everlearn.app.worker.write_buffer import Gathering

Headers = list[tuple[bytes, bytes]]


class Short(Protocol):
    """What takes requests that have come whole: their paths, and how long they may be."""

    paths: Mapping[bytes, str]  # of which requests are taken, and the name of each
    longest: int  # bytes that a body may have

    def take(self, name: str, headers: Headers, client: str, query: bytes, body: bytes, reply: Exchange) -> None:
        """Answer a POST, now or later; `headers` have names in small letters."""
        ...

    def count(self, name: str, status: int, seconds: float) -> None:
        """A reply was given."""
        ...


class Exchange:
    """One request that came whole, and the reply to it: settled once, as a future is.

    While it lasts it stands where uvicorn's protocol keeps its own exchange (`cycle`), and has what that asks of one.
    """

    __slots__ = ("_began", "_path", "_protocol", "disconnected", "keep_alive", "name", "response_complete")

    message_event = asyncio.Event()  # set when a client goes; nobody waits for it here

    def __init__(self, protocol: Quick, name: str, path: bytes, keep_alive: bool) -> None:
        self._protocol = protocol
        self.name, self._path = name, path
        self._began = time.perf_counter()
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False

    def done(self) -> bool:
        """Whether it was settled."""
        return self.response_complete

    def set_result(self, reply: bytes) -> None:
        """Reply with this JSON."""
        self._end(200, b"content-type: application/json\r\n", reply)

    def set_exception(self, error: Exception) -> None:
        """Say what is wrong."""
        status, reply = problems.problem(error, self._path.decode("ascii"))
        headers = problems.headers(error)
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        told = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] != b"connection")
        self._end(status, told, reply)

    def _end(self, status: int, headers: bytes, reply: bytes) -> None:
        self.response_complete = True
        if not self.disconnected:
            self._protocol.reply(status, headers, reply, self.keep_alive)
        self._protocol.short.count(self.name, status, time.perf_counter() - self._began)


class Quick(HttpToolsProtocol):
    """uvicorn's HTTP with a short way to `short`; `uvicorn.Config(http=partial(Quick, short))`."""

    def __init__(
        self,
        short: Short,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.short = short
        self._coming: Exchange | None = None  # a request whose head has come, as long as the short way is open to it
        self._query = self._body = b""
        self._front: tuple[Headers, bytes] = [], b""  # the headers of every response, and how they are written
        self._rests_since = math.inf  # when the last response left, as long as nothing came behind it
        self._alarm: asyncio.TimerHandle | None = None

    # ---- what comes --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        self._wire = Gathering(transport, self.loop)
        super().connection_made(self._wire)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        if self._alarm is not None:
            self._alarm.cancel()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        super().data_received(data)
        if self._coming is not None and not self.transport.is_closing():  # the rest may take its time
            self._go_long()

    def on_message_begin(self) -> None:
        """A request begins. Its scope is not needed unless it goes the long way."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """The head of a request has come."""
        path, _, query = self.url.partition(b"?")
        name = self.short.paths.get(path)
        if name is None or not self._ordinary():
            return self._begin_long()
        self._query, self._body = query, b""
        self._coming = Exchange(self, name, path, self.parser.should_keep_alive())
        return None

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        if self._coming is not None:
            if not self._body:
                self._body = body
                return
            self._go_long()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if self._coming is not None and len(self._body) > self.short.longest:
            self._go_long()
        one = self._coming
        if one is None:
            return super().on_message_complete()
        self._coming, self.cycle = None, one  # type: ignore[assignment]
        self.short.take(one.name, self.headers, self.client[0] if self.client else "", self._query, self._body, one)
        return None

    def _ordinary(self) -> bool:
        """Whether a request with this head needs nothing but an answer, and can have it at once."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _go_long(self) -> None:
        """Give what has come of a request to uvicorn's way."""
        self._coming = None
        self._begin_long()
        if self._body:
            super().on_body(self._body)

    def _begin_long(self) -> None:
        """Let uvicorn begin with a request whose head has come."""
        head = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = head
        self.scope["headers"] = self.headers
        super().on_headers_complete()

    # ---- what goes ---------------------------------------------------------------------------------------------

    def reply(self, status: int, headers: bytes, body: bytes, keep_alive: bool) -> None:
        """Write a whole response."""
        if self.transport.is_closing():
            return
        ends = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        begin = STATUS_LINE[status] + self._everywhere() + headers
        self._wire.write_whole(b"%bcontent-length: %d\r\n%b%b" % (begin, len(body), ends, body))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _everywhere(self) -> bytes:
        """The headers that every response has, such as the date."""
        told = self.server_state.default_headers
        if told is not self._front[0]:
            self._front = told, b"".join(b"%b: %b\r\n" % header for header in told)
        return self._front[1]

    # ---- what rests --------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """A response was written: go on with what was sent behind its request, or rest."""
        if self.pipeline or self.transport.is_closing():
            return super().on_response_complete()
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._rests_since = self.loop.time()
        if self._alarm is None:  # one timer that looks again, not one for each response
            self._alarm = self.loop.call_later(self.timeout_keep_alive, self._look)
        return None

    def _unset_keepalive_if_required(self) -> None:
        self._rests_since = math.inf

    def _look(self) -> None:
        """Close a connection that has rested for long enough."""
        left = self._rests_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self._alarm = None
            self.timeout_keep_alive_handler()
        else:
            self._alarm = self.loop.call_later(min(left, self.timeout_keep_alive), self._look)
