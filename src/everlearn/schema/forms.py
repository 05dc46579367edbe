"""Numbers, moments and categories in the forms in which people and programs write them.

`field` decides which form a value has; these functions read it. Each takes text without surrounding blanks.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone
from functools import cache

from everlearn.errors import InputError
from everlearn.schema.meaning import FIRST_SECOND, LAST_SECOND, show

_UNITS = r"(?:[$€£¥₹]|\b(?:USD|EUR|GBP|JPY|CHF|INR|AUD|CAD)\b)"  # signs and codes of currencies
_GROUPS = (r"'", r"’", r"[ \u00a0\u202f\u2009]")  # between thousands, beside the mark that is not the decimal one
_FULL_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTHS = {name[:length]: i for i, name in enumerate(_FULL_MONTHS, 1) for length in (3, len(name))} | {"sept": 9}
_MONTH = r"([A-Za-z]{3,9})\.?"
_TIME = (
    r"(?:[T:,\s]+(\d{1,2})[:.](\d{2})(?:[:.](\d{2})(?:[.,]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?"
    r"\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?(?:\s*(?:UTC|GMT))?"
)
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*[.,]?\s+)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}}){_TIME}")
_YEAR_LAST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}|\d{{2}}){_TIME}")
_DAY_MONTH = re.compile(
    rf"{_WEEKDAY}(\d{{1,2}})(?:st|nd|rd|th)?[-/.\s]*{_MONTH}[-/,\s]*(\d{{4}}|\d{{2}}){_TIME}", re.IGNORECASE
)
_MONTH_DAY = re.compile(rf"{_WEEKDAY}{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}}){_TIME}", re.IGNORECASE)
_YEAR_AT_END = re.compile(
    rf"{_WEEKDAY}{_MONTH}\s+(\d{{1,2}})\s+(\d{{1,2}}):(\d{{2}}):(\d{{2}})\s+(?:(Z|UTC|GMT|[+-]\d{{2}}:?\d{{2}})\s+)?(\d{{4}})",
    re.IGNORECASE,
)
_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
_WHOLE = re.compile(rb"(-?)(0|[1-9][0-9]*)\.0+")
_TRUTHS = {b"True": b"true", b"TRUE": b"true", b"False": b"false", b"FALSE": b"false"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def amount(text: str, decimal: str = ".") -> float:
    """Return a number with signs of percent, currency or thousands; NaN if the text is no number.

    A percent sign does not divide by 100: "8.9%" is 8.9, as the column would be without signs.

    >>> amount("$1,234.50"), amount("-8.9 %"), amount("1.234,5 €", ","), amount("(12.00)"), amount("1,5")
    (1234.5, -8.9, 1234.5, -12.0, nan)
    """
    found = _amount(decimal).fullmatch(text.replace("\u2212", "-"))
    if found is None or bool(found["open"]) != bool(found["close"]) or (found["sign"] and found["inner"]):
        return math.nan
    digits = re.sub(r"[^0-9]", "", found["whole"] or "")
    tail = (found["part"] or "").replace(",", ".")
    if not digits and not tail[1:]:
        return math.nan
    sign = found["sign"] or found["inner"]
    value = float(f"{digits or '0'}{tail}{found['power'] or ''}")
    return -value if (sign == "-") != bool(found["open"]) else value


@cache
def _amount(decimal: str) -> re.Pattern[str]:
    other = {".": ",", ",": r"\."}[decimal]
    groups = "|".join(rf"(?:{mark}\d{{3}})+" for mark in (other, *_GROUPS))
    # In Indian figures, only the last group has three digits: 12,34,567.
    indian = rf"|\d{{1,2}}(?:{other}\d{{2}})+{other}\d{{3}}" if decimal == "." else ""
    return re.compile(
        rf"(?P<open>\()?(?P<sign>[+-])?\s*{_UNITS}?\s*(?P<inner>[+-])?"
        rf"(?P<whole>[1-9]\d{{0,2}}(?:{groups}){indian}|\d+)?(?P<part>{re.escape(decimal)}\d*)?(?P<power>[eE][+-]?\d+)?"
        rf"\s*(?:%|{_UNITS})?(?P<close>\))?"
    )


def moment(text: str, order: str = "") -> float:
    """Return seconds since 1970 of a date in one of the usual forms; NaN if the text has none of them.

    `order` is "day first" or "month first", or empty where dates such as 03/04/2015 are not expected. Raises
    `InputError` for such a date without an order.

    >>> moment("05/Jan/2015:10:00:00 +0000"), moment("5.1.2015 10:00", "day first"), moment("Jan 5, 2015 10:00 AM")
    (1420452000.0, 1420452000.0, 1420452000.0)
    """
    if found := _YEAR_FIRST.fullmatch(text):
        year, month, day, *time = found.groups()
        return _seconds(int(year), int(month), int(day), *time)
    if found := _YEAR_LAST.fullmatch(text):
        first, _, second, year, *time = found.groups()
        day, month = _ordered(int(first), int(second), order, text)
        return _seconds(_full_year(year), month, day, *time)
    if found := _DAY_MONTH.fullmatch(text):
        day, name, year, *time = found.groups()
        return _seconds(_full_year(year), _month(name), int(day), *time)
    if found := _MONTH_DAY.fullmatch(text):
        name, day, year, *time = found.groups()
        return _seconds(int(year), _month(name), int(day), *time)
    if found := _YEAR_AT_END.fullmatch(text):
        name, day, hour, minute, second, zone, year = found.groups()
        return _seconds(int(year), _month(name), int(day), hour, minute, second, None, zone)
    return math.nan


def year_last(text: str) -> tuple[int, int] | None:
    """Return the first two numbers of a date such as 31.1.2015 or 1/31/15; None for any other text."""
    found = _YEAR_LAST.fullmatch(text)
    return (int(found[1]), int(found[3])) if found else None


def _ordered(first: int, second: int, order: str, text: str) -> tuple[int, int]:
    if not order and first <= 12 and second <= 12 and first != second:
        raise InputError(
            f"got {show(text)}, in which the day or the month may be first; expected an ISO date. Say which it is: "
            "dates = { FIELD = 'day first' } under [schema], or 'month first'"
        )
    if order == "month first" or (not order and second > 12):
        first, second = second, first
    return first, second


def _full_year(text: str) -> int:
    """Return a year; of two digits, 69 to 99 are in the twentieth century, as in POSIX."""
    year = int(text)
    return year if len(text) == 4 else year + (1900 if year >= 69 else 2000)


def _month(name: str) -> int:
    return _MONTHS.get(name.lower(), 0)


def _seconds(
    year: int,
    month: int,
    day: int,
    hour: str | None,
    minute: str | None,
    second: str | None,
    half: str | None,
    zone: str | None,
) -> float:
    hours = int(hour or 0)
    if half:
        if not 1 <= hours <= 12:
            return math.nan
        hours = hours % 12 + (12 if half[0] in "pP" else 0)
    try:
        made = datetime(year, month, day, hours, int(minute or 0), int(second or 0), tzinfo=_zone(zone))
    except ValueError:
        return math.nan
    return float((made - _EPOCH) // _SECOND)


def _zone(text: str | None) -> timezone:
    if not text or text[0] not in "+-":
        return UTC
    digits = text[1:].replace(":", "")
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-ahead if text[0] == "-" else ahead)


def epoch(number: float) -> float:
    """Return the seconds since 1970 that a number means as a moment; infinite beyond the years 1 to 9999.

    Digits of a date (20150131, with hours and minutes 201501310830, with seconds too) are that date. Other numbers are
    seconds since 1970, or milliseconds, microseconds or nanoseconds where seconds would lie beyond the year 9999.

    >>> epoch(20150105), epoch(1420416000), epoch(1420416000000)
    (1420416000, 1420416000, 1420416000)
    """
    if number != number or number in (math.inf, -math.inf):
        return math.inf
    if number == math.floor(number) and (found := _digits(int(number))) is not None:
        return found
    for _ in range(4):
        if FIRST_SECOND <= number <= LAST_SECOND:
            return math.floor(number)
        number /= 1_000
    return math.inf


def is_date_digits(number: float) -> bool:
    """Return True for a whole number whose digits are a date of the years 1900 to 2100."""
    return number == math.floor(number) and _digits(int(number)) is not None


def _digits(number: int) -> int | None:
    text = str(number)
    if len(text) not in (8, 12, 14) or not 1900 <= int(text[:4]) <= 2100:
        return None
    try:
        made = datetime.strptime(text, "%Y%m%d%H%M%S"[: len(text) - 2])
    except ValueError:
        return None
    return (made.replace(tzinfo=UTC) - _EPOCH) // _SECOND


def spelled(cell: bytes) -> bytes:
    """Return the one spelling of a category: 7.0 is 7, True is true, and blanks around it do not count.

    >>> spelled(b" 7.0"), spelled(b"True"), spelled(b"007"), spelled(b"2015-01-05 00:00:00"), spelled(b"v1.10")
    (b'7', b'true', b'007', b'2015-01-05', b'v1.10')
    """
    cell = cell.strip(b" \t\r\n")
    if cell in _TRUTHS:
        return _TRUTHS[cell]
    if cell.endswith(b"0") and (found := _WHOLE.fullmatch(cell)):
        return b"0" if found[2] == b"0" else found[1] + found[2]
    if len(cell) >= 16 and cell[4:5] == b"-":
        text = cell.decode("utf-8", "replace")
        if _STAMP.fullmatch(text):
            try:
                return datetime.fromisoformat(text).isoformat().removesuffix("T00:00:00").encode()
            except ValueError:
                return cell
    return cell
