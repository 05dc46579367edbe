"""The settings of trees: defaults, complete specs, and the words of refusals."""

from __future__ import annotations

from typing import Any

import pytest

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.families.trees import layout, settings

SHAPE: dict[str, Any] = {"task": "multiclass", "dense": 20, "hashed": 0, "classes": 5}


NUMBERS: dict[str, Any] = {"task": "regression", "classes": 0}


@pytest.mark.parametrize("task", [{}, NUMBERS, {**NUMBERS, "loss": "quantile", "loss_parameter": 0.9}])
@pytest.mark.parametrize("family", ["tree", "forest"])
def test_a_complete_spec_builds_the_same_model(family: str, task: dict[str, Any]) -> None:
    model = el.build({"family": family, **task}, {**SHAPE, **NUMBERS} if task else SHAPE)
    again = el.build(model.spec)
    assert again.spec == model.spec
    assert {name: array.shape for name, array in again.arrays.items()} == {
        name: array.shape for name, array in model.arrays.items()
    }


def test_numbers_have_their_own_defaults() -> None:
    numbers = settings.read({"family": "forest", **SHAPE, **NUMBERS})
    assert (numbers.rate, numbers.loss, settings.drawn(numbers)) == (3.0, "squared", 16)
    classes = settings.read({"family": "forest", **SHAPE})
    assert (classes.rate, classes.loss, settings.drawn(classes)) == (6.0, None, 9)


@pytest.mark.parametrize("dense", [0, 1, 2, 3, 8, 10, 33, 44, 45, 100])
def test_a_leaf_of_classes_looks_at_twice_the_root_of_the_columns(dense: int) -> None:
    found = settings.drawn(settings.read({"family": "forest", **SHAPE, "dense": dense}))
    assert found == min(max(round(2 * dense**0.5), round(0.3 * dense)), dense)


def test_a_forest_that_an_earlier_version_stored_keeps_its_columns() -> None:
    new, old = (el.build({"family": "forest", **SHAPE, "layout": layout}) for layout in (5, 4))
    assert (new.spec["share"], old.spec["share"]) == ("twice_root", None)
    assert el.build(old.spec).spec == old.spec
    assert [settings.drawn(settings.read(one.spec)) for one in (new, old)] == [9, 6]


def test_a_tree_that_an_earlier_version_stored_keeps_its_prior() -> None:
    for family in ("tree", "forest"):
        new, old = (el.build({"family": family, **SHAPE, "layout": number}) for number in (6, 5))
        assert (new.spec["prior"], old.spec["prior"]) == ("parent", "stream")
        assert el.build(old.spec).spec == old.spec
        assert new.arrays["blocks"].shape[2] > old.arrays["blocks"].shape[2]
    assert el.build({"family": "tree", **SHAPE, **NUMBERS}).spec["prior"] is None


def test_a_tree_shrinks_by_rows_and_not_by_weights() -> None:
    found = [
        settings.kernel_settings(settings.read({"family": family, **SHAPE, "rate": rate}))[layout.SHRINK]
        for family, rate in (("tree", 0.0), ("tree", 6.0), ("forest", 6.0))
    ]
    assert found == [10.0, 60.0, 0.1]


def test_a_default_budget_grows_with_wide_rows() -> None:
    wide = settings.read({"family": "forest", **SHAPE, "dense": 5000})
    assert settings.sizes(wide).blocks == settings.ROOMY
    assert settings.read({"family": "forest", **SHAPE}).memory == settings.MEMORY["forest"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, "classes: got 5; expected 0 for task 'regression'"),
        ({**NUMBERS, "prior": "parent"}, "prior: got 'parent'; expected none for task 'regression'"),
        ({"loss": "squared"}, "loss: got 'squared'; expected none for task 'multiclass'"),
        (
            {**NUMBERS, "loss": "huber"},
            "loss: got 'huber'; expected one of 'squared', 'absolute'",
        ),
        ({**NUMBERS, "loss_parameter": 0.5}, "loss_parameter: got 0.5; expected none for loss 'squared'"),
        ({**NUMBERS, "loss": "quantile", "loss_parameter": 1.0}, "loss_parameter: got 1.0; expected a share between"),
        ({"trees": 3}, "trees: got 3; expected 1 for the family 'tree'"),
        ({"share": 0.5}, "share: got 0.5; expected none for the family 'tree'"),
        ({"family": "forest", "share": 0.0}, "share: got 0.0; expected above 0"),
        ({"family": "forest", "share": "root"}, "share: got 'root'; expected"),
        ({"family": "forest", **NUMBERS, "share": "twice_root"}, "share: got 'twice_root'; expected above 0"),
        ({"memory": 1000}, "memory: got 1000; expected at least"),
        ({"grace": 0.5}, "grace: got 0.5"),
        ({"delta": 1.0}, "delta: got 1.0"),
        ({"rate": 30.0}, "rate: got 30.0"),
        ({"classes": 1}, "classes: got 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"tres": 3}, "tres: unknown setting, got 3; did you mean 'trees'"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_right_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        el.build({"family": "tree", **SHAPE, **change})
    assert message in str(refused.value)
