"""The settings of Mondrian forests: defaults, complete specs, and the words of refusals."""

from __future__ import annotations

from typing import Any

import pytest

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.families.mondrian import settings
from everlearn.model import own_loss
from everlearn.records import Loss

SHAPE: dict[str, Any] = {"task": "multiclass", "dense": 20, "hashed": 0, "classes": 5}


def test_a_complete_spec_builds_the_same_model() -> None:
    model = el.build({"family": "mondrian"}, SHAPE)
    again = el.build(model.spec)
    assert again.spec == model.spec
    assert {name: array.shape for name, array in again.arrays.items()} == {
        name: array.shape for name, array in model.arrays.items()
    }


def test_a_regression_has_its_loss_and_fewer_nodes() -> None:
    model = el.build({"family": "mondrian", "task": "regression", "dense": 8, "loss": "quantile"})
    assert (model.spec["loss"], model.spec["loss_parameter"], model.spec["nodes"]) == ("quantile", 0.5, 1000)
    assert own_loss(model) == Loss("pinball", 0.5)
    assert own_loss(el.build({"family": "mondrian", "task": "regression", "dense": 8})) == Loss("squared")
    assert own_loss(el.build({"family": "mondrian"}, SHAPE)) is None


def test_nodes_follow_the_budget_and_wide_rows_get_more() -> None:
    assert settings.sizes(settings.read(SHAPE)).nodes == 4000
    assert settings.sizes(settings.read({**SHAPE, "dense": 128})).nodes < 4000
    many = settings.read({**SHAPE, "dense": 128, "trees": 100})
    assert settings.sizes(many).nodes == settings.ROOMY
    assert (many.memory or 0) > settings.MEMORY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ranking"}, "task: got 'ranking'"),
        ({"task": "regression"}, "classes: got 5; expected 0 for task 'regression'"),
        ({"task": "regression", "classes": 0, "loss": "huber"}, "loss: got 'huber'; expected one of 'squared'"),
        ({"loss": "squared"}, "loss: got 'squared'; expected none for task 'multiclass'"),
        ({"loss_parameter": 0.5}, "loss_parameter: got 0.5; expected none for loss None"),
        (
            {"task": "regression", "classes": 0, "loss": "quantile", "loss_parameter": 1.0},
            "loss_parameter: got 1.0; expected a share between 0 and 1",
        ),
        ({"trees": 0}, "trees: got 0; expected 1 to 10000"),
        ({"nodes": 2}, "nodes: got 2; expected 8 to"),
        ({"memory": 1000}, "memory: got 1000; expected at least"),
        ({"classes": 1}, "classes: got 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"tres": 3}, "tres: unknown setting, got 3; did you mean 'trees'"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_right_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        el.build({"family": "mondrian", **SHAPE, **change})
    assert message in str(refused.value)
