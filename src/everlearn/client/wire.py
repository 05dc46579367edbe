"""What both clients share: encoding of requests, decoding of replies, problems as exceptions, and retries."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import UNSET

from everlearn.client.records import Answer, Answers, FeedbackRow, Health, Healthy, LearnRow, PredictRequest
from everlearn.errors import (
    BlobError,
    ConfigError,
    EverlearnError,
    IdTaken,
    InputError,
    LogError,
    ModelError,
    NoRoom,
    UnknownId,
)
from everlearn.records import Example, Feedback, Label, Outcome, Preference, Reward, Scalar

T = TypeVar("T")

AGAIN = frozenset({429, 502, 503, 504})  # statuses of conditions that may pass: such a request is sent again
PAGE = 1000  # entries of a list requested at a time
_LONGEST = 10.0  # seconds: longest pause that a server may ask for
AT_ONCE = 32  # concurrent requests; further ones wait in order, which is cheaper than waiting inside httpx
# Servers close connections that are idle for five seconds; closing them earlier here avoids losing a request to that.
LIMITS = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE, keepalive_expiry=3.0)
AsyncSlots, Slots = asyncio.Semaphore, threading.Semaphore

_ROWS = ("instances", "feedback", "examples")  # members of a body that hold lists of rows
_TYPE = "urn:everlearn:problem:"
_ERRORS = {
    "unknown-id": UnknownId,
    "no-room": NoRoom,
    "id-taken": IdTaken,
    "input": InputError,
    "config": ConfigError,
    "blob": BlobError,
    "model": ModelError,
    "log": LogError,
}


class RequestRefused(EverlearnError):
    """A refusal that has no counterpart in one process: missing access, rate limits, faults of the server.

    `status` is the HTTP status (401 no token, 403 not allowed, 429 too many requests, ...), and `problem` the whole
    problem document.
    """

    def __init__(self, text: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.status = status
        self.problem = dict(problem)


class Unreachable(EverlearnError):
    """No reply: nothing listens at the address, the connection broke, or the request timed out."""


# ---- requests ----------------------------------------------------------------------------------------------------


def new_id() -> str:
    """Return an unguessable id that sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def predict_body(features: Mapping[str, Any], id: str | None, actions: Sequence[Any] | None = None) -> bytes:
    """Encode a request for one prediction. It always has an id, so that it can be sent again."""
    offers = UNSET if actions is None else list(actions)
    return _body(PredictRequest(features=dict(features), id=id or new_id(), actions=offers))


def predict_many_body(instances: Sequence[Mapping[str, Any]], ids: Sequence[str | None] | None) -> bytes:
    """Encode a request for several predictions."""
    keys = list(ids) if ids is not None else [None] * len(instances)
    return _body(PredictRequest(instances=[dict(row) for row in instances], ids=[key or new_id() for key in keys]))


def feedback_body(
    id: str, label: Scalar | None, reward: float | None, chosen: int | None, weight: float, source: str, handle: str
) -> bytes:
    """Encode one row of feedback; the server checks that exactly one of label, reward and chosen is present."""
    return _body(FeedbackRow(id, label, reward, chosen, weight, source, handle=handle))


def judgement_body(
    id: str, chosen: int | None, verdict: Outcome, weight: float, source: str, seconds: float, why: str, handle: str
) -> bytes:
    """Encode the judgement of one pair of answers."""
    return _body(FeedbackRow(id, None, None, chosen, weight, source, verdict, seconds, why, handle))


def feedback_many_body(rows: Sequence[Feedback]) -> bytes:
    """Encode several rows of feedback."""
    return _body({"feedback": [_feedback_row(row) for row in rows]})


def learn_body(features: Mapping[str, Any], label: Scalar, weight: float, id: str | None, source: str) -> bytes:
    """Encode one example. It always has an id, so that it can be sent again."""
    return _body(LearnRow(dict(features), label, id or new_id(), weight, source))


def learn_many_body(rows: Sequence[Example]) -> bytes:
    """Encode several examples."""
    return _body({"examples": [LearnRow(r.features, r.label, r.id or new_id(), r.weight, r.source) for r in rows]})


def command_body(members: Mapping[str, Any]) -> bytes:
    """Encode a command; members that are None are left out."""
    return _body({name: value for name, value in members.items() if value is not None})


