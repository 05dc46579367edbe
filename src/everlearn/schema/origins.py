"""The field that each dense column and each hashed entry of an encoded row comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.schema import hashing, meaning
from everlearn.schema.field import fields_of
from everlearn.schema.layout import width
from everlearn.spec import Schema


def dense(schema: Schema) -> list[str]:
    """Return the field of each dense column, in column order.

    >>> fields = {"age": "numeric", "town": "categorical", "at": "datetime"}
    >>> dense(Schema(label="y", task="regression", fields=fields))
    ['age', 'at', 'at', 'at', 'at', 'at']
    """
    return [name for name, kind in schema.fields.items() for _ in range(width(kind))]


def hashed(schema: Schema, record: Mapping[str, Any]) -> list[str]:
    """Return the field, or the pair "a x b" of fields, of each hashed entry of a record.

    The order is that of `Encoder.record`.

    >>> fields = {"town": "categorical", "note": "text", "day": "categorical"}
    >>> schema = Schema(label="y", task="regression", fields=fields, interactions=True)
    >>> hashed(schema, {"town": "Delft", "note": "free!", "day": 7})
    ['town', 'day', 'town x day', 'note', 'note']
    """
    fields = fields_of(schema)
    categories = [name for name, kind in schema.fields.items() if kind == "categorical"]
    present = [name for name in categories if fields[name].category(record.get(name))]
    names = list(present)
    if schema.interactions:
        names += [f"{first} x {second}" for i, first in enumerate(present) for second in present[i + 1 :]]
    for name, kind in schema.fields.items():
        if kind == "text":
            cell = meaning.joined([fields[name].category(record.get(name))])
            rows = hashing.text_rows(*cell, hashing.seed_of(name), np.uint64((1 << schema.bits) - 1))
            names += [name] * int(rows[0][1])
    for name, kind in schema.fields.items():
        if kind == "tokens":
            names += [name] * len(fields[name].tokens(record.get(name)))
    return names
