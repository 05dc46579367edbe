"""What a schema is guessed to be, judged as a user would."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from everlearn.errors import InputError
from everlearn.schema import Encoder, infer
from everlearn.schema.guessing import survey

ROWS = 200


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("x", [i / 7 for i in range(ROWS)], "numeric"),
        ("x", [str(i / 7) for i in range(ROWS)], "numeric"),
        ("x", ["n/a"] + [str(i / 7) for i in range(ROWS - 1)], "numeric"),
        ("x", ["dirt"] + [str(i / 7) for i in range(ROWS - 1)], "numeric"),
        ("x", [i % 2 for i in range(ROWS)], "numeric"),
        ("weekday", [i % 7 for i in range(ROWS)], "integer"),
        ("weekday", [str(i % 7) for i in range(ROWS)], "integer"),
        ("weekday", [float(i % 7) if i % 5 else None for i in range(ROWS)], "integer"),
        ("count", [0] * 180 + list(range(20)), "numeric"),
        ("age", [20 + i % 60 for i in range(ROWS)], "numeric"),
        ("user_id", [i % 90 for i in range(ROWS)], "categorical"),
        ("FlightNum", [i * 37 % 150 for i in range(ROWS)], "categorical"),
        ("zip", [f"{i % 90:05d}" for i in range(ROWS)], "categorical"),
        ("area", [f"{i % 90:05d}" for i in range(ROWS)], "categorical"),
        ("id", list(range(ROWS)), None),
        ("", list(range(ROWS)), None),
        ("x", list(range(ROWS)), None),
        ("token", [f"order-{i}" for i in range(ROWS)], None),
        ("flag", [bool(i % 2) for i in range(ROWS)], "boolean"),
        ("flag", ["yes" if i % 2 else "no" for i in range(ROWS)], "boolean"),
        ("flag", ["True" if i % 2 else "False" for i in range(ROWS)], "boolean"),
        ("day", [str(date(2024, 1, 1) + timedelta(days=i)) for i in range(ROWS)], "datetime"),
        ("day", [datetime(2024, 1, 1) + timedelta(hours=i) for i in range(ROWS)], "datetime"),
        ("town", ["Delft" if i % 3 else "The Hague" for i in range(ROWS)], "categorical"),
        ("text", [f"message number {i} says hello" for i in range(ROWS)], "text"),
        ("url", [f"https://example.org/{'a' * (i % 9)}/page?x={i}" for i in range(ROWS)], "text"),
        (
            "country",
            ["United States of America" if i % 2 else "United Kingdom of Great Britain" for i in range(ROWS)],
            "categorical",
        ),
        ("vector", [[i, 1.5, 2.5] for i in range(ROWS)], "vector[3]"),
        ("vector", [f"[{i}, 1.5]" for i in range(ROWS)], "vector[2]"),
        ("vector", np.ones((ROWS, 4)), "vector[4]"),
        ("ragged", [[1.0] * (i % 3) for i in range(ROWS)], None),
        ("nested", [{"a": i} for i in range(ROWS)], None),
        ("empty", [None] * ROWS, "categorical"),
        ("empty", np.full(ROWS, np.nan), "numeric"),
        ("mixed", [i if i % 2 else f"a{i % 5}" for i in range(ROWS)], "categorical"),
        ("frame", pd.Series(["a", "b"] * (ROWS // 2), dtype="category"), "categorical"),
    ],
)
def test_the_kind_of_a_field(name: str, column: Any, kind: str | None) -> None:
    schema = infer({name: column, "other": np.linspace(0, 1, ROWS), "y": [0, 1] * (ROWS // 2)}, "y")
    assert schema.fields.get(name) == kind
    assert schema.fields["other"] == "numeric"


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        ([0, 1], "binary", (0, 1)),
        ([1, 0, 2], "multiclass", (0, 1, 2)),
        (["1", "0"], "binary", (0, 1)),
        ([1.0, 2.0], "binary", (1, 2)),
        ([True, False], "binary", (False, True)),
        (["yes", "no"], "binary", ("no", "yes")),
        (["c", "a", "b", None, ""], "multiclass", ("a", "b", "c")),
        (list(range(100)), "regression", ()),
        ([0.5, 1.25, 2.0, 3.5], "regression", ()),
        ([0.5, 1.5], "binary", (0.5, 1.5)),
    ],
)
def test_the_task_and_the_classes(labels: list[Any], task: str, classes: tuple[Any, ...]) -> None:
    repeated = labels * 60 + (["dirt"] if isinstance(labels[0], str) and labels[0].isdigit() else [])
    schema = infer({"x": np.linspace(0, 1, len(repeated)), "y": repeated}, "y")
    assert (schema.task, schema.classes) == (task, classes)
    assert [type(one) for one in schema.classes] == [type(one) for one in classes]
    Encoder(schema)


def test_the_task_can_be_given() -> None:
    data = {"x": [0.5] * 40, "y": [3, 4, 5, 6] * 10}
    assert infer(data, "y").task == "multiclass"
    assert infer(data, "y", task="regression").classes == ()
    assert infer({"x": [0.5] * 100, "y": list(range(100))}, "y", task="multiclass").classes == tuple(range(100))
    assert infer(data, "y", labels={3: 5, 9: 5}).classes == (3, 9)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"x": [1, 2]}, "has no column 'y' for the label; its columns are 'x'"),
        ({"x": [1, 2], "y": [1, 1]}, "is 1 in every row"),
        ({"x": [1, 2], "y": [None, ""]}, "is missing in every row"),
        ({"x": [1] * 2000, "y": [f"name {i}" for i in range(2000)]}, "2,000 different values"),
        ({"x": [{}, {}], "y": [0, 1]}, "no column beside the label"),
        ([1, 2], "got a list, expected columns"),
    ],
)
def test_what_cannot_be_learned_is_refused(data: Any, reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(reason)):
        infer(data, "y")


def test_a_regression_needs_numbers_and_a_binary_task_two_classes() -> None:
    with pytest.raises(InputError, match="is not a number"):
        infer({"x": [1, 2], "y": ["a", "b"]}, "y", task="regression")
    with pytest.raises(InputError, match="has 3 classes"):
        infer({"x": [1, 2, 3], "y": ["a", "b", "c"]}, "y", task="binary")


def test_frames_and_tables_are_inferred_alike() -> None:
    data = {"x": [0.5, 1.5] * 10, "town": ["Delft", "Gouda"] * 10, "y": [0, 1] * 10}
    expected = infer(data, "y")
    assert infer(pd.DataFrame(data), "y") == infer(pa.table(data), "y") == expected
    with pytest.raises(InputError, match="two columns are named 'x'"):
        infer(pd.DataFrame([[1, 2]], columns=["x", "x"]), "y")


@pytest.mark.parametrize(
    ("labels", "task", "words"),
    [
        ([i % 5 for i in range(ROWS)], None, "the 5 whole numbers of the label are classes; `--task regression`"),
        ([str(i % 5) for i in range(ROWS)], None, "the 5 whole numbers of the label are classes; `--task regression`"),
        ([i % 40 for i in range(10 * ROWS)], None, "the 40 whole numbers of the label are amounts; `--task classes`"),
        ([i % 5 for i in range(ROWS)], "multiclass", ""),
        ([i % 2 for i in range(ROWS)], None, ""),
        ([i % 7 + 0.5 for i in range(ROWS)], None, ""),
        ([f"c{i % 5}" for i in range(ROWS)], None, ""),
        (list(range(ROWS)), None, ""),
    ],
)
def test_a_note_says_what_whole_numbers_of_the_label_are_taken_for(labels: list[Any], task: Any, words: str) -> None:
    notes = survey({"x": np.linspace(0, 1, len(labels)), "y": labels}, "y", task=task).notes
    assert [note[: len(words)] for note in notes] == ([words] if words else [])


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (("NA", "no", "yes"), ("no", "yes")),
        (("NA", "no", "yes", "null"), ("no", "yes")),
        (("NA", "EU", "AS"), ("AS", "EU", "NA")),
        (("NA", "no"), ("NA", "no")),
    ],
)
def test_na_among_words_is_a_missing_label(words: tuple[str, ...], classes: tuple[str, ...]) -> None:
    schema = infer({"x": np.linspace(0, 1, ROWS), "y": [words[i % len(words)] for i in range(ROWS)]}, "y")
    assert schema.classes == classes
    assert set(schema.missing.get("y", ())) == set(words) - set(classes)