def path(*parts: str) -> str:
    """Return a path of these parts, with all special characters in them quoted."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


# ---- replies -----------------------------------------------------------------------------------------------------


def answer(content: bytes) -> Answer:
    """Decode the reply to one record. Raises RequestRefused for a reply that is not one."""
    reply = decode(content, Answer)
    return reply if reply.staleness is not None else msgspec.structs.replace(reply, staleness=math.inf)


def answers(content: bytes) -> list[Answer]:
    """Decode the reply to several records. Raises RequestRefused for a reply that is not one."""
    reply = decode(content, Answers)
    position, staleness = reply.position, _seconds(reply.staleness)
    return [
        Answer(
            row.id,
            row.value,
            row.proba,
            row.version,
            position,
            staleness,
            row.canary,
            row.contributions,
            row.propensity,
            row.handle,
            row.interval,
        )
        for row in reply.predictions
    ]


def health(status: int, content: bytes) -> Health:
    """Decode the reply of /readyz; raises the exception for any status but 200 and 503."""
    if status == 200:
        return Health(True, "", _seconds(decode(content, Healthy).staleness))
    if status == 503:
        return Health(False, str(_problem(content).get("detail", "")))
    raise error(status, content)


def decode(content: bytes, into: type[T]) -> T:
    """Decode a reply, ignoring fields that a newer server adds. Raises RequestRefused for a reply of another form."""
    try:
        return msgspec.json.decode(content, type=into)
    except msgspec.DecodeError as error:
        text = f"the reply cannot be understood: {error}; is this an Everlearn server of a compatible release?"
        raise RequestRefused(text, 200, {}) from error


def error(status: int, content: bytes) -> EverlearnError:
    """Return the exception for a refusal: the one that a loop raises in process, if there is one."""
    problem = _problem(content)
    text = str(problem.get("detail") or problem.get("title") or f"the server answered {status} without a reason")
    if fix := problem.get("fix"):
        text = text if str(fix) in text else f"{text}; {fix}"
    kind = _ERRORS.get(str(problem.get("type", "")).removeprefix(_TYPE))
    about_input = status in (400, 409, 413, 415, 422) or (status == 404 and "where" in problem)
    if kind is None and problem and about_input:
        kind = InputError
    return kind(text) if kind is not None else RequestRefused(text, status, problem)


def unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    """Return the exception for a reply that did not come."""
    cause = str(error) or type(error).__name__
    return Unreachable(f"no answer from {url}: {cause}. Is the server running? Start it with `everlearn serve`.")


# ---- retries -----------------------------------------------------------------------------------------------------


def never_sent(error: httpx.TransportError) -> bool:
    """Return True if the server cannot have received the request."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def pause(attempt: int, retry_after: str = "") -> float:
    """Return the seconds to wait before the next attempt.

    That is the server's Retry-After, at most 10; without one, a tenth of a second that doubles with each attempt, with
    random jitter so that clients do not return all at once.
    """
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), _LONGEST)
    return float(0.1 * 2.0**attempt * random.uniform(0.5, 1.5))


# ---- encoding ----------------------------------------------------------------------------------------------------


def _seconds(staleness: float | None) -> float:
    return math.inf if staleness is None else staleness


def _feedback_row(row: Feedback) -> FeedbackRow:
    match row:
        case Label():
            return FeedbackRow(row.id, label=row.value, weight=row.weight, source=row.source, handle=row.handle)
        case Reward():
            return FeedbackRow(row.id, reward=row.value, weight=row.weight, source=row.source, handle=row.handle)
        case Preference():
            judged = row.verdict, row.seconds, row.why, row.handle
            return FeedbackRow(row.id, None, None, row.chosen, row.weight, row.source, *judged)


def _problem(content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _body(message: Any) -> bytes:
    """Encode a message as JSON. Raises InputError for values that JSON cannot hold, among them infinity."""
    try:
        body = msgspec.json.encode(message, enc_hook=_plain)
        # The encoder writes a number that is not finite as null, which would mean that it is missing.
        lost = _lost(msgspec.to_builtins(message, enc_hook=_plain), ()) if b"null" in body else ""
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"this cannot be sent as JSON: {error}; expected numbers, strings, booleans and lists"
        ) from error
    if lost:
        raise InputError(lost)
    return body


def _lost(value: Any, path: tuple[str | int, ...]) -> str:
    """Return the error text for the first number that JSON cannot hold, as a loop words it; "" if there is none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else _refusal(value, path)
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    return next((lost for name, part in inside if (lost := _lost(part, (*path, name)))), "")


def _refusal(value: float, path: tuple[str | int, ...]) -> str:
    """Return why the number at `path` cannot be sent; "" for a feature that is NaN, which counts as missing anyway."""
    row = f"{path[0]}[{path[1]}]: " if path[0] in _ROWS else ""
    names = path[2:] if row else path
    if path[0] == "instances" or names[0] == "features":
        field = names[0] if path[0] == "instances" else names[1]
        return "" if math.isnan(value) else f"{row}field {field!r}: got infinity, expected a finite number"
    if names[0] == "label":
        reason = "the label is missing" if math.isnan(value) else "got infinity, expected a category or a finite number"
        return row + reason
    expected = "a number from 0 to 1e30" if names[0] == "weight" else "a finite number"
    return f"{row}{'.'.join(map(str, names))}: got {value}, expected {expected}"


def _plain(value: Any) -> Any:
    """Convert a numpy scalar or array to plain values."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    raise TypeError(f"got a {type(value).__name__} ({value!r})")
