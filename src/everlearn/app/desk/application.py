"""The desk: whatever is not the hot path, in a process of its own, behind the workers.

It looks at the log, the blobs, the learner's status and the workers' tallies, and writes nothing but orders.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import groupby
from typing import NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from everlearn import config
from everlearn.app import logs
from everlearn.app.access import Scope
from everlearn.app.desk import ordering, showing
from everlearn.app.desk.answering import refused
from everlearn.app.desk.parts import Parts
from everlearn.app.problems import Refused
from everlearn.app.setup import Setup, received, tell_ready, when_abandoned
from everlearn.errors import EverlearnError

log = logging.getLogger("everlearn.desk")

GRACE = 10  # seconds that requests have to end when the desk does
BACKLOG = 128  # connections that wait to be accepted

Endpoint = Callable[[Parts, Request], Awaitable[Response]]


class Door(NamedTuple):
    """One method of one path; `scope` is what the caller must have, None where nothing of the loop is shown."""

    path: str
    method: str
    scope: Scope | None
    answer: Endpoint


DOORS = (
    Door("/", "GET", None, showing.page),
    Door("/docs", "GET", None, showing.page),
    Door("/static/{name}", "GET", None, showing.static),
    Door("/session", "GET", None, showing.session),
    Door("/session", "POST", None, showing.login),
    Door("/session", "DELETE", None, showing.logout),
    Door("/readyz", "GET", None, showing.health),
    Door("/openapi.json", "GET", "read", showing.openapi),
    Door("/status", "GET", "read", showing.status),
    Door("/metrics", "GET", "read", showing.metrics),
    Door("/versions", "GET", "read", showing.versions),
    Door("/versions/{id}", "GET", "read", showing.version),
    Door("/versions/{a}/diff/{b}", "GET", "read", showing.diff),
    Door("/versions/{id}/promote", "POST", "admin", ordering.promote),
    Door("/rollback", "POST", "admin", ordering.rollback),
    Door("/merge", "POST", "admin", ordering.merge),
    Door("/decisions", "GET", "read", showing.decisions),
    Door("/challengers", "GET", "read", showing.challengers),
    Door("/challengers", "POST", "admin", ordering.challenge),
    Door("/challengers/{version}", "DELETE", "admin", ordering.withdraw),
    Door("/events", "GET", "read", showing.events),
    Door("/events/{id:path}", "GET", "read", showing.event),
)


def application(parts: Parts, ready: Callable[[], None] = lambda: None) -> Starlette:
    """The desk as an ASGI application; `ready` is called when it answers."""

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        watching = [asyncio.create_task(parts.traffic.watch())]
        if parts.alerts is not None:
            watching.append(asyncio.create_task(parts.alerts.watch()))
        ready()
        yield
        for one in watching:
            one.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    by_path = groupby(sorted(DOORS), key=lambda door: door.path)
    routes = [_route(parts, path, {door.method: door for door in doors}) for path, doors in by_path]
    errors = {HTTPException: _unroutable, Refused: _refused, Exception: _refused}
    app = Starlette(routes=routes, exception_handlers=errors, lifespan=running)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return app


def _route(parts: Parts, path: str, doors: dict[str, Door]) -> Route:
    async def answer(request: Request) -> Response:
        door = doors["GET" if request.method == "HEAD" else request.method]
        try:
            if door.scope is None:
                parts.access.visit(request.headers.raw)
            else:
                client = parts.client(request)
                request.state.source = parts.access.allow(request.headers.raw, door.scope, request.method, client)
            return await door.answer(parts, request)
        except Exception as error:
            return refused(error, request)

    return Route(path, answer, methods=list(doors))


async def _refused(request: Request, error: Exception) -> Response:
    return refused(error, request)


async def _unroutable(request: Request, error: HTTPException) -> Response:
    """A path that is not there, or a method that a path does not have."""
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        headers = [(b"allow", allowed.encode())]
        detail = f"{request.url.path} has no {request.method}; expected {allowed}"
        return refused(Refused(405, "", detail, {"got": request.method, "expected": allowed}, headers=headers), request)
    detail = f"there is nothing at {request.url.path[:200]}; /docs shows what there is"
    return refused(Refused(error.status_code, "", detail), request)


def serving(parts: Parts, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server of the desk; give it the socket to answer at."""
    return uvicorn.Server(
        uvicorn.Config(
            application(parts, ready),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
    )


def listening(setup: Setup) -> socket.socket:
    """The desk's socket; one that a desk before this one left behind is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    setup.desk.unlink(missing_ok=True)
    listener.bind(str(setup.desk))
    setup.desk.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def main() -> None:
    """Answer at the desk's socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    secret = config.webhook_secret()
    logs.start("json" if setup.logs == "json" else "text", "desk", [secret, setup.key_password])
    try:
        _serve(setup)
    except EverlearnError as error:
        log.critical("the desk cannot work: %s", error)
        raise SystemExit(1) from error


def _serve(setup: Setup) -> None:
    with Parts(setup) as parts, listening(setup) as listener:
        server = serving(parts, tell_ready)

        def stop() -> None:
            server.should_exit = True

        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when it has ended
        when_abandoned(stop)
        server.run(sockets=[listener])
