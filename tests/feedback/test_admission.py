"""Outside values become what the log holds, alike for the loop, the workers and label files, or are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import config
from everlearn.errors import IdTaken, InputError, UnknownId
from everlearn.events import connect
from everlearn.feedback.admission import (
    Admission,
    _judgement,
    checked_weight,
    example,
    features,
    feedback,
    prediction,
    scalar,
    subject,
    unknown,
)
from everlearn.records import Batch, Erased, Example, Label, Prediction
from everlearn.schema import Encoder
from everlearn.stream import plain

SETTINGS: dict[str, Any] = {
    "schema": {
        "label": "y",
        "task": "binary",
        "classes": ["no", "yes"],
        "fields": {"a": "numeric", "town": "categorical", "v": "vector[2]"},
    },
    "model": {"family": "linear"},
    "subject": "user",
}
GIVEN = Prediction("p", {"a": 1.0}, "no", (0.75, 0.25), "v1")


def admission(folder: Path, json: bool = True, **changes: Any) -> Iterator[Admission]:
    spec = config.convert(SETTINGS | changes)
    with closing(connect(str(folder / "log.sqlite"))) as log:
        log.append([GIVEN])
        yield Admission(spec, Encoder(spec.schema), log, None if json else plain)


@pytest.fixture
def from_json(tmp_path):
    yield from admission(tmp_path)


@pytest.fixture
def from_python(tmp_path):
    yield from admission(tmp_path, json=False)


def test_a_record_keeps_the_fields_of_the_schema_that_have_a_value(from_json, from_python):
    record = {"a": 1.5, "town": None, "user": 7, "v": [1, 2.5]}
    for rules in (from_json, from_python):
        assert features(rules, record) == {"a": 1.5, "v": [1, 2.5]}
        assert features(rules, {}) == {}


def test_values_of_numpy_and_missing_numbers_become_plain(from_python):
    record = {"a": np.float32(1.5), "town": np.str_("Delft"), "v": np.array([1.0, np.nan])}
    held = features(from_python, record)
    assert held == {"a": 1.5, "town": "Delft", "v": [1.0, None]}
    assert json.dumps(held) == '{"a": 1.5, "town": "Delft", "v": [1.0, null]}'
    assert features(from_python, {"a": float("nan"), "town": "Delft"}) == {"town": "Delft"}


def test_the_log_holds_a_copy_of_a_record_from_python(from_python):
    record = {"a": 1.0, "town": "Delft"}
    held = features(from_python, record)
    record["a"] = 2.0
    assert held == {"a": 1.0, "town": "Delft"}


def test_a_record_that_cannot_be_used_is_refused(from_python):
    with pytest.raises(InputError, match="field 'a': got 'x', expected a number"):
        features(from_python, {"a": "x"})
    with pytest.raises(InputError, match="got a list, expected a record"):
        features(from_python, [1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("7", "7"),
        (7, "7"),
        (7.0, "7"),
        (np.int64(7), "7"),
        (np.float32(7.0), "7"),
        (Decimal("7"), "7"),
        (7.5, "7.5"),
        (True, "true"),
        (np.bool_(True), "true"),
        (False, "false"),
        ("anna", "anna"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_a_person_has_one_spelling_wherever_the_record_comes_from(from_json, from_python, value, text):
    for rules in (from_json, from_python):
        assert subject(rules, {"user": value}) == text


def test_a_person_is_named_by_a_plain_value_or_not_at_all(tmp_path, from_json):
    assert subject(from_json, {"a": 1.0}) == ""
    with pytest.raises(InputError, match="field 'user': got "):
        subject(from_json, {"user": [1]})
    (tmp_path / "other").mkdir()
    (rules,) = admission(tmp_path / "other", subject="")
    assert subject(rules, {"user": [1]}) == ""


def test_feedback_is_one_of_label_reward_and_preference(from_json):
    assert feedback(from_json, "p", label="yes", weight=2, source="shop") == Label("p", "yes", 2.0, "shop")
    assert feedback(from_json, "p", label=np.str_("no")) == Label("p", "no")
    with pytest.raises(InputError, match="exactly one of label, reward and chosen; got 0"):
        feedback(from_json, "p")
    with pytest.raises(InputError, match="got 2 of them"):
        feedback(from_json, "p", label="yes", chosen=0)
    with pytest.raises(InputError, match="got the label 'maybe', expected one of 'no', 'yes'"):
        feedback(from_json, "p", label="maybe")
    with pytest.raises(InputError, match="got a reward"):
        feedback(from_json, "p", reward=1.0)


def test_feedback_needs_its_prediction_unless_it_may_come_early(tmp_path, from_json):
    with pytest.raises(UnknownId, match="'q'"):
        feedback(from_json, "q", label="yes")
    (tmp_path / "other").mkdir()
    for early in admission(tmp_path / "other", feedback={"early": 60.0}):
        assert feedback(early, "q", label="yes") == Label("q", "yes")


def test_an_erased_prediction_is_unknown(from_json, monkeypatch):
    event = from_json.log.find("prediction:p")
    assert prediction(from_json.log, "p") == GIVEN
    monkeypatch.setattr(from_json.log, "find", lambda key: type(event)(1, 0.0, Erased(1, "prediction")))
    assert prediction(from_json.log, "p") is None
    with pytest.raises(UnknownId):
        feedback(from_json, "p", label="yes")


def none(batch: Batch) -> dict[int, str]:
    return {}


def test_an_example_is_checked_and_keeps_its_person(from_json, from_python):
    record = {"a": 1.0, "user": 7.0}
    expected = Example("e", {"a": 1.0}, "yes", 2.0, "shop", "7")
    for rules in (from_json, from_python):
        assert example(rules, record, "yes", 2, "e", "shop", refused=none, new_id=lambda: "new") == expected
        assert example(rules, record, "yes", 1, None, "", refused=none, new_id=lambda: "new").id == "new"
    with pytest.raises(InputError, match="got the label 'maybe'"):
        example(from_json, record, "maybe", 1.0, None, "", refused=none, new_id=lambda: "new")
    with pytest.raises(InputError, match="field 'a': got 'x'"):
        example(from_json, {"a": "x"}, "yes", 1.0, None, "", refused=none, new_id=lambda: "new")
    with pytest.raises(InputError, match="too long"):
        example(from_json, record, "yes", 1.0, None, "", refused=lambda batch: {0: "too long"}, new_id=lambda: "new")


def test_an_id_names_one_example(from_json):
    def given(label: str) -> Example:
        return example(from_json, {"a": 1.0}, label, 1.0, "e", "", refused=none, new_id=lambda: "new")

    from_json.log.append([given("yes")])
    assert given("yes").id == "e"
    with pytest.raises(IdTaken, match="'e' names another example"):
        given("no")


def test_weights_and_scalars():
    assert checked_weight(np.float32(0.5)) == 0.5
    for bad in (-1, float("nan"), 1e31, "1"):
        with pytest.raises(InputError, match="weight: got"):
            checked_weight(bad)  # type: ignore[arg-type]
    assert type(scalar(np.int64(3))) is int
    with pytest.raises(InputError, match="got a object"):
        scalar(object())


def test_an_unknown_id_is_named():
    assert "'tx-9'" in str(unknown("tx-9"))


@pytest.mark.parametrize("encodes", [False, True], ids=["checked", "encoded later"])
def test_numbers_stay_as_they_are_and_nan_is_missing(from_python: Admission, encodes: bool) -> None:
    given = {"a": 1.5, "town": float("nan"), "v": (1.0, float("nan"))}
    assert features(from_python, given, encodes=encodes) == {"a": 1.5, "v": [1.0, None]}
    assert features(from_python, {"a": float("nan"), "town": 2.5}, encodes=encodes) == {"town": 2.5}


def test_a_value_that_stays_is_refused_here_or_where_it_is_encoded(from_python: Admission) -> None:
    wrong = {"a": float("inf"), "town": "Delft"}
    with pytest.raises(InputError, match="field 'a'"):
        features(from_python, wrong)
    held = features(from_python, wrong, encodes=True)
    with pytest.raises(InputError, match="field 'a'"):
        from_python.fields.record(held)
    with pytest.raises(InputError, match="field 'a'"):  # one that changes is refused first in any case
        features(from_python, {"a": float("inf"), "town": Decimal(3)}, encodes=True)
    with pytest.raises(InputError, match="field 'v'"):
        features(from_python, {"v": [1.0]}, encodes=True)


def test_feedback_for_a_waiting_prediction_reads_no_log(from_json: Admission) -> None:
    waiting = dataclasses.replace(from_json, waits=lambda id: id == "held")
    assert feedback(waiting, "held", label="yes").id == "held"
    assert feedback(waiting, "p", label="yes").id == "p"
    with pytest.raises(UnknownId):
        feedback(waiting, "other", label="yes")


@pytest.mark.parametrize("reward", ["yes", float("nan"), float("inf"), [1.0]])
def test_a_reward_is_a_finite_number(reward):
    with pytest.raises(InputError, match="reward: got .* for 'p'; expected a number"):
        _judgement("p", None, reward, None, 1.0, "")
    assert _judgement("p", None, True, None, 1.0, "").value == 1.0
