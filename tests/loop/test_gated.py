"""Gated loops: learners are compared, take the seat and learn on; live loops stop learning after many rollbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.loop.loop import Loop
from everlearn.records import Decision
from everlearn.spec import DriftSpec, GateSpec, Spec
from everlearn.stream import read
from tests.support.loops import bytes_of, record, spec, table
from tests.support.rosters import roles

ROWS = 1500
POSITIONS = ("learner/memory/", "learner/counted/")
QUIET = DriftSpec(detector="none")


def gated(**changes: Any) -> Spec:
    return spec(**({"drift": QUIET} | changes))


def learned(loop: Loop, rows: range, columns: dict[str, Any]) -> None:
    for row in rows:
        loop.learn(record(columns, row), int(columns["label"][row]))


def moves(loop: Loop) -> list[Decision]:
    """The decisions that moved the champion."""
    return [one for one in loop.decisions() if one.alias == "champion"]


def stationary(rows: int) -> dict[str, Any]:
    """A stream whose rule never changes."""
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, rows))
    c = draw.integers(0, 5, rows)
    label = a + 0.5 * b + 0.2 * (c - 2) + 0.3 * draw.normal(size=rows) > 0
    return {"a": a, "b": b, "c": [f"c{value}" for value in c], "label": label.astype(int)}


def test_the_learner_serves_then_a_frozen_copy_then_the_learner_that_was_compared(tmp_path: Path) -> None:
    columns = table(ROWS)
    with Loop(gated(), tmp_path / "home") as loop:
        learned(loop, range(60), columns)
        roster = loop.fold.roster
        assert roles(roster) == {"frozen": moves(loop)[0].version, "champion": moves(loop)[0].version}
        assert roster.champion.learns
        learned(loop, range(60, 120), columns)
        start, first = moves(loop)
        assert (first.action, first.by, first.detail["examples"]) == ("promote", "loop", 100)
        assert loop.home.versions.find(first.version).parents == (start.version,)
        assert set(roles(roster)) == {"champion", "challenger"}
        assert not roster.champion.learns
        learner, served = roster.challenger, roster.champion.model.predict
        row = loop.fold.encoder.records([record(columns, 0)])[0]
        before = served(row).tobytes()
        learned(loop, range(120, 200), columns)
        assert served(row).tobytes() == before
        learned(loop, range(200, ROWS), columns)
        seated = moves(loop)[2]
        assert (seated.action, seated.by) == ("promote", "gate")
        assert seated.previous == first.version
        assert roster.champion is learner  # with its arrays, and it learns on
        assert roster.champion.learns
        assert roster.standing is None


def test_gated_comes_close_to_the_learner_alone(tmp_path: Path) -> None:
    """At least 90 % of the gap between what was learned at first and what the learner knows, once it had 20 minima."""
    columns = table(6000)
    accuracy = {}
    for name, changes in {
        "live": {"mode": "live"},
        "gated": {},
        "snapshots": {"gate": GateSpec(minimum=100, promote="snapshot")},
        "frozen": {"gate": GateSpec(minimum=100, alpha=1e-300)},
    }.items():
        with Loop(gated(**changes), tmp_path / name) as loop:
            report = loop.run(read(columns, schema=loop.spec.schema))
        accuracy[name] = report["metrics"]["champion"]["accuracy"]
    gap = accuracy["live"] - accuracy["frozen"]
    assert gap > 0.1
    assert accuracy["gated"] > accuracy["frozen"] + 0.9 * gap
    assert accuracy["gated"] > accuracy["snapshots"]


@pytest.mark.parametrize("promote", ["learner", "snapshot"])
def test_a_loop_that_is_closed_and_opened_again_comes_to_the_same(tmp_path: Path, promote: Any) -> None:
    columns = table(ROWS)
    chosen = spec(gate=GateSpec(minimum=100, promote=promote))

    def state(loop: Loop) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
        """Everything but positions: a checkpoint, too, takes one in the log."""
        held = {name: value for name, value in bytes_of(loop).items() if not name.startswith(POSITIONS)}
        return held, [(one.action, one.reason) for one in loop.decisions()]

    with Loop(chosen, tmp_path / "one") as loop:
        learned(loop, range(ROWS), columns)
        whole = state(loop)
    for start in range(0, ROWS, 137):
        with Loop(chosen, tmp_path / "two") as loop:
            learned(loop, range(start, min(ROWS, start + 137)), columns)
            again = state(loop)
    assert again == whole
    assert sum(action == "promote" for action, _ in whole[1]) >= 2


def test_a_rolled_back_learner_gives_way_to_a_frozen_version_and_its_copy(tmp_path: Path) -> None:
    columns = stationary(3000)
    with Loop(gated(), tmp_path / "home") as loop:
        learned(loop, range(1500), columns)
        roster = loop.fold.roster
        assert roster.champion.learns
        loop.rollback()
        back = moves(loop)[-1]
        assert back.detail["learns"] is True
        assert (roster.champion.learns, roster.champion.version) == (False, back.version)
        assert roster.challenger.learns
        assert roster.challenger.version == back.version
        learned(loop, range(1500, 1600), columns)
        frozen = loop.home.versions.load(back.version)
        assert {name: array.tobytes() for name, array in roster.champion.model.arrays.items()} == {
            name: array.tobytes() for name, array in frozen.items()
        }


# ---- too many rollbacks ----------------------------------------------------------------------------------------------


def test_a_live_loop_that_rolls_back_again_and_again_stops_learning_in_the_seat(tmp_path: Path) -> None:
    """A model that fails on some rows: each failure is a rollback, and the third one pauses the learning."""
    columns = stationary(2000)
    columns["a"][[900, 950, 1000]] = 100.0
    chosen = gated(mode="live", model={"family": "tests.support.models:Fragile"})
    with Loop(chosen, tmp_path / "home") as loop:
        learned(loop, range(1100), columns)
        back = [one for one in moves(loop) if one.action == "rollback"]
        assert [bool(one.detail.get("paused")) for one in back] == [False, False, True]
        assert "Rollbacks within 10000 labels: 3" in back[-1].reason
        roster = loop.fold.roster
        assert not roster.champion.learns
        assert roster.challenger.learns
        bytes_before = bytes_of(loop)
    with Loop(chosen, tmp_path / "home") as loop:
        assert bytes_of(loop) == bytes_before
        assert loop.fold.roster.rollbacks == []
        version = next(one.version for one in moves(loop) if one.action == "promote")
        loop.promote(version) if version != loop.fold.roster.champion.version else loop.promote(loop.versions()[0].id)
        assert loop.fold.roster.champion.learns  # an order ends the pause
