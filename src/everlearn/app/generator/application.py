"""The ASGI application of the generator, and its main function."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from starlette import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app import logs
from everlearn.app.admin.http import refused as problem
from everlearn.app.generator import asking_status, chat, feedback, label, version_answers
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.openai_records import ApiError
from everlearn.app.generator.questioning import Questioning
from everlearn.app.problems import Refused
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.app.routes import ROUTES, Route
from everlearn.errors import EverlearnError

log = logging.getLogger("everlearn.generator")

GRACE = 10  # seconds that requests have to end when the process stops
BACKLOG = 128  # connections that wait to be accepted

Endpoint = Callable[[Request], Awaitable[Response]]


def application(context: GeneratorContext, ready: Callable[[], None] = lambda: None) -> Starlette:
    """Build the ASGI application; it calls `ready` once it accepts requests."""
    questions = Questioning(context)
    desk = questions.desk

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        making = asyncio.create_task(questions.run())
        ready()
        yield
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        questions.close()

    endpoints: dict[str, Endpoint] = {
        "chat.models": partial(chat.models, context),
        "chat.completions": partial(chat.completions, context),
        "feedback.feedback": partial(feedback.feedback, context),
        "label.next_pair": partial(label.next_pair, context, desk),
        "version_answers.answers": partial(version_answers.answers, context),
        "label.judge": partial(label.judge, context, desk),
        "label.undo": partial(label.undo, context, desk),
        "asking_status.status": partial(asking_status.status, questions.report),
    }
    table = [_route(context, route, endpoints[route.endpoint]) for route in ROUTES if route.generated]
    errors = {HTTPException: _unroutable, Exception: _refused}
    app = Starlette(routes=table, exception_handlers=errors, lifespan=running)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return app


def _route(context: GeneratorContext, route: Route, call: Endpoint) -> routing.Route:
    """Serve one route: check access first, then call the endpoint, and turn errors into replies of its form."""
    scope = route.scope
    assert scope is not None

    async def answer(request: Request) -> Response:
        try:
            request.state.source = await context.allow(request, scope)
            return await call(request)
        except Exception as error:
            return _reply(error, request)

    return routing.Route(route.path, answer, methods=[route.method])


def _reply(error: Exception, request: Request) -> Response:
    """Return an error in OpenAI's form under /v1/, else as a problem document."""
    return chat.refused(error, request) if request.url.path.startswith("/v1/") else problem(error, request)


async def _refused(request: Request, error: Exception) -> Response:
    return _reply(error, request)


async def _unroutable(request: Request, error: HTTPException) -> Response:
    """Answer a request to an unknown path, or with a method that the path does not have."""
    path = request.url.path[:200]
    if path.startswith("/v1/"):
        found = ApiError(f"{request.method} {path} is not supported; see /docs", status=error.status_code)
        return chat.refused(found, request)
    detail = f"{request.method} {path} is not served; /docs lists all paths"
    return problem(Refused(error.status_code, "", detail), request)


def serving(context: GeneratorContext, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
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
    """Return the socket of the generator, replacing one left behind by an earlier process."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    setup.generator.unlink(missing_ok=True)
    listener.bind(str(setup.generator))
    setup.generator.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def main() -> None:
    """Serve at the generator's socket until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", "generator", [setup.key_password])
    try:
        _serve(setup)
    except EverlearnError as error:
        log.critical("the generator cannot start: %s", error)
        raise SystemExit(1) from error


def _serve(setup: Setup) -> None:
    with GeneratorContext(setup) as context, listening(setup) as listener:
        server = serving(context, tell_ready)

        def stop() -> None:
            server.should_exit = True

        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again after it has stopped
        when_abandoned(stop)
        server.run(sockets=[listener])
