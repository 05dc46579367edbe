"""The fast path: a complete request is answered without an ASGI task, an event and messages.

Nearly all requests of the hot path take it: POST, HTTP/1.1, in one piece, on a connection where no other request waits.
uvicorn's ASGI path takes the rest: a body in several parts, a request behind an unanswered one, `Expect`, a client that
does not read. Both paths lead to the same groups.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Protocol

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from everlearn.app import problems
from everlearn.app.problems import Refused
from everlearn.app.worker import connections
from everlearn.app.worker.connections import BUSY, CLOSING, HEAD, IDLE, UNREAD, Connections
from everlearn.app.worker.known_heads import RequestHead
from everlearn.app.worker.write_buffer import WriteBuffer

Headers = list[tuple[bytes, bytes]]

_OPEN, _LAST, _DEAF = range(3)  # more requests may come; the last one has come; what comes behind it is dropped


class PathNames(Protocol):
    """The names of the paths that may take the fast path."""

    def get(self, path: bytes, /) -> str | None:
        """Return the name of a path; None for one that takes another way."""
        ...


class FastRoutes(Protocol):
    """The application behind the fast path, as the protocol sees it."""

    @property
    def paths(self) -> PathNames:
        """The name of the route of each path."""
        ...

    longest: int  # the most bytes of a body
    connections: Connections

    def take(self, head: RequestHead, client: str, body: bytes, reply: Exchange) -> None:
        """Answer a POST, now or later; the names of its headers are in lower case. `head` may come again."""
        ...

    def count(self, name: str, status: int, seconds: float) -> None:
        """Count a reply."""
        ...


class Exchange:
    """One complete request and its reply, settled once, as a future is.

    It takes the place of uvicorn's request cycle (`cycle`) and has the attributes that uvicorn reads from one.
    """

    __slots__ = ("_began", "_protocol", "body", "disconnected", "head", "keep_alive", "response_complete")

    message_event = asyncio.Event()  # set when the client disconnects; the fast path does not wait for it
    response_started = False  # a response is written whole

    def __init__(self, protocol: FastProtocol, head: RequestHead, keep_alive: bool) -> None:
        self._protocol = protocol
        self.head = head
        self.body = b""  # until it is answered
        self._began = time.perf_counter()
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False

    def done(self) -> bool:
        """Return True once it is settled."""
        return self.response_complete

    def set_result(self, reply: bytes) -> None:
        """Reply with a JSON document."""
        self._end(200, _JSON, reply)

    def set_exception(self, error: Exception) -> None:
        """Reply with the problem that an error amounts to."""
        status, reply = problems.problem(error, self.head.path.decode("ascii"))
        headers = problems.headers(error)
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        self._end(status, _lines(header for header in headers if header[0] != b"connection"), reply)

    def _end(self, status: int, headers: bytes, reply: bytes) -> None:
        self.response_complete = True
        protocol = self._protocol
        if not self.disconnected:
            protocol.reply(status, headers, reply, self.keep_alive)
        protocol.routes.count(self.head.name, status, time.perf_counter() - self._began)


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
        self._defaults: tuple[Headers, bytes] = [], b""  # the headers of every response, and their bytes
        self.phase, self.since = HEAD, self.loop.time()  # see `connections`
        self._timer: asyncio.TimerHandle | None = None
        self._unparsed = 0  # bytes since the last request, or since the last part of a body
        self._heading = False  # True while the head of a request is incomplete
        self._ends = _OPEN  # whether a request has come after which the connection closes
        # The last head that was parsed on the fast path, while the parser is between two requests; None elsewhere.
        self._parsed: RequestHead | None = _NO_HEAD

    # ---- requests ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Buffer the bytes written to a new connection. One beyond the bound is refused (503)."""
        self._buffer = WriteBuffer(transport, self.loop)
        super().connection_made(self._buffer)
        self._timer = self.loop.call_later(self._soonest(), self._check_time)
        if not self.routes.connections.add(self):
            detail = "too many connections are open; try again in a second"
            self._turn_away(Refused(503, "", detail, headers=[(b"retry-after", b"1")]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of a closed connection."""
        super().connection_lost(exc)
        self.routes.connections.remove(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse bytes; a request that is not complete by their end leaves the fast path."""
        between = self._parsed is not None and not self._unparsed and (self.phase == IDLE or self.phase == HEAD)
        if between:
            known = self.routes.connections.heads.find(data)
            if known is not None and len(data) - known[1] <= self.routes.longest:
                self.phase = BUSY
                self._take(Exchange(self, known[0], True), data[known[1] :])
                return
        elif self.phase == CLOSING or self._ends == _DEAF:
            return
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered; what follows it is of another protocol
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _BehindTheLast):
                self._ends = _DEAF
            else:
                self._turn_away(_unreadable(error))
            return
        if self._arriving is not None and not self.transport.is_closing():
            self._leave(self._arriving)
        elif between and self._parsed is not None:
            self.routes.connections.heads.keep(data, self._parsed)
        if self.phase == HEAD and not self.since:  # a head that is not complete: its time runs from now on
            self.since = self.loop.time()
        if self._unparsed > connections.HEAD_BYTES and self.phase != CLOSING:
            self._turn_away(_head_too_large())  # a head, a chunk's extension or a trailer without an end

    def eof_received(self) -> None:
        """Let a client that ends its side before its head is complete go."""
        if self.phase == HEAD:
            self._close()

    def on_message_begin(self) -> None:
        """Begin a request. Its ASGI scope is only made if it leaves the fast path."""
        if self._ends or self.phase == CLOSING:
            raise _BehindTheLast
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._heading, self._parsed = True, None
        if self.phase == IDLE:
            self.phase, self.since = HEAD, 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header, or one trailer."""
        headers = self.headers
        if len(headers) >= connections.HEADERS:
            raise _head_too_large()
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decide whether a request may take the fast path."""
        path, _, query = self.url.partition(b"?")
        name = self.routes.paths.get(path)
        if self._unparsed > connections.HEAD_BYTES and self._head_size() > connections.HEAD_BYTES:
            raise _head_too_large()
        self._unparsed, self._heading = 0, False
        if self.phase != UNREAD:
            self.phase = BUSY
        keep_alive = self.parser.should_keep_alive()
        if not keep_alive or self.parser.get_http_version() == "1.0":
            self._ends = _LAST
        if name is None or not self._is_simple():
            return self._begin_asgi()
        self._arriving = Exchange(self, RequestHead(name, path, query, self.headers), keep_alive)
        return None

    def on_body(self, body: bytes) -> None:
        """Keep the first part of a body; a second part leaves the fast path."""
        self._unparsed = 0
        if (exchange := self._arriving) is not None:
            if not exchange.body:
                exchange.body = body
                return
            self._leave(exchange)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a complete request."""
        self._unparsed = 0
        exchange = self._arriving
        if exchange is not None and len(exchange.body) > self.routes.longest:
            self._leave(exchange)
            exchange = None
        if exchange is None:
            return super().on_message_complete()
        self._arriving, body = None, exchange.body
        exchange.head.length = len(body)
        self._parsed = exchange.head if exchange.keep_alive else None
        exchange.body = b""  # the exchange stays until the next request
        self._take(exchange, body)
        return None

    def _take(self, exchange: Exchange, body: bytes) -> None:
        self.cycle = exchange  # type: ignore[assignment]
        self.routes.take(exchange.head, self.client[0] if self.client else "", body, exchange)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _is_simple(self) -> bool:
        """Return True if a request with this head can be answered at once, and needs nothing else."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and b"content-encoding" not in dict(self.headers)
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _leave(self, exchange: Exchange) -> None:
        """Hand what has arrived of a request to uvicorn's ASGI path."""
        self._arriving = None
        self._begin_asgi()
        if exchange.body:
            super().on_body(exchange.body)

    def _begin_asgi(self) -> None:
        """Let uvicorn begin a request whose head has arrived."""
        if len(self.pipeline) >= connections.PIPELINED:
            raise Refused(400, "", f"more than {connections.PIPELINED} requests wait on one connection")
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
        defaults = self.server_state.default_headers
        if defaults is not self._defaults[0]:
            self._defaults = defaults, _lines(defaults)
        ends = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        begin = STATUS_LINE[status], self._defaults[1], headers
        self._buffer.write_whole(b"%b%b%bcontent-length: %d\r\n%b%b" % (*begin, len(body), ends, body))
        if self.pipeline or not keep_alive or self.flow.read_paused:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._rest()
        if not keep_alive:
            self._close()

    # ---- bounds on time ----------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Continue after a response: with the request behind it, or idle."""
        if self.transport.is_closing():
            return self._close()
        if self.pipeline:
            return super().on_response_complete()
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._rest()
        return None

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        if self.phase != CLOSING:
            self._enter(UNREAD)

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        if self.phase == UNREAD:
            self.phase = BUSY
            if self.cycle is None or self.cycle.response_complete:
                self._rest()

    def _rest(self) -> None:
        """Wait for the next request, or for the rest of its head; a client that does not read stays `UNREAD`."""
        if self.phase != UNREAD:
            self._enter(HEAD if self._heading else IDLE)

    def expire(self) -> None:
        """Close a connection that has no request under way, or whose client does not read."""
        if self.phase == UNREAD:
            self.transport.abort()
        else:
            self._close()

    def _unset_keepalive_if_required(self) -> None:
        """Do nothing: data that completes no request does not prolong a phase."""

    def _enter(self, phase: int) -> None:
        """Begin a phase. One timer looks at the phases; it is not renewed for each of them."""
        self.phase, self.since = phase, self.loop.time()

    def _soonest(self) -> float:
        """Return the seconds after which the timer looks again at the latest."""
        return min(float(self.timeout_keep_alive), connections.HEAD_SECONDS)

    def _check_time(self) -> None:
        """End a phase that has taken too long, or look again later."""
        bound = {
            HEAD: connections.HEAD_SECONDS,
            IDLE: self.timeout_keep_alive,
            UNREAD: connections.UNREAD_SECONDS,
            CLOSING: connections.CLOSING_SECONDS,
        }.get(self.phase)
        left = self._soonest() if bound is None else self.since + bound - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(min(left, self._soonest()), self._check_time)
        elif self.phase == HEAD:
            self.routes.connections.counted("heads_late")
            detail = f"the head of the request did not come within {connections.HEAD_SECONDS:g} seconds"
            self._turn_away(Refused(408, "", detail))
        elif self.phase == IDLE:
            self._close()
        else:
            self.transport.abort()

    def _turn_away(self, refusal: Refused) -> None:
        """Refuse what arrives, unless a reply is under way, and close the connection."""
        self._arriving = None
        if refusal.status in (400, 431):
            self.routes.connections.counted("heads_refused")
        begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not begun and not self.transport.is_closing():
            status, body = problems.problem(refusal)
            begin = STATUS_LINE[status] + _lines(self.server_state.default_headers) + _lines(problems.headers(refusal))
            self._buffer.write_whole(b"%bcontent-length: %d\r\nconnection: close\r\n\r\n%b" % (begin, len(body), body))
        self._close()

    def _close(self) -> None:
        """Close the connection, within a bound of time."""
        self._enter(CLOSING)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(connections.CLOSING_SECONDS, self._check_time)
        self.transport.close()


class _BehindTheLast(Exception):
    """Raised at a request behind one that closes the connection (RFC 9112, 9.6): it is not carried out."""


_NO_HEAD = RequestHead("", b"", b"", [])  # before the first request
_JSON = b"content-type: application/json\r\n"


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as lines of a response."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def _head_too_large() -> Refused:
    detail = f"the head of the request is too large, expected at most {connections.HEAD_BYTES} bytes"
    return Refused(431, "", detail)


def _unreadable(error: Exception) -> Refused:
    """Return the refusal of bytes that are no request, or that a callback of the parser refused."""
    cause = error.__context__ or error.__cause__
    if isinstance(cause, Refused):
        return cause
    return Refused(400, "", "this is not a request of HTTP/1.1")
