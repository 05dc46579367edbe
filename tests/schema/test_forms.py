"""Numbers, moments and categories in the forms in which people write them, against Python's own readers."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.schema import forms


@pytest.mark.parametrize(
    ("text", "decimal", "expected"),
    [
        ("$1,234.50", ".", 1234.5),
        ("-$5", ".", -5.0),
        ("€ 12.5", ".", 12.5),
        ("12.5 EUR", ".", 12.5),
        ("(1,234)", ".", -1234.0),
        ("8.90%", ".", 8.9),
        ("1 234 567", ".", 1234567.0),
        ("1'234.5", ".", 1234.5),
        ("12,34,567", ".", 1234567.0),
        ("\u22125.5", ".", -5.5),
        ("1.234,5", ",", 1234.5),
        ("0,5", ",", 0.5),
        ("12", ",", 12.0),
        ("1e3", ".", 1000.0),
        ("12,5", ".", math.nan),
        ("12.5", ",", math.nan),
        ("1,23,4", ".", math.nan),
        ("12 kg", ".", math.nan),
        ("(12", ".", math.nan),
        ("+-5", ".", math.nan),
        ("$", ".", math.nan),
        ("1.2.3", ".", math.nan),
    ],
)
def test_amounts(text: str, decimal: str, expected: float) -> None:
    assert forms.amount(text, decimal) == pytest.approx(expected, nan_ok=True)


@given(st.integers(-(10**12), 10**12), st.integers(0, 3))
def test_amounts_are_what_python_writes(whole: int, places: int) -> None:
    value = whole / 10**places
    text = f"{value:,.{places}f}"
    assert forms.amount(text) == float(text.replace(",", ""))
    swapped = text.translate(str.maketrans(",.", ".,"))
    assert forms.amount(swapped, ",") == float(text.replace(",", ""))


FORMS = ["%d.%m.%Y", "%d-%m-%Y %H:%M", "%d/%m/%y %H:%M", "%d %b %Y", "%d-%b-%y", "%d %B %Y %H:%M:%S"]
OTHERS = [
    *("%m/%d/%Y %I:%M %p", "%m/%d/%y"),
    *("%Y/%m/%d %H:%M", "%Y-%m-%d %H:%M:%S UTC", "%d/%b/%Y:%H:%M:%S +0000", "%b %d, %Y", "%B %d, %Y %I:%M %p"),
    *("%a, %d %b %Y %H:%M:%S +0000", "%a %b %d %H:%M:%S +0000 %Y", "%a %b %d %H:%M:%S %Y", "%Y.%m.%d"),
]


@given(st.datetimes(datetime(1970, 1, 1), datetime(2037, 1, 1)), st.sampled_from(FORMS + OTHERS))
def test_moments_are_what_python_writes(moment: datetime, form: str) -> None:
    text = moment.strftime(form)
    expected = datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    order = "month first" if form.startswith("%m") else "day first"
    assert forms.moment(text, order) == expected


def test_zones_are_turned_into_utc() -> None:
    assert forms.moment("05/Jan/2015:10:00:00 +0200") == forms.moment("05/Jan/2015:08:00:00 +0000")


def test_a_date_that_may_mean_two_days_needs_an_order() -> None:
    with pytest.raises(InputError, match="day first"):
        forms.moment("03/04/2015")
    assert forms.moment("13/04/2015") == forms.moment("04/13/2015") == forms.moment("2015/4/13")
    assert math.isnan(forms.moment("13/04/2015", "month first"))


@pytest.mark.parametrize("text", ["", "hello", "32/01/2015", "2015-13-01", "Foo 5, 2015", "10:30", "5 Janus 2015"])
def test_text_that_is_no_moment(text: str) -> None:
    assert math.isnan(forms.moment(text, "day first"))


def test_epochs_in_any_unit() -> None:
    seconds = 1_420_416_000
    assert {forms.epoch(seconds * scale) for scale in (1, 1e3, 1e6, 1e9)} == {seconds}
    assert forms.epoch(20150105) == forms.epoch(201501050000) == forms.epoch(20150105000000) == seconds
    assert forms.epoch(20151305) == 20151305  # no date, so seconds
    assert math.isinf(forms.epoch(1e300))


@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_has_one_spelling(value: int) -> None:
    expected = str(value).encode()
    assert {forms.spelled(text.encode()) for text in (str(value), f"{value}.0", f" {value}.00 ")} == {expected}


@pytest.mark.parametrize("cell", [b"007.0", b"1.10", b"v2.0", b"TRUEST", b"1.0.0", b".0"])
def test_other_spellings_stay(cell: bytes) -> None:
    assert forms.spelled(cell) == cell
