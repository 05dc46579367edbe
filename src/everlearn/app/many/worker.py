"""A worker of many loops: it answers `/loops/NAME/predict`, `/feedback` and `/learn`, and passes on the rest.

Any worker answers for any loop: it reads the snapshot that the loop's learner publishes, and appends to the loop's log,
as a worker of a single loop does. So no request of the hot path goes from process to process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from everlearn import model, schema
from everlearn.app import logs, problems
from everlearn.app.auth import Access, Buckets, too_many
from everlearn.app.counters import Counters
from everlearn.app.many.folder import LoopFolder
from everlearn.app.many.learner import most_loops
from everlearn.app.many.seats import ROOM, Seats
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.app.worker import connections
from everlearn.app.worker.application import CLASSES, COLLECT, HOT, http_server
from everlearn.app.worker.body_reader import BodyReader, Receive, Scope
from everlearn.app.worker.connections import Connections
from everlearn.app.worker.fast_path import Exchange
from everlearn.app.worker.known_heads import RequestHead
from everlearn.app.worker.proxy import Proxy, Send
from everlearn.config import default_model
from everlearn.errors import EverlearnError
from everlearn.spec import MOST_BYTES, Spec

OPENING = 512  # loops that one worker waits for at one time
_JSON = (b"content-type", b"application/json")
_RIGHTS = {route.name: route.right for route in HOT.values()}


class LoopPaths:
    """The hot paths of all loops: the name of a path is its route and its loop, "predict NAME".

    >>> LoopPaths().get(b"/loops/shop-7/predict"), LoopPaths().get(b"/loops/shop-7/versions")
    ('predict shop-7', None)
    """

    def __init__(self) -> None:
        self._routes = {path[1:].encode(): route.name for path, route in HOT.items()}

    def get(self, path: bytes) -> str | None:
        """Return the name of a path; None for any other path."""
        parts = path.split(b"/")
        if len(parts) != 4 or parts[1] != b"loops" or (route := self._routes.get(parts[3])) is None:
            return None
        try:
            return f"{route} {parts[2].decode('ascii')}"
        except UnicodeDecodeError:
            return None


class ManyWorker:
    """The ASGI application of a worker of many loops; `ready` is called when it answers."""

    longest = MOST_BYTES

    def __init__(
        self,
        setup: Setup,
        folder: LoopFolder,
        counters: Counters,
        ready: Callable[[], None],
        most: int = connections.MOST,
    ) -> None:
        assert setup.pool is not None
        self.paths = LoopPaths()
        self.connections = Connections(most, counters.add)
        self._access = Access(setup)
        self._counters = counters
        self._ready = ready
        rate = setup.pool.rate
        self._buckets = Buckets(rate, max(1.0, rate)) if rate else None
        self._seats = Seats(setup, folder)
        self._bodies = BodyReader(MOST_BYTES, self._full)
        self._proxy = Proxy(setup.admin, self._bodies)
        self._waiting: dict[str, list[tuple[RequestHead, bytes, Exchange]]] = {}  # for loops that are being opened
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that does not take the fast path."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1003})
        began, status, headers, name = time.perf_counter(), 200, [_JSON], None
        try:
            name = self.paths.get(scope["path"].encode("utf-8", "replace"))
            if name is None and scope["path"] != "/healthz":
                return await self._proxy(scope, receive, send)
            reply = self._health(scope) if name is None else await self._answered(name, scope, receive)
        except ConnectionAbortedError:
            raise
        except Exception as error:
            self._count_limited(error)
            status, reply = problems.problem(error, scope["path"])
            headers = problems.headers(error)
        headers.append((b"content-length", b"%d" % len(reply)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        if name is not None:
            self.count(name, status, time.perf_counter() - began)
        return None

    def take(self, head: RequestHead, client: str, body: bytes, reply: Exchange) -> None:
        """Answer one complete request of the fast path; it waits while its loop is being opened."""
        try:
            route, _, name = head.name.partition(" ")
            if time.monotonic() >= head.until:
                head.source = self._access.allow(head.headers, _RIGHTS[route], "POST", client)
                head.until = self._access.lasting(head.source)
            self._limit(name)
            seat = self._seats.find(name)
            if seat is not None:
                seat.hot.put(route, body, head.query, head.source, reply)
            else:
                self._wait(name, head, body, reply)
        except Exception as error:
            self._count_limited(error)
            reply.set_exception(error)

    def count(self, name: str, status: int, seconds: float) -> None:
        """Count a reply, for the server and for its loop."""
        route, _, loop = name.partition(" ")
        self._counters.observe(route, seconds)
        self._counters.add(CLASSES[route][status // 100])
        if (seat := self._seats.find(loop)) is not None:
            seat.counters.observe(route, seconds)
            seat.counters.add(CLASSES[route][status // 100])

    def _limit(self, name: str) -> None:
        """Raise Refused (429) if a loop has had as many requests as it may."""
        if self._buckets is not None and (seconds := self._buckets.wait(name, time.monotonic())) > 0:
            raise too_many(seconds, f"requests to the loop {name[:60]}")

    def _wait(self, name: str, head: RequestHead, body: bytes, reply: Exchange) -> None:
        """Keep a request until its loop can answer. Raises Refused (429, 503) for too many of them."""
        waiting = self._waiting.get(name)
        if waiting is None:
            if len(self._waiting) >= OPENING:
                raise self._full()
            waiting = self._waiting[name] = []
            task = asyncio.get_running_loop().create_task(self._opened(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(waiting) >= ROOM.requests or sum(len(held) for _, held, _ in waiting) + len(body) > ROOM.bytes:
            raise too_many(1.0, f"requests wait for the loop {name[:60]}")
        waiting.append((head, body, reply))

    async def _opened(self, name: str) -> None:
        """Answer the requests that wait for a loop, once it can answer."""
        try:
            seat = await self._seats.open(name)
        except Exception as error:
            for _, _, reply in self._waiting.pop(name):
                reply.set_exception(error)
            return
        for head, body, reply in self._waiting.pop(name):
            try:
                seat.hot.put(head.name.partition(" ")[0], body, head.query, head.source, reply)
            except Exception as error:
                reply.set_exception(error)

    async def _answered(self, name: str, scope: Scope, receive: Receive) -> bytes:
        """Answer a request of a hot route that comes in parts, or compressed, or on a busy connection."""
        route, _, loop = name.partition(" ")
        if scope["method"] != "POST":
            raise Refused(405, "", f"got {scope['method']}, expected POST", headers=[(b"allow", b"POST")])
        client = scope["client"]
        source = self._access.allow(scope["headers"], _RIGHTS[route], "POST", client[0] if client else "")
        self._limit(loop)
        body = await self._bodies.whole(receive, scope["headers"])
        seat = self._seats.find(loop) or await self._seats.open(loop)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        seat.hot.put(route, body, scope["query_string"], source, future)
        return await future

    def _full(self) -> Refused:
        self._counters.add("full")
        detail = "more requests wait than may; try again in a second"
        return Refused(503, "", detail, headers=[(b"retry-after", b"1"), (b"connection", b"close")])

    def _count_limited(self, error: Exception) -> None:
        if isinstance(error, Refused) and error.status == 429:
            self._counters.add("limited")

    def _health(self, scope: Scope) -> bytes:
        """Return that this worker answers. A loop that cannot answer shows that itself."""
        if scope["method"] not in ("GET", "HEAD"):
            detail = f"got {scope['method']}, expected GET or HEAD"
            raise Refused(405, "", detail, headers=[(b"allow", b"GET, HEAD")])
        return msgspec.json.encode({"status": "ok", "staleness": None})

    async def _live(self, receive: Receive, send: Send) -> None:
        """Run from the start to the end of the server."""
        await receive()
        self._seats.start(asyncio.get_running_loop())
        await send({"type": "lifespan.startup.complete"})
        self._ready()
        await receive()
        await self._proxy.close()
        await self._seats.close()
        await send({"type": "lifespan.shutdown.complete"})


def warm(spec: Spec) -> None:
    """Load the kernels that predict with the template's model, so that no first request waits for them."""
    if spec.schema.fields:
        encoder = schema.features(schema.reading(spec.schema))
        made: Mapping[str, object] = dict.fromkeys(encoder.fields)
        shape = schema.shape(spec.schema)
        untrained = model.build(default_model.completed(spec, shape).model, shape)
        for rows in (1, 2):
            untrained.predict(encoder.rows([made] * rows))


def main() -> None:
    """Answer at the inherited socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", f"worker-{setup.index}", [setup.key_password])
    try:
        assert setup.pool is not None
        folder = LoopFolder(Path(setup.home), setup.pool.processes)
        warm(folder.service)
    except EverlearnError as error:
        logging.getLogger("everlearn.worker").critical("the worker cannot start: %s", error)
        raise SystemExit(1) from error
    with closing(Counters(setup.counters(setup.index))) as counters:
        most = connections.allowed()
        most_loops()
        worker = ManyWorker(setup, folder, counters, tell_ready, most)
        server = http_server(setup, worker, worker)

        def stop() -> None:
            server.should_exit = True

        # uvicorn ends first and then raises the signal again, which must not end this process by itself.
        signal.signal(signal.SIGTERM, lambda *_: None)
        when_abandoned(stop)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT)
        server.run(sockets=[socket.socket(fileno=setup.descriptor)])


if __name__ == "__main__":
    main()
