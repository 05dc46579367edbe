"""A home whose snapshots are lost gets them back from its log, byte for byte, or a reason why it cannot."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError, LogError
from everlearn.events import SqliteLog, scan
from everlearn.gate import policy
from everlearn.loop import user_orders
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild_home import rebuild_home
from everlearn.records import Born
from everlearn.spec import DriftSpec, LimitsSpec, LogSpec, Spec
from everlearn.version.blobs import Blobs
from tests.support.homes import HOMES, SPEC, facts, grown, rows, take, unpacked
from tests.support.interleaved import KINDS, Traffic, erased, mixed, models


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


OLD = ("gated", "live")  # of release 0.1.0; the third home has read a file as well, see below
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


# ---- rows of files between events ----------------------------------------------------------------------------------


def check_mixed(kind: str, folder: Path, seed: int) -> int:
    traffic = mixed(kind, folder, seed)
    expected, taken = facts(traffic.loop), traffic.loop.intake.rows
    traffic.loop.close()
    for lost in ("all", "versions"):
        home = shutil.copytree(traffic.home, folder / lost)
        for blob in [path for path in (home / "blobs").iterdir() if lost == "all" or path.stem in blobs_of(home)]:
            blob.unlink()
        assert rebuild_home(home, LogSpec()).rows == taken
        with Loop(traffic.spec, home) as loop:
            assert facts(loop) == expected
    return taken


def blobs_of(home: Path) -> set[str]:
    with SqliteLog(home / "log.sqlite") as log:
        born = [event.payload for event in scan(log, kinds=("version",))]
    return {one.version.blob for one in born if isinstance(one, Born)}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_between_events_come_back_with_equal_bytes(kind: str, tmp_path: Path) -> None:
    for seed in (3, 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert check_mixed(kind, folder, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_plans_of_rows_between_events(kind: str, tmp_path: Path) -> None:
    for seed in range(100, 120):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_mixed(kind, folder, seed)


def test_the_home_of_release_0_1_0_that_has_read_a_file_is_rebuilt(tmp_path: Path) -> None:
    home, known = unpacked("regression", tmp_path), HOMES["regression"]
    now = known["times"]["opened"]
    with el.open(known["spec"], home, clock=lambda: now) as loop:
        for number, step in enumerate(known["steps"]):  # the file is read on between events
            now = known["times"]["continued"] + number
            take(loop, known["spec"], step, tmp_path)
        before, aliases, lost = held(loop), loop.aliases(), lose_versions(home, loop)
    with pytest.raises(InputError, match=r"the file is missing, and the first 150 rows of it"):
        rebuild_home(home, LogSpec())
    done = rebuild_home(home, LogSpec(), tmp_path / "rows.csv")
    assert (done.rows, done.restored) == (150, lost)
    with el.open(known["spec"], home, clock=lambda: now) as loop:
        after = held(loop)
        assert {array for array in before if after[array] != before[array]} == set()
        assert loop.aliases() == aliases


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_two_files_are_read_again_in_the_order_in_which_the_loop_read_them(names: str, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "files"
    folder.mkdir()
    with Loop(SPEC, home) as loop:
        for number, name in enumerate(names):
            lines = written(folder / f"{name}.csv", 300).read_text().splitlines(keepends=True)
            (folder / f"{name}.csv").write_text("".join([lines[0], *lines[1 + 90 * number : 91 + 90 * number]]))
            loop.run(str(folder / f"{name}.csv"))
            for features, label in rows(600)[300 + 50 * number : 350 + 50 * number]:
                loop.learn(features, label)
        expected = facts(loop)
    shutil.rmtree(home / "blobs")
    assert rebuild_home(home, LogSpec(), folder).rows == 180
    with Loop(SPEC, home) as loop:
        assert facts(loop) == expected


# ---- after an erasure ----------------------------------------------------------------------------------------------


def check_erased(kind: str, folder: Path, seed: int) -> Traffic:
    traffic = erased(kind, folder, seed)
    expected = models(traffic.loop)
    traffic.loop.close()
    assert traffic.erased
    shutil.rmtree(traffic.home / "blobs")
    done = rebuild_home(traffic.home, LogSpec())
    assert done.erased
    with Loop(traffic.spec, traffic.home) as loop:
        got = models(loop)
        assert {name for name in expected[0] if got[0].get(name) != expected[0][name]} == set()
        assert {id for id in expected[1] if got[1].get(id) != expected[1][id]} == set()
        assert got[2] == expected[2]
        loop.learn({"a": 1.0, "c": "c1", "user": "person-x"}, 1)
        assert loop.log.verify().ok
    for path in traffic.home.rglob("*"):
        assert not path.is_file() or not any(one.encode() in path.read_bytes() for one in traffic.erased)
    return traffic


@pytest.mark.parametrize("kind", ["live", "gated", "snapshot", "reset", "rate"])
def test_what_was_learned_without_the_erased_comes_back_with_equal_bytes(kind: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_erased(kind, folder, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "gated", "snapshot", "reset", "rate"])
def test_many_plans_with_erasures(kind: str, tmp_path: Path) -> None:
    for seed in range(100, 120):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_erased(kind, folder, seed)


PERSON = {"user": "person-3-quux"}


def with_person(home: Path, spec: Spec, count: int = 200) -> None:
    """Learn rows, every seventh of them of one person, and erase that person."""
    with Loop(spec, home) as loop:
        for number, (features, label) in enumerate(rows(count)):
            loop.learn(features | {"user": PERSON["user"] if number % 7 == 3 else "another"}, label)
    erase(home, spec, PERSON, "asked by mail")


def test_a_last_checkpoint_that_is_whole_stays_after_an_erasure(tmp_path: Path) -> None:
    """It has counted the erased rows: what is made again counts fewer."""
    home, spec = tmp_path / "home", msgspec.structs.replace(SPEC, subject="user")
    with_person(home, spec)
    with Loop(spec, home) as loop:
        expected, arrays = models(loop), loop.fold.state()[0]
        lose_versions(home, loop)
        known = len(loop.versions())
        counted = loop.report()["metrics"]["champion"]["examples"]
    done = rebuild_home(home, LogSpec())
    assert (done.restored, done.erased, done.versions) == (len(expected[1]), 29, known)
    assert 0 < done.forgotten == known - len(expected[1])
    with Loop(spec, home) as loop:
        assert models(loop) == expected
        assert {name: array.tobytes() for name, array in loop.fold.state()[0].items()} == {
            name: array.tobytes() for name, array in arrays.items()
        }
    shutil.rmtree(home / "blobs")
    rebuild_home(home, LogSpec())
    with Loop(spec, home) as loop:
        assert models(loop) == expected
        assert loop.report()["metrics"]["champion"]["examples"] == counted - 29


def test_an_erasure_removes_what_a_killed_rebuild_left(tmp_path: Path) -> None:
    home, spec = tmp_path / "home", msgspec.structs.replace(SPEC, subject="user")
    left = home / ".rebuild-killed" / "0"
    left.mkdir(parents=True)
    (left / "array").write_text("person-3-quux")
    with_person(home, spec)
    assert list(home.glob(".rebuild-*")) == []


def test_an_erasure_behind_rows_of_a_file_is_followed(tmp_path: Path) -> None:
    """Rows, events of a person, an erasure, rows, and events: nothing that learned rows had learned the person."""
    home, path = tmp_path / "home", written(tmp_path / "rows.csv", 100)
    spec = msgspec.structs.replace(SPEC, source=str(path), challengers=5, drift=DriftSpec(detector="none"))
    with Loop(spec, home) as loop:
        loop.run(str(path))
        for features, label in rows(300)[100:160]:
            loop.learn(features, label)
        loop.challenge({"family": "linear", "optimizer": "sgd", "rate": 0.01}, warm=False)
        clean = loop.name("champion", "clean").id
        loop.promote("challenger")
        for number, (features, label) in enumerate(rows(300)[160:200]):
            loop.learn({"a": features["a"], "c": "erased" if number % 5 == 0 else "c1"}, label)
    erase(home, spec, {"c": "erased"}, "asked by mail")
    written(path, 150)
    with Loop(spec, home) as loop:
        for features, label in rows(300)[200:230]:
            loop.learn(features, label)
        loop.run(str(path))
        for features, label in rows(300)[230:260]:
            loop.learn(features, label)
        loop.promote(clean)
        expected = models(loop)
    shutil.rmtree(home / "blobs")
    done = rebuild_home(home, LogSpec())
    assert (done.rows, done.erased) == (150, 8)
    with Loop(spec, home) as loop:
        got = models(loop)
        assert {name for name in expected[0] if got[0].get(name) != expected[0][name]} == set()
        assert {id for id in expected[1] if got[1].get(id) != expected[1][id]} == set()


def test_a_challenger_of_remembered_rows_that_were_clipped_keeps_its_arrays_or_is_named(tmp_path: Path) -> None:
    """The ranges to which remembered rows were clipped had learned the erased rows, so no replay can clip them so."""
    home = tmp_path / "home"
    spec = msgspec.structs.replace(SPEC, subject="user", limits=LimitsSpec(clip=0.05))
    with_person(home, spec)
    with Loop(spec, home) as loop:
        started = loop.challenge({"family": "linear", "optimizer": "sgd", "rate": 0.01})
        for features, label in rows(300)[200:]:
            loop.learn(features, label)
        expected = models(loop)
        for version in loop.versions():
            if version.id != started.id:
                Blobs(home / "blobs").remove(version.blob)
    rebuild_home(home, LogSpec())
    with Loop(spec, home) as loop:
        assert models(loop) == expected
    shutil.rmtree(home / "blobs")
    with pytest.raises(LogError, match=rf"first of them {started.id}; .*Version {started.id} learned remembered rows"):
        rebuild_home(home, LogSpec())


def test_erased_rows_of_a_file_are_not_taken_again(tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "rows.csv"
    spec = msgspec.structs.replace(SPEC, subject="user", source=str(path))

    def write(count: int) -> None:
        given = [(record, label, "last" if row == 119 else "user") for row, (record, label) in enumerate(rows(count))]
        path.write_text("a,c,y,user\n" + "".join(f"{one['a']!r},{one['c']},{y},{user}\n" for one, y, user in given))

    write(120)
    with Loop(spec, home) as loop:
        loop.run(str(path))
    erase(home, spec, {"user": "last"}, "asked by mail")  # the last row: no row behind it is in the log
    shutil.rmtree(home / "blobs")
    rebuild_home(home, LogSpec())
    write(130)
    with Loop(spec, home) as loop:
        loop.run(str(path))
        assert loop.log.count("example") == 130  # the tombstone counts
    assert b"last" not in b"".join(file.read_bytes() for file in home.glob("log.sqlite*"))


def test_a_rebuild_that_is_killed_leaves_the_home_as_it_was(tmp_path: Path) -> None:
    traffic = mixed("live", tmp_path, 3)
    expected = facts(traffic.loop)
    traffic.loop.close()
    shutil.rmtree(traffic.home / "blobs")
    (traffic.home / "blobs").mkdir()
    before = {path.name: path.read_bytes() for path in traffic.home.rglob("*") if path.is_file()}
    code = f"""
        import os, signal
        from pathlib import Path
        from everlearn.loop import rebuild_home
        from everlearn.spec import DriftSpec, LimitsSpec, LogSpec, Spec
        check = rebuild_home._check_same
        def killed(*given):
            check(*given)
            os.kill(os.getpid(), signal.SIGKILL)
        rebuild_home._check_same = killed
        rebuild_home.rebuild_home(Path({str(traffic.home)!r}), LogSpec())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in traffic.home.rglob("*") if path.is_file()}
    assert {name: left.get(name) for name in before} == before
    assert list((traffic.home / "blobs").iterdir()) == []
    assert list(traffic.home.glob(".rebuild-*"))
    rebuild_home(traffic.home, LogSpec())
    assert list(traffic.home.glob(".rebuild-*")) == []
    with Loop(traffic.spec, traffic.home) as loop:
        assert facts(loop) == expected
