"""The log made of a broker, a book and an index, over a real NATS server."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

import everlearn as el
from everlearn import events
from everlearn.bridges.mlflow import Follower
from everlearn.errors import ConfigError, InputError, InUse, LogError
from everlearn.events import Log, connect, key, row, scan, url_of
from everlearn.loop.backup import backup
from everlearn.loop.rebuild_home import rebuild_home
from everlearn.records import Born, Checkpoint, Decision, Event, Example, Label, Payload, Version
from everlearn.scale.broker import Message, packed
from everlearn.scale.brokered import BrokeredLog
from everlearn.spec import LogSpec, Spec
from everlearn.stream import Stream
from tests.support.log_model import ListModel
from tests.support.nats import NatsServers
from tests.support.payloads import example
from tests.support.postgres import Server
from tests.support.servers import content, copied, replay

Opened = Callable[..., BrokeredLog]


@pytest.fixture
def opened(stream: str, tmp_path: Path) -> Iterator[Opened]:
    """Opens the log of a stream from the folder of a machine; closes all at the end."""
    logs: list[BrokeredLog] = []

    def open_log(machine: str = "one", book: str = "") -> BrokeredLog:
        log = connect(url_of(tmp_path / machine, stream, book))
        assert isinstance(log, BrokeredLog)
        logs.append(log)
        return log

    yield open_log
    for log in logs:
        log.close()


def born(id: str) -> Born:
    return Born(Version(id, (), 1, "blob", {}, {}, "why"))


def contents(log: BrokeredLog) -> list[Event]:
    return list(scan(log))


# ---- one order for all machines --------------------------------------------------------------------------------------


def test_machines_see_one_order_and_a_new_index_gives_the_same_positions(opened: Opened, tmp_path: Path) -> None:
    one, two = opened("one"), opened("two")
    assert one.append([example("a"), example("b")]) == [1, 2]
    assert two.append([example("b"), example("c")]) == [2, 3]
    assert one.append([Label("c", 1), example("a")]) == [4, 1]
    assert contents(one) == contents(two)
    found = contents(one)
    one.close()
    for path in (tmp_path / "one").glob("index.sqlite*"):
        path.unlink()
    again = opened("one")
    assert contents(again) == found
    assert [again.count(kind) for kind in ("example", "label", "reward")] == [3, 1, 0]
    assert [event.position for event in again.about("c")] == [3, 4]


def test_an_event_that_was_published_twice_is_one_event(opened: Opened) -> None:
    one, two = opened("one"), opened("two")
    same, other = row(example("a"), 1.0), row(example("a", 9.0), 2.0)
    for group in ([same], [same, row(example("b"), 1.0)], [other, row(example("c"), 1.0)], [same]):
        (message,) = packed(group, 10_000)
        one._broker.publish([message._replace(id=f"{message.id}-{len(group)}")])  # as other writers would
    for log in (one, two):
        assert [event.payload.id for event in contents(log)] == ["a", "b", "c"]  # type: ignore[union-attr]
        assert [event.position for event in contents(log)] == [1, 2, 3]
        assert contents(log)[0].payload == example("a")


def test_of_two_contents_of_one_key_the_first_stands_and_the_second_writer_learns_it(opened: Opened) -> None:
    one, two = opened("one"), opened("two")
    two.append([example("before")])
    one.append([example("a", 1.0)])
    assert two._index.find(["example:a"]) == {}  # this machine has not read it yet
    with pytest.raises(InputError, match="'example:a' is already in the log with other content, as event 2"):
        two.append([example("a", 2.0), example("beside")])
    assert one.find("example:a") == two.find("example:a")
    assert [event.payload for event in contents(one)] == [example("before"), example("a", 1.0), example("beside")]


def test_rows_that_others_wrote_meanwhile_do_not_count_as_new(opened: Opened) -> None:
    one, two = opened("one"), opened("two")
    rows = [row(example(id), 1.0) for id in "abcd"]
    two.append([example("z")])
    one.write(rows[:2])
    assert two.try_put(rows) == ([2, 3, 4, 5], 3)
    assert two.try_put(rows[:3]) == ([2, 3, 4], 4)  # all are known: no position after the returned end


def test_messages_of_other_programs_are_passed_over(opened: Opened) -> None:
    log = opened()
    log._broker.publish([Message("one", b"\x00\xff"), Message("two", b'{"temperature": 21}')])
    assert log.append([example("a")]) == [1]
    assert opened("two").end() == 1


def test_groups_longer_than_a_message_stay_in_order(opened: Opened) -> None:
    log = opened()
    log._broker.most_bytes = 20_000  # as servers with a small `max_payload` have
    big = [Example(f"{i}", {"pad": "x" * 8000}, 1) for i in range(5)]
    assert log.append(big) == [1, 2, 3, 4, 5]
    assert log._broker.end() == 3
    with pytest.raises(InputError, match="this example has 301.. bytes; expected at most 199"):
        log.append([example("beside"), Example("big", {"pad": "x" * 30_000}, 1)])
    assert log.end() == 5


WRITER = """
import sys
from everlearn.events import connect
from everlearn.records import Example
with connect(sys.argv[1]) as log:
    for number in range(20):
        size = 1 + number % 4
        print(*log.append([Example(f"{sys.argv[2]}-{number}-{i}", {"x": 1.0}, 1) for i in range(size)]), flush=True)
