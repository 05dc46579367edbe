"""NATS servers as a broker: what they store, refuse and survive, one alone and three that are killed."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import everlearn as el
from everlearn.errors import LogError
from everlearn.events import Log, connect, key, scan, url_of
from everlearn.records import Example
from everlearn.scale import nats as module
from everlearn.scale import nats_publications
from everlearn.scale.broker import Message
from everlearn.scale.nats import NatsBroker
from everlearn.spec import LogSpec, Spec
from tests.support.nats import NatsServers
from tests.support.payloads import example
from tests.support.servers import content, copied, replay, until


@pytest.fixture
def broker(stream: str) -> Iterator[NatsBroker]:
    made = module.connect(stream)
    yield made
    made.close()


def messages(*names: str) -> list[Message]:
    return [Message(name, name.encode()) for name in names]


def test_messages_come_back_in_order(broker: NatsBroker) -> None:
    assert (broker.first(), broker.end(), broker.read(0, 10), broker.get(1)) == (1, 0, [], None)
    assert broker.publish(messages("a")) == [1]
    assert broker.publish(messages("b", "c")) == [2, 3]
    assert broker.read(0, 10) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert broker.read(1, 1) == [(2, b"b")]
    assert (broker.get(3), broker.get(4), broker.first(), broker.end()) == (b"c", None, 1, 3)
    assert broker.read(3, 10) == []


def test_a_message_that_is_sent_again_is_stored_once(broker: NatsBroker) -> None:
    names = [f"m{number}" for number in range(300)]
    assert sorted(broker.publish(messages(*names))) == list(range(1, 301))
    found = dict(broker.read(0, 1000))
    assert broker.publish(messages("m17")) == [next(at for at, body in found.items() if body == b"m17")]
    assert broker.end() == len(found) == 300


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_a_message_of_an_answer_that_is_lost_on_its_way_is_not_passed_over(
    broker: NatsBroker, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    for name in "abcde":
        broker.publish(messages(name))
    ask, asked = broker._direct, list[int]()

    async def lossy(wanted: dict[str, Any]) -> Any:
        found = await ask(wanted)
        asked.append(wanted["seq"])
        return found[:lost] + found[lost + 1 :] if len(asked) == 1 else found

    monkeypatch.setattr(broker, "_direct", lossy)
    seen: list[tuple[int, bytes]] = []
    while found := broker.read(seen[-1][0] if seen else 0, 10):
        seen += found
    assert seen == [(number, name.encode()) for number, name in enumerate("abcde", 1)]


def test_long_reads_are_cut_and_go_on(broker: NatsBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 3_000_000)
    broker.publish([Message(str(number), b"%d" % number * 1_000_000) for number in range(7)])
    after, seen = 0, 0
    while found := broker.read(after, 100):
        assert sum(len(body) for _, body in found) <= 4_000_000
        after, seen = found[-1][0], seen + len(found)
    assert (after, seen) == (7, 7)


def test_an_open_stream_keeps_the_settings_of_its_administrator(nats: NatsServers, broker: NatsBroker) -> None:
    name = broker.place.rpartition(" ")[2]

    async def shorter(context: object) -> None:
        config = (await context.stream_info(name)).config  # type: ignore[attr-defined]
        config.max_age = 3600
        await context.update_stream(config)  # type: ignore[attr-defined]

    nats.admin(shorter)
    with contextlib.closing(module.connect(f"{nats.url}/{name}")) as again:
        assert again.publish(messages("a")) == [1]
    config = nats.admin(lambda context: context.stream_info(name)).config
    assert config.max_age == 3600
    assert (config.discard, config.storage, config.num_replicas) == ("new", "file", 1)
    assert config.duplicate_window > module.PATIENCE


def test_a_stream_that_cannot_be_made_leaves_nothing_running(stream: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LogError, match="in the NATS stream"):
        module.connect(f"{stream}?replicas=3")  # of one server
    gc.collect()
    assert "everlearn-nats" not in [thread.name for thread in threading.enumerate()]
    assert "destroyed" not in caplog.text


def test_a_full_stream_refuses_events_and_drops_none(nats: NatsServers, stream: str, tmp_path: Path) -> None:
    with contextlib.closing(connect(url_of(tmp_path, stream))) as log:
        log.append([example("a")])
        name = stream.rpartition("/")[2]

        async def bounded(context: object) -> None:
            config = (await context.stream_info(name)).config  # type: ignore[attr-defined]
            config.max_bytes = 4000
            await context.update_stream(config)  # type: ignore[attr-defined]

        nats.admin(bounded)
        began = time.monotonic()
        few = [Example(f"b{number}", {"pad": "x" * 300}, 1) for number in range(5)]
        log.append(few)
        with pytest.raises(LogError, match="did not acknowledge an event: .*maximum bytes exceeded"):
            log.append([Example(f"c{number}", {"pad": "x" * 300}, 1) for number in range(8)])
        assert time.monotonic() - began < module.PATIENCE
        assert [event.payload for event in scan(log)] == [example("a"), *few]


def test_a_server_with_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT", 0.5)
    servers = NatsServers(extra='authorization { users: [ { user: "ml", password: "p@ss" } ] }')
    try:
        host = f"127.0.0.1:{servers.ports[0]}"
        for login in ("", "ml:wrong@"):
            with pytest.raises(
                LogError,
                match="in the NATS stream s cannot be reached.*(password or token|the login) in log.url",
            ) as raised:
                module.connect(f"nats://{login}{host}/s")
            assert "wrong" not in str(raised.value)
        with contextlib.closing(module.connect(f"nats://ml:p%40ss@{host}/s")) as broker:
            assert broker.publish(messages("a")) == [1]
        with pytest.raises(LogError, match="is closed; open it again"):
            broker.end()
    finally:
        servers.stop()


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT", 0.5)
    threads = threading.active_count()
    with pytest.raises(LogError, match="in the NATS stream s cannot be reached.*check that the servers"):
        module.connect("nats://127.0.0.1:1/s")
    assert threading.active_count() == threads


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (module, nats_publications):
        monkeypatch.setattr(one, "PATIENCE", 1.0)
    servers = NatsServers()
    log = connect(url_of(tmp_path, f"{servers.url}/s"))
    try:
        assert log.append([example("a")]) == [1]
        log.check_writable(1.0)
        servers.kill(0)
        with pytest.raises(LogError, match="did not acknowledge an event"):
            log.append([example("b")])
        with pytest.raises(LogError, match="cannot be written"):
            log.check_writable(0.1)
        servers.start(0)
        for one in (module, nats_publications):
            monkeypatch.setattr(one, "PATIENCE", 30.0)
        assert log.append([example("c")]) in ([2], [3])  # "b" waited in the connection, or not
        log.check_writable(1.0)
    finally:
        log.close()
        servers.stop()


# ---- three servers ---------------------------------------------------------------------------------------------------


def kill_servers(servers: NatsServers, known: list[str], kills: int) -> None:
    """Kill one server after another, the leader every second time, and start each again; two always run."""
    draw = np.random.default_rng(6)
    for kill in range(kills):
        before = len(known)
        until(lambda before=before: len(known) > before + 20, "no group is acknowledged after a kill")
        time.sleep(float(draw.uniform(0.0, 0.3)))
        leader = servers.leader("loop") if kill % 2 else None
        victim = leader if leader is not None else int(draw.integers(3))
        servers.kill(victim)
        before = len(known)
        until(lambda before=before: len(known) > before, "no group is acknowledged by the other two")
        servers.start(victim)
        servers.wait()
        until(lambda: current(servers), "a server that came back does not catch up")


def current(servers: NatsServers) -> bool:
    """Return True if all replicas of the stream are there."""

    async def ask(context: object) -> bool:
        cluster = (await context.stream_info("loop")).cluster  # type: ignore[attr-defined]
        others = cluster.replicas or []
        return bool(cluster.leader) and len(others) == 2 and all(one.current and not one.offline for one in others)

    with contextlib.suppress(Exception):
        return bool(servers.admin(ask))
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kills", [10, 50])
def test_kills_of_three_servers_lose_nothing_and_double_nothing(tmp_path: Path, kills: int) -> None:
    servers = NatsServers(3)
    place = f"{servers.url}/loop?replicas=3"
    schema = el.read({"x": [0.1, 0.2], "y": [0, 1]}, label="y").schema
    spec = Spec(schema=schema, model={"family": "linear"}, log=LogSpec(url=place), tick=100, checkpoint=2000)
    known: list[str] = []
    broken: list[BaseException] = []
    interrupted: list[LogError] = []
    stop = threading.Event()

    def write(name: str, log: Log) -> None:
        number = 0
        while not stop.is_set():
            size = 1 + number % 16
            draw = np.random.default_rng((len(name), number)).normal(size=size)
            rows = [Example(f"{name}-{number}-{i}", {"x": float(x)}, int(x > 0)) for i, x in enumerate(draw)]
            with contextlib.suppress(LogError):  # not acknowledged: sent again
                log.append(rows)
                known.extend(one.id for one in rows)
                number += 1

    def learn() -> None:
        while not stop.is_set() and not broken:
            try:
                with el.open(spec, home=tmp_path / "loop") as loop:
                    while not stop.is_set():
                        if not loop.catch_up():
                            time.sleep(0.005)
            except LogError as error:  # a server's learner opens its loop again
                interrupted.append(error)
            except BaseException as error:
                broken.append(error)

    logs = [connect(url_of(tmp_path / machine, place)) for machine in ("a", "b", "c")]
    threads = [threading.Thread(target=write, args=(f"w{n}", log)) for n, log in enumerate(logs)]
    threads.append(threading.Thread(target=learn))
    for thread in threads:
        thread.start()
    try:
        kill_servers(servers, known, kills)
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    try:
        assert broken == []
        orders = [[key(event.payload) for event in scan(log)] for log in logs]
        assert orders[0] == orders[1] == orders[2]
        assert len(set(orders[0])) == len(orders[0])
        assert {f"example:{id}" for id in known} <= set(orders[0])
        with el.open(spec, home=tmp_path / "loop") as loop:
            assert loop.fold.monitor.scored == loop.log.count("example")
            assert loop.log.verify().ok
            got = content(loop)
            here = copied(loop.log, tmp_path / "copy")
        expected = replay(here, msgspec.structs.replace(spec, log=LogSpec()), tmp_path / "replayed")
        for part in ("decisions", "arrays", "versions", "aliases", "blobs"):
            assert got[part] == expected[part], part
        print(
            f"{kills} kills, {len(known)} events acknowledged, {loop.fold.monitor.scored} learned, "
            f"the loop was opened again {len(interrupted)} times"
        )
    finally:
        for log in logs:
            log.close()
        servers.stop()
