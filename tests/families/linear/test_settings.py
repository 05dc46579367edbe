"""The settings of the linear family: what is refused, completed, and read from stored specs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.families.linear import build
from tests.support.linear_rows import (
    BINARY,
    OPTIMIZERS,
)

QUANTILE = {"task": "regression", "classes": 0, "loss": "quantile"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ranking"}, "ranking"),
        ({"learning_rate": 1.0}, "learning_rate: unknown setting, got 1.0. Known settings: .*rate"),
        ({"optimiser": "sgd"}, "optimiser: unknown setting, got 'sgd'; did you mean 'optimizer'. Known settings: "),
        ({"rate": 0.0}, "rate: got 0.0; expected a finite number above 0"),
        ({"rate": "fast"}, "rate: got 'fast'; expected `float | null`, got `str`"),
        ({"rate": math.nan}, "rate: got nan"),
        ({"l1": -1.0}, "l1: got -1.0; expected a finite number from 0"),
        ({"clip": -1.0, "layout": 1}, "clip: got -1.0; expected a finite number from 0"),
        ({"loss": "squared"}, "loss: got 'squared'; expected one of .'logistic'"),
        ({"optimizer": "adams"}, "optimizer: got 'adams'; expected one of .*'sgd'; did you mean 'adam'"),
        ({"classes": 3}, "classes: got 3; expected 2"),
        ({"dense": -1}, "dense: got -1"),
        ({"hashed": 1 << 33}, "hashed: got"),
        ({"loss_parameter": 0.5}, "loss_parameter: got 0.5; expected none for loss 'logistic'"),
        ({**QUANTILE, "loss_parameter": 1.0}, "loss_parameter: got 1.0; expected a share between 0 and 1"),
        (
            {**QUANTILE, "loss": "huber", "loss_parameter": 0.0},
            "loss_parameter: got 0.0; expected a finite number above",
        ),
        ({"task": "multiclass", "classes": 1}, "classes: got 1; expected at least 2"),
        ({"layout": 7}, "layout: got 7; expected 1 to 6. Open it with the release that wrote it, or a newer one"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**BINARY, "dense": 3, **change})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_spec_is_complete_and_builds_the_same_model(optimizer: str) -> None:
    model = build({**BINARY, "dense": 3, "optimizer": optimizer})
    assert model.spec["rate"] > 0
    assert model.spec["loss"] == "logistic"
    assert build(model.spec).spec == model.spec


# Stored specs of release 0.1, which name settings that are retired now
STORED = {
    "family": "linear",
    "task": "regression",
    "dense": 2,
    "hashed": 0,
    "classes": 0,
    "loss": "squared",
    "quantile": 0.5,
    "delta": 1.0,
    "optimizer": "auto",
    "rate": 0.05,
    "l1": 0.0,
    "l2": 0.0,
    "standardize": True,
    "clip": 100.0,
    "interactions": "none",
    "seed": 0,
}


@pytest.mark.parametrize(
    ("layout", "optimizer"), [(1, "quick"), (2, "quick"), (3, "blend"), (4, "blend"), (5, "blend"), (6, "blend")]
)
@pytest.mark.parametrize("given", [{}, {"optimizer": "auto"}], ids=["left out", "auto"])
def test_a_stored_spec_keeps_the_default_optimizer_of_its_layout(
    given: dict[str, Any], layout: int, optimizer: str
) -> None:
    model = build({**BINARY, "dense": 3, "hashed": 8, **given, "layout": layout})
    assert model.spec["optimizer"] == optimizer
    shapes = {name: array.shape for name, array in model.arrays.items()}
    old = {"weights": (1, 1, 4), "hashed": (8, 1, 2), "moments": (3, 4), "counts": (3,)}
    new = old | {"weights": (2, 1, 4), "hashed": (8, 1, 3), "blend": (8,)}
    assert shapes == (old if layout < 3 else new if layout < 4 else new | {"moments": (9, 4)})
    assert model.spec["forget_bad_stretches"] == (layout >= 4)
    again = build(model.spec)  # a complete spec names no layout, and means the same
    assert {name: array.shape for name, array in again.arrays.items()} == shapes
    assert build({**BINARY, "dense": 3, "optimizer": "blend", "layout": layout}).spec["optimizer"] == "blend"


def test_a_stored_spec_with_defaults_is_that_of_today() -> None:
    assert build(STORED).spec == build({"task": "regression", "dense": 2}).spec
    assert not {"quantile", "delta", "clip", "layout"} & build(STORED).spec.keys()


@pytest.mark.parametrize(("loss", "name"), [("quantile", "quantile"), ("huber", "delta")])
def test_the_parameter_of_a_loss_had_a_name_of_its_own(loss: str, name: str) -> None:
    assert build({**STORED, "loss": loss, name: 0.3}).spec["loss_parameter"] == 0.3


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"clip": 0.0}, "clip: got 0.0; this setting was removed. Leave it out"),
        ({"interactions": "hashed"}, "interactions: got 'hashed'; expected 'none' or 'dense'.*schema.interactions"),
        ({"interactions": "all"}, "interactions: got 'all'; expected 'none' or 'dense'"),
    ],
)
def test_a_retired_value_is_refused_in_a_new_spec_and_kept_in_a_stored_one(change: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigError, match=f"linear model: {advice}"):
        build({**STORED, **change})
    stored = build({**STORED, **change, "layout": 1})
    assert stored.spec.items() >= {**change, "layout": 1}.items()
    assert build(stored.spec).spec == stored.spec