"""


def test_processes_share_one_index(opened: Opened, stream: str, tmp_path: Path) -> None:
    machines = ("one", "one", "one", "two")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url_of(tmp_path / machine, stream), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, machine in enumerate(machines)
    ]
    acknowledged = [int(word) for writer in writers for word in writer.communicate(timeout=60)[0].split()]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert sorted(acknowledged) == list(range(1, 201))
    log, other = opened("one"), opened("two")
    assert contents(log) == contents(other)
    found = [event.payload.id for event in contents(log)]  # type: ignore[union-attr]
    assert len(set(found)) == 200
    for number in range(4):
        assert [id for id in found if id.startswith(f"{number}-")] == [
            f"{number}-{group}-{i}" for group in range(20) for i in range(1 + group % 4)
        ]


def test_it_is_a_list_with_keys(nats: NatsServers) -> None:
    numbers = itertools.count()

    class BrokeredListModel(ListModel):
        def opened(self, durability: events.Durability = "process") -> Log:
            if self.stream is None:
                self.stream = f"{nats.url}/list-{next(numbers)}"
            return connect(url_of(self.home, self.stream))

    run_state_machine_as_test(
        BrokeredListModel,
        settings=settings(
            max_examples=8, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# ---- the book --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
def test_decisions_are_in_the_book_and_in_the_order_of_the_log(
    opened: Opened, server: Server, stream: str, elsewhere: bool
) -> None:
    book = f"{server.url}?loop=book {stream[-20:]}" if elsewhere else ""
    log = opened("one", book)
    epoch = log.acquire()
    order = Decision("order", 1, "please", "user", detail={"ask": "pause"})
    log.append([example("a")])
    assert log.append([order]) == [2]
    assert log.seals(0, 10) == {}  # sealed with the next group of the loop
    made = [born("v1"), Decision("reject", 2, "because", "loop"), Checkpoint(2, "blob")]
    assert log.save(made, epoch) == [3, 4, 5]
    assert log.save([Checkpoint(2, "blob")], epoch) == [5]
    assert log.append([example("b")]) == [6]
    assert [event.payload for event in log.read(kinds=("decision", "version"))] == [order, *made[:2]]
    assert [event.payload for event in contents(log)] == [example("a"), order, *made, example("b")]
    assert [event.payload for event in scan(log._book)] == [order, *made]
    assert list(log.seals(0, 10)) == [2, 4]
    assert list(log.seals(2, 10).items()) == [(4, log.verify().head)]
    assert log.verify().ok
    if elsewhere:
        assert opened("two", book).seals(0, 10) == log.seals(0, 10)


def test_a_changed_decision_is_found_in_the_book_and_in_the_stream(opened: Opened, tmp_path: Path) -> None:
    log = opened()
    epoch = log.acquire()
    log.append([example("a"), example("b")])
    log.save([Decision("drift", 2, "why", "drift"), Checkpoint(2, "one")], epoch)
    log.save([Decision("drift", 3, "why", "drift"), Checkpoint(3, "two")], epoch)
    assert log.verify().ok
    (message,) = packed([row(Decision("drift", 4, "true", "drift"), 1.0)], 10_000)
    log._broker.publish([message])
    log._book.append([Decision("drift", 4, "false", "drift")])
    assert log.verify()[::2] == (False, 7)
    log.close()
    with closing(sqlite3.connect(tmp_path / "one" / "book.sqlite")) as intruder, intruder:
        intruder.execute("DROP TRIGGER fixed")
        intruder.execute("UPDATE events SET time = 0 WHERE position = 3")
    assert opened().verify()[::2] == (False, 5)


def test_what_was_saved_and_not_published_is_published_by_the_next_one(tmp_path: Path) -> None:
    servers = NatsServers()
    try:
        place = url_of(tmp_path / "one", f"{servers.url}/loop")
        log = connect(place)
        assert isinstance(log, BrokeredLog)
        epoch = log.acquire()
        log.append([example("a"), Decision("order", 1, "please", "user")])
        log._broker.close()  # as if the process lost its broker between book and stream
        made: list[Payload] = [born("v1"), Decision("drift", 1, "why", "drift"), Checkpoint(2, "blob")]
        with pytest.raises(LogError, match="in the NATS stream loop"):
            log.save(made, epoch)
        log.close()
        with closing(connect(place)) as again:
            assert again.end() == 2
            newer = again.acquire()
            assert [event.payload for event in scan(again)][2:] == made
            assert again.save([Checkpoint(5, "next")], newer) == [6]
            assert again.verify().ok
            assert list(again.seals(0, 9)) == [2, 4]
    finally:
        servers.stop()


def test_one_process_learns_and_an_older_epoch_saves_nothing(opened: Opened, server: Server, stream: str) -> None:
    book = f"{server.url}?loop=lease {stream[-20:]}"
    one, two = opened("one", book), opened("two", book)
    first = one.acquire()
    with pytest.raises(InUse):
        two.acquire()
    one.save([Checkpoint(0, "a")], first)
    one._book.close()  # its session is lost, and it does not notice
    second = two.acquire()
    one._book = connect(book)
    one._ledger._book = one._book
    with pytest.raises(LogError, match=f"began epoch {first}, and another began epoch {second}"):
        one.save([Checkpoint(1, "zombie")], first)
    assert two.save([Checkpoint(1, "b")], second) == [2]
    assert [event.payload for event in contents(one)] == [Checkpoint(0, "a"), Checkpoint(1, "b")]


def test_a_stream_has_one_book(opened: Opened, tmp_path: Path) -> None:
    one = opened("one")
    one.save([Checkpoint(0, "a")], one.acquire())
    with pytest.raises(LogError, match="has 'checkpoint:0:a', which the book does not have: another loop learns"):
        opened("two").acquire()
    other = opened("three")
    other.append([example("x")])  # writers need no book
    assert one.end() == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats://h/s", "without home and book; expected everlearn.events.url_of"),
        ("nats://h?home=h&book=b", "expected nats://HOST/STREAM"),
        ("nats://me:secret@h/s.t?home=h&book=b", "expected nats://HOST/STREAM"),
        ("nats://h/s?replicas=2&home=h&book=b", "replicas is one of 1, 3, 5"),
        ("nats://h/s?replica=3&home=h&book=b", "expected nats://HOST/STREAM"),
    ],
)
def test_urls_of_another_form_are_refused(url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says) as raised:
        connect(url)
    assert "secret" not in str(raised.value)


# ---- a whole loop ----------------------------------------------------------------------------------------------------


def rows_of_a_stream() -> Stream:
    random = np.random.default_rng(2)
    x = random.normal(size=(3000, 3))
    y = (x[:, 0] + 0.5 * x[:, 1] * np.where(np.arange(3000) < 1500, 1, -1) > 0).astype(int)
    return el.read({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y}, label="y")


@pytest.mark.parametrize("rows", ["auto", pytest.param("always", marks=pytest.mark.slow)])
def test_a_loop_learns_the_same_as_in_a_folder(stream: str, server: Server, tmp_path: Path, rows: str) -> None:
    data = rows_of_a_stream()
    states, decided = [], []
    places = {"folder": ("", ""), "book-here": (stream, ""), "book-there": (f"{stream}-2", server.url)}
    for place, (log, book) in places.items():
        spec = Spec(
            schema=data.schema,
            model={"family": "linear"},
            log=LogSpec(url=log, book=book, rows=rows),
            tick=100,
            checkpoint=500,
        )
        home = tmp_path / place / f"loop-{rows}"
        with el.open(spec, home=home) as loop:
            loop.run(data)
            ids = [loop.predict({"a": 0.1 * i, "b": 0.0, "c": 0.0}).id for i in range(30)]
        with el.open(spec, home=home) as loop:
            for number, id in enumerate(ids):
                loop.feedback(id, label=number % 2)
            arrays, header = loop.fold.state()
            del header["now"]
            states.append(({name: value.tobytes() for name, value in arrays.items()}, header))
            decided.append([(event.position, event.payload.action) for event in scan(loop.log, kinds=("decision",))])
            assert loop.log.verify().ok
            if book:
                with pytest.raises(InUse):
                    el.open(spec, home=tmp_path / "other" / f"loop-{rows}")
            before = loop.versions()
            mirrored = Follower(home, spec)
            mirrored._read()  # as it does before it copies to a registry
            assert mirrored._versions.list() == before
            assert loop.rollback().id in {version.id for version in before}
    assert states[0] == states[1] == states[2]
    assert decided[0] == decided[1] == decided[2]
    assert len(decided[0]) >= 3


@pytest.mark.slow
def test_a_lost_book_is_made_again_from_the_stream(stream: str, tmp_path: Path) -> None:
    data = rows_of_a_stream()
    spec = Spec(schema=data.schema, model={"family": "linear"}, log=LogSpec(url=stream, rows="always"), tick=100)
    home, copy = tmp_path / "loop", tmp_path / "copy"
    with el.open(spec, home=home) as loop:
        loop.run(data)
    backup(home, copy)
    with el.open(spec, home=home) as loop:
        loop.rollback()
        expected = content(loop)
        decided = loop.decisions()
    shutil.rmtree(home)
    with pytest.raises(LogError, match="which the book does not have.*make the book again with `everlearn rebuild`"):
        el.open(spec, home=copy)  # the stream is newer
    for name in ("copy", "new"):  # from an older copy, and from nothing
        place = tmp_path / name
        assert rebuild_home(place, spec.log).versions == len(expected["versions"])
        with el.open(spec, home=place) as loop:
            assert loop.log.verify().ok
            assert loop.decisions() == decided
            assert content(loop) == expected
            assert len(list(loop.log.seals(0, loop.log.end()))) == len(decided)


LEARNER = """
import sys, msgspec
import everlearn as el
from everlearn.spec import Spec
spec = msgspec.json.decode(sys.argv[1], type=Spec)
with el.open(spec, home=sys.argv[2]) as loop:
    print("open", loop.position, flush=True)
    for line in sys.stdin:
        number = int(line)
        x = number % 17 / 8 - 1.0
        given = loop.predict({"a": x}, id=f"p{number}")
        loop.feedback(given.id, label=int(x > 0))
        print(given.id, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 12])
