"""The admin process of many loops: it serves the list and the page of all loops, and the admin routes of each loop.

The routes of one loop are those of `app.admin`, built around a context of that loop while it is looked at.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import uvicorn
from starlette import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app import logs
from everlearn.app.admin.application import GRACE, listening, refused_by, unroutable
from everlearn.app.admin.http import refused
from everlearn.app.many import views
from everlearn.app.many.context import ManyContext
from everlearn.app.many.folder import LoopFolder
from everlearn.app.many.routes import MANY_ROUTES
from everlearn.app.problems import Refused
from everlearn.app.process import received, tell_ready, when_abandoned
from everlearn.client.records import Scope
from everlearn.errors import EverlearnError

log = logging.getLogger("everlearn.many")

ManyEndpoint = Callable[[ManyContext, Request], Awaitable[Response]]
Found = dict[str, tuple[Scope | None, ManyEndpoint]]

# Of one loop, but without anything of it: a page may load them before its visitor has logged in.
_PAGES: dict[str, Found] = {
    "/loops/{name}/": {"GET": (None, views.loop_page)},
    "/loops/{name}/docs": {"GET": (None, views.loop_page)},
    "/loops/{name}/static/{file}": {"GET": (None, views.static)},
    "/loops/{name}/session": {
        "GET": (None, views.session),
        "POST": (None, views.login),
        "DELETE": (None, views.logout),
    },
}


def many_application(context: ManyContext, ready: Callable[[], None] = lambda: None) -> Starlette:
    """Build the ASGI application; it calls `ready` once it accepts requests."""

    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        context.start()
        ready()
        yield
        await context.close()

    own = sorted((route for route in MANY_ROUTES if route.endpoint), key=lambda route: route.path)
    endpoints: dict[str, Found] = {
        path.replace("/static/{name}", "/static/{file}"): {
            route.method: (route.scope, getattr(views, route.endpoint.partition(".")[2])) for route in methods
        }
        for path, methods in groupby(own, key=lambda route: route.path)
    }
    table = [_route(context, path, found) for path, found in (endpoints | _PAGES).items()]
    table.append(routing.Mount("/loops/{name}", app=_LoopDoor(context)))  # type: ignore[arg-type]
    errors = {HTTPException: unroutable, Refused: refused_by, Exception: refused_by}
    app = Starlette(routes=table, exception_handlers=errors, lifespan=living)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return app


class _LoopDoor:
    """The way to the admin application of the loop that a path names."""

    def __init__(self, context: ManyContext) -> None:
        self._context = context

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on; Starlette has noted the part of the path that names the loop as its root."""
        name = scope["path_params"]["name"]
        request = Request(scope, receive)
        try:
            if not scope["path"].endswith("/readyz"):  # a stranger must not load a loop
                headers, client = request.headers.raw, self._context.client(request)
                self._context.access.admitted(headers, request.method, client)
            app = await self._context.opened(name)
        except Exception as error:
            return await refused(error, request)(scope, receive, send)
        return await app(scope, receive, send)


def _route(context: ManyContext, path: str, found: Found) -> routing.Route:
    async def answer(request: Request) -> Response:
        scope, call = found["GET" if request.method == "HEAD" else request.method]
        try:
            if scope is None:
                context.access.visit(request.headers.raw)
            else:
                context.access.allow(request.headers.raw, scope, request.method, context.client(request))
            return await call(context, request)
        except Exception as error:
            return refused(error, request)

    return routing.Route(path, answer, methods=list(found))


def main() -> None:
    """Serve at the admin socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", "admin", [setup.key_password])
    try:
        assert setup.pool is not None
        context = ManyContext(setup, LoopFolder(Path(setup.home), setup.pool.processes))
    except EverlearnError as error:
        log.critical("the admin process cannot start: %s", error)
        raise SystemExit(1) from error
    with listening(setup) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                many_application(context, tell_ready),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
        )

        def stop() -> None:
            server.should_exit = True

        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again after it has stopped
        when_abandoned(stop)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
