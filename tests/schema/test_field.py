"""One value from every door: equal values become equal features; values that mean missing; tokens; older rules."""

from __future__ import annotations

import io
import json
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from msgspec.structs import replace

from everlearn.errors import ConfigError, InputError
from everlearn.schema import Encoder, origins
from everlearn.schema.field import Field
from everlearn.spec import Schema
from everlearn.stream.json_values import json_column


def encoder_of(kind: str, **more: Any) -> Encoder:
    return Encoder(Schema(label="y", task="regression", fields={"x": kind}, **more))


def features(encoder: Encoder, column: Any) -> list[Any]:
    """Return the dense and hashed columns of each row of a column."""
    batch, problems = encoder.columns({"x": column}, len(column))
    assert not problems
    parts = zip(batch.indptr[:-1], batch.indptr[1:], strict=True)
    return [
        (row.tobytes(), batch.indices[low:high].tolist()) for row, (low, high) in zip(batch.dense, parts, strict=True)
    ]


DOORS = [
    ("categorical", [7, 12, 0], ["7.0", "12", " 0 "]),
    ("categorical", [True, False], ["True", "FALSE"]),
    ("categorical", [datetime(2015, 1, 31), datetime(2015, 1, 31, 8)], ["2015-01-31", "2015-01-31 08:00:00"]),
    ("datetime", [date(2015, 1, 31), date(2015, 2, 1)], ["20150131", "1 Feb 2015"]),
    ("datetime", [20150131, 1422748800000], ["2015-01-31", "2015/02/01"]),
    ("numeric", [1234.5, 12.0], ["$1,234.50", "12%"]),
    ("numeric", [True, False], ["True", "false"]),
    ("boolean", [True, False], ["True", "no"]),
    ("tokens", [["a", "b"], [7]], ['["a", "b"]', "7.0"]),
]


@pytest.mark.parametrize(("kind", "values", "texts"), DOORS)
def test_the_door_does_not_matter(kind: str, values: list[Any], texts: list[str]) -> None:
    encoder = encoder_of(kind)
    expected = features(encoder, values)
    assert expected[0] != expected[1]
    assert features(encoder, texts) == features(encoder, pa.array(texts)) == expected
    assert features(encoder, pd.Series(values, dtype=object)) == expected
    for column in (values, texts):
        assert features(encoder, json.loads(json.dumps(json_column(column, encoder.fields["x"])))) == expected
        for row, value in zip(expected, column, strict=True):
            one = encoder.record({"x": value})
            several = encoder.rows([{"x": value}, {"x": value}])
            assert (one.dense.tobytes(), one.indices.tolist()) == row
            assert several.indices.tolist() == 2 * row[1]


def test_a_gap_does_not_change_a_category() -> None:
    frame = pd.DataFrame({"x": [7, None, 12]})
    text = pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype=str)
    encoder = encoder_of("categorical")
    assert features(encoder, frame["x"]) == features(encoder, text["x"]) == features(encoder, [7, None, "12"])


def test_values_that_mean_missing() -> None:
    encoder = encoder_of("numeric", missing={"x": (-999, "none given")})
    for column in ([-999, 5], [-999.0, 5.0], ["-999.0", "5"], ["none given", "5"], np.array([-999, 5])):
        batch, problems = encoder.columns({"x": column}, 2)
        assert not problems
        assert np.isnan(batch.dense[0, 0])
        assert batch.dense[1, 0] == 5
        assert np.isnan(encoder.record({"x": column[0]}).dense).all()
        assert np.isnan(encoder.rows([{"x": column[0]}] * 3).dense).all()
    towns = encoder_of("categorical", missing={"x": ("?", 9)})
    for value in ("?", " ? ", 9, "9.0"):
        assert not len(towns.record({"x": value}).indices)
        assert not len(towns.columns({"x": [value, "a"]}, 2)[0].indices[1:])


