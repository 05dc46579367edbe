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
import math
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec
import uvicorn

from everlearn import model, schema
from everlearn.app import logs, problems, tracing
from everlearn.app.auth import Access
from everlearn.app.auth import Scope as Right
from everlearn.app.counters import Counters
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.app.routes import scope_of
from everlearn.app.tracing import Tracer
from everlearn.app.worker import connections, requests
from everlearn.app.worker.body_reader import BodyReader, Receive, Scope
from everlearn.app.worker.connections import Connections
from everlearn.app.worker.fast_path import Exchange, FastProtocol
from everlearn.app.worker.feedback import FeedbackIntake
from everlearn.app.worker.groups import Groups, LookUp, Read, Work
from everlearn.app.worker.known_heads import RequestHead
from everlearn.app.worker.predict import BatchPredictor
from everlearn.app.worker.proxy import Proxy, Send
from everlearn.app.worker.serving import CurrentModels
from everlearn.errors import EverlearnError, InputError
from everlearn.events import Log, connect
from everlearn.feedback.admission import Admission
from everlearn.feedback.early_room import EarlyRoom, PublishedUse
from everlearn.feedback.names import FieldNames
from everlearn.serve.snapshot import Reader
from everlearn.spec import MOST_BYTES, MOST_ROWS

GRACE = 10  # seconds that requests have to end when the worker does
GENERATING = 600.0  # seconds that the generator may think before it sends the first or the next part of a reply
GENERATED = ("/v1/", "/label/")  # beginnings of paths that the generator serves
UNWELL = 5.0  # seconds for which a worker reports itself unwell after its log failed, unless it wrote since
IDLE = 75  # seconds that a connection without requests is kept
# Thresholds of the collector of cycles. By default a worker with 2,000 connections visits their objects every few
# seconds, and answers no request meanwhile. Few objects are in cycles, so that may be done seldom.
COLLECT = (20_000, 20, 100)

_JSON = (b"content-type", b"application/json")
_CLASSES = {route: [f"{route}_{n}xx" for n in range(6)] for route in ("predict", "feedback", "learn")}


