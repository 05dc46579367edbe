"""Encoding: one meaning for each value, however it comes, checked against plain Python."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import ConfigError, InputError
from everlearn.records import Batch
from everlearn.schema import Encoder, Problem, shape
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


def one(kind: str, **changes: Any) -> Encoder:
    return Encoder(Schema(label="y", task="regression", fields={"x": kind}, **changes))


def dense(kind: str, value: Any) -> list[float]:
    return one(kind).record({"x": value}).dense[0].tolist()


def row(batch: Batch, i: int) -> tuple[bytes, bytes, bytes]:
    cut = slice(batch.indptr[i], batch.indptr[i + 1])
    return batch.dense[i].tobytes(), batch.indices[cut].tobytes(), batch.values[cut].tobytes()


def same(left: Batch, right: Batch) -> bool:
    pairs = zip(parts(left), parts(right), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def parts(batch: Batch) -> tuple[Any, ...]:
    return batch.dense, batch.indptr, batch.indices, batch.values


# ---- the three encoders agree -------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, ANY_VALUE)), max_size=6))
def test_one_record_and_many_are_encoded_alike(records: list[dict[str, Any]]) -> None:
    encoder = Encoder(EVERY_KIND)
    batch, problems = encoder.records(records)
    assert len(batch) == len(batch.dense) == len(records)
    assert np.isfinite(batch.dense[~np.isnan(batch.dense)]).all()
    bad: dict[int, list[Problem]] = {}
    for problem in problems:
        bad.setdefault(problem.row, []).append(problem)
    for i, record in enumerate(records):
        if i in bad:
            with pytest.raises(InputError) as caught:
                encoder.record(record)
            assert str(caught.value) == f"field {bad[i][0].field!r}: {bad[i][0].reason}"
            # What is not wrong is encoded as if the wrong fields were missing.
            record = {name: value for name, value in record.items() if name not in {p.field for p in bad[i]}}
        assert row(encoder.record(record), 0) == row(batch, i)


NUMBERS = ("a", "b", "c")
SCHEMAS = {
    "numbers only": dict.fromkeys(NUMBERS, "numeric"),
    "numbers and categories": {**dict.fromkeys(NUMBERS, "numeric"), "d": "categorical", "e": "categorical"},
    "categories and text": {"a": "categorical", "b": "categorical", "c": "text"},
    "texts": {"a": "text", "b": "text"},
    "every dense kind": {"a": "numeric", "b": "boolean", "c": "datetime", "d": "vector[2]"},
}


@pytest.mark.parametrize("fields", SCHEMAS.values(), ids=SCHEMAS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_handful_of_rows_is_encoded_like_each(fields: dict[str, str], data: st.DataObject) -> None:
    usable = {"numeric": st.none() | st.floats(width=32, allow_infinity=False) | st.integers(-(10**20), 10**20)}
    clean = st.fixed_dictionaries({}, optional={n: usable.get(k, st.text(max_size=6)) for n, k in fields.items()})
    dirty = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, ANY_VALUE))
    records = data.draw(st.lists(data.draw(st.sampled_from([clean, dirty])), max_size=5))
    encoder = Encoder(Schema(label="y", task="regression", fields=fields, interactions=True))
    expected, problems = encoder.records(records)
    if problems:
        reason = f"row {problems[0].row}: field {problems[0].field!r}: {problems[0].reason}"
        with pytest.raises(InputError, match=f"^{re.escape(reason)}$"):
            encoder.rows(records)
    else:
        assert same(encoder.rows(records), expected)


@pytest.mark.parametrize("fields", SCHEMAS.values(), ids=SCHEMAS)
def test_many_rows_are_encoded_like_a_handful(fields: dict[str, str]) -> None:
    values = {"numeric": 0.1, "boolean": True, "datetime": "2024-02-29", "vector[2]": [1, 2]}
    encoder = Encoder(Schema(label="y", task="regression", fields=fields))
    record = {name: values.get(kind, "words, and more") for name, kind in fields.items()}
    assert same(encoder.rows([record] * 200), encoder.records([record] * 200)[0])
    with pytest.raises(InputError, match="^row 150: field 'a': "):
        encoder.rows([record] * 150 + [{"a": {}}])


@pytest.mark.parametrize("kind", ["numeric", "boolean", "datetime", "vector[2]", "categorical", "text"])
@settings(max_examples=60, deadline=None)
@given(values=st.lists(ANY_VALUE, max_size=6))
def test_a_column_does_not_depend_on_its_neighbours(kind: str, values: list[Any]) -> None:
    encoder = one(kind)
    whole, problems = encoder.columns({"x": values}, len(values))
    for i, value in enumerate(values):
        alone, found = encoder.columns({"x": [value]}, 1)
        assert row(alone, 0) == row(whole, i)
        assert [problem.reason for problem in found] == [problem.reason for problem in problems if problem.row == i]


def containers(values: list[Any], dtype: Any, arrow: Any) -> list[Any]:
    """The same values in every container that can hold them."""
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


COLUMNS = [
    ([1, -2, 0, 1, 31], np.int64, pa.int64()),
    ([1, 2, 0, 1, 31], np.uint8, pa.uint8()),
    ([2**63, 2**64 - 1, 7], np.uint64, pa.uint64()),
    ([2**53 + 1, -(2**63), 2**63 - 1], np.int64, pa.int64()),
    ([0.5, -0.0, 1e30, 3.0, math.nan], np.float64, pa.float64()),
    ([0.5, 0.25, 1.0, 3.0], np.float32, pa.float32()),
    ([True, False, True], np.bool_, pa.bool_()),
    (["1.5", "abc", "", "Über alles", "7", "a\0b", "true"], np.str_, pa.string()),
    (["1.5", "2", "7"], np.str_, pa.large_string()),
    (["1", "2.5", "-7"], np.str_, pa.string_view()),
    ([datetime(2024, 1, 31, 8, 30), datetime(1969, 12, 31, 23, 59, 59, 999_999)], "datetime64[us]", pa.timestamp("us")),
    ([datetime(2024, 1, 31, 8, 30), datetime(1969, 12, 31, 23, 59, 59)], "datetime64[ns]", pa.timestamp("ns")),
    ([datetime(2024, 1, 31, 8, 30), datetime(1, 1, 1)], "datetime64[s]", pa.timestamp("s")),
    ([date(2024, 1, 31), date(9999, 12, 31)], "datetime64[D]", pa.date32()),
]


@pytest.mark.parametrize(("values", "dtype", "arrow"), COLUMNS)
@pytest.mark.parametrize("kind", ["numeric", "boolean", "datetime", "categorical", "text"])
def test_the_container_does_not_matter(values: list[Any], dtype: Any, arrow: Any, kind: str) -> None:
    if dtype == "datetime64[D]" and kind in ("categorical", "text"):
        pytest.skip("numpy turns dates into moments, which have another spelling as a category")
    encoder = one(kind)
    expected, problems = encoder.columns({"x": values}, len(values))
    assert [row(expected, i) for i in range(len(values))] == [
        row(encoder.columns({"x": [value]}, 1)[0], 0) for value in values
    ]
    for column in containers(values, dtype, arrow):
        batch, found = encoder.columns({"x": column}, len(values))
        assert same(batch, expected), column
        assert {problem.row for problem in found} == {problem.row for problem in problems}


@pytest.mark.parametrize("kind", ["numeric", "boolean", "datetime", "categorical", "text", "vector[2]"])
@pytest.mark.parametrize(
    "arrow", [pa.int32(), pa.float64(), pa.bool_(), pa.string(), pa.timestamp("us", "UTC"), pa.date64(), pa.null()]
)
def test_nulls_in_every_type_of_column_are_missing(kind: str, arrow: Any) -> None:
    encoder = one(kind)
    batch, problems = encoder.columns({"x": pa.array([None, None], arrow)}, 2)
    assert not problems
    assert same(batch, encoder.columns({}, 2)[0])
    assert np.isnan(batch.dense).all()
    assert not batch.indptr.any()


def test_vectors_come_as_lists_arrays_or_text() -> None:
    encoder = one("vector[2]")
    columns = [
        [[1.0, 2.0], [3.0, 4.5]],
        np.array([[1.0, 2.0], [3.0, 4.5]]),
        [np.array([1.0, 2.0]), (3, 4.5)],
        ["[1, 2]", "[3, 4.5]"],
        pa.array([[1.0, 2.0], [3.0, 4.5]], pa.list_(pa.float64(), 2)),
        pa.array([[1.0, 2.0], [3.0, 4.5]], pa.list_(pa.float32())),
        pd.Series([[1.0, 2.0], [3.0, 4.5]]),
    ]
    for column in columns:
        batch, problems = encoder.columns({"x": column}, 2)
        assert not problems
        assert batch.dense.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    batch, problems = encoder.columns({"x": np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])}, 2)
    assert [problem.reason for problem in problems] == ["got 3 numbers, expected 2"] * 2
    assert problems[0] == Problem(0, "x", "got 3 numbers, expected 2")


# ---- what each value means -----------------------------------------------------------------------------------------


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
        ("datetime", "31/01/2024", "expected an ISO date"),
        ("datetime", True, "expected an ISO date"),
        ("datetime", 1e12, "between the years 1 and 9999"),
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
        one(kind).record({"x": value})
    assert str(caught.value).startswith("field 'x': ")
    batch, problems = one(kind).records([{"x": value}, {}])
    assert [(problem.row, problem.field) for problem in problems] == [(0, "x")]
    assert row(batch, 0) == row(batch, 1)


def test_extra_fields_are_ignored_and_absent_ones_missing() -> None:
    encoder = Encoder(EVERY_KIND)
    batch = encoder.record({"unknown": object()})
    assert np.isnan(batch.dense).all()
    assert batch.indptr.tolist() == [0, 0]
    assert same(batch, encoder.columns({"unknown": [object()]}, 1)[0])


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


# ---- labels and answers --------------------------------------------------------------------------------------------


def classifier(*classes: Any) -> Encoder:
    task = "binary" if len(classes) == 2 else "multiclass"
    return Encoder(Schema(label="y", task=task, classes=classes, fields={"x": "numeric"}))


@pytest.mark.parametrize(
    ("classes", "value", "expected"),
    [
        (("no", "yes"), "yes", 1),
        ((0, 1), 1, 1),
        ((0, 1), "1", 1),
        ((0, 1), 1.0, 1),
        ((0, 1), True, 1),
        ((0, 1), "False", 0),
        ((False, True), True, 1),
        ((False, True), "True", 1),
        ((False, True), "TRUE", 1),
        ((False, True), 0, 0),
        ((1, 2, 3), np.int8(3), 2),
        ((0.5, 1.5), "0.5", 0),
        (("1", "2"), 2, 1),
    ],
)
def test_labels_that_are_known(classes: tuple[Any, ...], value: Any, expected: int) -> None:
    encoder = classifier(*classes)
    assert encoder.label(value) == expected
    y, problems = encoder.labels([value, value], 2)
    assert (y.tolist(), problems) == ([expected, expected], [])


def test_labels_come_in_every_container() -> None:
    encoder = classifier(0, 1, 2)
    for column in containers([2, 0, 1, 1], np.int64, pa.int8()):
        y, problems = encoder.labels(column, 4)
        assert (y.tolist(), y.dtype, problems) == ([2, 0, 1, 1], np.float64, [])


def test_labels_that_cannot_be_used() -> None:
    y, problems = classifier("no", "yes").labels(["no", "maybe", None, "", "yes"], 5)
    assert np.isnan(y).tolist() == [False, True, True, True, False]
    assert [problem.row for problem in problems] == [1, 2, 3]
    assert problems[0] == Problem(1, "y", "got the label 'maybe', expected one of 'no', 'yes'")
    assert problems[1].reason == problems[2].reason == "the label is missing"
    with pytest.raises(InputError, match="got the label 7, expected one of 0, 1"):
        classifier(0, 1).label(7)
    with pytest.raises(InputError, match="and 30 more"):
        classifier(*range(50)).label("x")


def test_labels_of_a_regression_are_finite_numbers() -> None:
    encoder = one("numeric")
    y, problems = encoder.labels([1, "2.5", None, "", math.inf, "x", 10**39], 7)
    assert y[:2].tolist() == [1.0, 2.5]
    assert np.isnan(y[2:]).all()
    assert [problem.row for problem in problems] == [2, 3, 4, 5, 6]
    assert one("numeric").label(1 / 3) == 1 / 3
    for value in (None, "", math.nan, math.inf, "x"):
        with pytest.raises(InputError):
            encoder.label(value)
    y, problems = encoder.labels(np.array([1.5, np.nan]), 2)
    assert [problem.reason for problem in problems] == ["the label is missing"]


@given(st.lists(ANY_VALUE, max_size=5), st.sampled_from([("no", "yes"), (0, 1), (False, True), ()]))
def test_one_label_and_many_are_encoded_alike(values: list[Any], classes: tuple[Any, ...]) -> None:
    encoder = classifier(*classes) if classes else one("numeric")
    y, problems = encoder.labels(values, len(values))
    reasons = {problem.row: problem.reason for problem in problems}
    for i, value in enumerate(values):
        if i in reasons:
            with pytest.raises(InputError, match=re.escape(reasons[i])):
                encoder.label(value)
        else:
            assert encoder.label(value) == y[i]


def test_an_answer_has_the_type_of_its_class() -> None:
    scores = np.array([0.2, 0.5, 0.3], np.float32)
    for classes, expected in (((1, 2, 3), 2), (("a", "b", "c"), "b"), ((0.5, 1.5, 2.5), 1.5)):
        answer = classifier(*classes).answer(scores)
        assert (answer, type(answer)) == (expected, type(expected))
    assert classifier(False, True).answer(np.array([0.5, 0.5], np.float32)) is False
    assert one("numeric").answer(np.array([2.5], np.float32)) == 2.5


# ---- the schema itself ---------------------------------------------------------------------------------------------


def test_shape_counts_columns() -> None:
    assert shape(EVERY_KIND) == {"task": "binary", "dense": 9, "hashed": 2**18, "classes": 2}
    only_dense = Schema(label="y", task="regression", fields={"v": "vector[12]"})
    assert shape(only_dense) == {"task": "regression", "dense": 12, "hashed": 0, "classes": 0}
    batch = Encoder(only_dense).record({})
    assert (batch.dense.shape, batch.indices.dtype, batch.indptr.dtype) == ((1, 12), np.int32, np.int64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fields": {}}, "no fields"),
        ({"fields": {"y": "numeric"}}, "is also a field"),
        ({"fields": {"x": "number"}}, "field 'x': got the kind 'number', expected one of numeric"),
        ({"fields": {"x": "vector[0]"}}, "vector"),
        ({"classes": (0, 1, 2)}, "a binary task has 2 classes, got 3"),
        ({"classes": (1, "1")}, "same spelling"),
        ({"task": "regression"}, "a regression has no classes"),
        ({"task": "multiclass", "classes": (1,)}, "2 classes or more"),
        ({"bits": 40}, "bits = 40"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(changes: dict[str, Any], reason: str) -> None:
    whole = {"label": "y", "task": "binary", "classes": (0, 1), "fields": {"x": "numeric"}, **changes}
    with pytest.raises(ConfigError, match=re.escape(reason)):
        Encoder(Schema(**whole))


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="column 'x' has 3 rows, expected 2"):
        one("numeric").columns({"x": [1, 2, 3]}, 2)


def test_an_encoder_keeps_nothing() -> None:
    encoder = Encoder(EVERY_KIND)
    first = encoder.record({"n": 1, "c": "a", "w": "some words"})
    encoder.records([{"n": 5, "c": "b", "w": "others"}] * 10)
    assert same(first, encoder.record({"n": 1, "c": "a", "w": "some words"}))
    first.indptr[:] = 9
    assert encoder.record({"n": 1}).indptr.tolist() == [0, 0]
