"""The log in a real PostgreSQL server: leases, epochs, kills of server and writers, erasure, and a whole loop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import ConfigError, InputError, InUse, LogError
from everlearn.events import Log, connect, scan
from everlearn.records import Decision, Example, Label
from everlearn.spec import LogSpec, Spec
from everlearn.stream import Stream
from tests.support.payloads import example
from tests.support.postgres import Server


@pytest.fixture
def log(url: str) -> Log:
    return connect(url)


def test_a_log_goes_on_where_it_ended(url: str) -> None:
    with contextlib.closing(connect(url)) as log:
        assert log.append([example("a"), example("b")]) == [1, 2]
    with contextlib.closing(connect(url)) as log:
        assert log.append([example("b"), example("c"), example("c")]) == [2, 3, 3]
        assert [event.payload.id for event in scan(log)] == ["a", "b", "c"]
        assert (log.end(), log.count("example"), log.count("label")) == (3, 3, 0)


def test_logs_of_one_database_are_apart(server: Server) -> None:
    one, two = (connect(f"{server.url}?loop=apart-{name}") for name in "ab")
    one.append([example("x")])
    assert (one.end(), two.end()) == (1, 0)
    one.close()
    two.close()


@pytest.mark.parametrize("rest", ["", "?loop=", "?loop=a&loop=b", "?sslmode=disable", f"?loop={'x' * 60}"])
def test_a_url_names_one_loop_and_its_password_is_not_shown(rest: str) -> None:
    with pytest.raises(ConfigError, match="expected one parameter loop=NAME") as raised:
        connect(f"postgresql://me:secret@host/db{rest}")
    assert "secret" not in str(raised.value)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(LogError, match=r"of a in PostgreSQL could not be opened.*check that the server runs"):
        connect("postgresql://me@127.0.0.1:1/db?loop=a&connect_timeout=2")


def test_ids_with_any_character(log: Log) -> None:
    ids = ["a\0b", "naïve 🌍", "a:b", "a;b", "%s", "'"]
    log.append([example(id) for id in ids])
    assert [log.find(f"example:{id}").payload.id for id in ids] == ids  # type: ignore[union-attr]
    log.close()


def test_decisions_are_sealed_and_a_changed_one_is_found(url: str, server: Server) -> None:
    import psycopg

    with contextlib.closing(connect(url)) as log:
        for at in range(4):
            log.append([example(str(at)), Decision("config", at, "why", "user")])
        assert log.verify().ok
        assert sorted(log.seals(0, 100)) == [2, 4, 6, 8]
        schema = f'"everlearn_{url.partition("loop=")[2]}"'
        with psycopg.connect(server.url, autocommit=True) as intruder:
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                intruder.execute(f"UPDATE {schema}.events SET time = 0 WHERE position = 4")
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                intruder.execute(f"DELETE FROM {schema}.seals")
            intruder.execute(f"ALTER TABLE {schema}.events DISABLE TRIGGER fixed")
            intruder.execute(f"UPDATE {schema}.events SET time = 0 WHERE position = 4")
        assert log.verify()[::2] == (False, 4)


def test_a_busy_log_sends_away_who_will_not_wait(url: str, server: Server) -> None:
    import psycopg

    schema = f'"everlearn_{url.partition("loop=")[2]}"'
    with contextlib.closing(connect(url)) as log, psycopg.connect(server.url) as other:
        other.execute(f"SELECT * FROM {schema}.head FOR UPDATE")
        assert log.try_write([]) is None
        with pytest.raises(LogError, match="another process held the log"):
            log.check_writable(0.05)
        other.rollback()
        log.check_writable(0.05)
        assert log.try_write([]) == []


# ---- leases and epochs ---------------------------------------------------------------------------------------------


def test_one_process_has_the_lease_and_each_turn_has_a_higher_epoch(url: str) -> None:
    one, two = connect(url), connect(url)
    first = one.acquire()
    with pytest.raises(InUse, match="in use by another process"):
        two.acquire()
    assert one.save([example("a")], first) == [1]
    one.close()
    second = two.acquire()
    assert second > first
    with pytest.raises(LogError, match=f"began epoch {first}, and another began epoch {second}"):
        two.save([example("b")], first)
    assert two.save([example("b")], second) == [2]
    two.close()


ZOMBIE = """
import sys, time
from everlearn.events import connect
from everlearn.records import Example
log = connect(sys.argv[1])
epoch = log.acquire()
log.save([Example("alive", {}, 1)], epoch)
print("leased", flush=True)
sys.stdin.readline()
try:
    log.save([Example("zombie", {}, 1)], epoch)
    print("saved", flush=True)
except Exception as error:
    print(type(error).__name__, str(error), flush=True)
"""


def test_a_stopped_process_that_goes_on_saves_nothing(url: str, server: Server) -> None:
    import psycopg

    process = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "leased\n"
    os.kill(process.pid, signal.SIGSTOP)
    with psycopg.connect(server.url, autocommit=True) as admin:  # what a server does that misses the process's packets
        query = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        admin.execute(query)
        with contextlib.closing(connect(url)) as log:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(InUse):
                    epoch = log.acquire()
                    break
                assert time.monotonic() < deadline
            log.save([example("successor")], epoch)
            os.kill(process.pid, signal.SIGCONT)
            said, _ = process.communicate("go on\n", timeout=60)
            assert said.startswith("LogError")
            assert "nothing more is saved here" in said
            assert [event.payload.id for event in log.read()] == ["alive", "successor"]


# ---- kills ---------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from everlearn.events import connect, row
from everlearn.records import Example
log = connect(sys.argv[1])
for number in range(10**9):
    ids = [f"{sys.argv[2]}-{number}-{i}" for i in range(1 + number % 40)]
    log.append([Example(id, {"x": 1.0}, 1) for id in ids])
    print(" ".join(ids), flush=True)
"""


