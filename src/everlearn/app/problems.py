"""Report errors over HTTP as problem+json (RFC 9457): what was got and expected, where, and what to do.

An error in a request is reported in full. A fault of the server is reported as one sentence with an id; the log of the
process has the rest under that id, so that no client sees a stack trace.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from everlearn.errors import (
    BlobError,
    ConfigError,
    EverlearnError,
    IdTaken,
    InputError,
    LogError,
    MissingExtra,
    NoRoom,
    UnknownId,
)

log = logging.getLogger("everlearn.problems")

MEDIA_TYPE = b"application/problem+json"
TYPE = "urn:everlearn:problem:"

_OURS = "is a fault of the server, not of the request; its operator finds it in the log under this id"


class Refused(Exception):
    """A request that is refused: the HTTP status and the reason.

    An empty `title` becomes the usual phrase of the status. `type` ends the problem's type, `members` are further
    members of the problem (got, expected, where, fix, ...), `headers` further headers of the response.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        members: Mapping[str, Any] | None = None,
        *,
        type: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title or HTTPStatus(status).phrase
        self.detail = detail
        self.members = dict(members or {})
        self.type = type or HTTPStatus(status).name.lower().replace("_", "-")
        self.headers = list(headers)


def problem(error: BaseException, instance: str = "") -> tuple[int, bytes]:
    """Return the status and the problem+json of an error; `instance` is the path of the request.

    A fault of the server (5xx) gets an id, and is logged with its traceback under that id.

    >>> status, body = problem(InputError("field 'x': got 'a', expected a number"))
    >>> status, msgspec.json.decode(body)["expected"]
    (422, 'a number')
    """
    refused = error if isinstance(error, Refused) else _refused(error)
    members = {
        "type": TYPE + refused.type,
        "title": refused.title,
        "status": refused.status,
        "detail": refused.detail,
        **({"instance": instance} if instance else {}),
        **{name: value for name, value in refused.members.items() if value is not None},
    }
    return refused.status, msgspec.json.encode(members, enc_hook=str)


def headers(error: BaseException) -> list[tuple[bytes, bytes]]:
    """Return the headers of the response that reports an error."""
    own = error.headers if isinstance(error, Refused) else []
    if isinstance(error, NoRoom):
        own = [(b"retry-after", b"1")]
    if isinstance(error, LogError | BlobError):
        own = [(b"retry-after", b"1")]  # it may pass in a moment: a full disk, a learner that starts
    return [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store"), *own]


def _refused(error: BaseException) -> Refused:
    """Return the refusal that an error amounts to."""
    text = str(error)
    match error:
        case UnknownId():
            return Refused(404, "Unknown id", text, type="unknown-id")
        case NoRoom():
            return Refused(429, "No room for early feedback", text, type="no-room")
        case IdTaken():
            return Refused(409, "", text, {"where": "id", "fix": "use another id"}, type="id-taken")
        case InputError():
            return Refused(422, "The input cannot be used", text, _parts(text), type="input")
        case ConfigError():
            return Refused(422, "A setting is wrong", text, _parts(text), type="config")
        case MissingExtra():
            return Refused(501, "A part is not installed", text, type="missing-extra")
        case msgspec.ValidationError():
            return _invalid(text)
        case msgspec.DecodeError() | UnicodeDecodeError():
            fix = "send one JSON document in UTF-8"
            return Refused(400, "Not JSON", f"the body is not JSON: {text}", {"fix": fix}, type="json")
        case RecursionError():
            return Refused(400, "Not JSON", "the JSON is nested too deeply", type="json")
        case Exception() if type(error).__name__ == "ClientDisconnect":  # Starlette's: no client reads the reply
            return Refused(400, "", "the connection was closed before the body had come")
        case LogError():
            return _fault(error, 503, "log", "the event log cannot be used, and nothing was taken; this")
        case BlobError():
            return _fault(error, 503, "blob", "a snapshot is missing or damaged; this")
        case EverlearnError():
            return _fault(error, 500, "model" if type(error).__name__ == "ModelError" else "fault", f"{text}; this")
        case _:
            return _fault(error, 500, "fault", "something went wrong; this")


def _fault(error: BaseException, status: int, kind: str, what: str) -> Refused:
    """Log a fault of the server, and return the refusal that names its id.

    A fault may come with every request. Faults of one kind and place are logged once in `_QUIET` seconds, and those in
    between get the same id. The next one that is logged counts them ("left_out").
    """
    now, place = time.monotonic(), (type(error), *_raised(error))
    last = _written.get(place)
    if last is not None and last.at > now - _QUIET:
        last.left_out += 1
        id = last.id
    else:
        id = secrets.token_hex(8)
        left_out = {"left_out": last.left_out} if last is not None and last.left_out else {}
        log.error("fault", exc_info=error, extra={"fields": {"id": id, "error": type(error).__name__, **left_out}})
        if error.__traceback__ is not None:
            _written[place] = _Written(now, id)
    return Refused(status, "", f"{what} {_OURS}: {id}", {"id": id}, type=kind)


class _Written(msgspec.Struct):
    """A fault that was logged: when, under which id, and how many equal ones were left out since."""

    at: float
    id: str
    left_out: int = 0


_QUIET = 1.0  # seconds
_written: dict[tuple[Any, ...], _Written] = {}  # by kind and line of code, which bounds their number


def _raised(error: BaseException) -> tuple[str, int]:
    """Return the file and line where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)


_INVALID = re.compile(r"Expected (?P<expected>.+?)(?:, got (?P<got>.+?))?(?: - at `(?P<where>.+)`)?", re.DOTALL)
_MESSAGE = re.compile(
    r"(?:(?P<where>[^:]{1,200}): )?got (?P<got>.{1,500}?)[,;]? expected (?P<expected>.+?)(?:[;:] (?P<fix>.+))?",
    re.DOTALL,
)


def _invalid(text: str) -> Refused:
    """Return the refusal for a message of msgspec, such as "Expected `int`, got `str` - at `$.rows[0]`"."""
    what, _, where = text.partition(" - at ")
    where = where.strip("`").removeprefix("$").removeprefix(".") or "the body"
    found = _INVALID.fullmatch(text)
    members: dict[str, Any] = {"where": where}
    if found is not None:
        members |= {"got": _bare(found["got"]), "expected": _bare(found["expected"])}
    detail = f"{where}: {what[:1].lower()}{what[1:]}"
    return Refused(422, "The input cannot be used", detail, members, type="input")


def _parts(text: str) -> dict[str, Any]:
    """Return the parts of a message of the form "where: got this, expected that; do so"; nothing for other forms."""
    found = _MESSAGE.fullmatch(text)
    return found.groupdict() if found is not None else {}


def _bare(text: str | None) -> str | None:
    return text.replace("`", "") if text else None
