"""The SQLite log against SIGKILL, other processes and threads, and repeated or contradictory events."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from everlearn.errors import InputError, LogError
from everlearn.events import Row, SqliteLog, file, row
from everlearn.records import (
    Born,
    Decision,
    Event,
    Example,
    Label,
    Payload,
    Prediction,
    Preference,
    Reward,
    Version,
)
from tests.support.payloads import content, example
from tests.support.postgres import every_log


@every_log
def test_times_come_back_exactly_and_default_to_now(log: SqliteLog) -> None:
    log.append([example("a"), example("b")], time=0.1 + 0.2)
    before = time.time()
    log.append([example("c")])
    first, second, third = log.read()
    assert first.time == second.time == 0.1 + 0.2
    assert before <= third.time <= time.time()


@every_log
def test_a_payload_of_megabytes(log: SqliteLog) -> None:
    big = Example(
        "big", {"text": "naïve 🌍 " * 500_000, "x": list(np.random.default_rng(0).normal(size=20_000).tolist())}, 1
    )
    log.append([big])
    assert log.read()[0].payload == big


@every_log
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (example("dup", 1.0), example("dup", 2.0)),
        (Prediction("dup", {}, 1, (), "v"), Prediction("dup", {}, 2, (), "v")),
        (Born(Version("dup", (), 1, "b", {}, {}, "")), Born(Version("dup", (), 2, "b", {}, {}, ""))),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_contradiction_is_refused_by_name_with_its_whole_group(
    first: Payload, second: Payload, together: bool, log: SqliteLog
) -> None:
    if not together:
        log.append([first])
    group = [example("beside"), *([first] if together else []), second]
    with pytest.raises(InputError, match=r":dup' is already in the log with other content"):
        log.append(group)
    assert [event.payload for event in log.read()] == ([] if together else [first])
    assert log.append([example("next")]) == [1 if together else 2]


@every_log
def test_the_order_of_features_is_no_contradiction(log: SqliteLog) -> None:
    assert log.append([Example("a", {"x": 1, "y": 2}, 1)]) == log.append([Example("a", {"y": 2, "x": 1}, 1)])


@every_log
def test_unknown_kinds_are_refused(log: SqliteLog) -> None:
    for ask in (lambda: log.read(kinds=["labels"]), lambda: log.last("labels"), lambda: log.count("labels")):
        with pytest.raises(InputError, match=r"unknown kind of event .*expected a list of prediction, label"):
            ask()
    with pytest.raises(InputError, match="expected a list"):
        log.read(kinds="label")


CHILD = """
    import random, sys
    from everlearn.events import SqliteLog
    from everlearn.records import Example
    path, name, durability = sys.argv[1:4]
    sizes = random.Random(name)
    with SqliteLog(path, durability) as log:
        for group in range(int(sys.argv[4])):
            size = sizes.choice([1, 1, 2, 7, 10, 43])
            pad = "x" * 200
            rows = [Example(f"{name}/{group}/{i}/{size}", {"x": group + i / 8, "pad": pad}, True) for i in range(size)]
            print(group, *log.append(rows), flush=True)
