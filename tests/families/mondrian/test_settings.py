"""The settings of Mondrian forests: defaults, complete specs, and the words of refusals."""

from __future__ import annotations

from typing import Any

import pytest

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.families.mondrian import settings

SHAPE: dict[str, Any] = {"task": "multiclass", "dense": 20, "hashed": 0, "classes": 5}


def test_a_complete_spec_builds_the_same_model() -> None:
    model = el.build({"family": "mondrian"}, SHAPE)
    again = el.build(model.spec)
    assert again.spec == model.spec
    assert {name: array.shape for name, array in again.arrays.items()} == {
        name: array.shape for name, array in model.arrays.items()
    }


def test_nodes_follow_the_budget_and_wide_rows_get_more() -> None:
    assert settings.sizes(settings.read(SHAPE)).nodes == 4000
    assert settings.sizes(settings.read({**SHAPE, "dense": 128})).nodes < 4000
    many = settings.read({**SHAPE, "dense": 128, "trees": 100})
    assert settings.sizes(many).nodes == settings.ROOMY
    assert (many.memory or 0) > settings.MEMORY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, "task: got 'regression'; expected 'binary' or 'multiclass'"),
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
