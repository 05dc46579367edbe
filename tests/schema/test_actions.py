"""The columns of a bandit's rows, from lists of actions on offer to what a row with its reward must have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError, InputError
from everlearn.records import Example, Label, Prediction, Preference, Reward
from everlearn.schema import Encoder, actions, shape
from everlearn.spec import Schema
from everlearn.stream import read
from tests.support.bandits import schema

PRICED = schema(action_fields={"price": "numeric", "new": "boolean"}, rewards=(-1.0, 2.0))
NAN = float("nan")


def dense(record: dict[str, Any]) -> list[float]:
    return Encoder(PRICED).record(record).dense[0].tolist()


def same(got: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(got, float), np.asarray(expected, float))


def test_the_columns_stand_in_the_order_of_the_contract() -> None:
    assert shape(PRICED) == {
        "task": "regression",
        "dense": 2 + 3 * (1 + 2) + 2,
        "hashed": 0,
        "classes": 0,
        "actions": 3,
        "action_features": 2,
        "rewards": [-1.0, 2.0],
    }
    given = {"x": 5, "actions.left.price": 3, "actions.middle.available": False, "action": "right", "propensity": 0.25}
    same(dense(given), [5, NAN, 1, 3, NAN, 0, NAN, NAN, 1, NAN, NAN, 2, 0.25])


def test_a_list_of_offers_hides_the_other_actions() -> None:
    offers = {"x": 1, "actions": ["left", {"name": "right", "price": 2.5, "new": True}]}
    spelled = actions.spelled(offers, PRICED)
    same(dense(dict(spelled)), [1, NAN, 1, NAN, NAN, 0, NAN, NAN, 1, 2.5, 1, NAN, NAN])
    assert actions.spelled({"x": 1}, PRICED) == {"x": 1}


@pytest.mark.parametrize(
    ("offers", "said"),
    [
        (["lift"], "actions: got 'lift'; expected names among 'left', 'middle', 'right'"),
        ([], "actions: got an empty list; expected at least one action"),
        (["left", {"name": "left"}], "actions: got 'left' twice"),
        ([{"name": "left", "prise": 1}], "actions: got the field 'prise' of 'left'; expected 'price', 'new'"),
        ([7], "actions: got 7; expected names"),
        ("left", "actions: got 'left'; expected a list of names among 'left', 'middle', 'right'"),
        ({"left": 1}, "expected a list of names"),
    ],
)
def test_a_wrong_list_of_offers_is_refused(offers: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        actions.spelled({"actions": offers}, PRICED)
    assert said in str(refused.value)


def test_every_way_of_reading_gives_the_same_rows() -> None:
    encoder = Encoder(PRICED)
    records = [
        {"x": 1.0, "z": 2.0, "actions.left.price": 3.0, "action": "left", "propensity": 0.5},
        {"x": -1.0, "actions.right.available": False, "action": "middle", "propensity": 1},
    ]
    whole, problems = encoder.records(records)
    assert problems == []
    same(whole.dense, encoder.rows(records).dense)
    same(whole.dense, np.concatenate([encoder.record(one).dense for one in records]))
    columns = {name: [one.get(name) for one in records] for name in {name for one in records for name in one}}
    chunk = next(read({**columns, "reward": [0.0, 1.0]}, schema=PRICED).chunks())
    same(whole.dense, chunk.examples.batch.dense)


def test_what_was_served_is_read_from_the_prediction() -> None:
    encoder = Encoder(PRICED)
    served = Prediction("a", {"x": 1.0}, "middle", (0.2, 0.5, 0.3), "v", propensity=0.5)
    rows, (both, bad) = encoder.read([served]), encoder.sift([served, Example("b", {"x": 1.0}, 1.0)])
    assert rows.dense[0, -2:].tolist() == [1.0, 0.5]
    assert (both.dense[0, -2:].tolist(), bad) == ([1.0, 0.5], set())
    same(both.dense[1, -2:], [NAN, NAN])
    same(encoder.read([Prediction("c", {}, "gone", (), "v")]).dense[0, -2], NAN)


def test_a_reward_is_refused_out_of_range() -> None:
    encoder = Encoder(PRICED)
    assert encoder.judge(Reward("a", -1.0))[0].y == -1.0
    assert encoder.judge(Label("a", 2))[0].y == 2.0
    for feedback in (Reward("a", 2.5), Label("a", -1.1)):
        with pytest.raises(InputError, match="expected -1 to 2. Scale it, or set schema.rewards to its bounds"):
            encoder.judge(feedback)
    with pytest.raises(InputError, match="this loop's task is bandit"):
        encoder.judge(Preference("a", 0))
    y, problems = encoder.labels([0.5, 3.0, None], 3)
    assert (y[0], [one.row for one in problems]) == (0.5, [1, 2])


def test_a_row_with_its_reward_needs_action_and_propensity() -> None:
    records = [
        {"action": "left", "propensity": 0.5},
        {"action": "left"},
        {"propensity": 0.5},
        {"action": "left", "propensity": 0.5, "actions.left.available": 0},
    ]
    batch, _ = Encoder(PRICED).records(records)
    reasons = actions.refused(PRICED, batch)
    assert list(reasons) == [1, 2, 3]
    assert 'set schema.propensity = "uniform" if all actions had the same' in reasons[1]
    assert reasons[2] == "field 'action': missing; expected the action that was taken"
    assert reasons[3] == "field 'action': got 'left', which was not on offer in this row"
    assert actions.refused(Schema(label="y", task="regression", fields={"x": "numeric"}), batch) == {}


def test_a_uniform_log_had_the_same_probability_for_all_on_offer() -> None:
    uniform = schema(propensity=actions.UNIFORM)
    records = [{"action": "left"}, {"action": "left", "actions.right.available": False}, {"x": 1}]
    batch, _ = Encoder(uniform).records(records)
    same(batch.dense[:, -1], np.array([1 / 3, 1 / 2, NAN], np.float32))
    assert list(actions.refused(uniform, batch)) == [2]


@pytest.mark.parametrize("propensity", [0, -0.1, 1.5, "often"])
def test_a_propensity_is_a_probability(propensity: Any) -> None:
    _, problems = Encoder(PRICED).records([{"action": "left", "propensity": propensity}])
    assert [one.field for one in problems] == ["propensity"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": ("one",)}, "schema.actions: got 1 actions; expected the names of 2 to 256"),
        ({"actions": ("a", "a")}, "schema.actions: got ['a', 'a']; expected names that differ"),
        ({"rewards": (1.0, 1.0)}, "schema.rewards: got [1.0, 1.0]; expected two numbers"),
        ({"action_fields": {"available": "numeric"}}, "schema.action_fields: got 'available'"),
        ({"fields": {"actions.x": "numeric"}}, "schema.fields: got 'actions.x'"),
        ({"fields": {"action": "numeric"}}, "schema.fields: got 'action'"),
        ({"propensity": "action"}, "schema.fields: got 'action'"),
        ({"classes": (0, 1)}, "schema.classes: got 2 classes; expected none for a bandit"),
        ({"task": "regression"}, "schema.actions: got ('left', 'middle', 'right') for a regression task"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Encoder(schema(**changes))
    assert said in str(refused.value)
