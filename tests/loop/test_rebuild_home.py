"""A home whose snapshots are lost gets them back from its log, byte for byte, or a reason why it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError, LogError
from everlearn.gate import policy
from everlearn.loop import user_orders
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild_home import rebuild_home
from everlearn.spec import LogSpec
from everlearn.version.blobs import Blobs
from tests.support.homes import HOMES, SPEC, facts, grown, rows, take, unpacked


def test_lost_snapshots_come_back_with_equal_bytes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    expected = grown(home)
    shutil.rmtree(home / "blobs")
    with pytest.raises(Exception, match="snapshot"):
        Loop(SPEC, home)
    done = rebuild_home(home, LogSpec())
    assert (done.rows, done.versions, done.restored) == (0, len(expected[2]), len(expected[2]))
    with Loop(SPEC, home) as loop:
        assert facts(loop) == expected
        loop.learn({"a": -1.0, "c": "c1"}, 0)
        assert loop.log.verify().ok
    assert [path for path in home.iterdir() if path.name.startswith(".")] == []


OLD = ("gated", "live")  # of release 0.1.0; the third home has read a file as well
ADDED = ("learner/metrics/", "roster/metrics/", "waiting/said_")  # what is scored, which changed since


def held(loop: Loop) -> dict[str, bytes]:
    arrays, _ = loop.fold.state()
    return {name: array.tobytes() for name, array in arrays.items() if not name.startswith(ADDED)}


def lose_versions(home: Path, loop: Loop) -> int:
    for blob in {version.blob for version in loop.versions()}:
        Blobs(home / "blobs").remove(blob)
    return len({version.blob for version in loop.versions()})


@pytest.mark.parametrize("name", OLD)
def test_a_home_of_release_0_1_0_is_rebuilt_with_equal_bytes(name: str, tmp_path: Path) -> None:
    home, known = unpacked(name, tmp_path), HOMES[name]
    clock = lambda: known["times"]["opened"]  # noqa: E731
    with el.open(known["spec"], home, clock=clock) as loop:
        before, aliases, lost = held(loop), loop.aliases(), lose_versions(home, loop)
    assert rebuild_home(home, LogSpec()).restored == lost
    with el.open(known["spec"], home, clock=clock) as loop:
        after = held(loop)
        assert {array: after[array] for array in before} == before
        assert loop.aliases() == aliases
        assert all(loop.home.versions.load(version.id) for version in loop.versions())


def test_an_old_home_that_went_on_with_other_settings_is_rebuilt(tmp_path: Path) -> None:
    home, known = unpacked("live", tmp_path), HOMES["live"]
    now = known["times"]["opened"]
    with el.open({**known["spec"], "tick": 20}, home, clock=lambda: now) as loop:
        for number, step in enumerate(known["steps"]):
            now = known["times"]["continued"] + number
            take(loop, known["spec"], step, tmp_path)
        loop.rollback(without={"first": loop.position - 60})
        for step in known["steps"][:60]:
            if step[0] == "learn":
                take(loop, known["spec"], [step[0], "", *step[2:]], tmp_path)
        before, lost = held(loop), lose_versions(home, loop)
    assert rebuild_home(home, LogSpec()).restored == lost
    with el.open({**known["spec"], "tick": 20}, home, clock=lambda: now) as loop:
        assert loop.decisions()[-1].action != "config"
        after = held(loop)
        differ = {array for array in before if after[array] != before[array]}
        assert differ == set()


def test_a_replay_follows_the_decisions_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = unpacked("live", tmp_path)
    monkeypatch.setattr(policy, "decide", lambda view: [])  # a release that never promotes
    assert rebuild_home(home, LogSpec()).versions == 12


def test_a_checkpoint_with_other_models_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = unpacked("live", tmp_path)
    monkeypatch.setattr(user_orders, "joins_again", lambda versions, order: True)  # as 0.1.0 did not
    before = sorted(path.name for path in (home / "blobs").iterdir())
    with pytest.raises(LogError, match=r"(models in its last checkpoint|versions), the first of them .* nothing was"):
        rebuild_home(home, LogSpec())
    assert sorted(path.name for path in (home / "blobs").iterdir()) == before


def written(path: Path, count: int) -> Path:
    lines = [f"{features['a']!r},{features['c']},{label}\n" for features, label in rows(600)[:count]]
    path.write_text("a,c,y\n" + "".join(lines))
    return path


def test_rows_of_a_file_are_read_again_and_a_missing_file_is_named(tmp_path: Path) -> None:
    home, path = tmp_path / "home", written(tmp_path / "rows.csv", 400)
    spec = msgspec.structs.replace(SPEC, source=str(path), warm_start=50)
    with Loop(spec, home) as loop:
        loop.run(str(path))
        expected = facts(loop)
    assert len(expected[2]) > 1
    shutil.rmtree(home / "blobs")
    path.unlink()
    with pytest.raises(InputError, match=rf"{path}: the file is missing, and the first 400 rows .*--source"):
        rebuild_home(home, LogSpec())
    written(path, 300)
    with pytest.raises(InputError, match="got 300 rows; expected the 400"):
        rebuild_home(home, LogSpec())
    written(path, 600)  # it has grown since
    assert rebuild_home(home, LogSpec()).rows == 400
    with Loop(spec, home) as loop:
        assert facts(loop) == expected
        loop.run(str(path))
        assert loop.intake.rows == 600


def test_a_share_as_warm_start_is_that_of_the_first_run(tmp_path: Path) -> None:
    """The file has grown since the first run: the share stays that of its first 300 rows."""
    home, path = tmp_path / "home", tmp_path / "files"
    path.mkdir()
    written(path / "a.csv", 300)
    spec = msgspec.structs.replace(SPEC, source=str(path), warm_start=0.2)
    for count in (300, 450):
        written(path / "a.csv", count)
        with Loop(spec, home) as loop:
            loop.run(str(path))
            expected = facts(loop)
    shutil.rmtree(home / "blobs")
    assert rebuild_home(home, LogSpec()).rows == 450
    with Loop(spec, home) as loop:
        assert facts(loop) == expected
        assert (loop.spec.warm_start, loop.spec.keep) == (0.2, spec.keep)


def test_a_log_that_was_changed_or_mixes_files_and_events_is_refused(tmp_path: Path) -> None:
    home, path = tmp_path / "home", written(tmp_path / "rows.csv", 100)
    with Loop(SPEC, home) as loop:
        loop.run(str(path))
        loop.predict({"a": 1.0, "c": "c1"})
    with pytest.raises(LogError, match="only checkpoints hold their order"):
        rebuild_home(home, LogSpec(), path)


def test_a_replay_with_other_bytes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    grown(home)
    before = {path.name: path.read_bytes() for path in (home / "blobs").iterdir()}
    from everlearn.families.linear.model import Linear

    learn = Linear.learn

    def other(self: Any, batch: Any, y: Any, weight: Any, *more: Any) -> Any:
        return learn(self, batch, y, weight * np.float32(1.25), *more)

    monkeypatch.setattr(Linear, "learn", other)
    with pytest.raises(LogError, match=r"other arrays for \d+ of \d+ versions.*nothing was changed"):
        rebuild_home(home, LogSpec())
    assert {path.name: path.read_bytes() for path in (home / "blobs").iterdir()} == before
