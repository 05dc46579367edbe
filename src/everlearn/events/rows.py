"""Payloads as rows of the log: kind, unique key, and JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import InputError, LogError, did_you_mean
from everlearn.events.deduplication import KINDS, key
from everlearn.records import Born, Encrypted, Erased, Event, Example, Payload, Prediction

_BY_ID = ("prediction", "example")  # whose keys are made of the kind and the id; see `deduplication.key`
Row = tuple[float, str, str, str]  # seconds since 1970, kind, key, payload as JSON

ERASABLE = ("prediction", "example", "label", "reward", "preference", "rejected")
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


def rows_of(payloads: Sequence[Payload], times: Sequence[float]) -> list[Row]:
    """Return the rows of payloads that happened at these times, as `row` does for each, at half its cost.

    >>> from everlearn.records import Label
    >>> rows_of([Label("a", True)], [3.5]) == [row(Label("a", True), 3.5)]
    True
    """
    kinds = [KINDS.get(type(payload), "") for payload in payloads]
    if "" not in kinds and all(map(math.isfinite, times)):
        try:
            texts = list(map(_encode, payloads))
            whole = b",".join(texts)
            if b"null" not in whole:  # which may be a number that is not finite
                kept = _decode_all(b"[%b]" % whole)
                return [
                    (at, kind, f"{kind}:{one.id}" if kind in _BY_ID else key(one), text.decode())  # type: ignore[union-attr]
                    for at, kind, one, text in zip(times, kinds, kept, texts, strict=True)
                ]
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
            pass  # one of them cannot be stored, and `row` says which and why
    return [row(payload, at) for payload, at in zip(payloads, times, strict=True)]


def _plain(value: Any) -> Any:
    """Return numpy scalars and arrays as plain numbers."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
decode: Callable[[str], Payload] = msgspec.json.Decoder(Payload).decode
_decode_all: Callable[[bytes], list[Payload]] = msgspec.json.Decoder(list[Payload]).decode


def check_usable(log: object, is_open: bool, process: int) -> None:
    """Raise LogError for a log, named as people know it, that was closed, or that `process`, another one, opened."""
    if not is_open:
        raise LogError(
            f"the log {log} is closed; open it again to use it; while its loop is served, use server.client()"
        )
    if os.getpid() != process:
        raise LogError(
            f"the log {log} was opened by process {process} and is used in its child {os.getpid()}; "
            "open it again in each process"
        )


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise `InputError` for a kind of event that does not exist."""
    unknown = [kind for kind in kinds if kind not in KINDS.values()]
    if unknown or isinstance(kinds, str):
        near = did_you_mean(unknown[0], KINDS.values()) if unknown else ""
        raise InputError(
            f"unknown kind of event {unknown or kinds!r}; expected a list of {', '.join(KINDS.values())}{near}"
        )


def check_agreement(position: int, kept: str, offered: str, log: str) -> None:
    """Raise `InputError` if a known key, which has one meaning for ever, comes with other content.

    Of decisions and rejected rows the first stands: they are computed from the log.
    """
    if kept == offered:
        return
    known = _decoded(position, kept, log)
    if isinstance(known, Encrypted) and known.was in ("prediction", "example"):
        raise InputError(f"event {position} is an encrypted {known.was} of this id with other content; use another id")
    if isinstance(known, Prediction | Example | Born) and known != decode(offered):
        raise InputError(
            f"{key(known)!r} is already in the log with other content, as event {position}; "
            f"got {offered[:300]}, expected {kept[:300]}; use another id"
        )


def events_of(rows: Sequence[tuple[int, float, str]], log: str) -> list[Event]:
    """Return the events of rows (position, time, payload). Raises `LogError`, with the position, for a damaged one."""
    try:
        return [Event(position, time, decode(text)) for position, time, text in rows]
    except msgspec.MsgspecError:
        for position, _, text in rows:
            _decoded(position, text, log)  # raises for the damaged event
        raise


def tombstone(position: int, kind: str | None) -> Row | None:
    """Return the row that takes the place of an event; None for a tombstone.

    Raises `InputError` for an event of a kind that cannot be erased, or that is not there (None).
    """
    if kind == KINDS[Erased]:
        return None
    if kind not in ERASABLE:
        raise InputError(f"event {position} is {kind or 'not there'}; expected one of {', '.join(ERASABLE)}")
    return row(Erased(position, kind), 0.0)


def _decoded(position: int, text: str, log: str) -> Payload:
    try:
        return decode(text)
    except msgspec.MsgspecError as error:
        raise LogError(
            f"event {position} of the log {log} cannot be read: {error}; got {text[:100]!r}; "
            "the file is damaged or was written by another version: put back a copy, or upgrade"
        ) from error


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
