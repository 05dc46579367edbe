"""Read query parameters and bodies of requests; write responses with ETags, and problems."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app import problems
from everlearn.app.problems import Refused
from everlearn.app.routes import LARGEST, LONGEST_PAGE, PAGE

# Pages may load files of this server only, hold nothing inline, and must not be framed by another site.
POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}

T = TypeVar("T")


def number(request: Request, name: str, default: int, low: int = 0, high: int = LARGEST) -> int:
    """Return a query parameter that is a whole number from `low` to `high`; raises Refused (400) for anything else."""
    given = request.query_params.getlist(name)
    if not given:
        return default
    text = given[-1]
    if text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high:
        return int(text)
    raise wrong(name, text, f"a whole number from {low} to {high}")


def newest_first(request: Request) -> bool:
    """Return True if `order` is "newest", and False if it is "oldest", the default; raises Refused (400) otherwise."""
    text = request.query_params.get("order", "oldest")
    if text not in ("oldest", "newest"):
        raise wrong("order", text, "oldest or newest")
    return text == "newest"


def page_of(request: Request) -> tuple[int, int, bool]:
    """Return the requested part of a list: `after`, `limit`, and True for the newest entry first."""
    return number(request, "after", 0), number(request, "limit", PAGE, 1, LONGEST_PAGE), newest_first(request)


def wrong(name: str, got: str, expected: str) -> Refused:
    """Return the refusal (400) of a query parameter."""
    got = got[:100]
    members = {"where": name, "got": got, "expected": expected}
    return Refused(400, "A parameter cannot be used", f"{name}: got {got!r}, expected {expected}", members)


async def body(request: Request, type: type[T], limit: int) -> T:
    """Decode a JSON body of at most `limit` bytes into a record.

    Raises Refused (413 too large, 415 not declared as JSON) and msgspec's errors (400 not JSON, 422 another form).
    """
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        members = {"where": "Content-Type", "got": media[:100], "expected": "application/json"}
        raise Refused(415, "", f"Content-Type: got {media[:100]!r}, expected application/json", members)
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            members = {"where": "the body", "got": "more", "expected": f"at most {limit} bytes"}
            raise Refused(413, "", f"the body is larger than {limit} bytes", members)
    return msgspec.json.decode(bytes(received), type=type)


def cached(request: Request, value: Any) -> Response:
    """Return a value as JSON with its ETag, or 304 if the client has it already (If-None-Match)."""
    return tagged(request, msgspec.json.encode(value))


def uncached(value: Any, status: int = 200) -> Response:
    """Return a value as JSON that must not be stored."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def tagged(
    request: Request,
    content: bytes,
    media: str = "application/json",
    tag: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return content with its ETag, to be revalidated on each use; 304 without content if the client has it already."""
    tag = tag or f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "no-cache", "x-content-type-options": "nosniff", **(headers or {})}
    if _has(request.headers, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, media)


def refused(error: BaseException, request: Request) -> Response:
    """Return the problem document for an error."""
    status, content = problems.problem(error, request.url.path)
    response = Response(content, status)
    response.raw_headers += problems.headers(error)
    return response


def _has(headers: Headers, tag: str) -> bool:
    """Return True if the client has content with this tag; a proxy may have weakened the tag."""
    known = {value.strip().removeprefix("W/") for value in headers.get("if-none-match", "").split(",")}
    return tag in known or "*" in known
