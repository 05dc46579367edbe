"""Whose events they are: the positions in the log at which something is about a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from everlearn.errors import InputError
from everlearn.events import KINDS, Log, scan
from everlearn.records import Event, Example, Label, Prediction, Preference, Rejected, Reward, Scalar
from everlearn.spec import Spec

_TAUGHT = (Example, Label, Reward, Preference)


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be erased: positions in ascending order, how many of each kind, and the ids and features in there.

    `first` is the first position from which a model may have learned something of it; 0 if there is none.
    """

    positions: list[int]
    kinds: dict[str, int]
    ids: frozenset[str]
    features: list[dict[str, Any]]
    first: int


def find(log: Log, spec: Spec, where: Mapping[str, Scalar]) -> Found:
    """Everything about the rows for which every field in `where` has its value, or whose subject has.

    A value is the same where its text is: 17 and "17", true and True. Beside predictions and examples that is all
    feedback for them, and rows set aside that hold the values. Reads the whole log once.
    """
    _check(spec, where)
    wanted = {name: _text(value) for name, value in where.items()}
    found: dict[int, Event] = {}
    for event in scan(log, kinds=("prediction", "example", "rejected")):
        payload = event.payload
        if isinstance(payload, Rejected):
            about = _mentions(payload, wanted)
        else:
            about = isinstance(payload, Prediction | Example) and _is_about(payload, spec.subject, wanted)
        if about:
            found[event.position] = event
    rows = [event.payload for event in found.values() if isinstance(event.payload, Prediction | Example)]
    ids = frozenset(row.id for row in rows)
    for id in sorted(ids):
        judged = (event for event in log.about(id) if isinstance(event.payload, Label | Reward | Preference))
        found |= {event.position: event for event in judged}
    default = spec.feedback.default is not None  # then a prediction alone may have taught something
    taught = [
        position
        for position, event in found.items()
        if isinstance(event.payload, _TAUGHT) or (default and isinstance(event.payload, Prediction))
    ]
    kinds = Counter(KINDS[type(event.payload)] for event in found.values())
    return Found(
        sorted(found), dict(sorted(kinds.items())), ids, [row.features for row in rows], min(taught, default=0)
    )


def _check(spec: Spec, where: Mapping[str, Scalar]) -> None:
    known = [*spec.schema.fields, *([spec.subject] if spec.subject else [])]
    unknown = [name for name in where if name not in known]
    if unknown or not where:
        raise InputError(
            f"where: got {', '.join(unknown) or 'nothing'}; expected fields that the log holds: {', '.join(known)}"
            + ("" if spec.subject else " (or name the field that says whose data a row is, as `subject`)")
        )
    bad = [name for name, value in where.items() if not isinstance(value, bool | int | float | str) or value == ""]
    if bad:
        raise InputError(f"where: {bad[0]} is {where[bad[0]]!r}, expected a value that rows can have")


def _is_about(row: Prediction | Example, subject: str, wanted: Mapping[str, str]) -> bool:
    return all(
        (name in row.features and _text(row.features[name]) == value)
        or (name == subject and row.subject != "" and row.subject == value)
        for name, value in wanted.items()
    )


def _mentions(row: Rejected, wanted: Mapping[str, str]) -> bool:
    """Whether a row that could not be used holds the values: in its fields where it is JSON, else anywhere in it."""
    try:
        held = msgspec.json.decode(row.raw)
    except msgspec.MsgspecError:
        held = None
    if isinstance(held, dict) and all(name in held for name in wanted):
        return all(_text(held[name]) == value for name, value in wanted.items())
    everything = f"{row.raw}\n{row.reason}"
    return all(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", everything) for value in wanted.values())


def _text(value: Any) -> str:
    """The same text for what people take for the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