def test_a_killed_learner_goes_on_with_the_same_bytes(stream: str, tmp_path: Path, kills: int) -> None:
    schema = el.read({"a": [0.1, 0.2], "y": [0, 1]}, label="y").schema
    spec = Spec(schema=schema, model={"family": "linear"}, log=LogSpec(url=stream), tick=20, checkpoint=50)
    draw, number = np.random.default_rng(4), 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", LEARNER, msgspec.json.encode(spec).decode(), str(tmp_path / "loop")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith("open")
        for _ in range(int(draw.integers(20, 90))):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"p{number}\n"
            number += 1
        process.stdin.write("".join(f"{number + i}\n" for i in range(30)))  # it is killed amid these
        process.stdin.flush()
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
        number += 30
    with el.open(spec, home=tmp_path / "loop") as loop:
        got = content(loop)
        here = copied(loop.log, tmp_path / "copy")
        keys = [key(event.payload) for event in scan(loop.log)]
        assert len(keys) == len(set(keys))
        assert loop.log.count("label") >= number - 30 * kills
        assert loop.log.verify().ok
    expected = replay(here, msgspec.structs.replace(spec, log=LogSpec()), tmp_path / "replayed")
    for part in ("decisions", "arrays", "versions", "aliases", "blobs"):
        assert got[part] == expected[part], part
