"""The ASGI application of the admin process, and its main function."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import groupby

import uvicorn
from starlette import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everlearn import config
from everlearn.app import logs, routes
from everlearn.app.admin import commands, views
from everlearn.app.admin.context import AdminContext
from everlearn.app.admin.http import refused
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.errors import EverlearnError

log = logging.getLogger("everlearn.admin")

GRACE = 10  # seconds that requests have to end when the process stops
BACKLOG = 128  # connections that wait to be accepted

Endpoint = Callable[[AdminContext, Request], Awaitable[Response]]


def endpoint(route: routes.Route) -> Endpoint:
    """Return the function that serves a route of the admin process."""
    module, _, name = route.endpoint.partition(".")
    found: Endpoint = getattr({"views": views, "commands": commands}[module], name)
    return found


def application(context: AdminContext, ready: Callable[[], None] = lambda: None) -> Starlette:
    """Build the ASGI application; it calls `ready` once it accepts requests."""

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(context.live.watch())]
        if context.alerts is not None:
            tasks.append(asyncio.create_task(context.alerts.watch()))
        ready()
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    own = sorted(
        (route for route in routes.ROUTES if route.endpoint and not route.generated), key=lambda route: route.path
    )
    table = [_route(context, path, list(methods)) for path, methods in groupby(own, key=lambda route: route.path)]
    errors = {HTTPException: unroutable, Refused: refused_by, Exception: refused_by}
    app = Starlette(routes=table, exception_handlers=errors, lifespan=running)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return app


def _route(context: AdminContext, path: str, methods: list[routes.Route]) -> routing.Route:
    """Serve all methods of one path: check access first, then call the endpoint, and turn errors into problems."""
    endpoints = {route.method: (route.scope, endpoint(route)) for route in methods}

    async def answer(request: Request) -> Response:
        scope, call = endpoints["GET" if request.method == "HEAD" else request.method]
        try:
            if scope is None:
                context.access.visit(request.headers.raw)
            else:
                client = context.client(request)
                request.state.source = context.access.allow(request.headers.raw, scope, request.method, client)
            return await call(context, request)
        except Exception as error:
            return refused(error, request)

    return routing.Route(path, answer, methods=list(endpoints))


async def refused_by(request: Request, error: Exception) -> Response:
    """Answer a request that was refused."""
    return refused(error, request)


async def unroutable(request: Request, error: HTTPException) -> Response:
    """Answer a request to an unknown path, or with a method that the path does not have."""
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        headers = [(b"allow", allowed.encode())]
        detail = f"{request.url.path} has no {request.method}; expected {allowed}"
        return refused(Refused(405, "", detail, {"got": request.method, "expected": allowed}, headers=headers), request)
    detail = f"there is nothing at {request.url.path[:200]}; /docs lists all paths"
    return refused(Refused(error.status_code, "", detail), request)


def serving(context: AdminContext, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return an HTTP server for the application; run it with the socket to listen at."""
    return uvicorn.Server(
        uvicorn.Config(
            application(context, ready),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
    )


def listening(setup: Setup) -> socket.socket:
    """Return the socket of the admin process, replacing one left behind by an earlier process."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    setup.admin.unlink(missing_ok=True)
    listener.bind(str(setup.admin))
    setup.admin.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def main() -> None:
    """Serve at the admin socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    secret = config.webhook_secret()
    logs.start("json" if setup.logs == "json" else "text", "admin", [secret, setup.key_password])
    try:
        setup.check_place()
        _serve(setup)
    except EverlearnError as error:
        log.critical("the admin process cannot start: %s", error)
        raise SystemExit(1) from error


def _serve(setup: Setup) -> None:
    with AdminContext(setup) as context, listening(setup) as listener:
        server = serving(context, tell_ready)

        def stop() -> None:
            server.should_exit = True

        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again after it has stopped
        when_abandoned(stop)
        server.run(sockets=[listener])