class HotRoute(NamedTuple):
    """One hot path: its name, the scope that a token needs, and the function that reads a request."""

    name: str
    right: Right
    read: Read


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
        spec = setup.spec
        use, begin = PublishedUse(Path(setup.serving)), log.end() if spec.feedback.early else 0
        room = EarlyRoom(spec.feedback, use, spec.serve.workers, begin=begin)
        names = FieldNames(spec, counters.add, counters.names)
        admission = Admission(spec, schema.reading(spec.schema), log, None, names, room)
        self.connections = Connections(most, counters.add)
        self._pairs = admission.encoder.late
        self._access = access
        self._counters = counters
        self._ready = ready
        self._current = CurrentModels(spec, reader)
        self._predictor = BatchPredictor(admission, self._current)
        self._intake = FeedbackIntake(admission, reader)
        self._groups = Groups(self._predictor, log, counters, tracer)
        self._bodies = BodyReader(MOST_BYTES, self._groups.full)
        self._proxies = [Proxy(setup.admin, self._bodies)]
        if self._pairs:
            self._proxies.append(Proxy(setup.generator, self._bodies, "the generator", GENERATING))
        self._hot = {
            "/predict": HotRoute("predict", scope_of("POST", "/predict"), self._predict),
            "/feedback": HotRoute("feedback", scope_of("POST", "/feedback"), self._feedback),
            "/learn": HotRoute("learn", scope_of("POST", "/learn"), self._examples),
        }
        # Complete requests take a fast path that bypasses ASGI, and therefore tracing.
        self.paths = {path.encode(): route.name for path, route in self._hot.items()} if tracer is None else {}
        self._routes = {route.name: route for route in self._hot.values()}

    def warm(self) -> None:
        """Load the kernels that predict, before the first request. Raises the error that keeps a worker from answering.

        The kernels that explain are loaded as well, where the family has any. A failure there is not raised, because
        predictions do not need them. A worker of a loop that learns preferences predicts nothing.
        """
        if self._pairs:
            return
        empty = dict.fromkeys(self._predictor.fields)  # all fields are there, without values
        for rows in (1, 2):
            (outcome,) = self._predictor.answer([requests.DecodedRecords([empty] * rows, [None] * rows, False, False)])
            if isinstance(outcome, Exception):
                raise outcome
        self._predictor.answer([requests.DecodedRecords([empty], [None], True, True)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The hot path is written out here, because calls cost time."""
        route = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            return await self._elsewhere(scope, receive, send)
        began = time.perf_counter()
        status, headers = 200, [_JSON]
        try:
            source = self._admitted(route, scope)
            body = await self._bodies.whole(receive, scope["headers"])
            future = self._loop.create_future()
            self._groups.put(route.read, body, scope["query_string"], source, future)
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
            route = self._routes[head.name]
            if time.monotonic() >= head.until:
                head.source = self._access.allow(head.headers, route.right, "POST", client)
                head.until = self._access.lasting(head.source)
            self._groups.put(route.read, body, head.query, head.source, reply)
        except Exception as error:
            self._count_limited(error)
            reply.set_exception(error)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a reply."""
        counters = self._counters
        counters.observe(route, seconds)
        counters.add(_CLASSES[route][status // 100])

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

    # ---- reading requests --------------------------------------------------------------------------------------

    def _predict(self, body: bytes, query: bytes, source: str) -> Work:
        if self._pairs:
            raise InputError(
                "this loop learns preferences: its rows are pairs of answers, not records of fields. Ask for an answer "
                "with POST /v1/chat/completions, or for a pair with GET /label/next"
            )
        return requests.predict_records(body, bool(query) and _explains(query), MOST_ROWS)

    def _feedback(self, body: bytes, query: bytes, source: str) -> Work:
        rows = requests.feedback_rows(body, MOST_ROWS)
        return LookUp(lambda: self._intake.feedback(rows, source))

    def _examples(self, body: bytes, query: bytes, source: str) -> Work:
        rows = requests.learn_rows(body, MOST_ROWS)
        return lambda: self._intake.examples(rows, source)

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
                generated = self._pairs and scope["path"].startswith(GENERATED)
                return await self._proxies[generated](scope, receive, send)
            if scope["method"] not in ("GET", "HEAD"):
                detail = f"got {scope['method']}, expected GET or HEAD"
                raise Refused(405, "", detail, headers=[(b"allow", b"GET, HEAD")])
            reply = self._health()
        except ConnectionAbortedError:
            raise
        except Exception as error:
            status, reply = problems.problem(error, scope["path"])
            headers = problems.headers(error)
        headers.append((b"content-length", b"%d" % len(reply)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        return None

    def _health(self) -> bytes:
        """Return the status and the staleness of the answers. Raises Refused if this worker cannot answer."""
        staleness = self._current.staleness()
        if self._groups.failing(UNWELL):
            raise Refused(503, "", "the log did not take what was last sent", headers=[(b"retry-after", b"1")])
        return msgspec.json.encode({"status": "ok", "staleness": staleness if math.isfinite(staleness) else None})

    async def _live(self, receive: Receive, send: Send) -> None:
        """Run from the start to the end of the server."""
        await receive()
        self._loop = asyncio.get_running_loop()
        self._groups.start(self._loop)
        await send({"type": "lifespan.startup.complete"})
        self._ready()
        await receive()
        for proxy in self._proxies:
            await proxy.close()
        await send({"type": "lifespan.shutdown.complete"})


def _explains(query: bytes) -> bool:
    """Return True if a query string asks for contributions."""
    value = parse_qs(query.decode("latin-1")).get("explain", [""])[-1]
    return value.lower() in ("1", "true", "yes")


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
        log = undo.enter_context(closing(connect(setup.log, spec.log.durability, tidy=False)))
        counters = undo.enter_context(closing(Counters(setup.counters(setup.index))))
        tracer = tracing.start(setup, f"worker-{setup.index}")
        if tracer is not None:
            undo.callback(tracer.stop)
        reader = Reader(Path(setup.serving), model.build)
        worker = Worker(setup, log, reader, Access(setup), counters, tell_ready, tracer, connections.allowed())
        worker.warm()
        server = _server(setup, worker, tracer)

        def stop() -> None:
            server.should_exit = True

        # uvicorn ends first and then raises the signal again, which must not end this process by itself.
        signal.signal(signal.SIGTERM, lambda *_: None)
        when_abandoned(stop)
        gc.collect()
        gc.freeze()  # objects made so far stay: later collections need not visit them
        gc.set_threshold(*COLLECT)
        server.run(sockets=[socket.socket(fileno=setup.descriptor)])


def _server(setup: Setup, worker: Worker, tracer: Tracer | None) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            tracer.wrap(worker) if tracer is not None else worker,
            loop="uvloop",
            http=partial(FastProtocol, worker),  # type: ignore[arg-type]
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
