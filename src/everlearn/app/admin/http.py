"""What a request says, and how an answer is put: parameters, bodies, ETags, problems."""

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

PAGE, LONGEST_PAGE = 100, 1000
LARGEST = (1 << 63) - 1  # of a position

# Nothing but what this server serves, nothing inline, and nobody may frame it.
POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}

T = TypeVar("T")


def number(request: Request, name: str, default: int, low: int = 0, high: int = LARGEST) -> int:
    """A query parameter that is a whole number from `low` to `high`; refuses (400) anything else."""
    given = request.query_params.getlist(name)
    if not given:
        return default
    text = given[-1]
    if text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high:
        return int(text)
    raise wrong(name, text, f"a whole number from {low} to {high}")


def newest_first(request: Request) -> bool:
    """Whether a list is asked for from its newest end: `order` is "oldest" (the default) or "newest"."""
    text = request.query_params.get("order", "oldest")
    if text not in ("oldest", "newest"):
        raise wrong("order", text, "oldest or newest")
    return text == "newest"


def stretch(request: Request) -> tuple[int, int, bool]:
    """Which part of a list is asked for: `after`, `limit` and whether newest first."""
    return number(request, "after", 0), number(request, "limit", PAGE, 1, LONGEST_PAGE), newest_first(request)


def wrong(name: str, got: str, expected: str) -> Refused:
    """The refusal of a query parameter."""
    got = got[:100]
    members = {"where": name, "got": got, "expected": expected}
    return Refused(400, "A parameter cannot be used", f"{name}: got {got!r}, expected {expected}", members)


async def body(request: Request, type: type[T], limit: int) -> T:
    """The JSON body, of at most `limit` bytes; refuses 413, 415, 400 (not JSON) and 422 (not what is expected)."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        members = {"where": "Content-Type", "got": media[:100], "expected": "application/json"}
        raise Refused(415, "", f"Content-Type: got {media[:100]!r}, expected application/json", members)
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > limit:
            members = {"where": "the body", "got": "more", "expected": f"at most {limit} bytes"}
            raise Refused(413, "", f"the body is larger than {limit} bytes", members)
    return msgspec.json.decode(bytes(held), type=type)


def answered(request: Request, value: Any) -> Response:
    """A value as JSON; where the client has it already (If-None-Match), only that."""
    return tagged(request, msgspec.json.encode(value))


def sent(value: Any, status: int = 200) -> Response:
    """A value as JSON that nobody must keep."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def tagged(
    request: Request,
    content: bytes,
    media: str = "application/json",
    tag: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Content with its ETag, to be asked for anew each time; 304 without content when the client has it already."""
    tag = tag or f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "no-cache", "x-content-type-options": "nosniff", **(headers or {})}
    if _has(request.headers, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, media)


def refused(error: BaseException, request: Request) -> Response:
    """The problem that tells of an error."""
    status, content = problems.problem(error, request.url.path)
    response = Response(content, status)
    response.raw_headers += problems.headers(error)
    return response


def _has(headers: Headers, tag: str) -> bool:
    """Whether the client says that it has content of this tag; a proxy may have weakened it."""
    known = {one.strip().removeprefix("W/") for one in headers.get("if-none-match", "").split(",")}
    return tag in known or "*" in known
