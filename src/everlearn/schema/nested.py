"""Objects within records, as columns with dotted names: {"user": {"age": 7}} has the column "user.age".

Files, requests and data frames all lead here, so that a field `user.age` means the same in each. A name that is written
with its dots stays and takes precedence. A list of objects is one value, which no kind of field can read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from everlearn.schema import columnar

DEPTH = 8  # objects within objects, at most; deeper ones are values


def flat(record: Mapping[str, Any], fields: Collection[str] = ()) -> Mapping[str, Any]:
    """Return a record with the values of its objects under dotted names; the record itself where it has none.

    An object whose own name is one of `fields` stays as it is, and so does one more than eight objects deep.

    >>> flat({"x": 1, "user": {"age": 7, "home": {"town": "Delft"}}})
    {'x': 1, 'user.age': 7, 'user.home.town': 'Delft'}
    """
    if dict not in map(type, record.values()):
        return record
    made: dict[str, Any] = {}
    for name, value in record.items():
        if type(value) is not dict or name in fields:
            made[name] = value
            continue
        for path, leaf in _leaves(name, value, fields, 1):
            if path not in record:
                made.setdefault(path, leaf)
    return made


def _leaves(name: str, value: dict[Any, Any], fields: Collection[str], depth: int) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        path = f"{name}.{key}"
        if type(inner) is dict and depth < DEPTH and path not in fields:
            yield from _leaves(path, inner, fields, depth + 1)
        else:
            yield path, inner


def flat_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return native columns where each part of a struct or a dict is one column.

    >>> flat_columns({"user": [{"age": 7}, None, {"age": 8, "town": "Delft"}], "x": [1, 2, 3]})
    {'user.age': [7, None, 8], 'user.town': [None, None, 'Delft'], 'x': [1, 2, 3]}
    """
    made: dict[str, Any] = {}
    for name, part in columns.items():
        parts = _parts(name, part)
        for path, column in parts.items():
            if path == name or path not in columns:
                made.setdefault(path, column)
    return made


def _parts(name: str, part: Any, depth: int = 1) -> dict[str, Any]:
    """Return the columns of one native column."""
    if columnar.is_arrow(part):
        if not str(part.type).startswith("struct") or depth > DEPTH:
            return {name: part}
        made: dict[str, Any] = {}
        for i, inner in enumerate(part.flatten()):
            made |= _parts(f"{name}.{part.type.field(i).name}", columnar.native(inner), depth + 1)
        return made
    if not isinstance(part, list) or dict not in map(type, part):
        return {name: part}
    rows = [flat({name: value}) for value in part]
    names = dict.fromkeys(path for row in rows for path in row)
    if all(type(value) is dict or value is None for value in part):
        names.pop(name, None)
    return {path: [row.get(path) for row in rows] for path in names}


def column_names(schema: Any) -> list[str]:
    """Return the names of the columns that `flat_columns` makes of a table with this Arrow schema."""
    literal = set(schema.names)
    found = [(field.name, path) for field in schema for path in _paths(field.name, field.type)]
    return list(dict.fromkeys(path for name, path in found if path == name or path not in literal))


def _paths(name: str, kind: Any, depth: int = 1) -> list[str]:
    if not str(kind).startswith("struct") or depth > DEPTH:
        return [name]
    return [
        path
        for i in range(kind.num_fields)
        for path in _paths(f"{name}.{kind.field(i).name}", kind.field(i).type, depth + 1)
    ]
