"""What both clients say and understand: bodies, replies, problems as exceptions, and when to ask again."""

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
from msgspec import UNSET, Struct, UnsetType

from everlearn.client.results import Answer, DecisionEntry, Health, VersionEntry
from everlearn.errors import BlobError, ConfigError, EverlearnError, InputError, LogError, ModelError, UnknownId
from everlearn.records import Example, Feedback, Label, Preference, Reward, Scalar

T = TypeVar("T")

AGAIN = frozenset({429, 502, 503, 504})  # statuses that may be another a moment later
PAGE = 1000  # entries of a list asked for at a time
_LONGEST = 10.0  # seconds that a server may make us wait
# Servers drop a connection that was idle for five seconds; one that we hold for less is never dropped under us.
AT_ONCE = 32  # requests under way; more of them wait here, in order, at no cost: httpx looks through all that wait
LIMITS = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE, keepalive_expiry=3.0)
AsyncSlots, Slots = asyncio.Semaphore, threading.Semaphore

_ROWS = ("instances", "feedback", "examples")  # what lists of records are called where they are sent
_TYPE = "urn:everlearn:problem:"
_SAME = {
    "unknown-id": UnknownId,
    "input": InputError,
    "config": ConfigError,
    "blob": BlobError,
    "model": ModelError,
    "log": LogError,
}


