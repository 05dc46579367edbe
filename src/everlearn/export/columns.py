"""The columns and hashed entries of encoded rows in words: their fields, and how a value becomes one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from everlearn.errors import InputError
from everlearn.schema import Encoder, origins
from everlearn.schema.layout import CATEGORIES, HASHED, width
from everlearn.spec import Schema

PARTS_OF_TIME = (
    "sine of the time of day",
    "cosine of the time of day",
    "sine of the time of week",
    "cosine of the time of week",
    "years since 2000",
)
MOST_VALUES = 100_000  # different values of a field that are named

# What a text is cut into, as in `everlearn.schema.hashing`: words, and punctuation marks.
_WORD_OR_MARK = re.compile("[0-9a-z_\x80-\U0010ffff]+|[!-~]")
_LOWER = {letter: letter + 32 for letter in range(ord("A"), ord("Z") + 1)}  # ASCII letters only, as the hash has it


class Column(NamedTuple):
    """One dense column: its field and kind, the part of the field, and the number that was subtracted."""

    field: str
    kind: str
    part: str
    origin: float

    @property
    def name(self) -> str:
        """The field, and its part in square brackets where it has several."""
        return f"{self.field} [{self.part}]" if self.part else self.field


def columns(schema: Schema) -> list[Column]:
    """Return the dense columns of encoded rows, in order.

    >>> fields = {"age": "numeric", "place": "vector[2]", "town": "categorical"}
    >>> [column.name for column in columns(Schema(label="y", task="regression", fields=fields))]
    ['age', 'place [0]', 'place [1]']
    """
    subtracted = origins.subtracted(schema)
    found: list[Column] = []
    for field, kind in schema.fields.items():
        for place in range(width(kind)):
            part = PARTS_OF_TIME[place] if kind == "datetime" else str(place) if kind.startswith("vector") else ""
            found.append(Column(field, kind, part, 0.0 if subtracted is None else float(subtracted[len(found)])))
    return found


def entry_names(schema: Schema, records: Iterable[Mapping[str, Any]], most: int = 20_000) -> dict[int, str]:
    """Return what hashed indices mean, as far as the first `most` records show: "town is Delft", "note has free".

    Texts have words and punctuation marks. A hash has no way back, so only values that are met are named. Where two
    values share an index both are named.

    >>> schema = Schema(label="y", task="regression", fields={"town": "categorical", "note": "text"})
    >>> sorted(entry_names(schema, [{"town": "Delft", "note": "free money"}]).values())
    ['note has free', 'note has money', 'town is Delft']
    """
    encoder = Encoder(schema)
    kinds = {name: kind for name, kind in schema.fields.items() if kind in HASHED}
    seen: dict[str, set[Any]] = {name: set() for name in kinds}
    pairs: set[tuple[str, Any, str, Any]] = set()
    for record in islice(records, most):
        for name, kind in kinds.items():
            if len(seen[name]) < MOST_VALUES:
                seen[name].update(_values(encoder, name, kind, record.get(name)))
        if schema.interactions:
            present = [(name, record[name]) for name in kinds if kinds[name] in CATEGORIES and record.get(name)]
            pairs.update((*one, *other) for i, one in enumerate(present) for other in present[i + 1 :])
    found: dict[int, str] = {}
    for name, values in seen.items():
        verb = "is" if kinds[name] in CATEGORIES else "has"
        for value in sorted(values, key=str):
            _note(found, encoder, {name: _cell(kinds[name], value)}, f"{name} {verb} {value}", 0)
    for one, value, other, second in sorted(pairs, key=str):
        _note(found, encoder, {one: value, other: second}, f"{one} is {value} and {other} is {second}", 2)
    return found


def _values(encoder: Encoder, name: str, kind: str, value: Any) -> set[Any]:
    """Return the values, words and punctuation marks, or tokens of one cell."""
    if value is None:
        return set()
    if kind == "text":
        return set(_WORD_OR_MARK.findall(str(value).translate(_LOWER)))
    if kind == "tokens":
        return {token.decode() for token in encoder.fields[name].tokens(value)}
    return {value}


def _cell(kind: str, value: Any) -> Any:
    """Return a cell that has only this value, word or token."""
    if kind == "text":
        return f"{value} {value}"  # alone, a word such as "nan" or "?" is a missing value
    return [value] if kind == "tokens" else value


def _note(found: dict[int, str], encoder: Encoder, record: Mapping[str, Any], meaning: str, place: int) -> None:
    """Note the meaning of the entry at a place of an encoded record, where the record has one."""
    try:
        indices = encoder.record(record).indices
    except InputError:
        return
    if len(indices) > place:
        index = int(indices[place])
        found[index] = f"{found[index]} or {meaning}" if index in found else meaning
