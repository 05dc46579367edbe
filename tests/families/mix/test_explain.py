"""Contributions of a mix: they add up to the score of the stackers, for all members at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn import model as models
from everlearn.errors import InputError
from everlearn.families.explain import contributions
from everlearn.schema import Encoder
from everlearn.spec import Schema
from tests.support.learned_models import CLASSES, fresh, taught


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_contributions_add_up_to_the_score(task: str, hashed: bool) -> None:
    model, encoder = taught("auto", task, hashed)
    records, batch = fresh(encoder, 60)
    for record, scores in zip(records, model.predict(batch).astype(float), strict=True):
        found = contributions(model, encoder, record)
        if task == "binary":
            assert sum(found.values()) == pytest.approx(math.log(scores[1] / scores[0]), rel=5e-6, abs=5e-6)
        elif task == "multiclass":
            sums = [sum(found[label].values()) for label in CLASSES[task]]
            np.testing.assert_allclose(sums, np.log(scores), rtol=5e-6, atol=5e-6)
        else:
            assert sum(found.values()) == pytest.approx(scores[0], rel=1e-6)


def test_a_mix_of_one_settled_linear_model_gives_its_contributions() -> None:
    """With all recent losses on the first stacker, weight 1 and no floor to speak of, the mix is its member."""
    members = [{"family": "linear"}]
    model, encoder = taught.__wrapped__("mix", "binary", members=members)
    mine = models.copy(model)
    arrays = {name: np.array(value) for name, value in model.arrays.items()}
    arrays["stack/recent"][:] = [0.0, 1e3, 1e3]
    arrays["stack/shared"][:] = 1.0
    arrays["stack/own"][:] = arrays["stack/bias"][:] = 0.0
    mine.arrays = arrays
    record = {"amount": 3020.0, "age": 45.0, "night": True}
    found, expected = contributions(mine, encoder, record), contributions(mine.members[0], encoder, record)  # type: ignore[attr-defined]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.02 * max(abs(value), 1.0))


def test_the_last_label_has_a_name_of_its_own() -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}))
    model = models.build({"family": "mix"}, encoder.shape)
    runs = (np.arange(2000) // 50 % 2).astype(float)
    rows, _ = encoder.records([{"a": 0.0}] * 2000)
    model.learn(rows, runs, np.ones(2000, np.float32))
    found = contributions(model, encoder, {"a": 0.0})
    assert found["last label"] > 2.0  # the last of the runs is 1
    assert found["a"] == pytest.approx(0.0, abs=1e-6)


def test_numbers_count_the_last_one_from_what_other_members_have_in_the_mean() -> None:
    model, encoder = taught("auto", "regression")
    found = contributions(model, encoder, fresh(encoder, 1)[0][0])
    assert found["intercept"] == pytest.approx(1025.0, abs=25.0)
    assert abs(found["last label"]) < 25.0


def test_a_member_that_cannot_be_explained_is_refused() -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}))
    members = [{"family": "linear"}, {"family": "tests.support.models:Mean"}]
    model = models.build({"family": "mix", "members": members}, encoder.shape)
    with pytest.raises(
        InputError, match="got a model of the family 'tests.support.models:Mean'; expected one of anomaly, forest"
    ):
        contributions(model, encoder, {"a": 1.0})
