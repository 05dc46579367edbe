"""Messages that a broker no longer has, or has changed: an index stops, and names what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import LogError
from everlearn.events import Log, connect, scan, url_of
from everlearn.records import Checkpoint
from tests.support.nats import NatsServers
from tests.support.payloads import example


class Machines:
    """The log of one stream, opened from several machines; and the stream as its administrator sees it."""

    def __init__(self, nats: NatsServers, url: str, folder: Path) -> None:
        self._nats, self._url, self._folder = nats, url, folder
        self._name = url.rpartition("/")[2]
        self._opened: list[Log] = []

    def open(self, machine: str) -> Log:
        log = connect(url_of(self._folder / machine, self._url))
        self._opened.append(log)
        return log

    def close(self) -> None:
        for log in self._opened:
            log.close()

    def purge(self, upto: int) -> None:
        self._nats.admin(lambda context: context.purge_stream(self._name, seq=upto))

    def delete(self, sequence: int) -> None:
        self._nats.admin(lambda context: context.delete_msg(self._name, sequence))

    def replace(self) -> None:
        async def ask(context: Any) -> None:
            await context.delete_stream(self._name)

        self._nats.admin(ask)


@pytest.fixture
def machines(nats: NatsServers, stream: str, tmp_path: Path) -> Iterator[Machines]:
    made = Machines(nats, stream, tmp_path)
    yield made
    made.close()


def filled(log: Log, messages: int, first: int = 0) -> None:
    for number in range(first, first + messages):
        log.append([example(f"{number}-{i}") for i in range(3)])


def test_an_index_never_jumps_over_messages_that_are_gone(machines: Machines) -> None:
    one, two = machines.open("one"), machines.open("two")
    filled(one, 10)
    assert two.end() == 30
    filled(one, 10, first=10)
    machines.purge(16)
    for act in (two.end, lambda: two.read(30), lambda: two.find("example:unknown"), lambda: two.append([example("x")])):
        with pytest.raises(LogError, match=r"messages 11 to 15 are gone, .* the first available one is 16"):
            act()
    assert one.append([example("goes on")]) == [62]  # "x" was published, and not acknowledged
    assert [event.position for event in one.read(57)] == [58, 59, 60, 61, 62]


def test_an_event_that_is_gone_is_named(machines: Machines) -> None:
    log = machines.open("one")
    filled(log, 5)
    log.close()
    other = machines.open("two")
    machines.purge(4)
    log = machines.open("one")
    for act in (lambda: log.find("example:1-0"), lambda: log.read(0, 5), lambda: log.about("0-1")):
        with pytest.raises(LogError, match=r"message [12] is no longer there; the first available one is 4"):
            act()
    assert log.find("example:3-1").position == 11  # type: ignore[union-attr]
    assert log.count("example") == 15
    log.close()
    machines.purge(6)
    with pytest.raises(LogError, match=r"messages 1 to 5 are gone, .* the first available one is 6"):
        other.end()


def test_an_index_finds_out_that_messages_were_removed_from_the_middle(machines: Machines) -> None:
    log = machines.open("one")
    filled(log, 5)
    log.save([Checkpoint(15, "blob")], log.acquire())
    machines.delete(3)
    other = machines.open("two")
    with pytest.raises(LogError, match=r"has 12 events up to message 5, and the process that wrote message 6 had 15"):
        other.end()
    assert log.append([example("goes on")]) == [17]


def test_a_stream_that_was_replaced_is_not_read(machines: Machines) -> None:
    log = machines.open("one")
    filled(log, 3)
    log.close()
    machines.replace()
    other = machines.open("two")
    filled(other, 4)
    with pytest.raises(LogError, match="message 3 is another one than .*index.sqlite was made from"):
        machines.open("one")


def test_a_stream_that_lost_its_end_is_not_read(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlearn.scale.tail.PATIENCE", 0.1)
    log = machines.open("one")
    filled(log, 3)
    log.close()
    machines.replace()
    log = machines.open("one")
    with pytest.raises(LogError, match=r"ends at message 0, and .*index.sqlite has read up to message 3"):
        log.end()


def test_old_events_are_read_from_the_broker_in_any_order(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlearn.scale.tail.HELD", 0)
    log = machines.open("one")
    filled(log, 40)
    assert [event.payload.id for event in scan(log)] == [f"{n}-{i}" for n in range(40) for i in range(3)]  # type: ignore[union-attr]
    for number in (39, 0, 17):
        assert log.find(f"example:{number}-2").position == 3 * number + 3  # type: ignore[union-attr]
    assert [event.position for event in log.read(100, 7)] == list(range(101, 108))
