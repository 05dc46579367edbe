"""Messages of one call: their order, their room, and what becomes of them while no server answers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from everlearn.errors import LogError
from everlearn.scale import nats as module
from everlearn.scale import nats_publications
from everlearn.scale.broker import Message
from everlearn.scale.nats import NatsBroker
from tests.support.nats import NatsServers
from tests.support.servers import until


@pytest.fixture
def broker(stream: str) -> Iterator[NatsBroker]:
    made = module.connect(stream)
    yield made
    made.close()


def messages(first: int, last: int) -> list[Message]:
    return [Message(f"m{number}", b"%d" % number) for number in range(first, last)]


def bodies(broker: NatsBroker) -> list[bytes]:
    """Return the bodies of all messages in the order of the stream."""
    found, after = list[bytes](), 0
    while page := broker.read(after, 1000):
        found += [body for _, body in page]
        after = page[-1][0]
    return found


def running(servers: NatsServers) -> subprocess.Popen[bytes]:
    (process,) = servers.processes
    assert process is not None
    return process


def test_a_call_that_is_longer_than_what_may_be_in_flight_keeps_its_order(broker: NatsBroker) -> None:
    number = 5 * nats_publications.IN_FLIGHT + 7
    assert broker.publish(messages(0, number)) == list(range(1, number + 1))
    assert bodies(broker) == [message.body for message in messages(0, number)]
    assert broker.publish([]) == []
    assert broker._publications._waiting == {}


def test_calls_of_several_threads_keep_their_orders(broker: NatsBroker) -> None:
    sequences: dict[int, list[int]] = {}

    def publish(first: int) -> None:
        sequences[first] = broker.publish(messages(first, first + 400))

    threads = [threading.Thread(target=publish, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one for own in sequences.values() for one in own) == list(range(1, 1601))
    assert all(own == sorted(own) for own in sequences.values())
    found = bodies(broker)
    assert all(found[one - 1] == b"%d" % (first + at) for first, own in sequences.items() for at, one in enumerate(own))


def test_what_a_stopped_server_had_not_answered_is_sent_again_and_stored_once() -> None:
    servers = NatsServers()
    try:
        with contextlib.closing(module.connect(f"{servers.url}/stopped")) as broker:
            broker.publish(messages(0, 1))
            process = running(servers)
            os.kill(process.pid, signal.SIGSTOP)
            threading.Timer(3 * nats_publications.AGAIN, os.kill, (process.pid, signal.SIGCONT)).start()
            began = time.monotonic()
            sequences = broker.publish(messages(1, 600))
            assert time.monotonic() - began > 2 * nats_publications.AGAIN  # so that all were sent several times
            assert sorted(sequences) == list(range(2, 601))
            assert sorted(bodies(broker)) == sorted(message.body for message in messages(0, 600))
    finally:
        servers.stop()


def test_without_an_answer_a_call_ends_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_publications, "PATIENCE", 0.3)
    monkeypatch.setattr(nats_publications, "AGAIN", 0.1)
    servers = NatsServers()
    try:
        with contextlib.closing(module.connect(f"{servers.url}/silent")) as broker:
            process = running(servers)
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(LogError, match="did not acknowledge all of 3 messages: no answer"):
                broker.publish(messages(0, 3))
            os.kill(process.pid, signal.SIGCONT)
            assert broker._publications._waiting == {}
            monkeypatch.undo()
            until(lambda: len(broker.publish(messages(0, 3))) == 3)
            assert sorted(bodies(broker)) == [b"0", b"1", b"2"]
    finally:
        servers.stop()
