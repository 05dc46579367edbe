"""Payloads as rows of the log: kind, unique key, and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import InputError
from everlearn.events.deduplication import KINDS, key
from everlearn.records import (
    Payload,
)

Row = tuple[float, str, str, str]  # seconds since 1970, kind, key, payload as JSON

RARE = ("decision", "version", "checkpoint", "rejected")
IS_RARE = f"kind IN ({', '.join(map(repr, RARE))})"  # must equal the condition of the index, or SQLite does not use it


def row(payload: Payload, at: float) -> Row:
    """Return the row of a payload that happened `at` seconds since 1970, ready for `Log.write`.

    The row is decoded again before it is returned, so that the log contains nothing unreadable. Raises `InputError` for
    a payload that cannot be stored unchanged: numbers that are not finite, or values that JSON cannot hold.

    >>> from everlearn.records import Label
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
