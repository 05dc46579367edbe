"""A worker: the hot path. A bare ASGI application that answers /predict and takes /feedback and /learn.

What waits when the event loop comes round is handled together: one encoding, one call of the model, one commit, then
all replies. Nothing is acknowledged before it is in the log, and nothing ever waits for the learner.

It counts in its tally: seconds of "predict", "feedback" and "learn"; replies by route and class ("predict_2xx",
"learn_4xx", ...); "limited" (429), "full" (503: too much waits), "commits", "commit_rows", and "bytes" of bodies.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec
import uvicorn
from msgspec import Struct

from everlearn import model, schema
from everlearn.app import logs, problems, tracing
from everlearn.app.auth import Access
from everlearn.app.auth import Scope as Right
from everlearn.app.counters import Tally
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.app.tracing import Tracer
from everlearn.app.worker import requests
from everlearn.app.worker.body_reader import Bodies, Receive, Scope
from everlearn.app.worker.commit import GroupCommit
from everlearn.app.worker.fast_path import Exchange, Headers, Quick
from everlearn.app.worker.feedback import AcceptedRows, Labels
from everlearn.app.worker.predict import Answered, Group
from everlearn.app.worker.proxy import Proxy, Send
from everlearn.errors import InputError
from everlearn.events import Log, Row, connect
from everlearn.serve.snapshot import Reader
from everlearn.spec import MOST_BYTES, MOST_ROWS

WAITING = 2048  # requests that may wait for the log at one time
GRACE = 10  # seconds that requests have to end when the worker does
UNWELL = 5.0  # seconds for which a worker whose log failed calls itself so, unless it took something since
IDLE = 75  # seconds that a connection without requests is kept

_JSON = (b"content-type", b"application/json")
_CLASSES = {route: [f"{route}_{n}xx" for n in range(6)] for route in ("predict", "feedback", "learn")}
_FULL = "more requests wait than may; try again in a second"

Ask = requests.Question | Callable[[], AcceptedRows]  # what to answer, or what there is to take
Reply = asyncio.Future[bytes] | Exchange  # what is settled with it


class Route(NamedTuple):
    """One hot path: its name, who may use it, and how a body is read."""

    name: str
    right: Right
    read: Callable[[bytes, bytes, str], Ask]  # body, query, source


class Waiting(Struct, eq=False):
    """One request on its way through a group; `again` puts it into the next group."""

    ask: Ask
    future: Reply
    again: Callable[[Waiting], None]
    done: Answered | AcceptedRows | None = None
    rows: Sequence[Row] = ()
    tried: bool = False

    def settle(self, outcome: Answered | AcceptedRows | Exception) -> None:
        """What it has to write, or why there is nothing to be written."""
        if isinstance(outcome, Exception):
            self.done = None
            self.failed(outcome)
        else:
            self.done, self.rows = outcome, outcome.rows

    def written(self, new: int) -> None:
        """It is in the log: acknowledge it."""
        if self.done is not None and not self.future.done():
            self.future.set_result(self.done.reply(new))

    def failed(self, error: Exception) -> None:
        """It is not in the log: say why. A key that another request took first is looked up, once."""
        if self.future.done():
            return
        conflict = isinstance(error, InputError) and self.done is not None
        if conflict and not self.tried:
            self.tried = True
            if isinstance(self.ask, requests.Question):
                self.ask = msgspec.structs.replace(self.ask, again=True)
            self.again(self)
        else:
            self.future.set_exception(_used() if conflict else error)


class Worker:
    """The ASGI application; `ready` is called when it answers. It closes nothing that it is given."""

    def __init__(
        self,
        setup: Setup,
        log: Log,
        reader: Reader,
        access: Access,
        tally: Tally,
        ready: Callable[[], None],
        tracer: Tracer | None = None,
    ) -> None:
        spec = setup.spec
        encoder = schema.Encoder(spec.schema)
        self._access = access
        self._tally = tally
        self._ready = ready
        self._tracer = tracer
        self._group = Group(spec, encoder, log, reader)
        self._labels = Labels(spec, encoder, log, reader)
        self._commit = GroupCommit(log, self._later, self._count_commit)
        self._bodies = Bodies(MOST_BYTES, self._full)
        self._proxy = Proxy(setup.desk, self._bodies)
        self._waiting: list[Waiting] = []
        self._bytes = 0  # of bodies, since the last group
        self._hot = {
            "/predict": Route("predict", "predict", self._question),
            "/feedback": Route("feedback", "feedback", self._feedback),
            "/learn": Route("learn", "feedback", self._examples),
        }
        # What comes whole may come by a short way, which is not ASGI, and of which a tracer sees nothing.
        self.paths = {path.encode(): route.name for path, route in self._hot.items()} if tracer is None else {}
        self._routes = {route.name: route for route in self._hot.values()}
        self.longest = MOST_BYTES

    def warm(self) -> None:
        """Load the kernels that answer, before anyone waits for them; raises what keeps this worker from answering."""
        for rows in (1, 2):
            (outcome,) = self._group.answer([requests.Question([{}] * rows, [None] * rows, False, False)])
            if isinstance(outcome, Exception):
                raise outcome
        # What explains is loaded as well, where the family can; a failure there keeps nobody from answers.
        self._group.answer([requests.Question([{}], [None], True, True)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; all of the hot path that is not a group's stands here, because calls cost time."""
        route = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            return await self._elsewhere(scope, receive, send)
        began = time.perf_counter()
        status, headers = 200, [_JSON]
        try:
            source = self._admitted(route, scope)
            body = await self._bodies.whole(receive)
            future = self._loop.create_future()
            self._ask(route, body, scope["query_string"], source, future)
            reply = await future
        except Exception as error:
            status, reply = problems.problem(error, scope["path"])
            headers = problems.headers(error)
        headers.append((b"content-length", b"%d" % len(reply)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        self.count(route.name, status, time.perf_counter() - began)
        return None

    def take(self, name: str, headers: Headers, client: str, query: bytes, body: bytes, reply: Exchange) -> None:
        """Answer one request that came whole, without a task of its own."""
        try:
            route = self._routes[name]
            source = self._access.allow(headers, route.right, "POST", client)
            self._ask(route, body, query, source, reply)
        except Exception as error:
            reply.set_exception(error)

    def _ask(self, route: Route, body: bytes, query: bytes, source: str, reply: Reply) -> None:
        """Let a request wait for the next group; its reply is settled then."""
        if len(self._waiting) + len(self._commit) >= WAITING:
            raise self._full()
        self._join(Waiting(route.read(body, query, source), reply, self._join))
        self._bytes += len(body)

    def _admitted(self, route: Route, scope: Scope) -> str:
        """Who asks, if they may."""
        if scope["method"] != "POST":
            raise Refused(405, "", f"got {scope['method']}, expected POST", headers=[(b"allow", b"POST")])
        client = scope["client"]
        return self._access.allow(scope["headers"], route.right, "POST", client[0] if client else "")

    def _full(self) -> Refused:
        self._tally.add("full")
        return Refused(503, "", _FULL, headers=[(b"retry-after", b"1"), (b"connection", b"close")])

    # ---- what the bodies ask -----------------------------------------------------------------------------------

    def _question(self, body: bytes, query: bytes, source: str) -> Ask:
        return requests.question(body, bool(query) and _explained(query), MOST_ROWS)

    def _feedback(self, body: bytes, query: bytes, source: str) -> Ask:
        rows = requests.feedback_rows(body, MOST_ROWS)
        return lambda: self._labels.feedback(rows, source)

    def _examples(self, body: bytes, query: bytes, source: str) -> Ask:
        rows = requests.learn_rows(body, MOST_ROWS)
        return lambda: self._labels.examples(rows, source)

    # ---- groups ------------------------------------------------------------------------------------------------

    def _join(self, one: Waiting) -> None:
        """Wait for the group that is handled when everything that has come by now has been read."""
        if not self._waiting:
            self._loop.call_soon(self._handle)
        self._waiting.append(one)

    def _handle(self) -> None:
        """Answer and write what has come together."""
        group, self._waiting = self._waiting, []
        asking = [(one, one.ask) for one in group if isinstance(one.ask, requests.Question)]
        outcomes = self._group.answer([question for _, question in asking]) if asking else ()
        for (one, _), outcome in zip(asking, outcomes, strict=True):
            one.settle(outcome)
        for one in group if len(asking) < len(group) else ():
            if not isinstance(one.ask, requests.Question):
                one.settle(_tried(one.ask))
        self._commit.put([one for one in group if one.done is not None])
        self._tally.add("bytes", self._bytes)
        self._bytes = 0

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._loop.call_later(seconds, call)

    def _count_commit(self, entries: int, rows: int, seconds: float) -> None:
        self._tally.add("commits")
        self._tally.add("commit_rows", rows)
        if self._tracer is not None:
            self._tracer.record("commit", seconds, {"everlearn.requests": entries, "everlearn.rows": rows})

    def count(self, route: str, status: int, seconds: float) -> None:
        self._tally.observe(route, seconds)
        self._tally.add(_CLASSES[route][status // 100])
        if status == 429:
            self._tally.add("limited")

    # ---- the rest ----------------------------------------------------------------------------------------------

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything that is not on the hot path."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1003})
        status, headers = 200, [_JSON]
        try:
            if scope["path"] != "/healthz":
                return await self._proxy(scope, receive, send)
            if scope["method"] not in ("GET", "HEAD"):
                detail = f"got {scope['method']}, expected GET or HEAD"
                raise Refused(405, "", detail, headers=[(b"allow", b"GET, HEAD")])
            reply = self._health()
        except Exception as error:
            status, reply = problems.problem(error, scope["path"])
            headers = problems.headers(error)
        headers.append((b"content-length", b"%d" % len(reply)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})
        return None

    def _health(self) -> bytes:
        """That this worker can answer, and how stale its answers are; raises Refused if it cannot."""
        _, staleness = self._group.serving()
        if self._commit.failing(UNWELL):
            raise Refused(503, "", "the log did not take what was last sent", headers=[(b"retry-after", b"1")])
        return msgspec.json.encode({"status": "ok", "staleness": staleness if math.isfinite(staleness) else None})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._loop = asyncio.get_running_loop()
        await send({"type": "lifespan.startup.complete"})
        self._ready()
        await receive()
        await self._proxy.close()
        await send({"type": "lifespan.shutdown.complete"})


def _used() -> Refused:
    """What the log says of a conflict shows what it holds: that is not for whoever knows an id."""
    members = {"where": "id", "fix": "use another id"}
    return Refused(409, "", "an id of this request names something else, which was sent before", members)


def _tried(ask: Callable[[], AcceptedRows]) -> AcceptedRows | Exception:
    try:
        return ask()
    except Exception as error:
        return error


def _explained(query: bytes) -> bool:
    asked = parse_qs(query.decode("latin-1")).get("explain", [""])[-1]
    return asked.lower() in ("1", "true", "yes")


def main() -> None:
    """Answer at the inherited socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", f"worker-{setup.index}", [setup.key_password])
    spec = setup.spec
    with ExitStack() as undo:
        log = undo.enter_context(closing(connect(f"{setup.home}/log.sqlite", spec.log.durability, tidy=False)))
        tally = undo.enter_context(closing(Tally(setup.tally(setup.index))))
        tracer = tracing.start(setup, f"worker-{setup.index}")
        if tracer is not None:
            undo.callback(tracer.stop)
        reader = Reader(Path(setup.serving), model.build)
        worker = Worker(setup, log, reader, Access(setup), tally, tell_ready, tracer)
        worker.warm()
        server = uvicorn.Server(
            uvicorn.Config(
                tracer.wrap(worker) if tracer is not None else worker,
                loop="uvloop",
                http=partial(Quick, worker),  # type: ignore[arg-type]
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

        def stop() -> None:
            server.should_exit = True

        # uvicorn raises the signal again once it has ended: that is how we want to end.
        signal.signal(signal.SIGTERM, lambda *_: None)
        when_abandoned(stop)
        gc.collect()
        gc.freeze()  # what is here now stays: later collections need not look at it
        server.run(sockets=[socket.socket(fileno=setup.descriptor)])
