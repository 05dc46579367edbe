"""Rows of the log: a payload comes back unchanged, has one key, and is refused if it cannot be stored."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.events import SqliteLog, key, row, rows_of
from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Evidence,
    Example,
    Label,
    Payload,
    Prediction,
    Rejected,
    Reward,
    Version,
)
from tests.support.payloads import EVIDENCE, example, payloads
from tests.support.postgres import every_log


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=payloads)
def test_what_comes_back_is_what_was_given_to_the_last_bit(payload: Payload) -> None:
    with tempfile.TemporaryDirectory() as home, SqliteLog(Path(home) / "log.db") as log:
        log.append([payload])
        (event,) = log.read()
    assert event.payload == payload
    assert repr(event.payload) == repr(payload)  # -0.0 and 0.0, 1 and 1.0 and True: equal, yet not the same
    assert key(event.payload) == key(payload)


@settings(max_examples=150, deadline=None)
@given(some=st.lists(payloads, max_size=5), odd=st.booleans())
def test_rows_at_once_are_those_of_one_at_a_time(some: list[Payload], odd: bool) -> None:
    some = [*some, Label("a", math.nan)] if odd else some  # refused, with the same words
    times = [1.5 + place for place in range(len(some))]
    outcomes: list[Any] = []
    for found in (lambda: rows_of(some, times), lambda: [row(one, at) for one, at in zip(some, times, strict=True)]):
        try:
            outcomes.append(found())
        except InputError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    assert isinstance(outcomes[0], str) == odd


@every_log
def test_numpy_values_are_kept_as_the_numbers_they_hold(log: SqliteLog) -> None:
    given = {"f": np.float32(0.1), "i": np.int64(3), "b": np.True_, "v": np.arange(3.0), "s": np.str_("a")}
    log.append([Example("a", given, np.int64(2))])  # type: ignore[arg-type]
    assert log.read()[0].payload == Example(
        "a", {"f": float(np.float32(0.1)), "i": 3, "b": True, "v": [0.0, 1.0, 2.0], "s": "a"}, 2
    )


def test_keys_read_as_promised() -> None:
    version = Version("5eed", (), 7, "b10b", {}, {}, "why")
    assert key(Prediction("p", {}, 1, (), "v")) == "prediction:p"
    assert key(example("e")) == "example:e"
    assert key(Label("p", 1)).startswith("label:p:")
    assert key(Born(version)) == "version:5eed"
    assert key(Checkpoint(9, "b10b")) == "checkpoint:9:b10b"
    assert key(Rejected("rows.csv", 3, "why", "raw")) == "rejected:rows.csv:3:0"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Label("a", 1), Label("a", 1.0)),
        (Label("a", True), Label("a", 1)),
        (Label("a", 0.0), Label("a", -0.0)),
        (Label("a", 1, weight=2), Label("a", 1, weight=2.0)),
        (Reward("a", 3), Reward("a", 3.0)),
        (Decision("drift", 5, "one wording", "drift"), Decision("drift", 5, "another", "drift", evidence=EVIDENCE)),
        (
            Decision("drift", 5, "", "drift", detail={"a": 1, "b": 2}),
            Decision("drift", 5, "", "drift", detail={"b": 2, "a": 1}),
        ),
    ],
)
def test_the_same_said_twice_has_one_key(first: Payload, second: Payload, log: SqliteLog) -> None:
    assert key(first) == key(second)
    assert log.append([first]) == log.append([second]) == log.append([first, second])[1:] == [1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Label("a", 1), Label("a", 2)),
        (Label("a", 1), Label("a", "1")),
        (Label("a", 1), Label("b", 1)),
        (Label("a", 1), Label("a", 1, weight=0.5)),
        (Label("a", 1), Label("a", 1, source="x")),
        (Label("a", 1), Reward("a", 1)),
        (Label("a", 2**53), Label("a", 2**53 + 1)),
        (Decision("drift", 5, "", "drift"), Decision("drift", 6, "", "drift")),
        (Decision("promote", 5, "", "gate", "champion", "v"), Decision("promote", 5, "", "user", "champion", "v")),
        (
            Decision("drift", 5, "", "drift", detail={"input": 1}),
            Decision("drift", 5, "", "drift", detail={"input": 2}),
        ),
        (Checkpoint(5, "first"), Checkpoint(5, "second")),
    ],
)
def test_what_differs_is_another_event(first: Payload, second: Payload, log: SqliteLog) -> None:
    assert log.append([first, second]) == [1, 2]


@every_log
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (Example("a", {"x": math.nan}, 1), "example.features.x is nan"),
        (Example("a", {"deep": [None, {"x": math.inf}]}, 1), r"example.features.deep.1.x is inf"),
        (Example("a", {"v": np.array([1.0, math.nan])}, 1), "example.features.v.1 is nan"),
        (Label("a", math.nan), "label.value is nan"),
        (
            Decision("drift", 1, "", "drift", evidence=Evidence(1, 1, 1, 0, -1, math.inf, 0, 0, 0)),
            "evidence.high is inf",
        ),
        (Label("a", None), "Expected `bool | int | float | str`"),  # type: ignore[arg-type]
        (Label(1, 1), "Expected `str`"),  # type: ignore[arg-type]
        (Label("a", 10**5000), "cannot be stored"),
        (example("\ud800"), "surrogates not allowed"),
        (Example("a", {"x": object()}, 1), "a object cannot be written as JSON"),
        ("text", "cannot log a str"),
    ],
)
def test_what_could_not_be_read_back_is_refused(payload: Any, says: str, log: SqliteLog) -> None:
    with pytest.raises(InputError, match=says):
        log.append([example("beside"), payload])
    assert log.read() == []


@every_log
def test_bottomless_features_are_refused(log: SqliteLog) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="cannot be stored in the log"):
        log.append([Example("a", {"x": deep}, 1)])


@every_log
def test_missing_values_and_the_word_null_are_fine(log: SqliteLog) -> None:
    log.append([Example("null", {"x": None, "null": "null"}, "null")])
    assert log.read()[0].payload == Example("null", {"x": None, "null": "null"}, "null")


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_a_time_that_is_none_is_refused(at: float, log: SqliteLog) -> None:
    with pytest.raises(InputError, match="expected seconds since 1970"):
        log.append([example("a")], time=at)