"""


def child(path: Path, name: str, groups: int, durability: str = "process") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), name, durability, str(groups)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def check_whole(found: list[Event], acknowledged: dict[tuple[str, int], list[int]]) -> None:
    """Positions without gaps; every group whole, in order, once; every acknowledged group at its positions."""
    assert [event.position for event in found] == list(range(1, len(found) + 1))
    groups: dict[tuple[str, int], list[int]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for event in found:
        assert isinstance(event.payload, Example)
        name, group, index, size = event.payload.id.split("/")
        members = groups.setdefault((name, int(group)), [])
        assert len(members) == int(index)
        assert event.payload.features["x"] == int(group) + int(index) / 8
        members.append(event.position)
        sizes[name, int(group)] = int(size)
    assert all(len(groups[origin]) == sizes[origin] for origin in groups)
    assert all(groups[origin][-1] - groups[origin][0] == sizes[origin] - 1 for origin in groups)
    assert {origin: groups.get(origin) for origin in acknowledged} == acknowledged


@pytest.mark.parametrize(("durability", "kills"), [("process", 15), ("power", 5)])
def test_sigkill_loses_nothing_acknowledged_and_tears_no_group(tmp_path: Path, durability: str, kills: int) -> None:
    moments = random.Random(durability)
    path = tmp_path / "log.db"
    acknowledged: dict[tuple[str, int], list[int]] = {}
    for kill in range(kills):
        with child(path, f"run{kill}", 1_000_000, durability) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.06))
            process.send_signal(signal.SIGKILL)
            output = first + process.stdout.read()
        for line in output.splitlines(keepends=True):
            if line.endswith("\n"):
                group, *positions = map(int, line.split())
                acknowledged[f"run{kill}", group] = positions
        with SqliteLog(path) as log:
            check_whole(content(log), acknowledged)
    assert len(acknowledged) >= kills


def test_processes_that_create_and_fill_one_log_at_once(tmp_path: Path) -> None:
    children = [child(tmp_path / "log.db", f"child{number}", 60) for number in range(5)]
    acknowledged = {}
    for number, process in enumerate(children):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        for line in output.splitlines():
            group, *positions = map(int, line.split())
            acknowledged[f"child{number}", group] = positions
    assert len(acknowledged) == 300
    with SqliteLog(tmp_path / "log.db") as log:
        check_whole(content(log), acknowledged)


@every_log
def test_threads_append_and_read_at_once(log: SqliteLog) -> None:
    acknowledged: dict[tuple[str, int], list[int]] = {}
    wrong: list[str] = []

    def write(name: str) -> None:
        for group in range(40):
            size = 1 + group % 3
            rows = [Example(f"{name}/{group}/{i}/{size}", {"x": group + i / 8}, True) for i in range(size)]
            acknowledged[name, group] = log.append(rows)

    def tail() -> None:
        seen = 0
        while seen < 4 * (40 + 39):
            positions = [event.position for event in log.read(seen)]
            if positions != list(range(seen + 1, seen + 1 + len(positions))):
                wrong.append(f"after {seen}: {positions}")
                return
            seen += len(positions)

    threads = [threading.Thread(target=write, args=(f"thread{number}",)) for number in range(4)]
    threads.append(threading.Thread(target=tail))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert len(acknowledged) == 160
    check_whole(content(log), acknowledged)


def test_reading_does_not_wait_for_a_writer(tmp_path: Path, log: SqliteLog) -> None:
    log.append([example("a")])
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert [event.position for event in log.read()] == [1]
    other.execute("ROLLBACK")
    other.close()


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PATIENCE", 0.05)
    with SqliteLog(tmp_path / "log.db") as log:
        other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for group in ([example("a")], [example("a"), example("b")]):
            with pytest.raises(LogError, match="holds none of it: database is locked; another process held the log"):
                log.append(group)
        other.execute("ROLLBACK")
        other.close()
        assert log.append([example("a")]) == [1]


@every_log
def test_a_forked_child_is_told_to_open_the_log_again(log: SqliteLog) -> None:
    child = os.fork()
    if child == 0:
        try:
            log.append([example("a")])
        except LogError as error:
            os._exit(7 if "open it again in each process" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert log.append([example("a")]) == [1]


def encoded(*payloads: Payload, at: float = 1.0) -> list[Row]:
    return [row(payload, at) for payload in payloads]


@every_log
def test_rows_and_payloads_are_written_alike(log: SqliteLog) -> None:
    assert log.write(encoded(example("a"), example("b"), at=5.0)) == [1, 2]
    assert log.try_write(encoded(example("c"), example("a"), at=6.0)) == [3, 1]
    assert log.append([example("b"), example("c")]) == [2, 3]
    assert [(event.time, event.payload) for event in log.read()] == [
        (5.0, example("a")),
        (5.0, example("b")),
        (6.0, example("c")),
    ]
    with pytest.raises(InputError, match="already in the log with other content"):
        log.try_write(encoded(example("new"), example("a", 9.0)))
    assert log.try_write([]) == []
    assert log.end() == 3


@every_log
def test_groups_of_every_size_are_written_in_order_and_whole(log: SqliteLog) -> None:
    end = 0
    for size in [*range(1, 35), 64, 65, 200]:
        rows = encoded(*(example(f"{size}-{i}") for i in range(size)))
        assert log.try_put(rows) == (list(range(end + 1, end + size + 1)), end)
        assert [event.payload.id for event in log.read(end)] == [f"{size}-{i}" for i in range(size)]  # type: ignore[union-attr]
        with pytest.raises(InputError, match="already in the log with other content"):  # and nothing of it is
            log.try_put(encoded(*(example(f"new-{i}") for i in range(size - 1)), example("1-0", 9.0)))
        end += size
        assert log.end() == end


def test_a_write_that_may_not_wait_comes_back_at_once_and_a_patient_one_after_it_waits(
    tmp_path: Path, log: SqliteLog
) -> None:
    log.append([example("a")])
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    assert log.try_write(encoded(example("b"))) is None
    assert log.try_write(encoded(example("b"), example("c"))) is None
    assert log.try_write(encoded(example("a"))) is None  # which would get the position it has
    assert log.try_write(encoded(Decision("drift", 1, "", "drift"))) is None
    release = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    release.start()
    assert log.append([example("b")]) == [2]  # waited for the other one
    release.join()
    other.close()
    assert log.try_write(encoded(example("c"))) == [3]


def test_a_write_that_may_not_wait_does_not_wait_for_threads(log: SqliteLog) -> None:
    with log._writing:
        assert log.try_write(encoded(example("a"))) is None
    assert log.try_write(encoded(example("a"))) == [1]


PUSHER = """
    import sys, time
    from everlearn.events import SqliteLog, row
    from everlearn.records import Example
    path, name = sys.argv[1:3]
    said = []
    with SqliteLog(path, tidy=False) as log:
        for start in range(0, 5_000, 25):
            ids = [f"{name}/{i}" for i in range(start, start + 25)]
            ids += [f"shared/{i}" for i in range(start, start + 5)]  # everybody sends these
            rows = [row(Example(id, {"x": 0.5}, True), 1.0) for id in ids]
            while (positions := log.try_write(rows)) is None:
                time.sleep(0)
            said += zip(ids, positions)
    with open(sys.argv[3], "w") as file:
        file.writelines(f"{id} {position}\\n" for id, position in said)
