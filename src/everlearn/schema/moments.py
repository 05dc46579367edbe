"""Read the time of a row back from its dense columns.

A datetime field becomes five dense columns: sine and cosine of the time of day and of the week, and years since 2000.
As float32 the years are known to a minute today and to four hours in the year 9999; the two columns of the week give
the minute within it exactly. Together they give the minute, so whatever holds an encoded row holds its time.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.records import Ints, Singles
from everlearn.schema.layout import width
from everlearn.schema.meaning import MONDAY, WEEK, YEAR, YEAR_2000
from everlearn.spec import Schema

UNKNOWN = -(1 << 62)  # the minute of a row whose time is missing
_SINE, _COSINE, _YEARS = 2, 3, 4  # of the week, and the years, among the five columns


def clock(schema: Schema) -> int | None:
    """Return the first dense column of the first datetime field; None if the schema has none.

    >>> clock(Schema(label="y", task="regression", fields={"a": "numeric", "at": "datetime"}))
    1
    """
    column = 0
    if schema.task == "preference":  # the fields beside a pair are no columns
        return None
    for kind in schema.fields.values():
        if kind == "datetime":
            return column
        column += width(kind)
    return None


def minutes(dense: Singles, column: int) -> Ints:
    """Return the minutes since 1970 in UTC of n rows, int64 (n,); `UNKNOWN` where the time is missing.

    `dense` is float32 (n, d), as encoded and not clipped; the five columns of the field start at `column`.

    >>> from everlearn.schema import Encoder
    >>> encoder = Encoder(Schema(label="y", task="regression", fields={"at": "datetime"}))
    >>> minutes(encoder.record({"at": "2026-01-31T08:30"}).dense, 0).tolist()
    [29497470]
    """
    found = np.empty(len(dense), np.int64)
    _minutes(dense, column, found)
    return found


@exact_kernel
def _minutes(dense: Singles, column: int, found: Ints) -> None:
    for row in range(len(found)):
        years = np.float64(dense[row, column + _YEARS])
        if np.isnan(years):
            found[row] = UNKNOWN
            continue
        angle = math.atan2(np.float64(dense[row, column + _SINE]), np.float64(dense[row, column + _COSINE]))
        minute = int(np.floor(angle / (2.0 * math.pi) * WEEK + 0.5)) % WEEK
        near = (years * YEAR + YEAR_2000) / 60.0 + MONDAY
        found[row] = int(np.floor((near - minute) / WEEK + 0.5)) * WEEK + minute - MONDAY