def acknowledged(text: str) -> list[str]:
    """The ids of all whole lines, which the writer printed after their group was acknowledged."""
    return [id for line in text.rpartition("\n")[0].splitlines() for id in line.split()]


def holds(log: Log, ids: list[str]) -> None:
    """Check that a log has each acknowledged id once, no position twice or missing, and no torn group."""
    found = [event.payload.id for event in scan(log)]
    assert len(found) == len(set(found)) == log.end()
    assert set(ids) <= set(found)
    groups: dict[str, int] = {}
    for id in found:
        groups[id.rpartition("-")[0]] = groups.get(id.rpartition("-")[0], 0) + 1
    assert all(size == 1 + int(name.rpartition("-")[2]) % 40 for name, size in groups.items())


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_of_writers_lose_nothing_and_tear_no_group(url: str, tmp_path: Path, kills: int) -> None:
    known: list[str] = []
    random = np.random.default_rng(5)
    with contextlib.closing(connect(url)) as log:
        for kill in range(kills):
            outs = [tmp_path / f"out-{kill}-{number}" for number in range(2)]  # a killed writer may leave half a line
            with outs[0].open("w") as first, outs[1].open("w") as second:
                writers = [
                    subprocess.Popen([sys.executable, "-c", WRITER, url, f"{kill}.{number}"], stdout=file)
                    for number, file in enumerate((first, second))
                ]
                deadline = time.monotonic() + 60
                while all(out.stat().st_size == 0 for out in outs) and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(random.uniform(0.0, 0.3))
                for writer in writers:
                    writer.kill()
                    writer.wait()
            known += [id for out in outs for id in acknowledged(out.read_text())]
        assert known
        holds(log, known)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_of_the_server_while_it_writes_lose_nothing(kills: int) -> None:
    pytest.importorskip("psycopg_pool")
    server = Server()
    log = connect(f"{server.url}?loop=kills")
    known: list[str] = []
    stop = threading.Event()

    def write(name: str) -> None:
        number = 0
        while not stop.is_set():
            ids = [f"{name}-{number}-{i}" for i in range(1 + number % 40)]
            with contextlib.suppress(LogError):
                log.append([Example(id, {"x": 1.0}, 1) for id in ids])
                known.extend(ids)
                number += 1

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(6)
    try:
        for _ in range(kills):
            before, deadline = len(known), time.monotonic() + 60
            while len(known) < before + 50 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(known) > before, "no group is acknowledged after a kill"
            time.sleep(random.uniform(0.0, 0.2))
            server.kill()
            server.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    holds(log, known)
    log.close()
    server.stop()


# ---- erasing -------------------------------------------------------------------------------------------------------


def test_erased_events_leave_a_tombstone_and_no_byte_in_the_table(log: Log, server: Server) -> None:
    log.append([example("kept"), Example("gone", {"name": "Ms Secret"}, 1), Label("gone", 1)])
    with pytest.raises(InputError, match="event 9 is not there"):
        log.erase([9], [])  # type: ignore[attr-defined]
    assert log.erase([2, 3], [Decision("erase", 3, "asked for", "user")]) == [4]  # type: ignore[attr-defined]
    log.scrub()  # type: ignore[attr-defined]
    kinds = [type(event.payload).__name__ for event in log.read()]
    assert kinds == ["Example", "Erased", "Erased", "Decision"]
    assert log.find("example:gone") is None
    assert (log.count("example"), log.verify().ok) == (2, True)
    log.close()


# ---- a whole loop --------------------------------------------------------------------------------------------------


def stream() -> Stream:
    random = np.random.default_rng(2)
    x = random.normal(size=(3000, 3))
    y = (x[:, 0] + 0.5 * x[:, 1] * np.where(np.arange(3000) < 1500, 1, -1) > 0).astype(int)
    return el.read({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y}, label="y")


@pytest.mark.parametrize("rows", ["auto", "always"])
def test_a_loop_learns_the_same_as_in_a_folder_and_another_machine_goes_on(
    server: Server, tmp_path: Path, rows: str
) -> None:
    data = stream()
    arrays = []
    for place, log in (("folder", ""), ("database", server.url)):
        spec = Spec(
            schema=data.schema, model={"family": "linear"}, log=LogSpec(url=log, rows=rows), tick=100, checkpoint=500
        )
        home = tmp_path / place / f"postgres-{rows}"
        with el.open(spec, home=home) as loop:
            loop.run(data)
            ids = [loop.predict({"a": 0.1 * i, "b": 0.0, "c": 0.0}).id for i in range(30)]
        with el.open(spec, home=home) as loop:
            for number, id in enumerate(ids):
                loop.feedback(id, label=number % 2)
            arrays.append({name: value.tobytes() for name, value in loop.fold.state()[0].items()})
            if not log:
                continue
            with pytest.raises(InUse):
                el.open(spec, home=tmp_path / "other" / f"postgres-{rows}")
            versions = [version.id for version in loop.versions()]
    assert arrays[0] == arrays[1]
    assert versions