class RequestRefused(EverlearnError):
    """A server refused, for a reason that there is not in one process: access, rates, faults of its own.

    `status` is the HTTP status (401 no token, 403 not allowed, 429 too fast, ...), `problem` all that was said.
    """

    def __init__(self, text: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.status = status
        self.problem = dict(problem)


class Unreachable(EverlearnError):
    """No answer came: nobody listens there, the connection broke, or it took too long."""


class _One(Struct):
    """The answer to one record, as it comes."""

    id: str
    value: Scalar
    proba: tuple[float, ...] = ()
    version: str = ""
    position: int = 0
    staleness: float | None = None
    canary: bool = False
    contributions: dict[str, Any] | None = None


class _Many(Struct):
    predictions: list[_One]
    position: int = 0
    staleness: float | None = None


class VersionPage(Struct):
    """One page of the list of versions."""

    versions: list[VersionEntry]
    next: int | None = None


class DecisionPage(Struct):
    """One page of the list of decisions."""

    decisions: list[DecisionEntry]
    next: int | None = None


class _Healthy(Struct):
    staleness: float | None = None


class _Judgement(Struct, omit_defaults=True):
    """Feedback as it is sent."""

    id: str
    label: Scalar | UnsetType = UNSET
    reward: float | UnsetType = UNSET
    chosen: int | UnsetType = UNSET
    weight: float = 1.0
    source: str = ""


class _Labelled(Struct, omit_defaults=True):
    """An example as it is sent."""

    features: dict[str, Any]
    label: Scalar
    id: str
    weight: float = 1.0
    source: str = ""


def new_id() -> str:
    """An id that nobody can guess and that sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def one(features: Mapping[str, Any], id: str | None) -> bytes:
    """The body that asks for one prediction; it has an id before it is sent, so it can be sent again."""
    return _body({"features": dict(features), "id": id or new_id()})


def many(instances: Sequence[Mapping[str, Any]], ids: Sequence[str | None] | None) -> bytes:
    """The body that asks for several predictions."""
    given = list(ids) if ids is not None else [None] * len(instances)
    return _body({"instances": [dict(one) for one in instances], "ids": [id or new_id() for id in given]})


def judgement(
    id: str, label: Scalar | None, reward: float | None, chosen: int | None, weight: float, source: str
) -> bytes:
    """The body that tells one judgement; the server says what is wrong if it is not exactly one."""
    given = {"label": label, "reward": reward, "chosen": chosen}
    told = {name: value for name, value in given.items() if value is not None}
    return _body({"id": id, **told, "weight": weight, **({"source": source} if source else {})})


def judgements(rows: Sequence[Feedback]) -> bytes:
    """The body that tells several judgements."""
    return _body({"feedback": [_judged(row) for row in rows]})


def example(features: Mapping[str, Any], label: Scalar, weight: float, id: str | None, source: str) -> bytes:
    """The body that gives one example; it has an id before it is sent."""
    return _body(_Labelled(dict(features), label, id or new_id(), weight, source))


def examples(rows: Sequence[Example]) -> bytes:
    """The body that gives several examples."""
    told = [_Labelled(row.features, row.label, row.id or new_id(), row.weight, row.source) for row in rows]
    return _body({"examples": told})


def order(said: Mapping[str, Any]) -> bytes:
    """The body of an order; what is None is not said."""
    return _body({name: value for name, value in said.items() if value is not None})


def path(*parts: str) -> str:
    """A path whose parts may hold any letter."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def answer(content: bytes) -> Answer:
    """The reply to one record."""
    got = decoded(content, _One)
    return _answer(got, got.position, got.staleness)


def answers(content: bytes) -> list[Answer]:
    """The reply to several records."""
    got = decoded(content, _Many)
    return [_answer(row, got.position, got.staleness) for row in got.predictions]


def health(status: int, content: bytes) -> Health:
    """How the server is, as /readyz tells it; raises what it says of anything but health."""
    if status == 200:
        return Health(True, "", _seconds(decoded(content, _Healthy).staleness))
    if status == 503:
        return Health(False, str(_problem(content).get("detail", "")))
    raise error(status, content)


def decoded(content: bytes, into: type[T]) -> T:
    """A reply as a record; fields that a newer server adds are passed over."""
    try:
        return msgspec.json.decode(content, type=into)
    except msgspec.DecodeError as error:
        what = f"the reply cannot be understood: {error}; is this an Everlearn server of a release that fits?"
        raise RequestRefused(what, 200, {}) from error


def error(status: int, content: bytes) -> EverlearnError:
    """The exception for a refusal: the one that is raised in process, where there is one."""
    told = _problem(content)
    text = str(told.get("detail") or told.get("title") or f"the server answered {status}, and did not say why")
    if fix := told.get("fix"):
        text = text if str(fix) in text else f"{text}; {fix}"
    kind = _SAME.get(str(told.get("type", "")).removeprefix(_TYPE))
    about_input = status in (400, 409, 413, 415, 422) or (status == 404 and "where" in told)
    if kind is None and told and about_input:
        kind = InputError
    return kind(text) if kind is not None else RequestRefused(text, status, told)


def unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    """The exception for an answer that did not come."""
    what = str(error) or type(error).__name__
    return Unreachable(f"no answer from {url}: {what}; is the server running there? (`everlearn serve` starts it)")


def never_sent(error: httpx.TransportError) -> bool:
    """Whether the server cannot have seen the request."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def pause(attempt: int, asked: str = "") -> float:
    """Seconds to wait before asking again: what the server asked for, or twice as long each time, not all at once."""
    if asked.isascii() and asked.isdigit():
        return min(float(asked), _LONGEST)
    return float(0.1 * 2.0**attempt * random.uniform(0.5, 1.5))


def _answer(got: _One, position: int, staleness: float | None) -> Answer:
    return Answer(
        got.id, got.value, got.proba, got.version, position, _seconds(staleness), got.canary, got.contributions
    )


def _seconds(given: float | None) -> float:
    return math.inf if given is None else given


def _judged(row: Feedback) -> _Judgement:
    match row:
        case Label():
            return _Judgement(row.id, label=row.value, weight=row.weight, source=row.source)
        case Reward():
            return _Judgement(row.id, reward=row.value, weight=row.weight, source=row.source)
        case Preference():
            return _Judgement(row.id, chosen=row.chosen, weight=row.weight, source=row.source)


def _problem(content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _body(told: Any) -> bytes:
    try:
        body = msgspec.json.encode(told, enc_hook=_plain)
        # JSON turns a number that is not finite into null, which means that it is missing.
        lost = _lost(msgspec.to_builtins(told, enc_hook=_plain), ()) if b"null" in body else ""
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"this cannot be sent as JSON: {error}; expected numbers, strings, booleans and lists"
        ) from error
    if lost:
        raise InputError(lost)
    return body


def _lost(value: Any, path: tuple[str | int, ...]) -> str:
    """Which number inside JSON would lose, in the words in which a loop refuses it in process; empty if none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else _refusal(value, path)
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    return next((lost for name, part in inside if (lost := _lost(part, (*path, name)))), "")


def _refusal(value: float, path: tuple[str | int, ...]) -> str:
    """Why a number that is not finite cannot be sent; empty for a feature that is NaN, since it is missing anyway."""
    row = f"{path[0]}[{path[1]}]: " if path[0] in _ROWS else ""
    names = path[2:] if row else path
    if path[0] == "instances" or names[0] == "features":
        field = names[0] if path[0] == "instances" else names[1]
        return "" if math.isnan(value) else f"{row}field {field!r}: got infinity, expected a finite number"
    if names[0] == "label":
        said = "the label is missing" if math.isnan(value) else "got infinity, expected a category or a finite number"
        return row + said
    expected = "a number from 0 to 1e30" if names[0] == "weight" else "a finite number"
    return f"{row}{'.'.join(map(str, names))}: got {value}, expected {expected}"


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays as the plain values that they hold."""
    if callable(plain := getattr(value, "tolist", None)):
        return plain()
    raise TypeError(f"got a {type(value).__name__} ({value!r})")
