"""Find the events about a person: their positions in the log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from everlearn.errors import InputError
from everlearn.events import KINDS, EncryptingLog, Log, scan
from everlearn.records import Event, Example, Label, Prediction, Preference, Rejected, Reward, Scalar
from everlearn.schema import forms, meaning
from everlearn.spec import Spec

_TAUGHT = (Example, Label, Reward, Preference)
CLOCKS = 3600.0  # seconds by which the clocks of two machines may differ
_WHOLE = re.compile(r"(-?[0-9]+)(\.0)?")  # a whole number, as releases spelled int and float


@dataclass(frozen=True, slots=True)
class Found:
    """The events to erase: positions in ascending order, counts by kind, and the ids and features in them.

    `first` is the first position from which a model may have learned; 0 if there is none. `removed` is the position up
    to which the broker has removed all events, and `keys` are the handles of the keys of the subject there.
    """

    positions: list[int]
    kinds: dict[str, int]
    ids: frozenset[str]
    features: list[dict[str, Any]]
    first: int
    removed: int = 0
    keys: tuple[str, ...] = ()

    @property
    def unseen(self) -> int:
        """The position up to which removed events may be about the person; 0 if none of them can."""
        return self.removed if 0 < self.first <= self.removed else 0


def find(log: Log, spec: Spec, where: Mapping[str, Scalar]) -> Found:
    """Return all events about the rows in which every field in `where` has its value, or whose subject has.

    Two values are the same if they name the same category: 17, 17.0, "17" and " 17.0"; true, True and "True". The
    result holds predictions, examples, all feedback for them, and rejected rows that hold the values. Reads the whole
    log once. Raises InputError for a field or value that no row can have.
    """
    _check(spec, where)
    found = _rows(log, spec, where)
    for id in sorted(_ids(found)):
        judged = (event for event in log.about(id) if isinstance(event.payload, Label | Reward | Preference))
        found |= {event.position: event for event in judged}
    return _found(found, spec)


def find_left(log: Log, spec: Spec, where: Mapping[str, Scalar], removed: int) -> Found:
    """Return what `find` does, of a log whose broker has removed all events up to position `removed`.

    Events left that are encrypted with a key of the subject belong to the result, too. What was removed cannot be read.
    No event of the person comes before a decision, version or checkpoint that was written an hour before the first of
    these keys was made. Any other removed event may be about the person. Raises InputError unless `where` names the
    subject alone.
    """
    _check(spec, where)
    if not isinstance(log, EncryptingLog) or set(where) != {spec.subject}:
        raise InputError(
            f"where: got {', '.join(where)}; expected {spec.subject} alone, since the broker has removed the events up "
            f"to position {removed}, and only the key of a subject erases copies of these"
        )
    keys = log.held(_spellings(where[spec.subject]))
    left = _rows(log, spec, where, removed)
    ids = _ids(left)
    for event in scan(log, removed, ("label", "reward", "preference")):
        if isinstance(event.payload, Label | Reward | Preference) and event.payload.id in ids:
            left[event.position] = event
    found = _found(left | {event.position: event for event in log.under(keys, removed)}, spec)
    if not keys:
        return found
    since = min(keys.values()) - CLOCKS
    book = scan(log, kinds=("decision", "version", "checkpoint"))  # written with the clock of the learner
    first = max((event.position for event in book if event.time < since), default=0) + 1
    return replace(found, first=first if first <= removed else found.first, removed=removed, keys=tuple(sorted(keys)))


def _rows(log: Log, spec: Spec, where: Mapping[str, Scalar], after: int = 0) -> dict[int, Event]:
    """Return the rows about the person behind a position, those set aside too, by position."""
    wanted = {name: _text(value) for name, value in where.items()}
    subjects = _spellings(where[spec.subject]) if spec.subject in where else frozenset[str]()
    found: dict[int, Event] = {}
    for event in scan(log, after, ("prediction", "example", "rejected")):
        payload = event.payload
        if isinstance(payload, Rejected):
            about = _mentions(payload, wanted)
        else:
            about = isinstance(payload, Prediction | Example) and _is_about(payload, spec.subject, subjects, wanted)
        if about:
            found[event.position] = event
    return found


def _ids(found: Mapping[int, Event]) -> frozenset[str]:
    return frozenset(event.payload.id for event in found.values() if isinstance(event.payload, Prediction | Example))


def _found(found: Mapping[int, Event], spec: Spec) -> Found:
    default = spec.feedback.default is not None  # then a prediction alone may have taught something
    taught = [
        position
        for position, event in found.items()
        if isinstance(event.payload, _TAUGHT) or (default and isinstance(event.payload, Prediction))
    ]
    kinds = Counter(KINDS[type(event.payload)] for event in found.values())
    features = [event.payload.features for event in found.values() if isinstance(event.payload, Prediction | Example)]
    first = min(taught, default=0)
    return Found(sorted(found), dict(sorted(kinds.items())), _ids(found), features, first)


def _check(spec: Spec, where: Mapping[str, Scalar]) -> None:
    known = [*spec.schema.fields, *([spec.subject] if spec.subject else [])]
    unknown = [name for name in where if name not in known]
    if unknown or not where:
        raise InputError(
            f"where: got {', '.join(unknown) or 'nothing'}; expected fields that the log holds: {', '.join(known)}"
            + ("" if spec.subject else " (or name the field that says whose data a row is, as `subject`)")
        )
    bad = [name for name, value in where.items() if not isinstance(value, bool | int | float | str) or not _text(value)]
    if bad:
        raise InputError(f"where: {bad[0]}: got {where[bad[0]]!r}; expected a value that rows can have")


def _is_about(row: Prediction | Example, subject: str, subjects: frozenset[str], wanted: Mapping[str, str]) -> bool:
    return all(
        (name in row.features and _text(row.features[name]) == value) or (name == subject and row.subject in subjects)
        for name, value in wanted.items()
    )


def _mentions(row: Rejected, wanted: Mapping[str, str]) -> bool:
    """Return True if a rejected row holds the values: in its fields where it is JSON, else anywhere in it."""
    try:
        held = msgspec.json.decode(row.raw)
    except msgspec.MsgspecError:
        held = None
    if isinstance(held, dict) and all(name in held for name in wanted):
        return all(_text(held[name]) == value for name, value in wanted.items())
    everything = f"{row.raw}\n{row.reason}"
    return all(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", everything) for value in wanted.values())


def _spellings(value: Scalar) -> frozenset[str]:
    """Return the texts that name a subject in a log.

    The first is that of the category. Release 0.1.0 also wrote the text that Python gives: "7.0", "True".
    """
    text = _text(value)
    if whole := _WHOLE.fullmatch(text):
        return frozenset([text, whole[1], f"{whole[1]}.0"])
    if text.lower() in ("true", "false"):
        return frozenset([text, text.lower(), text.capitalize()])
    return frozenset([text, str(value)])


def _text(value: Any) -> str:
    """Return the one spelling of a value as a category; lists and the like have the text that Python gives."""
    try:
        return forms.spelled(meaning.category(value)).decode()
    except InputError:
        return str(value)
