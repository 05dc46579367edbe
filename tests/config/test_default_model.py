"""The model of a loop whose settings name none: of a new home, of one that goes on, and of one of release 0.1.0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import everlearn as el
from everlearn import config, model
from everlearn.config import default_model
from everlearn.errors import ConfigError
from everlearn.loop import commands
from everlearn.loop.upgrade import differences
from everlearn.schema import shape
from everlearn.spec import Schema, Spec
from tests.support.bandits import schema as bandit_schema
from tests.support.homes import HOMES, unpacked
from tests.support.pairs import schema as pair_schema

FIELDS = {"a": "numeric"}
SCHEMA: dict[str, Any] = {"label": "y", "task": "binary", "classes": [0, 1], "fields": FIELDS}
UNNAMED: dict[str, Any] = {"l2": 0.5}
AUTO, FAST = {"family": "auto"}, {"family": "auto", "speed": "fast"}


def of_new_home(schema: Schema, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    spec = Spec(schema=schema, model=dict(given or {}))
    return default_model.completed(spec, shape(schema)).model


def classes(count: int) -> Schema:
    return Schema(label="y", task="multiclass", classes=tuple(range(count)), fields=FIELDS)


def columns(count: int) -> Schema:
    return Schema(label="y", task="regression", fields={"v": f"vector[{count}]"})


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (Schema(**{**SCHEMA, "classes": (0, 1)}), AUTO),
        (classes(300), AUTO),
        (classes(301), FAST),
        (columns(1000), AUTO),
        (columns(1001), FAST),
        (bandit_schema(), {"family": "bandit"}),
    ],
)
def test_a_new_home_has_the_model_of_its_task_and_its_rows(schema: Schema, expected: dict[str, Any]) -> None:
    assert of_new_home(schema) == expected


def test_a_model_without_a_family_is_automatic_and_a_named_one_stays() -> None:
    schema = classes(3)
    assert of_new_home(schema, {"speed": "fast"}) == FAST
    assert of_new_home(schema, {"family": "linear"}) == {"family": "linear"}
    assert el.build({"task": "binary", "dense": 2}).spec["family"] == "mix"


def test_preferences_need_a_language_model() -> None:
    with pytest.raises(ConfigError, match="model: missing.*language model"):
        of_new_home(pair_schema())


def test_a_home_keeps_its_model_where_the_settings_name_none(tmp_path: Path) -> None:
    """Also one that another release would not choose; a file that names another one is refused."""
    for number, given in enumerate(({"family": "linear", "l2": 0.5}, None)):
        home, named = tmp_path / str(number), {"model": given} if given else {}
        with el.open({"schema": SCHEMA, **named}, home) as loop:
            loop.learn({"a": 1.0}, 1)
            first = loop.spec.model
        with el.open({"schema": SCHEMA}, home) as loop:
            assert loop.spec.model == first == (given or AUTO)
            assert [made.action for made in loop.decisions()].count("config") == 0
            champion = loop.served
        assert champion is not None
        assert champion.model.spec["family"] == ("linear" if given else "mix")
    with pytest.raises(ConfigError, match="model was .*linear.*, is now .*forest"):
        el.open({"schema": SCHEMA, "model": {"family": "forest"}}, tmp_path / "0")


@pytest.mark.parametrize("name", HOMES)
def test_a_home_of_release_0_1_0_keeps_its_model_where_the_file_names_none(name: str, tmp_path: Path) -> None:
    """`tests/loop/test_old_homes.py` goes on with these homes; in two of them the file never named a model."""
    file = {name: value for name, value in HOMES[name]["spec"].items() if name != "model"}
    before = {"family": "linear", **HOMES[name]["spec"].get("model", {})}
    home = unpacked(name, tmp_path)
    with el.open(file, home) as loop:
        assert loop.spec.model == {**before, "layout": 1}
        arrays = {name: array.tobytes() for name, array in loop.fold.state()[0].items()}
    found = {one.setting: one for one in differences(home, config.convert(file, folder=home))}
    assert (found["model"].home, found["model"].new, found["model"].then) == ({**before, "layout": 1}, AUTO, "kept")
    with el.open({**file, "model": before}, home) as loop:
        assert {name: array.tobytes() for name, array in loop.fold.state()[0].items()} == arrays
        assert loop.fold.roster.champion.model.spec["family"] == "linear"


def test_a_stored_spec_without_a_family_is_linear(tmp_path: Path) -> None:
    """Release 0.1.0 stored the table `[model]` as it was written, in settings, versions and orders."""
    with el.open({"schema": SCHEMA, "model": {"family": "linear"}}, tmp_path / "home") as loop:
        loop.learn({"a": 1.0}, 1)
        loop.challenge({"speed": "fast"})
        order = next(made for made in loop.decisions() if made.action == "order")
        assert order.detail["model"] == FAST
        assert commands.build(loop.spec, UNNAMED).spec["family"] == "linear"
    held = config.stored(Spec(schema=classes(2))) | {"model": UNNAMED}
    assert config.read_stored(held, "home").model == {"family": "linear", "l2": 0.5, "layout": 1}
    now = config.resumed(config.read_stored(held, "home"), Spec(schema=classes(2), model=UNNAMED))
    assert now.model == {"family": "linear", "l2": 0.5, "layout": 1}
    inner: Any = model.build({"family": "mix", "members": [UNNAMED], "task": "binary", "dense": 1})
    assert inner.spec["members"][0]["family"] == "linear"
    gated: Any = model.build({"family": "gated", "model": UNNAMED, "task": "binary", "dense": 1})
    assert gated.spec["model"]["family"] == "linear"
