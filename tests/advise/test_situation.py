"""Answers: parsed as people type them, and refused with the choices."""

from __future__ import annotations

import pytest

from everlearn import advise
from everlearn.advise import Situation, situation
from everlearn.errors import ConfigError
from everlearn.spec import Schema


def test_answers_are_parsed_as_people_give_them():
    assert situation.parse_answer("volume", "2,500") == 2500
    assert situation.parse_answer("model", "7e9") == 7_000_000_000
    assert situation.parse_answer("model", " Large") == "large"
    assert situation.parse_answer("frequency", "On-demand") == "on demand"
    assert situation.parse_answer("store", "N") is False
    assert situation.facts(Situation(model=9_999_999))["size"] == "small"
    assert situation.facts(Situation(model=10_000_000))["size"] == "large"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"frequency": "hourly"}, ["frequency", "'hourly'", "streaming, daily"]),
        ({"volume": 0}, ["volume", ">= 1"]),
        ({"store": "perhaps"}, ["store", "'perhaps'", "yes, no"]),
        ({"colour": "red"}, ["colour"]),
        ({"predicts": "number", "new_classes": True}, ["new_classes", "number", "classes"]),
    ],
)
def test_answers_that_cannot_be_are_refused(answers, words):
    with pytest.raises(ConfigError) as raised:
        advise.of(answers)
    assert [word for word in words if word not in str(raised.value)] == []


def test_data_answer_what_they_can():
    fields = {"a": "numeric", "note": "text", "v": "vector[12]"}
    schema = Schema(label="y", task="multiclass", fields=fields, classes=("a", "b", "c"))
    assert advise.look(schema, 700) == {"inputs": "text", "predicts": "classes", "volume": 700}
    assert advise.wide(schema) == 13
    assert advise.look(Schema(label="y", task="regression", fields={"a": "numeric"}))["predicts"] == "number"
    assert advise.of(advise.look(schema, 700)).spec(schema).schema == schema
