"""One place as its actor starts it: a real process, over a real database and an S3 server, without a cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn.app.auth import tokens
from everlearn.app.place import LoadMeter, Membership, is_free, place_home, processor_seconds
from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.client.place_records import PlaceEntry, PlaceList
from everlearn.errors import ConfigError, LogError
from everlearn.events import connect, evict
from everlearn.records import Checkpoint
from everlearn.scale import objects
from everlearn.scale.place_messages import PLACES, TOKENS, PlaceOrder
from everlearn.spec import LogSpec, Schema, ServeSpec, Spec
from tests.support.postgres import Server as Database
from tests.support.servers import alive, until

FIELDS = {"a": "numeric", "b": "numeric"}


def settings(url: str = "", blobs: str = "", port: int = 0) -> Spec:
    return Spec(
        schema=Schema(label="y", task="binary", classes=(0, 1), fields=FIELDS),
        model={"family": "linear"},
        serve=ServeSpec(port=port),
        log=LogSpec(url=url, blobs=blobs),
    )


def entry(number: int) -> PlaceEntry:
    return PlaceEntry(name="learner", number=number, role="learner", node="127.0.0.1", node_id="a")


def write(store: objects.Shared, *numbers: int) -> None:
    store.put(PLACES, msgspec.json.encode(PlaceList(places=tuple(entry(number) for number in numbers))))


class Started:
    """A place, started as the actor does it."""

    def __init__(self, order: PlaceOrder, folder: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        environment = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "everlearn.app.place"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        self.process.stdin.flush()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def abandon(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.abandon()
        self.process.wait(120)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Any]:
    begun: list[Started] = []

    def start(order: PlaceOrder) -> Started:
        begun.append(Started(order, tmp_path))
        return begun[-1]

    yield start
    for one in begun:
        one.end()


@pytest.mark.slow
def test_a_place_serves_shows_its_load_and_ends_once_it_was_replaced(
    server: Database, place: str, begin: Any, tmp_path: Path
) -> None:
    spec = settings(f"{server.url}?loop=place", place, port=0)
    store = objects.shared(f"{place}/loop/serving")
    secret = tokens.create(tmp_path / "tokens.json", "test", ["predict", "feedback"])
    store.put(TOKENS, (tmp_path / "tokens.json").read_bytes())
    write(store, 1)
    one = begin(PlaceOrder(spec=spec, loop="loop", name="learner", number=1, node="127.0.0.1"))
    until(lambda: one.lines, "it does not serve")
    draw = np.random.default_rng(0)
    with Client(one.lines[0]["url"], token=secret) as client:
        for a, b in draw.normal(size=(60, 2)).tolist():
            client.feedback(client.predict({"a": a, "b": b}).id, label=int(a > 0))
    until(lambda: one.lines[-1]["requests"] > 0.0 and one.lines[-1]["position"] >= 120, "no load is shown")
    assert one.lines[-1]["seconds"] > 0.0
    assert 0.0 < one.lines[-1]["busy"] <= 1.0
    assert one.lines[-1]["staleness"] is not None
    write(store, 1, 2)  # another place beside it
    number = len(one.lines)
    until(lambda: len(one.lines) > number + 2, "it has ended")
    write(store, 2)
    until(lambda: not alive(one.process.pid), "it does not end")
    assert not list((tmp_path / f"everlearn-places-{os.getuid()}").iterdir())


@pytest.mark.slow
def test_a_place_ends_with_its_actor_and_with_its_lease(
    server: Database, place: str, begin: Any, tmp_path: Path
) -> None:
    spec = settings(f"{server.url}?loop=taken over", place)
    write(objects.shared(f"{place}/loop/serving"), 1, 2)
    first = begin(PlaceOrder(spec=spec, loop="loop", name="learner", number=1))
    until(lambda: first.lines, "it does not serve")
    second = begin(PlaceOrder(spec=spec, loop="loop", name="learner", number=2, evicts=True))
    until(lambda: second.lines, "it does not take over")
    with Client(second.lines[0]["url"]) as client:
        client.feedback(client.predict({"a": 1.0, "b": 0.0}).id, label=1)
        until(lambda: client.status()["position"] >= 2, "the second one does not learn")
    second.abandon()
    until(lambda: not alive(second.process.pid), "it does not end with its actor")


def test_a_session_that_holds_the_lease_is_ended_and_its_saves_are_refused(server: Database) -> None:
    url = f"{server.url}?loop=evicted"
    with connect(url) as old, connect(url) as new:
        assert evict(url) is False
        before = old.acquire()
        assert evict(url) is True
        after = new.acquire()
        assert after == before + 1
        with pytest.raises(LogError, match="nothing more is saved here; end this process"):
            old.save([Checkpoint(0, "0" * 64)], before)
        assert new.save([Checkpoint(0, "1" * 64)], after)
    assert evict("loops/fraud/log.sqlite") is False


def test_what_a_place_sees_of_the_list(place: str, tmp_path: Path) -> None:
    store = objects.shared(f"{place}/loop/serving")
    membership = Membership(store, 3, tmp_path / "tokens.json")
    assert not membership.replaced()  # no list yet
    membership.take_tokens()
    assert not (tmp_path / "tokens.json").exists()
    write(store, 2, 3)
    assert not membership.replaced()
    write(store, 2)
    assert membership.replaced()
    secret = tokens.create(tmp_path / "given.json", "test", ["predict"])
    store.put(TOKENS, (tmp_path / "given.json").read_bytes())
    membership.take_tokens()
    found = tokens.match(tokens.read(tmp_path / "tokens.json"), secret)
    assert found is not None
    assert found.name == "test"


def test_the_folder_of_a_place_is_removed_and_so_are_those_of_dead_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    order = PlaceOrder(spec=settings(), loop="fraud", name="learner", number=1)
    with place_home(order) as home:
        assert home.name == "fraud"
        assert home.parent.parent.stat().st_mode & 0o077 == 0
        folder = home.parent
        dead, young = folder.parent / "learner-0-x", folder.parent / "learner-9-x"
        for other in (dead, young):
            (other / "fraud").mkdir(parents=True)
            (other / "lock").touch()
        os.utime(dead, (time.time() - 3600, time.time() - 3600))
        os.utime(folder, (time.time() - 3600, time.time() - 3600))
        with place_home(order) as second:
            assert second != home
            assert {one.name for one in folder.parent.iterdir()} == {folder.name, young.name, second.parent.name}
    assert not folder.exists()
    (folder.parent).chmod(0o777)
    with pytest.raises(ConfigError, match="others may write there"), place_home(order):
        pass


def test_a_port_that_is_taken_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)


@pytest.mark.slow
def test_the_load_of_a_server_without_requests(tmp_path: Path) -> None:
    with Server(settings(), tmp_path / "loop") as server:
        meter = LoadMeter(settings(), tmp_path / "loop")
        first = meter.beat(server.url)
        assert (first.requests, first.seconds, first.busy) == (0.0, None, 0.0)
        time.sleep(0.2)
        assert meter.beat(server.url).url == server.url
        assert processor_seconds(server.processes["worker-0"]) > 0.0
    assert processor_seconds(1 << 22) == 0.0
