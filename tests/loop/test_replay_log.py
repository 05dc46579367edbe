"""A log alone is enough: its replay has the arrays of the loop that wrote it, whatever became of its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn.errors import ConfigError, LogError
from everlearn.events import SqliteLog
from everlearn.loop.fold import Fold
from everlearn.loop.loop import Loop
from everlearn.loop.replay_log import replay_log
from everlearn.records import Decision
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, ReplaySpec, Schema, Spec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions

FIRST = Spec(
    schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "c": "categorical"}, bits=8),
    model={"family": "linear"},
    mode="live",
    tick=10,
    checkpoint=70,
    gate=GateSpec(minimum=20, alpha=0.4),
    drift=DriftSpec(detector="page_hinkley", grace_period=50, sensitivity=0.05),
    feedback=FeedbackSpec(window=30.0, default=0),
    limits=LimitsSpec(source=0.5, quarantine=0.99),
)
SECOND = msgspec.structs.replace(FIRST, tick=20, gate=GateSpec(minimum=40, alpha=0.1), subject="user")
THIRD = msgspec.structs.replace(
    SECOND, challengers=3, feedback=FeedbackSpec(window=20.0, default=1, early=50.0), limits=LimitsSpec(clip=0.01)
)


def work(loop: Loop, rows: int, seed: int) -> None:
    """Predict, and judge most predictions; the label turns halfway."""
    draw = np.random.default_rng(seed)
    for row in range(rows):
        a, c = float(draw.normal()), f"c{draw.integers(4)}"
        y = int((a > 0) ^ (row > rows // 2))
        given = loop.predict({"a": a, "c": c}, id=f"{seed}-{row}")
        if row % 3:
            loop.feedback(given.id, label=y, source=f"s{row % 2}")
        if row % 7 == 0:
            loop.learn({"a": -a, "c": c}, 1 - y, id=f"{seed}-e{row}")


def killed(loop: Loop) -> None:
    """Close a loop as a killed process leaves it: what came since its last checkpoint is only in the log."""
    loop.home.close()


def state(fold: Fold) -> tuple[dict[str, bytes], dict[str, Any]]:
    arrays, header = fold.state()
    return {name: array.tobytes() for name, array in arrays.items()}, json.loads(json.dumps(header))


def replayed(home: Path, folder: Path) -> Fold:
    with SqliteLog(home / "log.sqlite") as log:
        return replay_log(log, Versions(Blobs(folder)))


def test_a_loop_killed_and_reopened_with_other_settings_is_the_replay_of_its_log(tmp_path: Path) -> None:
    now = iter(range(1, 10_000))
    home = tmp_path / "home"

    def opened(spec: Spec) -> Loop:
        return Loop(spec, home, clock=lambda: float(next(now)))

    loop = opened(FIRST)
    work(loop, 130, 1)
    loop.challenge({"family": "linear", "optimizer": "sgd", "rate": 0.01})
    work(loop, 45, 2)
    killed(loop)
    loop = opened(SECOND)
    work(loop, 33, 3)
    killed(loop)
    killed(opened(SECOND))  # nothing has changed since
    loop = opened(THIRD)
    work(loop, 150, 4)
    killed(loop)
    with opened(THIRD) as loop:
        kept = state(loop.fold)
        settings = [one for one in loop.decisions() if one.action == "config"]
        versions = [one.id for one in loop.versions()]
    assert [one.reason for one in settings] == [
        "settings changed: tick, subject, gate",
        "settings changed: challengers, feedback, limits",
    ]
    again = replayed(home, tmp_path / "replayed")
    assert again.spec == loop.spec
    assert again.spec.feedback == THIRD.feedback
    arrays, header = state(again)
    assert header["roster"] == kept[1]["roster"], (header["roster"], kept[1]["roster"])
    assert header == kept[1]
    assert arrays == kept[0]
    assert len(versions) > 1


def test_a_change_applies_behind_what_the_log_held_before_it(tmp_path: Path) -> None:
    """Events beyond the last checkpoint are folded with the settings they came under."""
    plain = msgspec.structs.replace(FIRST, checkpoint=10_000)
    home = tmp_path / "home"
    loop = Loop(plain, home, clock=lambda: 1.0)
    work(loop, 40, 1)
    expected = state(loop.fold)
    killed(loop)
    with Loop(msgspec.structs.replace(plain, limits=LimitsSpec(weight=0.5)), home, clock=lambda: 2.0) as loop:
        weights = {name: one for name, one in state(loop.fold)[0].items() if name.endswith("weights")}
        assert weights
        assert weights == {name: expected[0][name] for name in weights}
        assert loop.decisions()[-1].action == "config"
        assert loop.fold.spec.limits.weight == 0.5


def champions(loop: Loop) -> tuple[str, bool, str]:
    """The version in the seat, whether it learns there, and the good version."""
    roster = loop.fold.roster
    return roster.champion.version, roster.champion.learns, roster.good.version if roster.good else ""


def test_the_mode_of_a_loop_changes_and_changes_back(tmp_path: Path) -> None:
    """Live to gated: the champion is stored and serves frozen, and learns on beside it. Back: that takes the seat."""
    home, times = tmp_path / "home", iter(range(1, 10_000))
    live = msgspec.structs.replace(FIRST, gate=GateSpec(minimum=20, alpha=1e-9), drift=DriftSpec(detector="none"))
    gated = msgspec.structs.replace(live, mode="gated")

    def opened(spec: Spec) -> Loop:
        return Loop(spec, home, clock=lambda: float(next(times)))

    with opened(live) as loop:
        work(loop, 120, 1)
        before, learns, good = champions(loop)
        arrays = loop.fold.roster.champion.model.arrays["weights"].copy()
        assert learns
    with opened(gated) as loop:
        frozen, learns, still = champions(loop)
        assert (frozen != before, learns, still) == (True, False, good)
        assert loop.fold.roster.challenger.learns
        assert np.array_equal(loop.home.versions.load(frozen)["weights"], arrays)
        work(loop, 30, 2)
        assert np.array_equal(loop.fold.roster.champion.model.arrays["weights"], arrays)
        learned = loop.fold.roster.challenger.model.arrays["weights"].copy()
        assert not np.array_equal(learned, arrays)
    loop = opened(live)
    _, learns, good = champions(loop)
    assert (learns, good) == (True, frozen)
    assert np.array_equal(loop.fold.roster.champion.model.arrays["weights"], learned)
    assert not loop.fold.roster.challengers
    work(loop, 30, 3)
    killed(loop)
    with opened(live) as loop:
        kept = state(loop.fold)
        moved = [one.reason for one in loop.decisions() if "the settings changed" in one.reason]
    assert moved == [
        'the settings changed to mode = "gated", gate.promote = "learner"',
        'the settings changed to mode = "live"',
    ]
    assert state(replayed(home, tmp_path / "replayed")) == kept


def test_a_gated_loop_may_begin_and_end_to_promote_snapshots_only(tmp_path: Path) -> None:
    learners = msgspec.structs.replace(FIRST, mode="gated", drift=DriftSpec(detector="none"))
    snapshots = msgspec.structs.replace(learners, gate=GateSpec(minimum=20, alpha=0.4, promote="snapshot"))
    with Loop(learners, tmp_path / "home", clock=lambda: 1.0) as loop:
        work(loop, 60, 1)
        version = loop.challenge({"family": "linear", "rate": 0.2}, warm=False).id
        loop.promote(version)
        assert champions(loop)[1]
    with Loop(snapshots, tmp_path / "home", clock=lambda: 2.0) as loop:
        assert not champions(loop)[1]
        work(loop, 60, 2)
        assert any(one.snapshot is not None for one in loop.fold.roster.challengers)
        assert not champions(loop)[1]
    with Loop(learners, tmp_path / "home", clock=lambda: 3.0) as loop:
        assert all(one.snapshot is None for one in loop.fold.roster.challengers)
        work(loop, 60, 3)
        kept = state(loop.fold)
    assert state(replayed(tmp_path / "home", tmp_path / "replayed")) == kept


def test_a_champion_that_cannot_be_copied_goes_back_before_the_mode_changes(tmp_path: Path) -> None:
    live = msgspec.structs.replace(
        FIRST,
        model={"family": "tests.support.models:Uncopied"},
        warm_start=20.0,
        gate=GateSpec(minimum=1_000_000),
        drift=DriftSpec(detector="none"),
    )
    gated = msgspec.structs.replace(live, mode="gated")
    with Loop(live, tmp_path / "home", clock=lambda: 1.0) as loop:
        for row in range(80):
            loop.learn({"a": 1.0, "c": "x"}, row % 2, id=str(row))
        assert loop.fold.roster.champion.model.arrays["count"] == 80
    with Loop(gated, tmp_path / "home", clock=lambda: 2.0) as loop:
        assert [one.action for one in loop.decisions()[-4:]] == ["config", "withdraw", "rollback", "promote"]
        assert not champions(loop)[1]
        assert loop.fold.roster.challenger.learns
        assert loop.fold.roster.champion.model.arrays["count"] == 20
        kept = state(loop.fold)
    with Loop(gated, tmp_path / "home", clock=lambda: 3.0) as loop:
        assert state(loop.fold) == kept


def test_what_may_be_promoted_means_nothing_to_a_live_loop_that_is_paused(tmp_path: Path) -> None:
    """After three rollbacks what serves is frozen; another `gate.promote` does not let it learn again."""
    fragile = msgspec.structs.replace(
        FIRST,
        model={"family": "tests.support.models:Fragile"},
        warm_start=20.0,
        gate=GateSpec(minimum=1_000_000),
        drift=DriftSpec(detector="none"),
    )
    other = msgspec.structs.replace(fragile, gate=GateSpec(minimum=1_000_000, promote="snapshot"))
    with Loop(fragile, tmp_path / "home", clock=lambda: 1.0) as loop:
        for row in range(90):
            loop.learn({"a": 100.0 if row in (30, 50, 70) else 1.0, "c": "x"}, row % 2, id=str(row))
        paused = champions(loop)
        assert not paused[1]
    with Loop(other, tmp_path / "home", clock=lambda: 2.0) as loop:
        assert champions(loop) == paused


def test_detectors_and_the_replay_memory_change_and_keep_the_newest_rows(tmp_path: Path) -> None:
    plain = msgspec.structs.replace(FIRST, replay=ReplaySpec(kind="window", bytes=40_000))
    other = msgspec.structs.replace(
        plain, drift=DriftSpec(detector="adwin", watch="inputs"), replay=ReplaySpec(kind="window", bytes=1_500)
    )
    with Loop(plain, tmp_path / "home", clock=lambda: 1.0) as loop:
        work(loop, 100, 1)
        before = loop.fold.monitor.remembered()
    with Loop(other, tmp_path / "home", clock=lambda: 2.0) as loop:
        after = loop.fold.monitor.remembered()
        assert 0 < len(after.y) < len(before.y)
        assert np.array_equal(after.position, before.position[-len(after.y) :])
        work(loop, 100, 2)
        assert loop.status()["drift"]["detector"] == "adwin"
        kept = state(loop.fold)
    assert state(replayed(tmp_path / "home", tmp_path / "replayed")) == kept


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": {"family": "linear", "rate": 0.5}}, r"model was .* cannot change: .*loop\.challenge"),
        ({"seed": 3}, r"seed was 0, is now 3, and cannot change: .* Start another home"),
        ({"class_weight": {"0": 2.0}}, r"class_weight was .* cannot change: .*everlearn run"),
    ],
)
def test_what_cannot_change_says_why_and_the_way_to_it(changed: dict[str, Any], why: str, tmp_path: Path) -> None:
    with Loop(FIRST, tmp_path / "home") as loop:
        work(loop, 20, 1)
    with pytest.raises(ConfigError, match=why):
        Loop(msgspec.structs.replace(FIRST, **changed), tmp_path / "home")


def test_the_first_decision_and_each_change_hold_all_settings(tmp_path: Path) -> None:
    with Loop(FIRST, tmp_path / "home") as loop:
        work(loop, 20, 1)
    with Loop(SECOND, tmp_path / "home") as loop:
        start, change = loop.decisions()[0], loop.decisions()[-1]
    assert start.action == "start"
    assert start.detail["spec"]["tick"] == 10
    assert start.detail["spec"]["serve"]["port"] == 8000
    assert change.action == "config"
    assert (change.detail["tick"], change.detail["spec"]["tick"]) == (20, 20)
    assert change.detail["spec"]["format"] == start.detail["spec"]["format"] == 1


def test_settings_that_cannot_work_are_refused_and_not_logged(tmp_path: Path) -> None:
    with Loop(FIRST, tmp_path / "home") as loop:
        work(loop, 20, 1)
        end = loop.log.end()
    wrong = msgspec.structs.replace(FIRST, gate=GateSpec(guards={"recall:7": 0.5}))
    with pytest.raises(ConfigError, match="expected 'recall:CLASS'"):
        Loop(wrong, tmp_path / "home")
    with Loop(FIRST, tmp_path / "home") as loop:
        assert not any(one.action == "config" for one in loop.decisions())
        assert loop.log.end() <= end + 1  # the checkpoint of closing


def test_a_log_without_settings_cannot_be_replayed(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([Decision("start", 0, "untrained start", "loop", "champion", "v")])
        with pytest.raises(LogError, match="the log's first decision: got no settings"):
            replay_log(log, Versions(Blobs(tmp_path / "blobs")))
