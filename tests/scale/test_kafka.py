"""Topics as a broker, on librdkafka's mock and on Tansu; neither is Apache Kafka (see `tests.support.kafka`)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import everlearn as el
from everlearn.errors import ConfigError, LogError
from everlearn.events import Log, connect, key, row, scan, url_of
from everlearn.records import Example, Label
from everlearn.scale.broker import Message, packed
from everlearn.spec import LogSpec, Spec
from everlearn.stream import Stream
from tests.support.kafka import CLUSTER, Cluster, Mock, Tansu
from tests.support.payloads import example
from tests.support.servers import content, copied, replay, until

pytest.importorskip("confluent_kafka", reason="needs everlearn[kafka]")

from everlearn.scale import kafka as module
from everlearn.scale import tail
from everlearn.scale.kafka import KafkaBroker


@pytest.fixture
def broker(topic: str) -> Iterator[KafkaBroker]:
    made = module.connect(topic)
    yield made
    made.close()


def messages(*bodies: bytes) -> list[Message]:
    return [Message("", body) for body in bodies]


def test_messages_come_back_in_order(broker: KafkaBroker) -> None:
    assert (broker.first(), broker.end(), broker.read(0, 10), broker.get(1)) == (1, 0, [], None)
    assert broker.publish([]) == []
    assert broker.publish(messages(b"a")) == [1]
    assert broker.publish(messages(b"b", b"c")) == [2, 3]
    assert broker.read(0, 10) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert broker.read(1, 1) == [(2, b"b")]
    assert broker.read(1, 10) == [(2, b"b"), (3, b"c")]
    assert (broker.get(3), broker.get(1), broker.get(4), broker.first(), broker.end()) == (b"c", b"a", None, 1, 3)
    assert broker.read(3, 10) == []
    broker.publish(messages(b"d"))
    assert broker.read(3, 10) == [(4, b"d")]
    broker.check(5.0)


@pytest.mark.slow
def test_many_messages_in_flight_keep_their_order(broker: KafkaBroker) -> None:
    bodies = [b"%d" % number for number in range(3000)]
    assert broker.publish(messages(*bodies)) == list(range(1, 3001))
    found: list[tuple[int, bytes]] = []
    while part := broker.read(len(found), 1024):
        found += part
    assert found == list(enumerate(bodies, 1))


@pytest.mark.slow
def test_threads_share_a_broker(broker: KafkaBroker) -> None:
    published: dict[bytes, int] = {}

    def publish(name: int) -> None:
        for number in range(40):
            (published[b"%d/%d" % (name, number)],) = broker.publish(messages(b"%d/%d" % (name, number)))
            assert broker.get(number + 1) is not None

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published.values()) == list(range(1, 161))
    assert dict(broker.read(0, 200)) == {sequence: body for body, sequence in published.items()}


@pytest.mark.slow
def test_long_reads_are_cut_and_go_on(tansu: Tansu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the mock, which keeps 5 MB."""
    monkeypatch.setattr(module, "READ_BYTES", 3_000_000)
    monkeypatch.setattr(module, "_CHUNK", 1)
    with contextlib.closing(module.connect(f"{tansu.url}/long?{tansu.parameters}")) as broker:
        broker.publish(messages(*(b"%d" % number * 1_000_000 for number in range(7))))
        after = 0
        while found := broker.read(after, 100):
            assert [sequence for sequence, _ in found] == list(range(after + 1, after + 1 + len(found)))
            assert sum(len(body) for _, body in found) <= 4_000_000
            after = found[-1][0]
        assert after == 7


@pytest.mark.parametrize("partitions", [2])
def test_partitions_of_one_topic_are_apart(topic: str, partitions: int, tmp_path: Path) -> None:
    if "batch.num" in topic or "replicas" in topic:  # made by the first client; the mock has made four partitions
        topic = topic.replace("/everlearn-test-", "/everlearn-test-apart-")
    places = [f"{topic}&partitions={partitions}&partition={number}" for number in range(partitions)]
    logs = [connect(url_of(tmp_path / str(number), place)) for number, place in enumerate(places)]
    assert [log.append([example(f"in {number}")]) for number, log in enumerate(logs)] == [[1], [1]]
    assert [[event.payload.id for event in scan(log)] for log in logs] == [["in 0"], ["in 1"]]
    for log in logs:
        log.close()
    with pytest.raises(LogError, match="the topic has . partitions; expected more than the number in log.url"):
        connect(url_of(tmp_path / "c", f"{topic}&partition=9"))


# ---- what the broker does not do for the log -------------------------------------------------------------------------


def test_an_event_that_was_published_twice_is_one_event(topic: str, broker: KafkaBroker, tmp_path: Path) -> None:
    """Kafka has no window of ids; here a writer that lost its acknowledgement has sent its message again."""
    twice, other = (
        packed([row(example("a"), 1.0), row(Label("a", 1), 1.0)], 10_000),
        packed([row(example("b"), 2.0)], 10_000),
    )
    broker.publish([*twice, *twice, *other, *twice])
    with (
        contextlib.closing(connect(url_of(tmp_path / "one", topic))) as one,
        contextlib.closing(connect(url_of(tmp_path / "two", topic))) as two,
    ):
        expected = ["example:a", key(Label("a", 1)), "example:b"]
        for log in (one, two):
            assert [key(event.payload) for event in scan(log)] == expected
        assert one.append([example("b"), example("c")]) == [3, 4]
        assert two.append([example("c"), example("a")]) == [4, 1]
        assert list(scan(one)) == list(scan(two))


