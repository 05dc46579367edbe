"""Endpoints that show things: lists, versions, the lifecycle of an event, the status, metrics, health, and pages."""

from __future__ import annotations

import asyncio
import time

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app import dashboard
from everlearn.app.admin import compare, lifecycle, prometheus
from everlearn.app.admin.commands import find
from everlearn.app.admin.context import AdminContext, PageContext
from everlearn.app.admin.http import POLICY, body, cached, page_of, tagged, uncached, wrong
from everlearn.app.problems import Refused
from everlearn.client.place_records import PlaceList
from everlearn.client.records import Challenger, ChallengerList, Diff, Healthy, Lifecycle, Login
from everlearn.errors import BlobError
from everlearn.events import KINDS
from everlearn.scale.place_messages import PLACES
from everlearn.spec import MOST_BYTES
from everlearn.version.blobs import shared_files
from everlearn.version.registry import related

STALE = 2.0  # seconds without a new status after which the learner counts as gone


# ---- the loop ----------------------------------------------------------------------------------------------------


async def versions(context: AdminContext, request: Request) -> Response:
    """GET /versions"""
    return cached(request, await asyncio.to_thread(context.queries.version_page, *page_of(request)))


async def version(context: AdminContext, request: Request) -> Response:
    """GET /versions/{id}"""
    found = await asyncio.to_thread(find, context, request.path_params["id"])
    return cached(request, context.queries.entry(found))


async def diff(context: AdminContext, request: Request) -> Response:
    """GET /versions/{a}/diff/{b}"""
    return cached(request, await asyncio.to_thread(_diff, context, request.path_params["a"], request.path_params["b"]))


async def decisions(context: AdminContext, request: Request) -> Response:
    """GET /decisions"""
    return cached(request, await asyncio.to_thread(context.queries.decisions, *page_of(request)))


async def events(context: AdminContext, request: Request) -> Response:
    """GET /events"""
    after, limit, newest = page_of(request)
    kinds = request.query_params.getlist("kind")
    for kind in set(kinds) - set(KINDS.values()):
        raise wrong("kind", kind, f"one of {', '.join(KINDS.values())}")
    return cached(request, await asyncio.to_thread(context.queries.events, after, limit, kinds, newest))


async def event(context: AdminContext, request: Request) -> Response:
    """GET /events/{id}"""
    return cached(request, await asyncio.to_thread(_lifecycle, context, request.path_params["id"]))


async def challengers(context: AdminContext, request: Request) -> Response:
    """GET /challengers"""
    status = context.live.status or {}
    evidence = {(one["role"], one["candidate"]): one for one in status.get("gate", [])}
    found = [
        Challenger(**model, evidence=evidence.get((model["role"], model["version"])))
        for model in status.get("contestants", [])
    ]
    return cached(request, ChallengerList(sorted(found, key=lambda model: model.role != "champion")))


def _places(context: AdminContext) -> PlaceList:
    if not context.spec.log.blobs:
        return PlaceList()
    found = shared_files(context.setup.home, context.spec.log).get(PLACES)
    return msgspec.json.decode(found[0], type=PlaceList) if found else PlaceList()


def _diff(context: AdminContext, first: str, second: str) -> Diff:
    a, b = find(context, first), find(context, second)
    common, steps = related({version.id: version for version in context.queries.versions.list()}, a.id, b.id)
    arrays, missing = None, ""
    try:
        with context.comparing:  # concurrent requests take turns, so that the arrays of only two versions are loaded
            arrays = compare.arrays(context.queries.arrays(a), context.queries.arrays(b))
    except BlobError as error:
        missing = str(error)
    entries = context.queries.entry(a), context.queries.entry(b)
    pairs = compare.specs(a.spec, b.spec), compare.metrics(a.metrics, b.metrics)
    return Diff(*entries, *pairs, arrays, missing, common, steps)


