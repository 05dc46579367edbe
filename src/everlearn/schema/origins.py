"""The origins of encoded rows: the field of each dense column and hashed entry, and the origin of each number.

A float32 has 24 bits. Seconds since 1970 need 31, so that as a float32 they change once in two minutes. The encoder
subtracts the origin of a field in float64, and the rest fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.records import Floats
from everlearn.schema import actions, meaning
from everlearn.schema.field import fields_of
from everlearn.schema.layout import CATEGORIES, width
from everlearn.spec import Schema

FAR = 1000.0  # spreads from 0 beyond which a float32 keeps a spread to less than four digits
FAR_CONSTANT = 1e6  # the same for a constant column, whose spread is not known yet


def dense(schema: Schema) -> list[str]:
    """Return the field of each dense column, in column order.

    >>> fields = {"age": "numeric", "town": "categorical", "at": "datetime"}
    >>> dense(Schema(label="y", task="regression", fields=fields))
    ['age', 'at', 'at', 'at', 'at', 'at']
    """
    return [name for name, kind in actions.columns(schema).items() for _ in range(width(kind))]


def subtracted(schema: Schema) -> Floats | None:
    """Return the number that is subtracted from each dense column, float64 (columns,); None if the schema has none.

    >>> subtracted(Schema(label="y", task="regression", fields={"a": "boolean", "t": "numeric"}, origin={"t": 1.7e9}))
    array([0.0e+00, 1.7e+09])
    """
    if not schema.origin:
        return None
    return np.array([schema.origin.get(name, 0.0) for name in dense(schema)])


def guess(numbers: Floats) -> float | None:
    """Return an origin for a column of numbers, float64 (n,), NaN where missing; None where it needs none.

    A column needs one where its middle is more than `FAR` spreads from 0. The spread is the distance of the quartiles,
    or of the extremes where that is 0. A constant column needs one from `FAR_CONSTANT`. The origin is the median,
    rounded to a power of ten within the spread, so that it is easy to read.

    >>> guess(np.array([1_700_000_007.5, 1_700_000_031.0, 1_700_000_055.5]))
    1700000030.0
    >>> guess(np.array([1990.0, 2000.0, 2020.0]))
    """
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return None
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]).tolist()
    spread = high - low or float(known.max()) - float(known.min())
    if (
        not (abs(middle) > FAR * spread if spread > 0.0 else abs(middle) > FAR_CONSTANT)
        or abs(middle) > meaning.LARGEST
    ):
        return None
    unit = 10.0 ** math.floor(math.log10(spread)) if spread > 0.0 else 1.0
    rounded = round(middle / unit) * unit
    return float(rounded if math.isfinite(rounded) else middle)


def hashed(schema: Schema, record: Mapping[str, Any]) -> list[str]:
    """Return the field, or the pair "a x b" of fields, of each hashed entry of a record.

    The order is that of `Encoder.record`.

    >>> fields = {"town": "categorical", "note": "text", "day": "categorical"}
    >>> schema = Schema(label="y", task="regression", fields=fields, interactions=True)
    >>> hashed(schema, {"town": "Delft", "note": "free!", "day": 7})
    ['town', 'day', 'town x day', 'note', 'note']
    """
    from everlearn.schema import hashing  # here, as it loads numba, and encoders of numbers need none

    fields = fields_of(schema)
    categories = [name for name, kind in schema.fields.items() if kind in CATEGORIES]
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
