"""The kind of a column, where one cell or one name must not decide; each left-out column has a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.schema import infer
from everlearn.schema.guessing import survey
from everlearn.stream import read

ROWS = 400
Y = [i % 2 for i in range(ROWS)]


def found(column: list[Any], name: str = "x", **more: Any) -> Any:
    """Return the guess for one column beside another."""
    return survey({name: column, "other": np.linspace(0, 1, ROWS), "y": Y, **more}, "y").guesses[name]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["[notice] it started"] + [f"worker {i} was closed by its peer" for i in range(1, ROWS)], "text"),
        (["[deleted]"] + ["abc"[i % 3] for i in range(1, ROWS)], "categorical"),
        ([f"[{i % 10 * 10}-{i % 10 * 10 + 10})" for i in range(ROWS)], "categorical"),
        (["n/k"] + [f"{i * 7919 % 997}.5" for i in range(1, ROWS)], "numeric"),
        (["true"] + ["abc"[i % 3] for i in range(1, ROWS)], "categorical"),
        (["2015-01-01"] + ["abc"[i % 3] for i in range(1, ROWS)], "categorical"),
        ([{}] + [f"{'abc'[i % 3]}" for i in range(1, ROWS)], None),
        (["unknown" if i % 5 == 0 else f"{i * 7919 % 997}.5" for i in range(ROWS)], "numeric"),
        (["Drama|Crime" if i % 2 else "Crime" for i in range(ROWS)], "tokens"),
        ([["a"] * (i % 3) for i in range(ROWS)], "tokens"),
        ([f'["a", "{"bc"[i % 2]}"]' for i in range(ROWS)], "tokens"),
        ([3 * i + 50 for i in range(ROWS)], None),
        ([f"{i}.0" for i in range(ROWS)], None),
        ([i * 7919 % 401 for i in range(ROWS)], None),
        ([i * 7919 % 100_003 for i in range(ROWS)], "numeric"),
        ([f"{i:032x}" for i in range(ROWS)], None),
        ([f"{45 + i / 7:.2f} kg" for i in range(ROWS)], None),
    ],
)
def test_no_single_cell_decides(column: list[Any], kind: str | None) -> None:
    guess = found(column)
    assert guess.kind == kind
    assert guess.why


@pytest.mark.parametrize(
    ("number", "odd", "kind", "missing"),
    [
        ("{:.2f}", ["see note", "tbd"], "numeric", ("see note", "tbd")),
        ("{:.2f}", ["12 or 13", "?"], "numeric", ("12 or 13",)),
        ("{:.2f}", [f"remark {i}" for i in range(ROWS)], "numeric", ()),
        ("{:.0f}", ["retired", "a child"], "numeric", ("a child", "retired")),
        ("{:.0f}", ["60+", "2A"], "categorical", ()),  # codes have letters and digits
        ("2015{:04.0f}", ["later"], "numeric", ("later",)),
        ("20{:06.0f}", ["later"], "datetime", ("later",)),
    ],
)
@pytest.mark.parametrize("every", [8, 25])
def test_amounts_with_remarks(number: str, odd: list[str], kind: str, missing: tuple[str, ...], every: int) -> None:
    values = [i * 7919 % 97 + 0.25 for i in range(ROWS)]
    if number.startswith("20{"):
        values = [150101.0 + 100 * (i * 7919 % 12) + i % 28 for i in range(ROWS)]
    column = [odd[i // every % len(odd)] if i % every == 3 else number.format(values[i]) for i in range(ROWS)]
    guess = found(column)
    assert (guess.kind, tuple(sorted(set(guess.missing) - {"?"}))) == (kind, missing)
    assert ("text" in guess.why) is (kind != "categorical")
    assert ("set aside" in guess.why) is (kind == "numeric" and not missing)


@pytest.mark.parametrize(
    ("codes", "missing"),
    [((-999,), (-999,)), ((-200,), (-200,)), ((-9999, -999), (-999, -9999)), ((-1,), ()), ((5,), ())],
)
def test_numbers_that_stand_for_missing(codes: tuple[int, ...], missing: tuple[int, ...]) -> None:
    column = [codes[i % len(codes)] if i % 7 == 3 else i * 7919 % 97 + 0.5 for i in range(ROWS)]
    assert found(column).missing == missing


def test_a_real_minus_200_is_kept() -> None:
    assert found([-400 + i * 7919 % 811 for i in range(ROWS)]).missing == ()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["true", "false"], "boolean"),
        (["yes", "no"], "boolean"),
        ([f"2015-01-{day:02d}" for day in range(1, 29)], "datetime"),
        ([f"{day}.1.2015" for day in range(1, 29)], "datetime"),
        ([f"201501{day:02d}" for day in range(1, 29)], "datetime"),
        ([f"{number}.5" for number in range(40)], "numeric"),
        (["[1, 2]", "[2.5, 3]"], "vector[2]"),
        (["a|b", "b|c", "c"], "tokens"),
    ],
)
@pytest.mark.parametrize("word", ["unknown", "Missing", ".", "?", "-"])
def test_rows_with_a_word_for_missing_are_read(values: list[str], kind: str, word: str) -> None:
    column = [word if i % 5 == 0 else values[i % len(values)] for i in range(ROWS)]
    (chunk,) = read({"x": column, "y": Y}, label="y").chunks()
    assert infer({"x": column, "y": Y}, "y").fields == {"x": kind}
    assert chunk.rejected == ()


def test_na_may_be_a_country() -> None:
    assert found([("NA", "DE", "FR", "?")[i % 4] for i in range(ROWS)]).missing == ("?",)
    assert found([("NA", "high", "low", "?")[i % 4] for i in range(ROWS)]).missing == ("?", "NA")


def test_thousands_beside_decimal_commas_are_decimals() -> None:
    columns = {"a": [f"{i % 9},{i % 7}" for i in range(ROWS)], "b": [f"1,{i * 7919 % 900 + 100}" for i in range(ROWS)]}
    assert infer({**columns, "y": Y}, "y").decimal == ","
    assert infer({"b": columns["b"], "y": Y}, "y").decimal == "."


def test_labels_may_have_another_decimal_mark_than_all_fields() -> None:
    columns = {"a": [f"{i * 7919 % 97},{i % 7}" for i in range(ROWS)], "y": [f"{i}.{i % 7}" for i in range(ROWS)]}
    stream = read(columns, label="y")
    (chunk,) = stream.chunks()
    assert stream.schema.decimal == {"a": ","}
    assert (chunk.rejected, chunk.examples.y[:2].tolist()) == ((), [0.0, 1.1])
    assert infer({**columns, "y": [f"{i},{i % 7}" for i in range(ROWS)]}, "y").decimal == ","


def test_the_order_of_day_and_month() -> None:
    days = [f"{i % 12 + 1:02d}/{i % 28 + 1:02d}/2015" for i in range(ROWS)]
    assert found(days).order == "month first"
    swapped = [f"{i % 28 + 1:02d}/{i % 12 + 1:02d}/2015" for i in range(ROWS)]
    assert found(swapped).order == "day first"
    either = found([f"{i * 5 % 12 + 1:02d}/{i * 7 % 11 + 1:02d}/2015" for i in range(ROWS)])
    assert "a guess" in either.why


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (["5%", "10%", "15%"], "multiclass", ("10%", "15%", "5%")),
        ([f"{i / 10:.1f}%" for i in range(90)], "regression", ()),
        ([f"{i},5" for i in range(90)], "regression", ()),
        ([f"${i}" for i in range(90)], "regression", ()),
        (["Yes", "no", "yes", "NO", "no", "yes"], "binary", ("no", "yes")),
        (["a", "A"], "binary", ("A", "a")),
        (["True", "False"], "binary", (False, True)),
        (["yes", "no", "?"], "binary", ("no", "yes")),
    ],
)
def test_labels(labels: list[str], task: str, classes: tuple[Any, ...]) -> None:
    repeated = labels * 10
    schema = infer({"x": np.linspace(0, 1, len(repeated)), "y": repeated}, "y")
    assert (schema.task, schema.classes) == (task, classes)


def test_a_running_number_is_kept_where_nothing_else_is_left() -> None:
    assert infer({"x": list(range(ROWS)), "y": Y}, "y").fields == {"x": "numeric"}