def _lifecycle(context: AdminContext, id: str) -> Lifecycle:
    found = context.queries.about(id)
    if not found:
        detail = f"nothing in the log has the id {id[:200]!r}; it was never used, or was erased"
        raise Refused(404, "There is no such id", detail, {"where": "id", "got": id[:200]})
    folded = context.live.folded()
    subject, feedback = lifecycle.split(found)
    seen = context.queries.time_of(min(folded, feedback.position - 1) if feedback else folded)
    known = context.circumstances(seen)
    state, explanation = lifecycle.state(found, folded, time.time(), context.spec.feedback, known)
    at = (subject or found[0]).position
    around = context.queries.around(at, at)
    return Lifecycle(id, state, explanation, found, around)


# ---- the server --------------------------------------------------------------------------------------------------


async def status(context: AdminContext, request: Request) -> Response:
    """GET /status"""
    if context.live.status is None:
        raise Refused(503, "", "the learner has not written its status yet; it may be starting: ask again in a second")
    content, tag = context.live.document()
    return tagged(request, content, tag=tag)


async def places(context: AdminContext, request: Request) -> Response:
    """GET /places"""
    try:
        return uncached(await asyncio.to_thread(_places, context))
    except BlobError as error:
        raise Refused(503, "", str(error)) from error


async def metrics(context: AdminContext, request: Request) -> Response:
    """GET /metrics"""
    encode, media = choose_encoder(request.headers.get("accept", ""))
    content = await asyncio.to_thread(lambda: encode(prometheus.registry(context.live, context.queries)))
    return Response(content, media_type=media, headers={"cache-control": "no-store"})


async def health(context: AdminContext, request: Request) -> Response:
    """GET /readyz"""
    reasons = context.live.complaints(STALE)
    if unwritable := await asyncio.to_thread(context.probe.complaint):
        reasons.append(unwritable)
    if reasons:
        raise Refused(503, "Not healthy", "; ".join(reasons), {"reasons": reasons})
    return uncached(Healthy("ok", context.live.staleness()))


# ---- pages -------------------------------------------------------------------------------------------------------


async def page(context: AdminContext, request: Request) -> Response:
    """GET /, GET /docs and GET /label"""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))  # of a loop among many
    if path == "/label" and context.spec.schema.task != "preference":
        detail = f'schema.task is "{context.spec.schema.task}"; only a loop that learns preferences has pairs to judge'
        raise Refused(404, "There is nothing to judge", detail)
    return file_response(request, {"/docs": "docs.html", "/label": "label.html"}.get(path, "index.html"))


async def static(context: AdminContext, request: Request) -> Response:
    """GET /static/{name}"""
    return file_response(request, request.path_params["name"])


async def openapi(context: AdminContext, request: Request) -> Response:
    """GET /openapi.json"""
    return tagged(request, context.document)


async def session(context: PageContext, request: Request) -> Response:
    """GET /session"""
    current = context.access.session(request.headers.raw)
    if current is None:
        raise Refused(401, "", "this page has no session; log in with a token (POST /session)")
    return uncached(current)


async def login(context: PageContext, request: Request) -> Response:
    """POST /session"""
    message = await body(request, Login, MOST_BYTES)
    started, cookie = context.access.login(request.headers.raw, message.token, context.client(request))
    response = uncached(started)
    _set_cookie(response, cookie)
    return response


async def logout(context: PageContext, request: Request) -> Response:
    """DELETE /session"""
    response = Response(status_code=204, headers={"cache-control": "no-store"})
    _set_cookie(response, context.access.logout(request.headers.raw))
    return response


def _set_cookie(response: Response, cookie: str) -> None:
    if cookie:
        response.headers["set-cookie"] = cookie


def file_response(request: Request, name: str) -> Response:
    """Return a file of the pages. Raises Refused (404) for an unknown name."""
    file = dashboard.files().get(name)
    if file is None:
        raise Refused(404, "", f"there is no file {name[:200]!r}")
    return tagged(request, file.content, file.media, file.etag, headers=POLICY)
