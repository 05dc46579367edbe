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
from everlearn.app.admin import commands, views
from everlearn.app.admin.context import Parts
from everlearn.app.admin.http import refused
from everlearn.app.auth import Scope
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
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
    Door("/", "GET", None, views.page),
    Door("/docs", "GET", None, views.page),
    Door("/static/{name}", "GET", None, views.static),
    Door("/session", "GET", None, views.session),
    Door("/session", "POST", None, views.login),
    Door("/session", "DELETE", None, views.logout),
    Door("/readyz", "GET", None, views.health),
    Door("/openapi.json", "GET", "read", views.openapi),
    Door("/status", "GET", "read", views.status),
    Door("/metrics", "GET", "read", views.metrics),
    Door("/versions", "GET", "read", views.versions),
    Door("/versions/{id}", "GET", "read", views.version),
    Door("/versions/{a}/diff/{b}", "GET", "read", views.diff),
    Door("/versions/{id}/promote", "POST", "admin", commands.promote),
    Door("/rollback", "POST", "admin", commands.rollback),
    Door("/merge", "POST", "admin", commands.merge),
    Door("/decisions", "GET", "read", views.decisions),
    Door("/challengers", "GET", "read", views.challengers),
    Door("/challengers", "POST", "admin", commands.challenge),
    Door("/challengers/{version}", "DELETE", "admin", commands.withdraw),
    Door("/events", "GET", "read", views.events),
    Door("/events/{id:path}", "GET", "read", views.event),
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
    setup.admin.unlink(missing_ok=True)
    listener.bind(str(setup.admin))
    setup.admin.chmod(0o600)
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