"""


def test_processes_that_never_wait_for_each_other_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    command = [sys.executable, "-c", textwrap.dedent(PUSHER), str(path)]
    acknowledged: dict[str, int] = {}
    with SqliteLog(path) as log:
        output = [tmp_path / f"said{n}" for n in range(4)]
        children = [subprocess.Popen([*command, str(n), str(output[n])]) for n in range(4)]
        while any(process.poll() is None for process in children):
            log.tidy()
            time.sleep(0.01)
        for process, file in zip(children, output, strict=True):
            assert process.returncode == 0
            for line in file.read_text().splitlines():
                id, _, position = line.rpartition(" ")
                assert acknowledged.setdefault(id, int(position)) == int(position)
        found = content(log)
    assert [event.position for event in found] == list(range(1, 4 * 5_000 + 1_000 + 1))
    assert {event.payload.id: event.position for event in found if isinstance(event.payload, Example)} == acknowledged


def test_under_a_steady_load_the_write_ahead_log_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    wal = path.with_name(f"{path.name}-wal")
    with SqliteLog(path, tidy=False) as busy, SqliteLog(path, tidy=False) as other:
        stop, longest = threading.Event(), 0

        def tidy() -> None:
            while not stop.wait(0.02):
                other.tidy()

        tidying = threading.Thread(target=tidy)
        tidying.start()
        for number in range(12_000):  # each leaves some 4 pages of 4 kB, 200 MB in all
            busy.append([Example(f"e{number * 7919 % 12_000}", {"x": 0.5}, True)])
            longest = max(longest, wal.stat().st_size)
        stop.set()
        tidying.join()
    assert longest < 80 << 20


def test_tidy_empties_the_write_ahead_log_that_a_connection_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    beside = Path(f"{path}-wal")
    with SqliteLog(path, tidy=False) as log:
        for group in range(60):
            log.append([Example(f"{group}/{i}", {"pad": "x" * 3000}, 1) for i in range(100)])
        grown = beside.stat().st_size
        assert grown > 4000 * 4096  # where the file of others is tidied
        assert path.stat().st_size < grown / 2
        log.tidy()
        assert path.stat().st_size > grown / 2
        log.append([example("next")])  # starts the write-ahead log anew
        for group in range(10):
            log.append([Example(f"more/{group}/{i}", {"pad": "x" * 3000}, 1) for i in range(100)])
        assert beside.stat().st_size <= grown
        assert log.end() == 7001


@every_log
@pytest.mark.parametrize("id", ["a", "a:b", "", "a\x00b", "naïve;", "a%"])
def test_all_about_one_id(id: str, log: SqliteLog) -> None:
    others = [
        other for other in ("a", "a:b", "a:", "", "b", "a\x00b", "a\x00c", "naïve;", "naïve", "a%") if other != id
    ]
    for each in (*others, id):
        log.append([Prediction(each, {}, 1, (), "v"), Label(each, 1), Reward(each, 0.5)])
    about: list[Payload] = [
        Prediction(id, {}, 1, (), "v"),
        Label(id, 1),
        Reward(id, 0.5),
        Preference(id, 2),
        Label(id, 0),
    ]
    log.append([*about[3:], example(id)])
    assert [event.payload for event in log.about(id)] == [*about, example(id)]
    assert log.about("unknown") == []


def test_a_damaged_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path) as log:
        log.append([example("first"), example("second"), example("third")])
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"id":"second"', b'"id":?second"'))
    with SqliteLog(path) as log:
        assert len(log.read(limit=1)) == 1
        with pytest.raises(LogError, match=r"event 2 of the log .* cannot be read: .*put back a copy"):
            log.read()


def held(folder: Path) -> list[str]:
    """Return the names of the files in a folder that this process has open."""
    found = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    return sorted(path.name for path in found if folder in path.parents)


def test_a_resting_log_holds_no_file_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([example("a")])
        log.rest()
        log.rest()
        assert held(tmp_path) == []
        assert [event.payload for event in log.read()] == [example("a")]
        assert log.append([example("b"), example("a")]) == [2, 1]
        assert held(tmp_path)
        log.rest()
    with pytest.raises(LogError, match="is closed"):
        log.end()


def test_an_economical_log_has_one_connection_also_after_a_rest(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([example("a")])
        log.economize()
        log.economize()
        log.rest()  # SQLite keeps the descriptors of closed connections until the last one of the file closes
        for _ in range(2):
            assert [event.payload for event in log.read()] == [example("a")]
            assert held(tmp_path) == ["log.sqlite", "log.sqlite-shm", "log.sqlite-wal"]
            log.rest()
            assert held(tmp_path) == []


def test_an_economical_log_reads_while_another_process_writes(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.economize()
        log.append([example("a")])
        other = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert log.try_write(encoded(example("b"))) is None
        assert [event.payload for event in log.read()] == [example("a")]
        other.close()
        many = [example(str(number)) for number in range(500)]  # more than the cache has room for
        assert log.append(many) == [*range(2, 502)]
        assert [event.payload for event in log.read(after=1)] == many
        assert log.verify().ok
        assert log.end() == 501


def test_a_new_log_takes_its_place_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def linked(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as draft:
            assert draft.execute("PRAGMA user_version").fetchone() == (file.FORMAT,)
        seen.append(Path(target).exists())
        link(source, target)

    seen: list[bool] = []
    link = os.link
    monkeypatch.setattr(os, "link", linked)
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([example("a")])
        assert seen == [False]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log.sqlite", "log.sqlite-shm", "log.sqlite-wal"]
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_new_log_needs_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "this file system has no links")

    monkeypatch.setattr(os, "link", refused)
    with SqliteLog(tmp_path / "log.sqlite") as log:
        assert log.append([example("a")]) == [1]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log.sqlite", "log.sqlite-shm", "log.sqlite-wal"]


def test_a_second_log_of_one_process_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Another process that closes the file last would otherwise delete the write-ahead log in use."""
    path = tmp_path / "log.sqlite"
    with SqliteLog(path) as log:
        log.append([example("a")])
        log.read()
        number, before = path.stat().st_ino, Path("/proc/locks").read_text()
        SqliteLog(path).close()
        held = [line.split()[4:8] for line in before.splitlines() if f":{number} " in line]
        after = [line.split()[4:8] for line in Path("/proc/locks").read_text().splitlines() if f":{number} " in line]
        assert held
        assert after == held


def test_a_resting_log_does_not_open_another_file_in_its_place(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([example("a")])
        log.rest()
        (tmp_path / "log.sqlite").rename(tmp_path / "elsewhere")
        with pytest.raises(LogError, match="deleted or replaced"):
            log.append([example("b")])
        assert not (tmp_path / "log.sqlite").exists()


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.close()
    log.close()
    for act in (lambda: log.append([example("a")]), lambda: log.read(), lambda: log.count("label")):
        with pytest.raises(LogError, match="is closed; open it again"):
            act()


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from everlearn.events import SqliteLog
        from everlearn.records import Example
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with SqliteLog(sys.argv[1]) as log:
            peaks = []
            for start in range(0, 120_000, 500):
                log.append([Example(f"{i:09d}", {"pad": "x" * 300}, True) for i in range(start, start + 500)])
                log.read(start)
                if start in (60_000, 119_500):
                    peaks.append(peak())
        print(peaks[1] - peaks[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "log.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) < 8 << 10  # KiB, while the file grew by 25 MB