def test_a_decimal_comma_is_a_setting() -> None:
    both = Schema(label="y", task="regression", fields={"x": "numeric", "z": "numeric"}, decimal={"x": ","})
    batch, problems = Encoder(both).columns({"x": ["1,5", "1.234,5", "1.234"], "z": ["1.5", "1,234.5", "1.234"]}, 3)
    assert not problems
    assert batch.dense.tolist() == [[1.5, 1.5], [1234.5, 1234.5], [1234.0, np.float32(1.234)]]
    with pytest.raises(InputError, match="decimal = ','"):
        encoder_of("numeric").record({"x": "1,5"})
    with pytest.raises(ConfigError, match="did you mean 'x'"):
        encoder_of("numeric", decimal={"xx": ","})


def test_tokens_are_counted_hashed_and_named() -> None:
    schema = Schema(label="y", task="regression", fields={"x": "tokens", "t": "categorical"})
    record = {"x": ["a", "b", "a"], "t": "a"}
    batch = Encoder(schema).record(record)
    assert len(batch.indices) == 4
    assert batch.indices[1] == batch.indices[3] != batch.indices[2]
    assert origins.hashed(schema, record) == ["t", "x", "x", "x"]
    both = Encoder(schema).columns({"x": [["a", "b", "a"], []], "t": ["a", None]}, 2)[0]
    assert both.indices.tolist() == batch.indices.tolist()
    with pytest.raises(InputError, match="expected at most 10,000"):
        Encoder(schema).record({"x": ["a"] * 10_001})


def test_labels_match_in_any_case() -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=("ham", "spam"), fields={"x": "numeric"}))
    assert encoder.labels(["Spam", " HAM", "spam"], 3)[0].tolist() == [1.0, 0.0, 1.0]
    letters = Encoder(Schema(label="y", task="binary", classes=("a", "A"), fields={"x": "numeric"}))
    assert letters.labels(["a", "A"], 2)[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("kind", "value"), [("numeric", "$5"), ("datetime", "31/01/2015"), ("datetime", 1e12)])
def test_older_rules_refuse_what_they_refused(kind: str, value: Any) -> None:
    schema = replace(encoder_of(kind).schema, rules=1)
    with pytest.raises(InputError):
        Encoder(schema).record({"x": value})
    encoder_of(kind).record({"x": value})


def test_older_rules_take_categories_as_they_are_written() -> None:
    assert [Field("x", "categorical", rules=1).category(one) for one in ("7.0", " 7", 7)] == [b"7.0", b" 7", b"7"]
    old = Encoder(replace(encoder_of("categorical").schema, rules=1))
    assert len(set(old.columns({"x": ["7.0", "7", " 7"]}, 3)[0].indices.tolist())) == 3


@pytest.mark.parametrize(
    ("decimal", "missing", "texts"),
    [
        (",", "-999,9", ["-999,9", "-999,90", " -999,9 "]),
        (",", "-1.000", ["-1.000", "-1000", "-1000,0"]),
        (".", "-999.9", ["-999.9", "-999.90"]),
        (".", "-1,000", ["-1,000", "-1000.0"]),
        (".", -999.9, ["-999.9", "-999.90"]),
        (",", -999.9, ["-999,9"]),
    ],
)
def test_a_number_that_means_missing_is_read_as_the_field_is(decimal: str, missing: Any, texts: list[str]) -> None:
    encoder = encoder_of("numeric", decimal=decimal, missing={"x": (missing,)})
    gone = -1000.0 if "000" in texts[0] else -999.9
    for column in (texts, pa.array(texts), [gone], np.array([gone, gone])):
        batch, problems = encoder.columns({"x": column}, len(column))
        assert (problems, np.isnan(batch.dense).all()) == ([], True)
        for value in column.tolist() if isinstance(column, np.ndarray) else column:
            assert np.isnan(encoder.record({"x": value.as_py() if isinstance(value, pa.Scalar) else value}).dense).all()
    assert not np.isnan(encoder.record({"x": 5}).dense).any()
