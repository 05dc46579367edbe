"""Schemas and values of every kind for the tests of encoding, with a plain reference for it."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from everlearn.records import Batch
from everlearn.schema import Encoder
from everlearn.spec import Schema

FIELDS = {
    "n": "numeric",
    "b": "boolean",
    "t": "datetime",
    "v": "vector[2]",
    "c": "categorical",
    "d": "categorical",
    "w": "text",
}

EVERY_KIND = Schema(label="y", task="binary", classes=("no", "yes"), fields=FIELDS, interactions=True)

ODD_TEXTS = [
    *(
        "",
        " ",
        "1e5",
        "+1.5",
        "-0",
        "0x10",
        "1_000",
        " 7 ",
        "NaN",
        "NA",
        "?",
        "inf",
        "-Infinity",
        "1e999",
        "12abc",
        ".",
    ),
    *(
        "1.",
        ".5",
        "123456789012345678901234567890",
        "0.1234567890123456789",
        "1e-400",
        "٣",
        "true",
        "FALSE",
        "Yes",
        "n",
    ),
    *("2024-02-29", "2024-02-30", "2024-01-31T08:30:00+02:00", "2024-01-31 08:30:00.123456", "20240131", "0001-01-01"),
    *("[1, 2]", "[1, null]", "[1]", '["a", 2]', "[", "a\0b", "Über", "\ud800", "x" * 90, "one, two: three!"),
]

ANY_VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53 + 1, -(2**63), 2**64, 10**39, 10**400]),
    st.floats(),
    st.sampled_from(ODD_TEXTS),
    st.text(st.characters(), max_size=12),
    st.binary(max_size=8),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))])),
    st.dates(),
    st.lists(st.floats(width=32) | st.none(), max_size=3),
    st.sampled_from(
        [np.float32(0.1), np.int8(-3), np.bool_(True), np.datetime64("2024-01-31T08:30", "ns"), np.float64("nan")]
    ),
    st.sampled_from(
        [
            Decimal("1.5"),
            Decimal("NaN"),
            Decimal("sNaN"),
            Decimal("1e100000"),
            Decimal("-Infinity"),
            pd.NA,
            pd.NaT,
            pd.Timestamp("2024-01-31", tz="UTC"),
            Fraction(1, 3),
        ]
    ),
    st.sampled_from(
        [
            {},
            {"a": 1},
            [],
            (1, 2),
            np.array([1.0, 2.0]),
            np.zeros((2, 2)),
            1j,
            np.complex64(1),
            np.timedelta64(1, "s"),
            object,
        ]
    ),
)


def encoder_of(kind: str, **changes: Any) -> Encoder:
    return Encoder(Schema(label="y", task="regression", fields={"x": kind}, **changes))


def dense(kind: str, value: Any) -> list[float]:
    return encoder_of(kind).record({"x": value}).dense[0].tolist()


def row(batch: Batch, i: int) -> tuple[bytes, bytes, bytes]:
    cut = slice(batch.indptr[i], batch.indptr[i + 1])
    return batch.dense[i].tobytes(), batch.indices[cut].tobytes(), batch.values[cut].tobytes()


def same(left: Batch, right: Batch) -> bool:
    pairs = zip(parts(left), parts(right), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def parts(batch: Batch) -> tuple[Any, ...]:
    return batch.dense, batch.indptr, batch.indices, batch.values


def containers(values: list[Any], dtype: Any, arrow: Any) -> list[Any]:
    """Return the same values in every container that can hold them."""
    array = np.array(values, dtype)
    column = pa.array(values, arrow)
    sliced = pa.array([values[0], *values, values[0]], arrow).slice(1, len(values))
    return [
        values,
        tuple(values),
        array,
        array[::-1][::-1],
        list(array),
        pd.Series(array),
        pd.Series(values, dtype=object),
        column,
        sliced,
        pa.chunked_array([column[:1], column[1:]]),
        column.dictionary_encode(),
        pd.Series(values).astype("category"),
    ]
