"""The file of a log: append-only, of one format, and with advice for every way in which a disk can fail."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, LogError
from everlearn.events import SqliteLog
from everlearn.records import (
    Example,
    Label,
)
from tests.support.payloads import content, example


def test_the_file_itself_refuses_change(tmp_path: Path, log: SqliteLog) -> None:
    log.append([example("a"), example("b")])
    with sqlite3.connect(tmp_path / "log.db") as other:
        for statement in ("DELETE FROM events WHERE position = 2", "UPDATE events SET time = 0"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)
    other.close()
    assert len(log.read()) == 2


def test_the_file_can_be_asked_in_sql(tmp_path: Path, log: SqliteLog) -> None:
    log.append([example("a", 1.5), example("b", 2.5), Label("a", True)])
    other = sqlite3.connect(tmp_path / "log.db")
    total = other.execute("SELECT sum(payload ->> '$.features.x') FROM events WHERE kind = 'example'").fetchone()
    other.close()
    assert total == (4.0,)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_each_durability_syncs_as_it_says(tmp_path: Path, durability: Any) -> None:
    with SqliteLog(tmp_path / "log.db", durability) as log:
        assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert log._writer.execute("PRAGMA synchronous").fetchone() == ({"process": 1, "power": 2}[durability],)


def test_databases_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(LogError, match="database of another program; give the path of an event log, or of a new file"):
        SqliteLog(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    SqliteLog(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 3")
    other.close()
    with pytest.raises(LogError, match="has format 3, this Everlearn reads format 2; upgrade Everlearn"):
        SqliteLog(path)


def test_paths_that_cannot_be_a_log(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at as if it were one. " * 20)
    with pytest.raises(LogError, match="this is not an event log"):
        SqliteLog(tmp_path / "notes.txt")
    with pytest.raises(LogError, match="expected the path of a file"):
        SqliteLog(tmp_path)
    with pytest.raises(LogError, match="check that the folder exists"):
        SqliteLog(tmp_path / "absent" / "log.db")
    with pytest.raises(LogError, match="expected the path of a file"):
        SqliteLog(":memory:")
    with pytest.raises(ConfigError, match="durability is 'paper', expected 'process' or 'power'"):
        SqliteLog(tmp_path / "log.db", "paper")  # type: ignore[arg-type]


def test_a_full_disk_takes_nothing_and_loses_nothing(log: SqliteLog) -> None:
    log.append([example("kept")])
    log._writer.execute("PRAGMA max_page_count = 12")  # SQLite's own way of having no space
    big = [Example(f"{i}", {"text": "x" * 3000}, 1) for i in range(20)]
    for group in (big, [Example("one", {"text": "x" * 60_000}, 1)], [example("kept"), *big]):
        with pytest.raises(LogError, match=r"holds none of it: .*the disk is full: free some space, then do it again"):
            log.append(group)
        assert [event.payload for event in log.read()] == [example("kept")]
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert log.append(big) == list(range(2, 22))


def test_a_disk_that_refuses_to_write(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from everlearn.errors import LogError
        from everlearn.events import SqliteLog
        from everlearn.records import Example
        rows = [Example(f"{i}", {"text": "x" * 900}, 1) for i in range(400)]
        with SqliteLog(sys.argv[1]) as log:
            kept = log.append(rows[:100])
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
            try:
                log.append(rows[100:])
            except LogError as error:
                print(error)
            assert [event.position for event in log.read()] == kept
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert log.append(rows)[-1] == 400
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "log.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused a group of 300, and holds none of it: disk I/O error; the disk reported an error" in done.stdout
    with SqliteLog(tmp_path / "log.db") as log:
        assert len(log.read()) == 400


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = home / "log.db"
    with SqliteLog(path) as log:
        log.append([example("a")])
    code = """
        import os, sys
        from everlearn.errors import LogError
        from everlearn.events import SqliteLog
        from everlearn.records import Example
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)  # modes mean nothing to root
        try:
            with SqliteLog(sys.argv[1]) as log:
                log.append([Example("b", {}, 1)])
        except LogError as error:
            print(error)
    """
    for folder in (home, *home.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    home.chmod(0o555)
    path.chmod(0o444)
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    home.chmod(0o755)
    path.chmod(0o644)
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    assert "writable for this user" in done.stdout or "this user may write there" in done.stdout
    with SqliteLog(path) as log:
        assert log.append([example("b")]) == [2]


def test_a_corrupt_page_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path) as log:
        log.append([example(str(i)) for i in range(2000)])
    data = bytearray(path.read_bytes())
    page = 4096
    assert len(data) > 40 * page
    for number in range(8, 30):  # whole pages in the middle of the tree
        data[number * page : number * page + 200] = b"\xff" * 200
    path.write_bytes(data)
    with (
        pytest.raises(LogError, match=r"could not be read: .*malformed; the file is damaged: put back a copy"),
        SqliteLog(path) as log,
    ):
        content(log)
