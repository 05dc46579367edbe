"""Whole columns: the container of the values makes no difference."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everlearn.schema import Encoder, Problem
from everlearn.spec import Schema
from tests.support.schemas import ANY_VALUE, containers, encoder_of, row, same


@pytest.mark.parametrize("kind", ["numeric", "boolean", "datetime", "vector[2]", "categorical", "text"])
@settings(max_examples=60, deadline=None)
@given(values=st.lists(ANY_VALUE, max_size=6))
@example(values=[0.0, -0.0])
def test_a_column_does_not_depend_on_its_neighbours(kind: str, values: list[Any]) -> None:
    encoder = encoder_of(kind)
    whole, problems = encoder.columns({"x": values}, len(values))
    for i, value in enumerate(values):
        alone, found = encoder.columns({"x": [value]}, 1)
        assert row(alone, 0) == row(whole, i)
        assert [problem.reason for problem in found] == [problem.reason for problem in problems if problem.row == i]


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
    encoder = encoder_of(kind)
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
    encoder = encoder_of(kind)
    batch, problems = encoder.columns({"x": pa.array([None, None], arrow)}, 2)
    assert not problems
    assert same(batch, encoder.columns({}, 2)[0])
    assert np.isnan(batch.dense).all()
    assert not batch.indptr.any()


def test_vectors_come_as_lists_arrays_or_text() -> None:
    encoder = encoder_of("vector[2]")
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


@pytest.mark.parametrize("values", [[1, 0, 1, 1], [True, False, True], ["b", "a", "b"], [1, 7, 1], [1, True, 1.0, "1"]])
@pytest.mark.parametrize("as_array", [False, True])
def test_a_column_of_labels_is_read_as_its_values_one_by_one(values: list[Any], as_array: bool) -> None:
    classes = ("0", "1", "true", "false", "a", "b")
    encoder = Encoder(Schema(label="y", task="multiclass", fields={"x": "numeric"}, classes=classes))
    column = np.array(values) if as_array else values
    whole, problems = encoder.labels(column, len(values))
    for i, value in enumerate(column.tolist() if as_array else values):
        alone, found = encoder.labels([value], 1)
        assert np.array_equal(alone, whole[i : i + 1], equal_nan=True)
        assert [problem.reason for problem in found] == [problem.reason for problem in problems if problem.row == i]
    assert np.isnan(whole).sum() == len(problems)
