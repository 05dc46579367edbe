"""Endpoints of a server of many loops: the list, one loop, metrics, health, sessions, and the page of all loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app import counters
from everlearn.app.admin import prometheus, rates
from everlearn.app.admin.http import cached, number, uncached
from everlearn.app.admin.processes import Process, running
from everlearn.app.admin.views import file_response, login, logout, session
from everlearn.app.many.context import ManyContext, writable
from everlearn.app.many.folder import page as page_of
from everlearn.app.problems import Refused
from everlearn.app.routes import LONGEST_PAGE, PAGE
from everlearn.client.loop_records import LoopPage
from everlearn.client.records import Healthy
from everlearn.errors import InputError

__all__ = ["create", "health", "login", "logout", "loop", "loops", "metrics", "page", "session", "static"]


async def loops(context: ManyContext, request: Request) -> Response:
    """GET /loops"""
    limit = number(request, "limit", PAGE, 1, LONGEST_PAGE)
    search, after = request.query_params.get("search", "")[:100], request.query_params.get("after", "")[:100]

    def found() -> LoopPage:
        names, following, total = page_of(context.folder.names(), after, limit, search)
        return LoopPage([context.entry(name) for name in names], total, _resident(context), following)

    return cached(request, await asyncio.to_thread(found))


async def loop(context: ManyContext, request: Request) -> Response:
    """GET /loops/{name}"""
    return cached(request, context.entry(context.found(request.path_params["name"])))


async def create(context: ManyContext, request: Request) -> Response:
    """POST /loops/{name}"""
    name = request.path_params["name"]
    if (body := (await request.body()).strip()) not in (b"", b"{}"):
        raise InputError(
            f"got a body of {len(body)} bytes; expected none, or {{}}: a new loop has the settings of the template. "
            f"Put other settings into {name[:60]}.toml in the folder before its first request"
        )
    status = await context.create(name)
    return uncached(context.entry(name), status)


async def metrics(context: ManyContext, request: Request) -> Response:
    """GET /metrics"""
    encode, media = choose_encoder(request.headers.get("accept", ""))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(context))
    content = await asyncio.to_thread(lambda: encode(registry))
    return Response(content, media_type=media, headers={"cache-control": "no-store"})


async def health(context: ManyContext, request: Request) -> Response:
    """GET /readyz"""
    found = await asyncio.to_thread(_processes, context)
    reasons = [f"the process {name} does not run" for name, process in found.items() if process is None]
    reasons += [f"a signal has stopped {name}" for name, process in found.items() if process and process.stopped]
    if unwritable := await asyncio.to_thread(writable, context.folder.root):
        reasons.append(unwritable)
    if reasons:
        raise Refused(503, "Not healthy", "; ".join(reasons), {"reasons": reasons})
    return uncached(Healthy("ok", None))


async def page(context: ManyContext, request: Request) -> Response:
    """GET /"""
    return file_response(request, "many.html")


async def loop_page(context: ManyContext, request: Request) -> Response:
    """GET /loops/{name}/ and GET /loops/{name}/docs"""
    context.found(request.path_params["name"])
    return file_response(request, "docs.html" if request.url.path.endswith("/docs") else "index.html")


async def static(context: ManyContext, request: Request) -> Response:
    """GET /static/{name}"""
    return file_response(request, request.path_params["file"])


class _Collector:
    """Collector of the metrics of the whole server, which reads them at the moment of a scrape."""

    def __init__(self, context: ManyContext) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        context = self._context
        found = _processes(context)
        yield from prometheus.build_and_processes(found)
        workers = range(context.setup.spec.serve.workers)
        yield from prometheus.requests(rates.summed(counters.read(context.setup.counters(index)) for index in workers))
        yield prometheus.gauge("loops", "Loops in the folder.", (), [((), len(context.folder.names()))])
        yield prometheus.gauge("loops_resident", "Loops in memory.", (), [((), _resident(context))])


def _resident(context: ManyContext) -> int:
    try:
        return sum(1 for _ in (Path(context.setup.serving) / "loops").iterdir())
    except FileNotFoundError:
        return 0


def _processes(context: ManyContext) -> dict[str, Process | None]:
    """Return the expected processes; empty where it is unknown which ones run."""
    found = running(os.getppid(), context.setup.serving)
    numbers = range(context.folder.processes)
    expected = ["admin", *(f"learner-{i}" for i in numbers), *(f"worker-{i}" for i in numbers)]
    return {name: found.get(name) for name in expected if found}