def test_a_log_whose_next_messages_are_gone_does_not_jump(
    mock_kafka: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mock keeps 5 MB of a partition. Tansu ends its connection when it is told to delete records."""
    monkeypatch.setattr(module, "DESCRIBING", 0.02)
    mock_kafka.make("retained")
    place = f"{mock_kafka.url}/retained?{mock_kafka.parameters}"
    with contextlib.closing(connect(url_of(tmp_path / "writer", place))) as log:
        log.append([example("first")])
        with contextlib.closing(connect(url_of(tmp_path / "reader", place))) as reader:
            assert reader.end() == 1
            for number in range(8):
                log.append([Example(f"long {number}", {"text": "x" * 1_000_000}, 1)])
            with contextlib.closing(module.connect(place)) as broker:
                first = broker.first()
                assert first > 2
                assert broker.get(1) is None
                assert broker.read(0, 1)[0][0] == first
            with pytest.raises(LogError, match=f"messages 2 to {first - 1} are gone.*first available one is {first}"):
                reader.read(1)
        assert log.read(first - 1)[0].payload.id == f"long {first - 2}"  # type: ignore[union-attr]
    expected = pytest.raises(LogError, match="message 1 is no longer there; the first available one is")
    with contextlib.closing(connect(url_of(tmp_path / "writer", place))) as log, expected:
        log.read(0)  # indexed before it was gone


def test_a_loop_goes_on_after_its_first_decisions_are_gone(
    mock_kafka: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DESCRIBING", 0.02)
    mock_kafka.make("forgetful")
    place = LogSpec(url=f"{mock_kafka.url}/forgetful?{mock_kafka.parameters}")
    spec = Spec(schema=rows(4).schema, model={"family": "linear"}, log=place, tick=100)
    long = [Example(f"long {number}", {"x": 0.5, "pad": "x" * 1_000_000}, number % 2) for number in range(8)]
    with el.open(spec, home=tmp_path / "loop") as loop:
        loop.learn({"x": 1.0}, 1)
        for one in long:
            loop.log.append([one])
        loop.catch_up()
        before, decisions = content(loop), loop.decisions()
    with contextlib.closing(module.connect(place.url)) as broker:
        assert broker.first() > 4
    with el.open(spec, home=tmp_path / "loop") as loop:
        after = content(loop)
        for part in ("arrays", "versions", "aliases"):
            assert after[part] == before[part], part
        assert loop.decisions() == decisions
        assert loop.log.verify().ok
        assert loop.log.seals(0, loop.log.end()).keys() == {
            event.position for event in scan(loop.log, kinds=("decision",))
        }
        loop.learn({"x": 1.0}, 1)
        assert loop.fold.monitor.scored == 10


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_a_topic_that_drops_events_by_key_is_refused(tansu: Tansu) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{tansu.port}"})
    admin.create_topics([NewTopic("compacted", 1, 1, config={"cleanup.policy": "compact"})])["compacted"].result(10)
    with pytest.raises(LogError, match="cleanup.policy is compact, which drops events.*expected delete"):
        module.connect(f"{tansu.url}/compacted")


def test_a_new_topic_keeps_its_events(tansu: Tansu) -> None:
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

    module.connect(f"{tansu.url}/kept?{tansu.parameters}").close()
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{tansu.port}"})
    (answer,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, "kept")]).values()
    found = {name: entry.value for name, entry in answer.result(10).items()}
    assert found == {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://host", "expected kafka://HOST:PORT/TOPIC"),
        ("kafka://me:secret@host/a/b", "expected kafka://HOST:PORT/TOPIC"),
        ("kafka://me:secret@host/topic?partition=x", "are whole numbers"),
        ("kafka://me:secret@host/topic?acks=1", "acks: got '1'; expected none"),
        ("kafka://host/topic?auto.offset.reset=latest", "auto.offset.reset: got 'latest'; expected none"),
        ("kafka://host/topic?enable.idempotence=false", "enable.idempotence: got 'false'; expected none"),
    ],
)
def test_urls_of_another_form_are_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        module.connect(url)
    assert "secret" not in str(raised.value)


def test_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    threads = threading.active_count()
    with pytest.raises(
        LogError, match="in partition 0 of the Kafka topic t could not be opened.*check that the servers"
    ):
        module.connect("kafka://127.0.0.1:1/t")
    assert threading.active_count() == threads


@pytest.mark.slow
def test_a_broker_that_goes_away_and_comes_back_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tansu keeps records in memory. With an object store, its end stays behind what it acknowledged."""
    monkeypatch.setattr(tail, "PATIENCE", 1.0)
    running = Tansu()
    log = connect(url_of(tmp_path, f"{running.url}/t?{running.parameters}"))
    try:
        assert log.append([example("a"), example("b")]) == [1, 2]
        running.kill()
        monkeypatch.setattr(module, "PATIENCE", 1.0)
        for _ in range(2):
            with pytest.raises(LogError, match="cannot be written"):
                log.check_writable(0.1)
            with pytest.raises(LogError, match="did not acknowledge an event"):
                log.append([example("c")])
        assert [event.payload.id for event in log.read(limit=2)] == ["a", "b"]  # of the memory of this process
        running.start()
        with contextlib.closing(module.connect(f"{running.url}/t?{running.parameters}")) as emptied:
            until(lambda: emptied.end() < 2)
        with pytest.raises(LogError, match="the stream was replaced, or it lost messages"):
            log.end()
    finally:
        log.close()
        running.stop()


# ---- loops, and kills ------------------------------------------------------------------------------------------------


def rows(count: int) -> Stream:
    draw = np.random.default_rng(7)
    x = draw.normal(size=count)
    return el.read({"x": x.tolist(), "y": (x + draw.normal(size=count) > 0).astype(int).tolist()}, label="y")


@pytest.mark.slow
def test_a_loop_learns_the_same_as_in_a_folder(topic: str, tmp_path: Path) -> None:
    stream = rows(1500)
    found = []
    for name, place in (("folder", LogSpec()), ("kafka", LogSpec(url=topic))):
        spec = Spec(schema=stream.schema, model={"family": "linear"}, log=place, tick=100, subject="x")
        with el.open(spec, home=tmp_path / name) as loop:
            loop.run(stream)
            found.append(content(loop))
    for part in ("arrays", "versions", "aliases"):
        assert found[0][part] == found[1][part], part


WRITER = """
import sys, threading
from everlearn.events import connect
from everlearn.records import Example
log = connect(sys.argv[1])
number = int(sys.argv[2])
while True:
    log.append([Example(f"{number}-{i}", {"x": float(i)}, i % 2) for i in range(5)])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tansu: Tansu, tmp_path: Path) -> None:
    """Not on the mock, whose process is this one."""
    place = f"{tansu.url}/killed-writer?{tansu.parameters}"
    known: list[int] = []
    for turn in range(3):
        command = [sys.executable, "-c", WRITER, url_of(tmp_path / "writer", place), str(1000 * turn)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        known += [int(process.stdout.readline()) for _ in range(15 + turn)]
        os.kill(process.pid, signal.SIGKILL)
        known += [int(line) for line in process.stdout.read().splitlines()]
        process.stdout.close()
        process.wait()
    with contextlib.closing(connect(url_of(tmp_path / "reader", place))) as log:
        found = [event.payload.id for event in scan(log)]  # type: ignore[union-attr]
    assert len(found) == len(set(found))
    assert {f"{number}-{i}" for number in known for i in range(5)} <= set(found)


if CLUSTER and Cluster().kills:

    @pytest.mark.slow
    def test_kills_of_brokers_lose_nothing_and_double_nothing(cluster: Cluster, tmp_path: Path) -> None:
        """Three machines append and a loop learns, while a command kills one broker after another."""
        kills = int(os.environ["EVERLEARN_KAFKA_KILLS"])
        place = f"{cluster.url}/everlearn-test-kills-{time.time_ns()}?{cluster.parameters}"
        spec = Spec(
            schema=rows(4).schema, model={"family": "linear"}, log=LogSpec(url=place), tick=100, checkpoint=2000
        )
        known: list[str] = []
        broken: list[BaseException] = []
        stop = threading.Event()

        def write(name: str, log: Log) -> None:
            number = 0
            while not stop.is_set():
                size = 1 + number % 16
                draw = np.random.default_rng((len(name), number)).normal(size=size)
                made = [Example(f"{name}-{number}-{i}", {"x": float(x)}, int(x > 0)) for i, x in enumerate(draw)]
                with contextlib.suppress(LogError):  # not acknowledged: sent again
                    log.append(made)
                    known.extend(one.id for one in made)
                    number += 1

        def learn() -> None:
            try:
                with el.open(spec, home=tmp_path / "loop") as loop:
                    while not stop.is_set():
                        if not loop.catch_up():
                            time.sleep(0.005)
            except BaseException as error:
                broken.append(error)

        logs = [connect(url_of(tmp_path / machine, place)) for machine in ("a", "b", "c")]
        threads = [threading.Thread(target=write, args=(f"w{n}", log)) for n, log in enumerate(logs)]
        threads.append(threading.Thread(target=learn))
        for thread in threads:
            thread.start()
        draw = np.random.default_rng(5)
        try:
            for _ in range(kills):
                before = len(known)
                until(lambda before=before: len(known) > before + 20, "no group is acknowledged")
                time.sleep(float(draw.uniform(0.0, 0.3)))
                cluster.kill()
        finally:
            stop.set()
            for thread in threads:
                thread.join(120)
        assert broken == []
        try:
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
            print(f"{kills} kills, {len(known)} events acknowledged, {loop.fold.monitor.scored} learned")
        finally:
            for log in logs:
                log.close()
