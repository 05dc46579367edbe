"""The task picks what is read from predictions."""

from __future__ import annotations

import pytest

from everlearn.errors import ConfigError, InputError
from everlearn.schema import Encoder, features, reading, shape
from everlearn.schema.pairs import PairReading
from tests.support.pairs import VOCABULARY, schema
from tests.support.schemas import EVERY_KIND


def test_the_task_picks_the_reading() -> None:
    assert isinstance(reading(EVERY_KIND), Encoder)
    assert isinstance(reading(schema()), PairReading)
    assert [reading(one).late for one in (EVERY_KIND, schema())] == [False, True]
    assert features(reading(EVERY_KIND)).schema is EVERY_KIND
    with pytest.raises(InputError, match="its rows are pairs of answers, not records of fields"):
        features(reading(schema()))


def test_models_of_pairs_get_a_binary_task_and_the_bounds() -> None:
    found = shape(schema(groups=5))
    assert {name: found[name] for name in ("task", "dense", "hashed", "classes")} == {
        "task": "binary",
        "dense": 16,
        "hashed": VOCABULARY,
        "classes": 2,
    }
    assert found["pairs"] == {"prompt_tokens": 4, "answer_tokens": 6, "annotators": 3, "sources": 16, "groups": 5}
    assert "pairs" not in shape(EVERY_KIND)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 0}, r"schema.vocabulary: got 0; expected the number of tokens"),
        ({"classes": (0, 1)}, r"schema.classes: got \[0, 1\]; expected none for the task 'preference'"),
        ({"task": "regression"}, r"schema.prompt_tokens: got 4 for a regression task"),
    ],
)
def test_a_schema_of_pairs_that_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reading(schema(**changes))
