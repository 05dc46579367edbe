"""The values of one field as short names, by which metrics are split into segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, InputError
from everlearn.metrics.segments import WIDTH
from everlearn.schema import columnar
from everlearn.schema.field import Field
from everlearn.schema.layout import CATEGORIES

_PLAIN = Field("", "categorical")


def segment_name(value: Any, field: Field = _PLAIN) -> bytes:
    """Return the name of one value: the bytes by which the encoder knows the category, cut to 32; empty if missing.

    >>> segment_name("NL"), segment_name(7.0), segment_name(None)
    (b'NL', b'7', b'')
    """
    try:
        return field.category(value)[:WIDTH]
    except InputError:  # the row is refused as a whole
        return b""


def segment_names(column: Any, rows: int, field: Field = _PLAIN) -> NDArray[np.bytes_]:
    """Return the names of a column's values, bytes of 32 (rows,); all are missing without a column."""
    if column is None:
        return np.zeros(rows, f"S{WIDTH}")
    known: dict[Any, bytes] = {}
    names = []
    for value in columnar.values_of(columnar.native(column)):
        key = (type(value), value) if isinstance(value, str | int) else None
        if key is None:
            names.append(segment_name(value, field))
            continue
        if key not in known:
            known[key] = segment_name(value, field)
        names.append(known[key])
    return np.array(names, f"S{WIDTH}")


def checked(field: str, fields: Mapping[str, str], subject: str = "", where: str = "metrics.segment") -> str:
    """Return `field`, by which metrics are split ("": they are not).

    Raises `ConfigError` for a field that is not categorical, or that names people.
    """
    if field and field == subject:
        raise ConfigError(
            f"{where}: got {field!r}, which is the loop's subject; expected another field. Metrics keep the names of "
            "values, and an erasure would not remove them. Choose a field that does not name people"
        )
    categories = [name for name, kind in fields.items() if kind in CATEGORIES]
    if field and field not in categories:
        known = (
            f"one of {', '.join(categories[:20])}" if categories else "none, since the schema has no categorical field"
        )
        what = f"a {fields[field]} field" if field in fields else "no field of the schema"
        raise ConfigError(f"{where}: got {field!r}, {what}; expected {known}. Correct it, or leave it out")
    return field
