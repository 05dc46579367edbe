"""A worker: a bare ASGI application that answers /predict, takes /feedback and /learn, and passes on the rest.

A worker never waits for the learner. Where the loop learns preferences, a worker holds no model: it takes feedback,
and the generator answers. It counts the seconds of "predict", "feedback" and "learn"; replies by route and
class ("predict_2xx", "learn_4xx", ...); "limited" (a caller exceeded its rate), "full" (503: too
much waits), "commits", "commit_rows", and the "bytes" of request bodies, and what `connections` refuses or closes.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from everlearn import model
from everlearn.app import logs, problems, tracing
from everlearn.app.auth import Access
from everlearn.app.auth import Scope as Right
from everlearn.app.counters import Counters
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.app.routes import scope_of
from everlearn.app.tracing import Tracer
from everlearn.app.worker import connections
from everlearn.app.worker.body_reader import BodyReader, Receive, Scope
from everlearn.app.worker.connections import Connections
from everlearn.app.worker.fast_path import Exchange, FastProtocol, FastRoutes
from everlearn.app.worker.hot_path import HotPath
from everlearn.app.worker.known_heads import RequestHead
from everlearn.app.worker.proxy import Proxy, Send
from everlearn.errors import EverlearnError
from everlearn.events import Log, log_of
from everlearn.serve.snapshot import Reader
from everlearn.spec import MOST_BYTES

GRACE = 10  # seconds that requests have to end when the worker does
GENERATING = 600.0  # seconds that the generator may think before it sends the first or the next part of a reply
GENERATED = ("/v1/", "/label/")  # beginnings of paths that the generator serves
IDLE = 75  # seconds that a connection without requests is kept
# Thresholds of the collector of cycles. By default a worker with 2,000 connections visits their objects every few
# seconds, and answers no request meanwhile. Few objects are in cycles, so that may be done seldom.
COLLECT = (20_000, 20, 100)

_JSON = (b"content-type", b"application/json")
CLASSES = {route: [f"{route}_{n}xx" for n in range(6)] for route in ("predict", "feedback", "learn")}


class HotRoute(NamedTuple):
    """One hot path: its name, and the scope that a token needs."""

    name: str
    right: Right


HOT = {path: HotRoute(path[1:], scope_of("POST", path)) for path in ("/predict", "/feedback", "/learn")}


class Worker:
    """The ASGI application; `ready` is called when it answers. It closes nothing that it is given."""

    longest = MOST_BYTES

    def __init__(
        self,
        setup: Setup,
        log: Log,
        reader: Reader,
        access: Access,
        counters: Counters,
        ready: Callable[[], None],
        tracer: Tracer | None = None,
        most: int = connections.MOST,
    ) -> None:
        self.connections = Connections(most, counters.add)
        self._hot = HotPath(setup, log, reader, counters, tracer)
        self._access = access
        self._counters = counters
        self._ready = ready
        self._bodies = BodyReader(MOST_BYTES, self._hot.full)
        self._proxies = [Proxy(setup.admin, self._bodies)]
        if self._hot.pairs:
            self._proxies.append(Proxy(setup.generator, self._bodies, "the generator", GENERATING))
        # Complete requests take a fast path that bypasses ASGI, and therefore tracing.
        self.paths = {path.encode(): route.name for path, route in HOT.items()} if tracer is None else {}

    def warm(self) -> None:
        """Load the kernels that predict, before the first request. Raises the error that keeps a worker from answering.

        A worker of a loop that learns preferences predicts nothing.
        """
        self._hot.warm()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The hot path is written out here, because calls cost time."""
        route = HOT.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            return await self._elsewhere(scope, receive, send)
        began = time.perf_counter()
        status, headers = 200, [_JSON]
        try:
            source = self._admitted(route, scope)
            body = await self._bodies.whole(receive, scope["headers"])
            future = self._loop.create_future()
            self._hot.put(route.name, body, scope["query_string"], source, future)
            reply = await future
        except Exception as error:
            self._count_limited(error)
            status, reply = problems.problem(error, scope["path"])
            headers = problems.headers(error)
        headers.append((b"content-length", b"%d" % len(reply)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        self.count(route.name, status, time.perf_counter() - began)
        return None

    def take(self, head: RequestHead, client: str, body: bytes, reply: Exchange) -> None:
        """Answer one complete request of the fast path, without a task for it."""
        try:
            if time.monotonic() >= head.until:
                head.source = self._access.allow(head.headers, HOT[head.path.decode()].right, "POST", client)
                head.until = self._access.lasting(head.source)
            self._hot.put(head.name, body, head.query, head.source, reply)
        except Exception as error:
            self._count_limited(error)
            reply.set_exception(error)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a reply."""
        counters = self._counters
        counters.observe(route, seconds)
        counters.add(CLASSES[route][status // 100])

    def _count_limited(self, error: Exception) -> None:
        """Count a caller that exceeded its rate; early feedback without room is 429, too, but no matter of rates."""
        if isinstance(error, Refused) and error.status == 429:
            self._counters.add("limited")

    def _admitted(self, route: HotRoute, scope: Scope) -> str:
        """Return the name of the token that a request carries. Raises Refused where it may not use the route."""
        if scope["method"] != "POST":
            raise Refused(405, "", f"got {scope['method']}, expected POST", headers=[(b"allow", b"POST")])
        client = scope["client"]
        return self._access.allow(scope["headers"], route.right, "POST", client[0] if client else "")

    # ---- all other routes --------------------------------------------------------------------------------------

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer /healthz, and pass every other request to the process that serves it."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1003})
        status, headers = 200, [_JSON]
        try:
            if scope["path"] != "/healthz":
                generated = self._hot.pairs and scope["path"].startswith(GENERATED)
                return await self._proxies[generated](scope, receive, send)
            if scope["method"] not in ("GET", "HEAD"):
                detail = f"got {scope['method']}, expected GET or HEAD"
                raise Refused(405, "", detail, headers=[(b"allow", b"GET, HEAD")])
            reply = self._hot.health()
        except ConnectionAbortedError:
            raise
        except Exception as error:
            status, reply = problems.problem(error, scope["path"])
            headers = problems.headers(error)
        headers.append((b"content-length", b"%d" % len(reply)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        return None

    async def _live(self, receive: Receive, send: Send) -> None:
        """Run from the start to the end of the server."""
        await receive()
        self._loop = asyncio.get_running_loop()
        self._hot.start(self._loop)
        await send({"type": "lifespan.startup.complete"})
        self._ready()
        await receive()
        for proxy in self._proxies:
            await proxy.close()
        await send({"type": "lifespan.shutdown.complete"})


def main() -> None:
    """Answer at the inherited socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", f"worker-{setup.index}", [setup.key_password])
    spec = setup.spec
    try:
        setup.check_place()
    except EverlearnError as error:
        logging.getLogger("everlearn.worker").critical("the worker cannot start: %s", error)
        raise SystemExit(1) from error
    with ExitStack() as undo:
        log = undo.enter_context(closing(log_of(setup.home, spec.log, tidy=False)))
        counters = undo.enter_context(closing(Counters(setup.counters(setup.index))))
        tracer = tracing.start(setup, f"worker-{setup.index}")
        if tracer is not None:
            undo.callback(tracer.stop)
        reader = Reader(Path(setup.serving), model.build)
        worker = Worker(setup, log, reader, Access(setup), counters, tell_ready, tracer, connections.allowed())
        worker.warm()
        server = http_server(setup, tracer.wrap(worker) if tracer is not None else worker, worker)

        def stop() -> None:
            server.should_exit = True

        # uvicorn ends first and then raises the signal again, which must not end this process by itself.
        signal.signal(signal.SIGTERM, lambda *_: None)
        when_abandoned(stop)
        gc.collect()
        gc.freeze()  # objects made so far stay: later collections need not visit them
        gc.set_threshold(*COLLECT)
        server.run(sockets=[socket.socket(fileno=setup.descriptor)])


def http_server(setup: Setup, application: Any, routes: FastRoutes) -> uvicorn.Server:
    """Return an HTTP server for an ASGI application, with a fast path to `routes`."""
    return uvicorn.Server(
        uvicorn.Config(
            application,
            loop="uvloop",
            http=partial(FastProtocol, routes),  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=setup.certificate or None,
            ssl_keyfile=setup.key or None,
            ssl_keyfile_password=setup.key_password or None,
        )
    )
