"""The fast path: a complete request is answered without an ASGI task, an event and messages.

Nearly all requests of the hot path take it: POST, HTTP/1.1, in one piece, on a connection where no other request waits.
uvicorn's ASGI path takes the rest: a body in several parts, a request behind an unanswered one, `Expect`, a client that
does not read. Both paths lead to the same groups.
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
from everlearn.app.worker.write_buffer import WriteBuffer

Headers = list[tuple[bytes, bytes]]


class FastRoutes(Protocol):
    """The application behind the fast path, as the protocol sees it."""

    paths: Mapping[bytes, str]  # the name of the route of each path
    longest: int  # the most bytes of a body

    def take(self, name: str, headers: Headers, client: str, query: bytes, body: bytes, reply: Exchange) -> None:
        """Answer a POST, now or later; the names in `headers` are in lower case."""
        ...

    def count(self, name: str, status: int, seconds: float) -> None:
        """Count a reply."""
        ...


class Exchange:
    """One complete request and its reply, settled once, as a future is.

    It takes the place of uvicorn's request cycle (`cycle`) and has the attributes that uvicorn reads from one.
    """

    __slots__ = ("_began", "_path", "_protocol", "disconnected", "keep_alive", "name", "response_complete")

    message_event = asyncio.Event()  # set when the client disconnects; the fast path does not wait for it

    def __init__(self, protocol: FastProtocol, name: str, path: bytes, keep_alive: bool) -> None:
        self._protocol = protocol
        self.name, self._path = name, path
        self._began = time.perf_counter()
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False

    def done(self) -> bool:
        """Return True once it is settled."""
        return self.response_complete

    def set_result(self, reply: bytes) -> None:
        """Reply with a JSON document."""
        self._end(200, b"content-type: application/json\r\n", reply)

    def set_exception(self, error: Exception) -> None:
        """Reply with the problem that an error amounts to."""
        status, reply = problems.problem(error, self._path.decode("ascii"))
        headers = problems.headers(error)
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        head = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] != b"connection")
        self._end(status, head, reply)

    def _end(self, status: int, headers: bytes, reply: bytes) -> None:
        self.response_complete = True
        if not self.disconnected:
            self._protocol.reply(status, headers, reply, self.keep_alive)
        self._protocol.routes.count(self.name, status, time.perf_counter() - self._began)


class FastProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a fast path to `routes`: `uvicorn.Config(http=partial(FastProtocol, routes))`."""

    def __init__(
        self,
        routes: FastRoutes,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.routes = routes
        self._arriving: Exchange | None = None  # a request whose head has arrived, while it may take the fast path
        self._query = self._body = b""
        self._defaults: tuple[Headers, bytes] = [], b""  # the headers of every response, and their bytes
        self._idle_since = math.inf  # when the last response was written; infinite while a request is under way
        self._timer: asyncio.TimerHandle | None = None

    # ---- requests ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Buffer the bytes written to a new connection."""
        self._buffer = WriteBuffer(transport, self.loop)
        super().connection_made(self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of a closed connection."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse bytes; a request that is not complete by their end leaves the fast path."""
        super().data_received(data)
        if self._arriving is not None and not self.transport.is_closing():
            self._leave()

    def on_message_begin(self) -> None:
        """Begin a request. Its ASGI scope is only made if it leaves the fast path."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Decide whether a request may take the fast path."""
        path, _, query = self.url.partition(b"?")
        name = self.routes.paths.get(path)
        if name is None or not self._is_simple():
            return self._begin_asgi()
        self._query, self._body = query, b""
        self._arriving = Exchange(self, name, path, self.parser.should_keep_alive())
        return None

    def on_body(self, body: bytes) -> None:
        """Keep the first part of a body; a second part leaves the fast path."""
        if self._arriving is not None:
            if not self._body:
                self._body = body
                return
            self._leave()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a complete request."""
        if self._arriving is not None and len(self._body) > self.routes.longest:
            self._leave()
        exchange = self._arriving
        if exchange is None:
            return super().on_message_complete()
        self._arriving, self.cycle = None, exchange  # type: ignore[assignment]
        client = self.client[0] if self.client else ""
        self.routes.take(exchange.name, self.headers, client, self._query, self._body, exchange)
        return None

    def _is_simple(self) -> bool:
        """Return True if a request with this head can be answered at once, and needs nothing else."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _leave(self) -> None:
        """Hand what has arrived of a request to uvicorn's ASGI path."""
        self._arriving = None
        self._begin_asgi()
        if self._body:
            super().on_body(self._body)

    def _begin_asgi(self) -> None:
        """Let uvicorn begin a request whose head has arrived."""
        head = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = head
        self.scope["headers"] = self.headers
        super().on_headers_complete()

    # ---- responses ---------------------------------------------------------------------------------------------

    def reply(self, status: int, headers: bytes, body: bytes, keep_alive: bool) -> None:
        """Write a whole response."""
        if self.transport.is_closing():
            return
        ends = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        begin = STATUS_LINE[status] + self._default_headers() + headers
        self._buffer.write_whole(b"%bcontent-length: %d\r\n%b%b" % (begin, len(body), ends, body))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _default_headers(self) -> bytes:
        """Return the headers that every response has, such as the date."""
        headers = self.server_state.default_headers
        if headers is not self._defaults[0]:
            self._defaults = headers, b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._defaults[1]

    # ---- idle connections --------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Continue after a response: with the request behind it, or idle."""
        if self.pipeline or self.transport.is_closing():
            return super().on_response_complete()
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._timer is None:  # one timer that is renewed, not one for each response
            self._timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)
        return None

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = math.inf

    def _close_if_idle(self) -> None:
        """Close a connection that has been idle for long enough, or look again later."""
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self._timer = None
            self.timeout_keep_alive_handler()
        else:
            self._timer = self.loop.call_later(min(left, self.timeout_keep_alive), self._close_if_idle)
