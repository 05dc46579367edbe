"""The choice of an action: drawn with its propensity, the same everywhere, also under a canary and after a failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.errors import InputError, ModelError
from everlearn.predict import draw
from everlearn.records import Batch, Singles
from everlearn.schema import Encoder, shape
from everlearn.serve.choosing import Arms, Choice, check_unchosen, choose, uniform
from everlearn.serve.snapshot import Answering
from tests.support.bandit_models import Faulty, Lines
from tests.support.bandits import ACTIONS, schema

SCHEMA = schema()
N = 6000


class Fixed(Lines):
    """A policy that is the same everywhere."""

    def __init__(self, *shares: float) -> None:
        super().__init__(shape(SCHEMA))
        self.shares = shares

    def _shares(self, batch: Batch) -> Singles:
        return np.tile(np.array(self.shares, np.float32), (len(batch), 1))


def answering(model: Any, version: str = "v") -> Answering:
    return Answering(version, model)


def rows(n: int, x: float = 0.0) -> Batch:
    return Encoder(SCHEMA).rows([{"x": x, "z": 1.0}] * n)


def chosen(arms: Arms, n: int = N) -> list[Choice]:
    ids = [f"id{row}" for row in range(n)]
    return choose(arms, SCHEMA, rows(n), ids, [draw(id) < arms.share for id in ids])


def share(choices: list[Choice], action: str) -> float:
    return float(np.mean([one.value == action for one in choices]))


def test_actions_are_drawn_with_their_propensities() -> None:
    choices = chosen(Arms(answering(Fixed(0.1, 0.2, 0.7)), None, 0.0, 1, ""))
    for action, expected in zip(ACTIONS, (0.1, 0.2, 0.7), strict=True):
        assert abs(share(choices, action) - expected) < 4 * (expected * (1 - expected) / N) ** 0.5
        assert all(one.propensity == pytest.approx(expected) for one in choices if one.value == action)
    assert choices == chosen(Arms(answering(choices[0].arm.model), None, 0.0, 1, ""))
    others = chosen(Arms(answering(Fixed(0.1, 0.2, 0.7)), None, 0.0, 2, ""))
    assert [one.value for one in others] != [one.value for one in choices]  # another seed draws others


def test_a_canary_has_the_propensities_of_both_models_together() -> None:
    """Averages over ids are those of the mixture, which the draw of the arm alone would not give."""
    champion, canary = answering(Fixed(0.8, 0.1, 0.1), "champion"), answering(Fixed(0.1, 0.1, 0.8), "canary")
    choices = chosen(Arms(champion, canary, 0.25, 0, ""))
    mixture = [0.75 * 0.8 + 0.25 * 0.1, 0.1, 0.75 * 0.1 + 0.25 * 0.8]
    for action, expected in zip(ACTIONS, mixture, strict=True):
        assert abs(share(choices, action) - expected) < 4 * (expected * (1 - expected) / N) ** 0.5
        assert all(one.propensity == pytest.approx(expected, rel=1e-6) for one in choices if one.value == action)
    by_canary = [one for one in choices if one.arm is canary]
    assert abs(len(by_canary) / N - 0.25) < 0.03
    assert abs(share(by_canary, "right") - 0.8) < 0.05  # the arm draws from its own policy: the draws are independent
    # The inverse of the logged propensity is unbiased for the count of rows with any action: its sum is N.
    assert abs(sum(1 / one.propensity for one in choices if one.value == "left") / N - 1.0) < 0.06


def test_the_draw_is_not_that_of_the_canary() -> None:
    ids = [f"id{row}" for row in range(N)]
    both = np.array([[draw(id), uniform(0, id)] for id in ids])
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.05
    assert abs(both[:, 1].mean() - 0.5) < 0.02


def test_an_answer_holds_what_its_model_expects_of_the_action() -> None:
    model = Fixed(0.1, 0.2, 0.7)
    model.arrays["lines"][:] = [[0, 0, 0.1], [0, 0, 0.2], [0, 0, 0.3]]
    for one in chosen(Arms(answering(model), None, 0.0, 0, ""), 50):
        place = ACTIONS.index(one.value)
        assert one.expected == pytest.approx(0.5 + 0.1 * (place + 1), rel=1e-6)
        trace = np.frombuffer(one.trace, "<f4")
        assert trace.tolist() == pytest.approx([model.shares[place], 0.06 + 0.14 + 0.56], rel=1e-5)


def test_only_actions_on_offer_are_served() -> None:
    given = Encoder(SCHEMA).rows([{"x": 0.0, "actions.left.available": False}] * 300)
    arms = Arms(answering(Lines(shape(SCHEMA))), None, 0.0, 0, "")
    choices = choose(arms, SCHEMA, given, [str(row) for row in range(300)], [False] * 300)
    assert {one.value for one in choices} == {"middle", "right"}
    assert all(one.proba[0] == 0.0 and sum(one.proba) == pytest.approx(1.0) for one in choices)
    with pytest.raises(ModelError, match="not on offer|no probabilities"):
        choose(Arms(answering(Fixed(1.0, 0.0, 0.0)), None, 0.0, 0, ""), SCHEMA, given, ["a"] * 300, [False] * 300)


def test_the_fallback_answers_only_where_the_model_fails() -> None:
    encoder, model = Encoder(SCHEMA), Faulty(shape(SCHEMA))
    given = encoder.rows([{"x": float(row % 3)} for row in range(30)])  # fails above 1
    ids = [str(row) for row in range(30)]
    with pytest.raises(ModelError, match="its policy failed: broken on purpose; roll it back"):
        choose(Arms(answering(model), None, 0.0, 0, ""), SCHEMA, given, ids, [False] * 30)
    choices = choose(Arms(answering(model), None, 0.0, 0, "middle"), SCHEMA, given, ids, [False] * 30)
    for row, one in enumerate(choices):
        assert one.fell_back == (row % 3 == 2)
        if one.fell_back:
            assert (one.value, one.propensity, one.proba, one.trace) == ("middle", 1.0, (0.0, 1.0, 0.0), b"")
            assert np.isnan(one.expected)
        else:
            assert np.isfinite(one.expected)


def test_a_fallback_that_is_not_on_offer_is_no_answer() -> None:
    given = Encoder(SCHEMA).rows([{"x": 2.0, "actions.middle.available": False}])
    with pytest.raises(ModelError, match="the fallback 'middle' is not on offer"):
        choose(Arms(answering(Faulty(shape(SCHEMA))), None, 0.0, 0, "middle"), SCHEMA, given, ["a"], [False])


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.2), (-0.1, 0.5, 0.6), (np.nan, 0.5, 0.5)])
def test_numbers_that_are_no_probabilities_are_a_failure(shares: tuple[float, ...]) -> None:
    with pytest.raises(ModelError, match="no probabilities"):
        chosen(Arms(answering(Fixed(*shares)), None, 0.0, 0, ""), 3)
    assert all(one.fell_back for one in chosen(Arms(answering(Fixed(*shares)), None, 0.0, 0, "left"), 3))


def test_a_record_to_predict_has_no_action_yet() -> None:
    with pytest.raises(InputError, match="field 'action': got a value in a record to predict"):
        check_unchosen(SCHEMA, {"x": 1, "action": "left"})
