"""Payloads as rows of the log: kind, unique key, and JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, get_args

import msgspec
import numpy as np

from everlearn.errors import InputError
from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Erased,
    Example,
    Feedback,
    Label,
    Payload,
    Prediction,
    Preference,
    Rejected,
    Reward,
    Scalar,
)

Row = tuple[float, str, str, str]  # seconds since 1970, kind, key, payload as JSON

RARE = ("decision", "version", "checkpoint", "rejected")
IS_RARE = f"kind IN ({', '.join(map(repr, RARE))})"  # must equal the condition of the index, or SQLite does not use it
KINDS: dict[type[Any], str] = {record: str(record.__struct_config__.tag) for record in get_args(Payload)}


def row(payload: Payload, at: float) -> Row:
    """Return the row of a payload that happened `at` seconds since 1970, ready for `Log.write`.

    The row is decoded again before it is returned, so that the log contains nothing unreadable. Raises `InputError` for
    a payload that cannot be stored unchanged: numbers that are not finite, or values that JSON cannot hold.

    >>> row(Label("a", True), 3.5)[:2], row(Label("a", True), 3.5)[3]
    ((3.5, 'label'), '{"kind":"label","id":"a","value":true}')
    """
    kind = KINDS.get(type(payload))
    if kind is None:
        raise InputError(f"cannot log a {type(payload).__name__}; expected one of {', '.join(KINDS.values())}")
    if not math.isfinite(at):
        raise InputError(f"the time of an event is {at}, expected seconds since 1970")
    try:
        text = _encode(payload).decode()
        # JSON turns a number that is not finite into null.
        lost = _not_finite(msgspec.to_builtins(payload, enc_hook=_plain), kind) if "null" in text else ""
        if lost:
            raise InputError(f"{lost}, expected a finite number, or None for a missing one")
        kept = decode(text)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError(f"this {kind} cannot be stored in the log: {error}; got {_shown(payload)}") from error
    return at, kind, key(kept), text


def key(payload: Payload) -> str:
    """Return the key under which the log holds a payload once: equal payloads have equal keys.

    The key of feedback contains a digest of its content, so that the same feedback sent twice is one event and a
    correction is another. The key of a decision depends on its action and place, not on its wording or evidence. The
    key of a checkpoint depends on its position and blob, so that the newest event is always the last one written.

    >>> key(Label("a", True)) == key(Label("a", 1.0)), key(Label("a", 1)) == key(Label("a", 2))
    (True, False)
    """
    match payload:
        case Prediction() | Example():
            return f"{KINDS[type(payload)]}:{payload.id}"
        case Label() | Reward() | Preference():
            return f"{KINDS[type(payload)]}:{payload.id}:{_judgement(payload)}"
        case Decision():
            moved = (payload.alias, payload.version, payload.previous)
            return f"decision:{_digest((payload.action, payload.at, payload.by, *moved, payload.detail))}"
        case Born():
            return f"version:{payload.version.id}"
        case Checkpoint():
            return f"checkpoint:{payload.at}:{payload.blob}"
        case Rejected():
            return f"rejected:{payload.source}:{payload.line}:{payload.at}"
        case Erased():
            return f"erased:{payload.position}"


def _judgement(payload: Feedback) -> str:
    value = payload.chosen if isinstance(payload, Preference) else payload.value
    return _digest((_canonical(value), _canonical(payload.weight), payload.source))


def _canonical(value: Scalar) -> Scalar:
    """Return equal numbers as the same number: True, 1 and 1.0 are one answer."""
    if isinstance(value, str):
        return value
    whole = int(value)
    return whole if whole == value else value


def _digest(content: tuple[Any, ...]) -> str:
    return hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=12).hexdigest()


def _plain(value: Any) -> Any:
    """Return numpy scalars and arrays as plain numbers."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
decode: Callable[[str], Payload] = msgspec.json.Decoder(Payload).decode


def _shown(payload: Payload) -> str:
    try:
        return f"{payload!r:.300}"
    except (ValueError, RecursionError):  # a number too long to print, or lists too deep
        return f"a {type(payload).__name__} that cannot be printed"


def _not_finite(value: Any, where: str) -> str:
    """Describe the first number inside that is not finite; empty if all are finite."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{where} is {value}"
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    return next((found for name, part in inside if (found := _not_finite(part, f"{where}.{name}"))), "")
