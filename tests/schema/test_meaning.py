"""The meaning of one value: values that are understood, missing, or refused."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from tests.support.schemas import dense, encoder_of, row


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("numeric", 7, 7.0),
        ("numeric", " -1.5e2\t", -150.0),
        ("numeric", b"2.5", 2.5),
        ("numeric", True, 1.0),
        ("numeric", Decimal("0.1"), float(np.float32(0.1))),
        ("numeric", 2**53 + 1, float(2**53)),
        ("boolean", "TRUE", 1.0),
        ("boolean", "false", 0.0),
        ("boolean", "no", 0.0),
        ("boolean", 1, 1.0),
        ("boolean", 0.0, 0.0),
        ("boolean", "1", 1.0),
        ("boolean", np.bool_(False), 0.0),
    ],
)
def test_values_that_are_understood(kind: str, value: Any, expected: float) -> None:
    assert dense(kind, value) == [expected]


@pytest.mark.parametrize("kind", ["numeric", "boolean", "datetime", "vector[1]"])
@pytest.mark.parametrize(
    "value", [None, math.nan, "", "  ", "NA", "n/a", "null", "None", "?", "NaN", pd.NA, pd.NaT, b""]
)
def test_values_that_are_missing(kind: str, value: Any) -> None:
    assert all(math.isnan(number) for number in dense(kind, value))


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("numeric", "abc", "got 'abc', expected a number"),
        ("numeric", "1,5", "got '1,5', expected a number"),
        ("numeric", "1_000", "expected a number"),
        ("numeric", "inf", "expected a number"),
        ("numeric", math.inf, "infinity"),
        ("numeric", 10**39, "range of float32"),
        ("numeric", 10**400, "a whole number of 1329 bits"),
        ("numeric", "1e39", "range of float32"),
        ("numeric", [1], "list"),
        ("numeric", datetime(2024, 1, 1), "datetime"),
        ("boolean", 2, "expected true or false"),
        ("boolean", "maybe", "got 'maybe'"),
        ("datetime", "03/04/2024", "the day or the month may be first"),
        ("datetime", True, "expected an ISO date"),
        ("datetime", 1e30, "between the years 1 and 9999"),
        ("vector[2]", [1], "got 1 numbers, expected 2"),
        ("vector[2]", [1, math.inf], "infinity"),
        ("vector[2]", {"a": 1}, "dict"),
        ("categorical", math.inf, "infinity"),
        ("categorical", ["a"], "expected a category"),
        ("text", {"a": 1}, "dict"),
        pytest.param("categorical", 2**20_000, "20001 bits", id="categorical-huge"),
    ],
)
def test_values_that_cannot_be_used(kind: str, value: Any, reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        encoder_of(kind).record({"x": value})
    assert str(caught.value).startswith("field 'x': ")
    batch, problems = encoder_of(kind).records([{"x": value}, {}])
    assert [(problem.row, problem.field) for problem in problems] == [(0, "x")]
    assert row(batch, 0) == row(batch, 1)


def test_a_moment_is_its_place_in_the_day_and_the_week_and_the_years_since_2000() -> None:
    noon_on_wednesday = dense("datetime", "2000-01-05T12:00")
    turn = 2 * math.pi * 2.5 / 7
    expected = [0.0, -1.0, math.sin(turn), math.cos(turn), 4.5 / 365.25]
    assert noon_on_wednesday == pytest.approx(expected, abs=1e-7)
    assert dense("datetime", "2000-01-05T14:00+02:00") == noon_on_wednesday
    assert dense("datetime", datetime(2000, 1, 5, 7, tzinfo=timezone(timedelta(hours=-5)))) == noon_on_wednesday
    assert dense("datetime", 947_073_600) == dense("datetime", "947073600") == noon_on_wednesday
    assert dense("datetime", date(2000, 1, 3))[:4] == [0.0, 1.0, 0.0, 1.0]  # a Monday


@given(st.datetimes())
def test_every_moment_has_bounded_phases(value: datetime) -> None:
    found = dense("datetime", value)
    days = (value - datetime(2000, 1, 3)) / timedelta(days=1)
    minutes = math.floor(days * 1440 + 1e-9) / 1440
    for turn, (sine, cosine) in ((minutes, found[:2]), (minutes / 7, found[2:4])):
        assert sine == pytest.approx(math.sin(2 * math.pi * (turn % 1)), abs=2e-5)
        assert cosine == pytest.approx(math.cos(2 * math.pi * (turn % 1)), abs=2e-5)
    assert found[4] == pytest.approx((days + 2) / 365.25, abs=1e-4, rel=1e-6)
