"""The meaning of one raw value: a number, a moment, a category or a vector.

Each function returns NaN (or nothing) for a missing value and raises `InputError`, with the value and the expectation,
for a value that cannot be used. `columnar` gives the same results for columns.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError

LARGEST = float(np.finfo(np.float32).max)
MISSING_WORDS = frozenset(["", "nan", "na", "n/a", "null", "none", "?"])
TRUE_WORDS = frozenset(["true", "t", "yes", "y", "1", "1.0"])
FALSE_WORDS = frozenset(["false", "f", "no", "n", "0", "0.0"])

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BLANKS = " \t\r\n"
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
WEEK = 10_080  # minutes
MONDAY = 3 * 1_440  # minutes; 1 January 1970 was a Thursday
YEAR = 31_557_600.0  # seconds in 365.25 days
YEAR_2000 = 946_684_800  # seconds from 1970

FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
BEYOND_YEARS = "expected a moment between the years 1 and 9999"


def show(value: Any) -> str:
    """Return a short text of a value for messages, however large the value is."""
    # Python refuses to print an int of a million digits, so check the size first.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, str):
        value = value[:60].encode("utf-8", "replace").decode()
    text = repr(value[:60]) if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_missing(value: Any) -> bool:
    """Return True for None, NaN, and the missing-value markers of pandas and numpy."""
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return bool(value != value)
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    if isinstance(value, Decimal):
        return value.is_nan()
    return type(value).__name__ in ("NAType", "NaTType")


def text_of(value: Any) -> str | None:
    """Return text, or bytes decoded as text, without surrounding blanks; None for any other value."""
    if isinstance(value, str):
        # UTF-8 cannot hold a lone surrogate, so it becomes a question mark everywhere.
        return (value if value.isascii() else value.encode("utf-8", "replace").decode()).strip(_BLANKS)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip(_BLANKS)
    return None


def number(value: Any) -> float:
    """Return the number, within the range of float32; NaN if it is missing. Raises `InputError` for anything else."""
    result = any_number(value)
    if -LARGEST <= result <= LARGEST or result != result:
        return result
    if result in (math.inf, -math.inf) and not isinstance(value, int | str | bytes | Decimal):
        raise InputError("got infinity, expected a finite number")
    raise InputError(f"got {show(value)}, expected a number between -3.4e38 and 3.4e38 (the range of float32)")


def any_number(value: Any) -> float:
    """Return the number, infinite if it exceeds float64; NaN if it is missing.

    Raises `InputError` for anything else.
    """
    if is_missing(value):
        return math.nan
    text = text_of(value)
    if text is not None:
        if text.lower() in MISSING_WORDS:
            return math.nan
        if _NUMBER.fullmatch(text):
            return float(text)
        raise InputError(f"got {show(value)}, expected a number")
    if is_number(value):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    raise InputError(f"got {show(value)} ({type(value).__name__}), expected a number")


def is_number(value: Any) -> bool:
    """Return True for a real number. A numpy duration is not one, although numpy treats it as an integer."""
    kinds = (int, float, Decimal, np.integer, np.floating, np.bool_)
    return isinstance(value, kinds) and not isinstance(value, np.timedelta64)


def boolean(value: Any) -> float:
    """Return 1.0 for true, 0.0 for false, NaN if missing. Raises `InputError` for anything else."""
    if is_missing(value):
        return math.nan
    text = text_of(value)
    if text is not None:
        word = text.lower()
        if word in TRUE_WORDS:
            return 1.0
        if word in FALSE_WORDS:
            return 0.0
        if word in MISSING_WORDS:
            return math.nan
    elif is_number(value) and value in (0, 1):
        return float(value)
    raise InputError(f"got {show(value)}, expected true or false (or 1 or 0)")


def moment(value: Any) -> float:
    """Return whole seconds since 1970 in UTC, NaN if missing; a time without a zone counts as UTC.

    Raises `InputError` for a value that is no date or time, or lies outside the years 1 to 9999.
    """
    if is_missing(value):
        return math.nan
    seconds = math.nan
    text = text_of(value)
    if text is not None:
        if text.lower() in MISSING_WORDS:
            return math.nan
        seconds = _parsed_moment(text)
    elif isinstance(value, datetime):
        seconds = (value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)) // _SECOND
    elif isinstance(value, date):
        seconds = (datetime(value.year, value.month, value.day) - _EPOCH) // _SECOND
    elif isinstance(value, np.datetime64):
        seconds = float(value.astype("datetime64[s]").astype(np.int64))
    elif is_number(value) and not isinstance(value, bool | np.bool_):
        found = any_number(value)
        seconds = math.floor(found) if math.isfinite(found) else math.inf
    if seconds != seconds:
        raise InputError(
            f"got {show(value)}, expected an ISO date or time such as 2026-01-31T08:30, or seconds since 1970"
        )
    if not FIRST_SECOND <= seconds <= LAST_SECOND:
        raise InputError(f"got {show(value)}, {BEYOND_YEARS}")
    return float(seconds)


def iso_moment(text: str) -> float:
    """Return the seconds since 1970 of an ISO date or time; NaN for any other text."""
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed - (_EPOCH if parsed.tzinfo is None else _EPOCH_UTC)) // _SECOND
    except (ValueError, OverflowError):
        return math.nan


def _parsed_moment(text: str) -> float:
    seconds = iso_moment(text)
    if seconds == seconds or not _NUMBER.fullmatch(text):
        return seconds
    seconds = float(text)
    return math.floor(seconds) if math.isfinite(seconds) else math.inf


def plain_number(text: str) -> float:
    """Return a number without any sign but its own, infinite beyond float64; NaN for any other text."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def category(value: Any) -> bytes:
    """Return the bytes that name a category: one spelling for 7, 7.0 and "7"; empty if missing.

    Raises `InputError` for infinity, for more than 3,000 digits, and for a value that is no text, number or truth
    value.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if is_missing(value):
        return b""
    if isinstance(value, np.generic):
        value = value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").encode()
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return _digits(value)
    if isinstance(value, float | Decimal):
        if value in (math.inf, -math.inf):
            raise InputError("got infinity, expected a category")
        if isinstance(value, Decimal) and value.adjusted() > 3_000:
            raise InputError(f"got {show(value)}, expected a category of at most 3,000 digits")
        return _digits(int(value)) if value == int(value) else repr(float(value)).encode()
    if isinstance(value, date):
        return value.isoformat().encode()
    raise InputError(
        f"got {show(value)} ({type(value).__name__}), expected a category: text, a number or a truth value"
    )


def _digits(value: int) -> bytes:
    """Return the digits of an integer. Raises `InputError` for more than 10,000 bits, before its text is built."""
    if value.bit_length() > 10_000:
        raise InputError(f"got {show(value)}, expected a category of at most 10,000 bits")
    return b"%d" % value


def vector(value: Any, length: int) -> list[float]:
    """Return `length` numbers from a sequence, or from text such as "[1, 2.5, null]"; NaN where one is missing.

    Raises `InputError` for a wrong number of values, or one that is not a number.
    """
    text = text_of(value)
    if is_missing(value) or (text is not None and text.lower() in MISSING_WORDS):
        return [math.nan] * length
    if text is not None:
        value = listed(text, f"{length} numbers such as [1, 2.5]")
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise InputError(f"got {show(value)} ({type(value).__name__}), expected {length} numbers")
    if len(value) != length:
        raise InputError(f"got {len(value)} numbers, expected {length}")
    return [number(item) for item in value]


def listed(text: str, expected: str = "a list such as [1, 2.5]") -> Any:
    """Return the value of JSON text. Raises `InputError` for other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"got {show(text)}, expected {expected}") from None


@cache
def clock() -> tuple[list[float], list[float]]:
    """Return one turn of sines and of cosines at each minute of a week; a day is seven turns of the same table."""
    turn = [2.0 * math.pi * minute / WEEK for minute in range(WEEK)]
    return [math.sin(angle) for angle in turn], [math.cos(angle) for angle in turn]


def phases(seconds: float) -> tuple[float, float, float, float, float]:
    """Return sine and cosine of the time of day and of the time of week (from Monday), and years since 2000."""
    if seconds != seconds:
        return (math.nan,) * 5
    sines, cosines = clock()
    minute = (int(seconds) // 60 + MONDAY) % WEEK
    day = minute * 7 % WEEK
    return sines[day], cosines[day], sines[minute], cosines[minute], (seconds - YEAR_2000) / YEAR


def joined(cells: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the cells joined end to end, and the n + 1 offsets at which they start and end."""
    offsets = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, cells), np.int64, len(cells)), out=offsets[1:])
    return np.frombuffer(b"".join(cells), np.uint8), offsets
