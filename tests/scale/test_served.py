"""A server whose log is in PostgreSQL, killed under load: nothing acknowledged is lost, nothing is learned twice."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from everlearn.events import connect
from everlearn.loop.loop import Loop
from everlearn.spec import LogSpec
from tests.support.postgres import Server
from tests.support.servers import ServerProcess, catch_up, check_kept, content, made, replay, spec, under_load

psycopg = pytest.importorskip("psycopg", reason="needs everlearn[postgres]")


def copied(url: str, loop: str, home: Path) -> Path:
    """Return a home whose log is a copy of one in PostgreSQL, row by row."""
    connect(str(made(home) / "log.sqlite")).close()
    with psycopg.connect(url) as source, sqlite3.connect(home / "log.sqlite") as copy:
        query = f'SELECT position, time, kind, key, payload FROM "everlearn_{loop}".events ORDER BY position'
        rows = [(*row[:3], bytes(row[3]).decode("utf-8", "surrogatepass"), row[4]) for row in source.execute(query)]
        copy.executemany("INSERT INTO events (position, time, kind, key, payload) VALUES (?, ?, ?, ?, ?)", rows)
    copy.close()
    return home


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_under_load(server: Server, tmp_path: Path, kills: int) -> None:
    name = f"served-{kills}"
    settings = spec(log=LogSpec(url=server.url))
    running = ServerProcess(settings, tmp_path / name, pause=0.1)
    running.start()
    draw = np.random.default_rng(3)
    with under_load(running, 400 + 40 * kills) as memory:
        for number in range(kills):
            time.sleep(float(draw.uniform(0.3, 1.0)))
            if number % 3 == 2:
                running.kill_everything()
                running.start()
            else:
                running.kill(("learner", "worker-0")[number % 3])
    catch_up(running, server.url)
    running.stop()
    here = copied(server.url, name, tmp_path / "copy")
    check_kept(memory, here)
    with Loop(settings, tmp_path / name) as loop:
        assert loop.log.verify().ok
        got = content(loop)
    expected = replay(here, msgspec.structs.replace(settings, log=LogSpec()), tmp_path / "replayed")
    for part in ("decisions", "arrays", "versions", "aliases", "blobs"):
        assert got[part] == expected[part], part


def test_a_database_that_goes_away_is_no_answer_and_comes_back(tmp_path: Path) -> None:
    database = Server()
    settings = spec(log=LogSpec(url=database.url))
    running = ServerProcess(settings, tmp_path / "served", pause=0.1)
    running.start()
    with under_load(running, 500, orders=False) as memory:
        for _ in range(2):
            time.sleep(0.7)
            database.kill()
            time.sleep(0.5)
            database.start()
    catch_up(running, database.url)
    running.stop()
    check_kept(memory, copied(database.url, "served", tmp_path / "copy"))
    assert memory.rows >= 500
    database.stop()
