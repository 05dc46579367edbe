"""Networks in the loop: they learn in shadow and live, and go on after a kill as if it had not been."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ModelError
from everlearn.families.neural.terms.replay import Replay
from everlearn.loop.loop import Loop
from everlearn.spec import DriftSpec, GateSpec, Schema
from tests.support.kills import check, rows_work
from tests.support.loops import FIELDS, bytes_of, record, spec, table
from tests.support.neural_nets import HERE, one_thread  # noqa: F401  (one_thread)
from tests.support.orders import quiet, serve, state
from tests.support.rosters import with_role

MODEL: dict[str, Any] = {
    "family": "neural",
    "arguments": {"hidden": [8]},
    "width": 2,
    "ema": 0.9,
    "optimizer": {"name": "adam", "lr": 0.02},
    "memory": {"rows": 40},
    "terms": [{"kind": "replay"}],
}

EWC: dict[str, Any] = {
    "ema": 0.9,
    "normalize": False,
    "terms": [{"kind": "ewc", "strength": 1.0}],
    "consolidate": {"every": 200, "rows": 64},
}


def fed(loop: Loop, columns: dict[str, Any], start: int, stop: int) -> list[Any]:
    """Ask for answers, and tell the labels."""
    said = []
    for row in range(start, stop):
        answer = loop.predict(record(columns, row), id=f"row-{row}")
        loop.feedback(answer.id, label=int(columns["label"][row]))
        said.append(answer.proba)
    return said


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_loop_that_was_killed_has_the_bytes_of_one_that_was_not(tmp_path: Path, mode: str) -> None:
    settings = spec(mode=mode, model=MODEL, gate=GateSpec(minimum=50), tick=10, checkpoint=50)
    columns = table(260)
    with Loop(settings, tmp_path / "home") as loop:
        fed(loop, columns, 0, 123)
        shutil.copytree(
            tmp_path / "home", tmp_path / "killed"
        )  # what a kill leaves behind, in the midst of a minibatch
        said = fed(loop, columns, 123, 200)
        expected, served = bytes_of(loop), loop.report()["examples"]
    with Loop(settings, tmp_path / "killed") as loop:
        assert fed(loop, columns, 123, 200) == said
        assert {name: one for name, one in bytes_of(loop).items() if name != "waiting/time"} == {
            name: one for name, one in expected.items() if name != "waiting/time"
        }
        assert loop.report()["examples"] == served == 200


@pytest.mark.parametrize("family", ["neural", HERE + "perceptron"])
def test_a_network_is_promoted_and_killed_and_goes_on(tmp_path: Path, family: str) -> None:
    fields = FIELDS if family == "neural" else {name: kind for name, kind in FIELDS.items() if kind == "numeric"}
    quick = {
        "batch": 4,
        "ema": 0.8,
        "optimizer": {"name": "adam", "lr": 0.05},
        "memory": {"kind": "window", "rows": 40},
    }
    arguments = {"hidden": [8]} if family == "neural" else {"hidden": 8}
    settings = spec(
        schema=Schema(label="label", task="binary", classes=(0, 1), fields=fields, bits=10),
        model={**MODEL, **quick, "family": family, "arguments": arguments},
        drift=DriftSpec(detector="none"),
        gate=GateSpec(minimum=50),
    )
    columns = {name: one for name, one in table(900).items() if name in (*fields, "label")}
    check(rows_work(settings, columns), tmp_path, settings, kills=2)


def test_a_live_network_answers_with_what_it_learned(tmp_path: Path) -> None:
    columns = table(300)
    with Loop(spec(mode="live", model=MODEL), tmp_path / "home") as loop:
        first = fed(loop, columns, 0, 30)
        assert first[0] == (0.5, 0.5)
        assert first[-1] != first[0]
        assert set(FIELDS) == {"a", "b", "c"}


def test_a_spec_with_tuples_is_the_same_when_the_loop_is_opened_again(tmp_path: Path) -> None:
    settings = spec(model={**MODEL, "arguments": {"hidden": (8, 4)}, "terms": ({"kind": "replay"},)})
    for start in (0, 20):
        with Loop(settings, tmp_path / "home") as loop:
            fed(loop, table(40), start, start + 20)
            assert "config" not in [one.action for one in loop.decisions()]
            assert {str(one.spec["arguments"]) for one in loop.versions()} == {"{'hidden': [8, 4]}"}


def test_a_spec_that_cannot_be_read_back_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model's spec cannot be stored: .*Replay"):
        Loop(spec(model={**MODEL, "terms": (Replay(),)}), tmp_path / "home")


def test_merged_networks_challenge_and_go_on_after_a_restart(tmp_path: Path):
    network = {"family": "neural", "arguments": {"hidden": [8]}, **EWC}
    columns = table(500)
    with Loop(quiet(challengers=4, model=network), tmp_path / "home") as loop:
        serve(loop, columns, 0, 30)
        one, other = loop.challenge(network), loop.challenge(network, warm=False)
        serve(loop, columns, 30, 450)
        made = loop.merge(one.id, other.id, "fisher", weights=(0.5, 0.5))
        assert [loop.home.versions.find(parent).parents for parent in made.parents] == [(one.id,), (other.id,)]
        (shadow,) = with_role(loop.fold.roster, "shadow")
        assert shadow is not None
        assert shadow.version == made.id
        serve(loop, columns, 450, 480)
        expected = state(loop)
    with Loop(quiet(challengers=4, model=network), tmp_path / "home") as loop:
        assert state(loop) == expected
