"""The folder of one loop: its lock, its versions, and checkpoints that go with the decisions before them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from everlearn.errors import InUse, LogError
from everlearn.loop.home import Home, held
from everlearn.records import Arrays, Born, Checkpoint, Decision
from everlearn.spec import LogSpec


def arrays(value: float) -> Arrays:
    return {"weights": np.full(3, value)}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path / "home", LogSpec())
    yield opened
    if not opened.closed:
        opened.close()


def born(home: Home, value: float, position: int) -> Born:
    return Born(home.versions.make(arrays(value), {"family": "linear"}, (), position, "made", {}))


def test_a_new_home_has_no_checkpoint_and_no_versions(home: Home) -> None:
    assert home.last() is None
    assert home.versions.list() == []
    assert {path.name for path in home.folder.iterdir()} >= {"lock", "log.sqlite", "blobs"}
    assert home.folder.stat().st_mode & 0o777 == 0o700


def test_a_home_is_locked_until_it_is_closed(home: Home) -> None:
    with pytest.raises(InUse, match="is open in another process"):
        Home(home.folder, LogSpec())
    home.close()
    assert home.closed
    Home(home.folder, LogSpec()).close()


def test_a_home_that_cannot_be_opened_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(LogError):
        Home(tmp_path, LogSpec())
    held(tmp_path).close()


def test_a_home_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="cannot be used as a home"):
        held(tmp_path / "file")


def test_decisions_and_their_checkpoint_are_saved_together(home: Home) -> None:
    made = born(home, 1.0, 0)
    start = Decision("start", 0, "untrained start", "loop", "champion", made.version.id)
    assert home.save([made, start], 7, arrays(2.0), {"of": "a test"}, set(), 50) == [1, 2, 3]
    assert home.versions.alias("champion") == made.version.id
    at, kept, header = home.last() or (0, {}, {})
    assert (at, header["of"]) == (7, "a test")
    assert kept["weights"].tolist() == [2.0, 2.0, 2.0]
    assert [type(payload) for payload in home.read("version", "decision", "checkpoint")] == [Born, Decision, Checkpoint]


def test_versions_are_read_again_from_the_log(home: Home) -> None:
    made, lost = born(home, 1.0, 0), born(home, 2.0, 5)
    home.save([made], 0, arrays(0.0), {}, set(), 50)
    home.versions.note(lost)
    home.reread()
    assert [version.id for version in home.versions.list()] == [made.version.id]


def test_the_last_two_checkpoints_and_the_kept_versions_stay(home: Home) -> None:
    made: list[Born] = []
    for number in range(5):
        made.append(born(home, float(number), number))
        home.save([made[-1]], number, arrays(10.0 + number), {}, {made[0].version.id}, 1)
    blobs = {path.stem for path in (home.folder / "blobs").iterdir()}
    checkpoints = [one.blob for one in home.read("checkpoint") if isinstance(one, Checkpoint)]
    assert blobs == {*checkpoints[-2:], made[0].version.blob, made[-1].version.blob}


def test_a_checkpoint_whose_file_was_lost_gives_way_to_the_one_before(home: Home) -> None:
    home.save([], 3, arrays(1.0), {}, set(), 50)
    home.save([], 9, arrays(2.0), {}, set(), 50)
    newest = [one.blob for one in home.read("checkpoint") if isinstance(one, Checkpoint)][-1]
    (home.folder / "blobs" / f"{newest}.safetensors").write_bytes(b"")
    at, kept, _ = home.last() or (0, {}, {})
    assert (at, kept["weights"][0]) == (3, 1.0)
