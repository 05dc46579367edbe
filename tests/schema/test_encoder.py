"""The encoder: one record, a few and whole columns give the same bytes, and labels have one meaning."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import ConfigError, InputError
from everlearn.records import Example, Label, Prediction, Preference, Reward
from everlearn.schema import Encoder, Problem
from everlearn.spec import Schema
from tests.support.schemas import ANY_VALUE, EVERY_KIND, FIELDS, containers, encoder_of, row, same


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


NUMERIC = st.booleans() | st.integers(-(10**400), 10**400) | st.floats(-1e39, 1e39, allow_nan=False)
MISFIT = st.none() | st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.just({"x": 1})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whole_records_of_numbers_are_encoded_like_each(data: st.DataObject) -> None:
    values = data.draw(st.sampled_from([NUMERIC, st.floats(-1e30, 1e30), NUMERIC | MISFIT]))
    names = data.draw(st.permutations(NUMBERS)) if data.draw(st.integers(0, 3)) == 0 else NUMBERS
    usual = st.fixed_dictionaries(dict.fromkeys(names, values))
    other = st.dictionaries(st.sampled_from([*NUMBERS, "d"]), values)
    records = data.draw(st.lists(usual | other if data.draw(st.booleans()) else usual, min_size=1, max_size=5))
    encoder = Encoder(Schema(label="y", task="regression", fields=SCHEMAS["numbers only"]))
    whole = [record.keys() == set(NUMBERS) and not {type(None), dict} & set(map(type, record.values()))
             for record in records]  # fmt: skip
    assert [encoder.is_whole(record) for record in records] == whole
    batch = encoder.whole_numbers(records)
    if batch is not None:
        assert all(whole)
        assert same(batch, encoder.records(records)[0])
    else:
        kinds = {type(value) for record in records for value in record.values()}
        ordered = all(tuple(record) == NUMBERS for record in records)
        large = any(abs(value) > 3e38 for record in records for value in record.values() if type(value) in (int, float))
        assert not (ordered and kinds <= {bool, int, float}) or large


@pytest.mark.parametrize("fields", SCHEMAS.values(), ids=SCHEMAS)
def test_many_rows_are_encoded_like_a_handful(fields: dict[str, str]) -> None:
    values = {"numeric": 0.1, "boolean": True, "datetime": "2024-02-29", "vector[2]": [1, 2]}
    encoder = Encoder(Schema(label="y", task="regression", fields=fields))
    record = {name: values.get(kind, "words, and more") for name, kind in fields.items()}
    assert same(encoder.rows([record] * 200), encoder.records([record] * 200)[0])
    with pytest.raises(InputError, match="^row 150: field 'a': "):
        encoder.rows([record] * 150 + [{"a": {}}])


def test_extra_fields_are_ignored_and_absent_ones_missing() -> None:
    encoder = Encoder(EVERY_KIND)
    batch = encoder.record({"unknown": object()})
    assert np.isnan(batch.dense).all()
    assert batch.indptr.tolist() == [0, 0]
    assert same(batch, encoder.columns({"unknown": [object()]}, 1)[0])


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
    encoder = encoder_of("numeric")
    y, problems = encoder.labels([1, "2.5", None, "", math.inf, "x", 10**39], 7)
    assert y[:2].tolist() == [1.0, 2.5]
    assert np.isnan(y[2:]).all()
    assert [problem.row for problem in problems] == [2, 3, 4, 5, 6]
    assert encoder_of("numeric").label(1 / 3) == 1 / 3
    for value in (None, "", math.nan, math.inf, "x"):
        with pytest.raises(InputError):
            encoder.label(value)
    y, problems = encoder.labels(np.array([1.5, np.nan]), 2)
    assert [problem.reason for problem in problems] == ["the label is missing"]


@given(st.lists(ANY_VALUE, max_size=5), st.sampled_from([("no", "yes"), (0, 1), (False, True), ()]))
def test_one_label_and_many_are_encoded_alike(values: list[Any], classes: tuple[Any, ...]) -> None:
    encoder = classifier(*classes) if classes else encoder_of("numeric")
    y, problems = encoder.labels(values, len(values))
    reasons = {problem.row: problem.reason for problem in problems}
    for i, value in enumerate(values):
        if i in reasons:
            with pytest.raises(InputError, match=re.escape(reasons[i])):
                encoder.label(value)
        else:
            assert encoder.label(value) == y[i]


def test_an_answer_has_the_type_of_its_class() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], np.float32)
    for classes in ((1, 2, 3), ("a", "b", "c"), (0.5, 1.5, 2.5)):
        answers = classifier(*classes).decode(scores)
        assert answers == [classes[1], classes[0]]
        assert [type(answer) for answer in answers] == [type(classes[0])] * 2
    assert classifier(False, True).decode(np.array([[0.5, 0.5]], np.float32)) == [False]
    assert encoder_of("numeric").decode(np.array([[2.5], [0.5]], np.float32)) == [2.5, 0.5]


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="column 'x' has 3 rows, expected 2"):
        encoder_of("numeric").columns({"x": [1, 2, 3]}, 2)


def test_an_encoder_keeps_nothing() -> None:
    encoder = Encoder(EVERY_KIND)
    first = encoder.record({"n": 1, "c": "a", "w": "some words"})
    encoder.records([{"n": 5, "c": "b", "w": "others"}] * 10)
    assert same(first, encoder.record({"n": 1, "c": "a", "w": "some words"}))
    first.indptr[:] = 9
    assert encoder.record({"n": 1}).indptr.tolist() == [0, 0]


def test_labels_rewards_and_preferences_mean_what_the_task_can_use() -> None:
    number = Encoder(Schema(label="y", task="regression", fields={"x": "numeric"}))
    assert classifier("no", "yes").judge(Label("a", "yes")) == ((1.0, 1.0),)
    assert number.judge(Reward("a", 2.5)) == ((2.5, 1.0),)
    with pytest.raises(InputError, match="got a reward for prediction 'a', but this loop's task is binary"):
        classifier("no", "yes").judge(Reward("a", 1.0))
    with pytest.raises(InputError, match="got a preference for prediction 'a'"):
        classifier("a", "b", "c").judge(Preference("a", 0))


def test_predictions_are_read_by_their_features_alone() -> None:
    encoder = encoder_of("numeric")
    given = [Prediction(str(x), {"x": x}, 0, (), "v") for x in (1.0, 2.0)]
    assert same(encoder.read(given), encoder.rows([{"x": 1.0}, {"x": 2.0}]))
    batch, bad = encoder.sift([*given, Example("e", {"x": "far"}, 1)])
    assert (len(batch), bad) == (3, {2})
    assert encoder.mark(batch, Label("1.0", 1)) is batch
    assert encoder.scores(batch)
    assert not encoder.late


def test_pairs_of_answers_are_no_records() -> None:
    with pytest.raises(ConfigError, match=r"schema.task: got 'preference'"):
        Encoder(Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=9))


@pytest.mark.parametrize("gaps", [False, True])
def test_records_that_lack_fields_are_encoded_as_with_none(gaps: bool) -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "b": "categorical"}))
    records: list[dict[str, Any]] = [{"b": "x", "a": 1.0, "other": 3}, {"a": 2.0, "b": "y"}]
    if gaps:
        records = [*records, {"a": 3.0}, {}]
    batch, problems = encoder.records(records)
    for place, record in enumerate(records):
        alone = encoder.record({"a": None, "b": None} | record)
        entries = slice(batch.indptr[place], batch.indptr[place + 1])
        assert batch.dense[place].tobytes() == alone.dense[0].tobytes()
        assert batch.indices[entries].tolist() == alone.indices.tolist()
    assert not problems


@pytest.mark.parametrize(
    "value", [7, 7.0, "7", " 7 ", "7.0", 2.5, "2.5", -3, True, None, "?", -1, "none", np.nan, "1e3"]
)
def test_an_integer_is_a_number_and_a_category_through_every_door(value: Any) -> None:
    fields = {"c": "categorical", "s": "integer", "t": "numeric"}
    missing: dict[str, Any] = {"s": (-1, "none")}
    encoder = Encoder(Schema(label="y", task="regression", fields=fields, missing=missing, origin={"s": 2.0}))
    twice = Encoder(Schema(label="y", task="regression", fields={"c": "categorical", "s": "categorical"}))
    row = {"c": "a", "s": value, "t": 1.0}
    one = encoder.record(row)
    for other in (encoder.records([row])[0], encoder.rows([row] * 3), encoder.rows([row] * 30)):
        assert np.array_equal(other.dense[:1], one.dense, equal_nan=True)
        assert np.array_equal(other.indices[: len(one.indices)], one.indices)
    number = encoder.fields["s"].number(value)
    assert np.array_equal(one.dense, [[number - 2.0, 1.0]], equal_nan=True)
    same = twice.record({"c": "a", "s": None if np.isnan(number) else number})
    assert one.indices.tolist() == same.indices.tolist()


def test_an_integer_that_is_no_number_is_one_problem() -> None:
    encoder = Encoder(Schema(label="y", task="regression", fields={"s": "integer"}))
    batch, problems = encoder.records([{"s": 3}, {"s": "many"}, {"s": float("inf")}])
    assert [(problem.row, problem.field) for problem in problems] == [(1, "s"), (2, "s")]
    assert batch.indptr.tolist() == [0, 1, 1, 1]
