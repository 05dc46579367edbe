"""A payload as a row of the log, and back: its kind, the key that it is there under once, and its JSON."""

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
IS_RARE = f"kind IN ({', '.join(map(repr, RARE))})"  # word for word as in the index, or SQLite will not use it
KINDS: dict[type[Any], str] = {record: str(record.__struct_config__.tag) for record in get_args(Payload)}


def row(payload: Payload, at: float) -> Row:
    """The row of a payload that happened `at` seconds since 1970, ready for `Log.write`.

    It is read back before it is given, so that nothing unreadable gets into the log. Raises `InputError` for what
    cannot be kept as it is: numbers that are not finite, or what JSON cannot hold.

    >>> row(Label("a", True), 3.5)[:2], row(Label("a", True), 3.5)[3]
    ((3.5, 'label'), '{"kind":"label","id":"a","value":true}')
    """
    kind = KINDS.get(type(payload))
    if kind is None:
        raise InputError(f"a {type(payload).__name__} is no event; expected one of {', '.join(KINDS.values())}")
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
        raise InputError(f"this {kind} cannot be kept in the log: {error}; got {_shown(payload)}") from error
    return at, kind, key(kept), text


def key(payload: Payload) -> str:
    """The name under which a payload is in the log once: equal payloads have equal keys.

    Judgements carry a digest of their content, so that the same one sent twice is one event and a correction is
    another. Decisions are named by what they do and where, not by their wording or evidence; checkpoints by
    position and blob, so that the newest is always the one that was written last.

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
    """Equal numbers as the same number: True, 1 and 1.0 are one answer."""
    if isinstance(value, str):
        return value
    whole = int(value)
    return whole if whole == value else value


def _digest(content: tuple[Any, ...]) -> str:
    return hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=12).hexdigest()


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays as the numbers they hold."""
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
    """Which number inside is not finite, in words; empty if all are."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{where} is {value}"
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    return next((found for name, part in inside if (found := _not_finite(part, f"{where}.{name}"))), "")
