"""The automatic model: which models it makes, and that a loop with it goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import model
from everlearn.errors import ConfigError
from everlearn.loop.loop import Loop
from everlearn.records import Batch
from everlearn.spec import Schema, Spec

SHAPES: list[dict[str, Any]] = [
    {"task": "binary", "dense": 2},
    {"task": "multiclass", "dense": 2, "hashed": 16, "classes": 3},
    {"task": "regression", "dense": 2},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["task"])
def test_a_stored_spec_names_the_members_and_builds_the_same_model(shape: dict[str, Any]) -> None:
    made = el.build({"family": "auto", **shape, "seed": 5})
    assert made.spec["family"] == "mix"
    assert made.spec["seed"] == 5
    again = model.build(made.spec)
    assert again.spec == made.spec
    assert {name: (one.shape, one.dtype) for name, one in again.arrays.items()} == {
        name: (one.shape, one.dtype) for name, one in made.arrays.items()
    }
    rows = Batch(np.ones((3, 2), np.float32), np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert np.array_equal(made.predict(rows), again.predict(rows))


def test_a_home_of_an_earlier_layout_keeps_the_members_it_had() -> None:
    old, new = (el.build({"family": "auto", **SHAPES[0], "layout": layout}).spec for layout in (4, 5))
    assert (old["patience"], new["patience"]) == (0.0, 25.0)
    assert (old["members"][1]["share"], new["members"][1]["share"]) == (None, "twice_root")
    assert model.build(old).spec == old


def test_the_fast_one_is_the_linear_model() -> None:
    fast = el.build({"family": "auto", "speed": "fast", **SHAPES[0]})
    assert fast.spec == el.build({"family": "linear", **SHAPES[0]}).spec


def test_a_loss_of_numbers_is_that_of_the_members_and_the_mix() -> None:
    made: Any = el.build({"family": "auto", **SHAPES[2], "loss": "quantile", "loss_parameter": 0.9})
    assert [one.get("loss_parameter") for one in made.spec["members"]] == [0.9, 0.9, None]
    assert made.loss == ("pinball", 0.9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": "quick"}, "speed.*quick.*best"),
        ({"members": []}, "members"),
        ({"loss": "huber"}, "loss"),
        ({"loss": "absolute", "task": "binary"}, "loss"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        el.build({"family": "auto", **SHAPES[2], **changes})


def test_a_loop_with_it_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    schema = Schema(label="y", task="binary", classes=(False, True), fields={"a": "numeric", "b": "numeric"})
    settings = Spec(schema=schema, model={"family": "auto"}, mode="live")
    draw = np.random.default_rng(1)
    x = draw.normal(size=(600, 2))
    y = (x[:, 0] * x[:, 1] > 0).tolist()  # no line separates them
    for part in (slice(0, 300), slice(300, 600)):
        with Loop(settings, tmp_path / "halves") as loop:
            loop.learn_many({"a": x[part, 0], "b": x[part, 1], "y": y[part]})
            halves = loop.ready().model.arrays
    with Loop(settings, tmp_path / "whole") as loop:
        loop.learn_many({"a": x[:, 0], "b": x[:, 1], "y": y})
        whole = loop.ready().model.arrays
        assert loop.report()["examples"] == 600
        records = [{"a": a, "b": b} for a, b in x[:100].tolist()]
        right = [loop.predict(one).value == label for one, label in zip(records, y[:100], strict=True)]
    assert np.mean(right) > 0.8
    assert all(np.array_equal(whole[name], halves[name]) for name in whole)
