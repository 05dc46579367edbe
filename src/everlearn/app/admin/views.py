"""What the desk shows: lists, versions, one event's story, the status, metrics, health, the pages themselves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app import dashboard
from everlearn.app.admin import compare, lifecycle, prometheus
from everlearn.app.admin.context import Parts
from everlearn.app.admin.http import POLICY, answered, body, sent, stretch, tagged, wrong
from everlearn.app.admin.responses import Challenger, ChallengerList, Diff, Healthy, Login, Story
from everlearn.app.problems import Refused
from everlearn.errors import BlobError, InputError
from everlearn.events import KINDS
from everlearn.records import Version
from everlearn.spec import MOST_BYTES
from everlearn.version.registry import related

STALE = 2.0  # seconds without a new status after which the learner counts as gone


# ---- the loop ----------------------------------------------------------------------------------------------------


async def versions(parts: Parts, request: Request) -> Response:
    """GET /versions"""
    return answered(request, await asyncio.to_thread(parts.archive.listed, *stretch(request)))


async def version(parts: Parts, request: Request) -> Response:
    """GET /versions/{id}"""
    found = await asyncio.to_thread(_find, parts, request.path_params["id"])
    return answered(request, parts.archive.entry(found))


async def diff(parts: Parts, request: Request) -> Response:
    """GET /versions/{a}/diff/{b}"""
    return answered(request, await asyncio.to_thread(_diff, parts, request.path_params["a"], request.path_params["b"]))


async def decisions(parts: Parts, request: Request) -> Response:
    """GET /decisions"""
    return answered(request, await asyncio.to_thread(parts.archive.decisions, *stretch(request)))


async def events(parts: Parts, request: Request) -> Response:
    """GET /events"""
    after, limit, newest = stretch(request)
    kinds = request.query_params.getlist("kind")
    for kind in set(kinds) - set(KINDS.values()):
        raise wrong("kind", kind, f"one of {', '.join(KINDS.values())}")
    return answered(request, await asyncio.to_thread(parts.archive.events, after, limit, kinds, newest))


async def event(parts: Parts, request: Request) -> Response:
    """GET /events/{id}"""
    return answered(request, await asyncio.to_thread(_story, parts, request.path_params["id"]))


async def challengers(parts: Parts, request: Request) -> Response:
    """GET /challengers"""
    status = parts.traffic.status or {}
    evidence = {(one["role"], one["candidate"]): one for one in status.get("gate", [])}
    found = [
        Challenger(**one, evidence=evidence.get((one["role"], one["version"]))) for one in status.get("contestants", [])
    ]
    return answered(request, ChallengerList(sorted(found, key=lambda one: one.role != "champion")))


def _find(parts: Parts, name: str) -> Version:
    try:
        return parts.archive.versions.find(name)
    except InputError as error:
        raise Refused(404, "There is no such version", str(error), {"where": "id", "got": name[:200]}) from None


def _diff(parts: Parts, first: str, second: str) -> Diff:
    a, b = _find(parts, first), _find(parts, second)
    common, steps = related({one.id: one for one in parts.archive.versions.list()}, a.id, b.id)
    arrays, missing = None, ""
    try:
        with parts.comparing:  # the arrays of two versions are held at a time, however many ask
            arrays = compare.moved(parts.archive.arrays(a), parts.archive.arrays(b))
    except BlobError as error:
        missing = str(error)
    entries = parts.archive.entry(a), parts.archive.entry(b)
    pairs = compare.specs(a.spec, b.spec), compare.measured(a.metrics, b.metrics)
    return Diff(*entries, *pairs, arrays, missing, common, steps)


def _story(parts: Parts, id: str) -> Story:
    found = parts.archive.about(id)
    if not found:
        detail = f"nothing in the log has the id {id[:200]!r}; it was never given, or was erased"
        raise Refused(404, "There is no such id", detail, {"where": "id", "got": id[:200]})
    aside = parts.traffic.set_aside()
    folded = parts.traffic.folded()
    given, judged = lifecycle.parted(found)
    seen = parts.archive.moment(min(folded, judged.position - 1) if judged else folded)
    state, explanation = lifecycle.told(found, folded, time.time(), parts.spec.feedback, aside, seen)
    at = (given or found[0]).position
    around = parts.archive.around(at, at)
    return Story(id, state, explanation, found, around)


# ---- how the server is -------------------------------------------------------------------------------------------


async def status(parts: Parts, request: Request) -> Response:
    """GET /status"""
    if parts.traffic.status is None:
        raise Refused(503, "", "the learner has not written its status yet; it may be starting: ask again in a second")
    content, tag = parts.traffic.document()
    return tagged(request, content, tag=tag)


async def metrics(parts: Parts, request: Request) -> Response:
    """GET /metrics"""
    encode, media = choose_encoder(request.headers.get("accept", ""))
    content = await asyncio.to_thread(lambda: encode(prometheus.registry(parts.traffic, parts.archive)))
    return Response(content, media_type=media, headers={"cache-control": "no-store"})


async def health(parts: Parts, request: Request) -> Response:
    """GET /readyz"""
    reasons = parts.traffic.complaints(STALE)
    if reasons:
        raise Refused(503, "Not healthy", "; ".join(reasons), {"reasons": reasons})
    return sent(Healthy("ok", parts.traffic.staleness()))


# ---- pages -------------------------------------------------------------------------------------------------------


async def page(parts: Parts, request: Request) -> Response:
    """GET / and GET /docs"""
    return _file(request, "docs.html" if request.url.path == "/docs" else "index.html")


async def static(parts: Parts, request: Request) -> Response:
    """GET /static/{name}"""
    return _file(request, request.path_params["name"])


async def openapi(parts: Parts, request: Request) -> Response:
    """GET /openapi.json"""
    return tagged(request, parts.document)


async def session(parts: Parts, request: Request) -> Response:
    """GET /session"""
    who = parts.access.who(request.headers.raw)
    if who is None:
        raise Refused(401, "", "this page has no session; log in with a token (POST /session)")
    return sent(who)


async def login(parts: Parts, request: Request) -> Response:
    """POST /session"""
    told = await body(request, Login, MOST_BYTES)
    who, cookie = parts.access.login(request.headers.raw, told.token, parts.client(request))
    response = sent(who)
    _set_cookie(response, cookie)
    return response


async def logout(parts: Parts, request: Request) -> Response:
    """DELETE /session"""
    response = Response(status_code=204, headers={"cache-control": "no-store"})
    _set_cookie(response, parts.access.logout(request.headers.raw))
    return response


def _set_cookie(response: Response, cookie: str) -> None:
    if cookie:
        response.headers["set-cookie"] = cookie


def _file(request: Request, name: str) -> Response:
    file: Any = dashboard.files().get(name)
    if file is None:
        raise Refused(404, "", f"there is no file {name[:200]!r}")
    return tagged(request, file.content, file.media, file.etag, headers=POLICY)
