"""Raw values as values that JSON can hold, whose encoding gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from types import NoneType
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.records import Floats
from everlearn.schema import columnar, meaning
from everlearn.schema.field import Field
from everlearn.schema.layout import NUMBERS


def plain(value: Any, field: Field) -> Any:
    """Return one value of a field as JSON can hold it, with the same encoding; None where missing or unusable."""
    return json_column([value], field)[0]


def json_column(column: Any, field: Field) -> list[Any]:
    """Return a column as values that JSON can hold, with the same encoding; None where missing."""
    part, kind = columnar.native(column), field.kind
    if kind in NUMBERS:
        return _without_nan(columnar.numbers(part, field)[0])
    if kind == "boolean":
        return [None if value is None else value == 1 for value in _without_nan(columnar.booleans(part, field)[0])]
    if kind.startswith("vector"):
        rows = columnar.vectors(part, int(kind[7:-1]), field)[0].tolist()
        plain = [[None if value != value else value for value in row] for row in rows]
        return [None if not any(value is not None for value in row) else row for row in plain]
    values = columnar.values_of(part)
    if kind == "tokens":
        return [_tokens(value, field) for value in values]
    if set(map(type, values)) <= {bool, int, NoneType} or (columnar.is_arrow(part) and str(part.type) == "string"):
        return values
    return [json_value(value) for value in values]


def _tokens(value: Any, field: Field) -> list[str] | None:
    try:
        return [token.decode() for token in field.tokens(value)] or None
    except InputError:
        return None  # the row is rejected


def records_of(columns: Mapping[str, list[Any]], n: int) -> list[dict[str, Any]]:
    """Return n records from columns, without missing values."""
    if not columns:
        return [{} for _ in range(n)]
    rows = zip(*columns.values(), strict=True)
    if any(None in column for column in columns.values()):
        return [{name: value for name, value in zip(columns, row, strict=True) if value is not None} for row in rows]
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _without_nan(values: Floats) -> list[float | None]:
    found: list[float | None] = values.tolist()
    return [None if value != value else value for value in found] if np.isnan(values).any() else found


def json_value(value: Any) -> Any:
    """Return a value of any type as one that JSON can hold; None where missing or unusable."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if meaning.is_missing(value):
        return None
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, date):
        return value.isoformat()
    try:
        return meaning.category(value).decode()
    except InputError:
        return None  # the row is rejected
