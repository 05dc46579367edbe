"""A server whose log is elsewhere, killed under load: nothing acknowledged is lost, nothing is learned twice."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from everlearn.events import connect, url_of
from everlearn.loop.loop import Loop
from everlearn.spec import LogSpec
from tests.support.nats import NatsServers
from tests.support.postgres import Server
from tests.support.servers import ServerProcess, catch_up, check_kept, content, copied, replay, spec, under_load

pytest.importorskip("psycopg", reason="needs everlearn[postgres]")
pytest.importorskip("nats", reason="needs everlearn[nats]")


def copy_of(log: LogSpec, home: Path, to: Path) -> Path:
    """Return a home whose log is a copy of that of a loop."""
    with closing(connect(url_of(home, log.url, log.book))) as opened:
        return copied(opened, to)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 50])
@pytest.mark.parametrize("engine", ["postgresql", pytest.param("nats", marks=pytest.mark.slow)])
def test_killed_at_any_moment_under_load(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str, kills: int
) -> None:
    name = f"served-{kills}"
    nats = engine == "nats"
    log = LogSpec(url=request.getfixturevalue("stream") if nats else request.getfixturevalue("server").url)
    settings = spec(log=log)
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
    catch_up(running, log.url)
    running.stop()
    here = copy_of(log, tmp_path / name, tmp_path / "copy")
    check_kept(memory, here)
    with Loop(settings, tmp_path / name) as loop:
        assert loop.log.verify().ok
        got = content(loop)
    expected = replay(here, msgspec.structs.replace(settings, log=LogSpec()), tmp_path / "replayed")
    for part in ("decisions", "arrays", "versions", "aliases", "blobs"):
        assert got[part] == expected[part], part


@pytest.mark.parametrize("engine", ["postgresql", pytest.param("nats", marks=pytest.mark.slow)])
def test_an_engine_that_goes_away_is_no_answer_and_comes_back(tmp_path: Path, engine: str) -> None:
    database = NatsServers() if engine == "nats" else Server()
    log = LogSpec(url=f"{database.url}/served" if engine == "nats" else database.url)
    settings = spec(log=log)
    running = ServerProcess(settings, tmp_path / "served", pause=0.1)
    running.start()
    with under_load(running, 500, orders=False) as memory:
        for _ in range(2):
            time.sleep(0.7)
            if isinstance(database, NatsServers):
                database.kill(0)
                time.sleep(0.5)
                database.start(0)
            else:
                database.kill()
                time.sleep(0.5)
                database.start()
    catch_up(running, log.url)
    running.stop()
    check_kept(memory, copy_of(log, tmp_path / "served", tmp_path / "copy"))
    assert memory.rows >= 500
    database.stop()
