"""Keys that make equal events one event: the log writes no second event with a known key.

Here a duplicate label is recognised. `SqliteLog.write` drops it, and returns the position of the first.
"""

from __future__ import annotations

import hashlib
from typing import Any, get_args

import msgspec

from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Encrypted,
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

KINDS: dict[type[Any], str] = {
    record: str(record.__struct_config__.tag) for record in get_args(Payload) if record is not Encrypted
}
"""The word for each kind of event, in the log and in keys. An encrypted event has the kind that it had before."""


def key(payload: Payload) -> str:
    """Return the key under which the log holds a payload once: equal payloads have equal keys.

    The key of feedback contains a digest of its content, so that the same feedback sent twice is one event and a
    correction is another; how long a judgement took and its rationale are left out. The key of a decision depends on
    its action and place, not on its wording or evidence. The key of a checkpoint depends on its position and blob, so
    that the newest event is always the last one written.

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
        case Encrypted():
            return f"{payload.was}:{payload.handle}:{_digest((payload.data,))}"


def _judgement(payload: Feedback) -> str:
    value = payload.chosen if isinstance(payload, Preference) else payload.value
    content = (_canonical(value), _canonical(payload.weight), payload.source)
    if isinstance(payload, Preference) and payload.verdict != "choice":
        return _digest((*content, payload.verdict))
    return _digest(content)


def _canonical(value: Scalar) -> Scalar:
    """Return equal numbers as the same number: True, 1 and 1.0 are one answer."""
    if isinstance(value, str):
        return value
    whole = int(value)
    return whole if whole == value else value


def _digest(content: tuple[Any, ...]) -> str:
    return hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=12).hexdigest()


DIGEST = len(key(Label("", 0))) - len("label::")
"""The number of bytes of the digest at the end of the key of a judgement."""
