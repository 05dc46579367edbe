"""A copy of a home, made while the loop goes on, opens as the loop was at one moment."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

import everlearn as el
from everlearn.errors import ConfigError, InputError
from everlearn.loop.backup import backup
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild_home import rebuild_home
from everlearn.spec import LogSpec
from tests.support.homes import HOMES, SPEC, facts, grown, rows, unpacked


def test_a_copy_is_the_loop(tmp_path: Path) -> None:
    home, to = tmp_path / "home", tmp_path / "copy"
    expected = grown(home)
    (home / "tokens.json").write_text("{}")
    os.umask(umask := os.umask(0o022))
    assert umask != 0o777
    done = backup(home, to)
    assert (done.versions, done.kept) == (len(expected[2]), len(expected[2]))
    with Loop(SPEC, home) as loop:
        loop.learn({"a": 1.0, "c": "c1"}, 1)
        assert loop.position > done.position
    for path in (to, *to.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    shutil.rmtree(home)
    shutil.copytree(to, home)
    with Loop(SPEC, home) as loop:
        assert loop.position == done.position
        assert facts(loop) == expected
    with pytest.raises(ConfigError, match="expected an empty folder"):
        backup(home, to)
    with pytest.raises(ConfigError, match="holds no loop"):
        backup(tmp_path / "nothing", tmp_path / "other")


def test_copies_made_while_a_loop_learns_all_open(tmp_path: Path) -> None:
    home, over = tmp_path / "home", threading.Event()
    with Loop(SPEC, home) as loop:
        loop.learn({"a": 1.0, "c": "c1"}, 1)
    copied: list[Path] = []

    def copy() -> None:
        while not over.is_set() or not copied:
            to = tmp_path / f"copy-{len(copied)}"
            backup(home, to)
            copied.append(to)
            over.wait(0.2)

    thread = threading.Thread(target=copy)
    with Loop(SPEC, home) as loop:
        thread.start()
        for features, label in rows(160):
            loop.learn(features, label)
        over.set()
        thread.join()
        whole = facts(loop)
    for to in (copied[0], copied[-1]):
        with Loop(SPEC, to) as loop:
            for features, label in rows(160)[loop.log.count("example") - 1 :]:
                loop.learn(features, label)
            assert facts(loop)[0].keys() == whole[0].keys()
            assert facts(loop)[2].keys() == whole[2].keys()


@pytest.mark.parametrize("name", HOMES)
def test_a_home_of_release_0_1_0_is_copied_and_rebuilt_or_left_as_it_is(name: str, tmp_path: Path) -> None:
    home, to = unpacked(name, tmp_path), tmp_path / "copy"
    done = backup(home, to)
    blobs = {path.name: path.read_bytes() for path in to.rglob("*.safetensors")}
    if name == "regression":
        with pytest.raises(InputError, match="the file is missing"):  # whose rows are its log
            rebuild_home(to, LogSpec())
    else:
        rebuild_home(to, LogSpec())
    now = {path.name: path.read_bytes() for path in to.rglob("*.safetensors")}
    assert all(now[blob] == blobs[blob] for blob in now.keys() & blobs.keys())
    assert len(blobs.keys() - now.keys()) == (name != "regression")  # the checkpoint, made again
    opened = []
    for folder in (home, to):
        with el.open(HOMES[name]["spec"], folder) as loop:
            assert loop.log.verify().ok
            opened.append(facts(loop))
    assert opened[0][2:] == opened[1][2:]  # versions and aliases; metrics of a rebuild count more
    assert (opened[0] == opened[1]) is (name == "regression")
    assert len(opened[0][2]) == done.versions == done.kept
