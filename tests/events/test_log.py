"""The log against a plain list, and the addresses that open one."""

from __future__ import annotations

import doctest
import re
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everlearn import events
from everlearn.errors import ConfigError, LogError
from everlearn.events import KINDS, SqliteLog, connect, deduplication, exists, key, rows, seals, sqlite, url_of
from everlearn.records import (
    Checkpoint,
    Decision,
    Event,
    Example,
    Label,
    Payload,
    Reward,
)
from tests.support.payloads import example, payloads

few = st.sampled_from("abcd")  # ids that come again, so that judgements and examples do

repeated: st.SearchStrategy[Payload] = st.one_of(
    st.builds(Label, few, st.integers(0, 2)),
    st.builds(Reward, few, st.sampled_from([0.0, 0.5])),
    st.builds(Example, few, st.just({"x": 0.5}), st.just(True)),
    st.builds(Checkpoint, st.integers(0, 3), st.just("blob")),
    st.builds(Decision, st.just("drift"), st.integers(0, 3), st.just("why"), st.just("drift")),
)


class ListModel(RuleBasedStateMachine):
    """State machine: after any sequence of calls, the log equals a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.mkdtemp()
        self.log = SqliteLog(Path(self.home) / "log.db")
        self.list: list[Event] = []
        self.positions: dict[str, int] = {}

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.home)

    @rule(group=st.lists(repeated | payloads, max_size=25), at=st.floats(0, 2e9))
    def append(self, group: list[Payload], at: float) -> None:
        expected = []
        known = {name: self.list[position - 1].payload for name, position in self.positions.items()}
        for payload in group:
            if known.setdefault(key(payload), payload) != payload:
                return  # a contradiction, or a decision said in other words: these have tests of their own
        for payload in group:
            if key(payload) not in self.positions:
                self.list.append(Event(len(self.list) + 1, at, payload))
                self.positions[key(payload)] = len(self.list)
            expected.append(self.positions[key(payload)])
        assert self.log.append(group, time=at) == expected

    @rule(durability=st.sampled_from(["process", "power"]))
    def reopen(self, durability: events.Durability) -> None:
        self.log.close()
        self.log = SqliteLog(Path(self.home) / "log.db", durability)

    @rule(after=st.integers(0, 30), limit=st.integers(0, 30), kinds=st.lists(st.sampled_from([*KINDS.values()])))
    def read(self, after: int, limit: int, kinds: list[str]) -> None:
        expected = [e for e in self.list if e.position > after and (not kinds or KINDS[type(e.payload)] in kinds)]
        assert self.log.read(after, limit, kinds) == expected[:limit]

    @rule(kind=st.sampled_from([*KINDS.values()]))
    def last_and_count(self, kind: str) -> None:
        expected = [event for event in self.list if KINDS[type(event.payload)] == kind]
        assert self.log.count(kind) == len(expected)
        assert self.log.last(kind) == (expected[-1] if expected else None)

    @precondition(lambda self: self.list)
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.list))
        assert self.log.find(key(event.payload)) == event
        assert self.log.find(key(event.payload) + "?") is None

    @invariant()
    def same(self) -> None:
        assert self.log.read(limit=100_000) == self.list


TestListModel = ListModel.TestCase

TestListModel.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize(
    ("url", "book", "says"),
    [
        ("", "postgresql://h/d", "got 'postgresql://h/d'; expected none, since log.url names no broker"),
        ("postgresql://h/d", "postgresql://me:secret@h/d", "got 'postgresql://...@h/d'; expected none"),
        ("nats://h/s", "nats://h/t", "got 'nats://h/t'; expected postgresql://HOST/DATABASE"),
        ("nats://h/s", "book.sqlite", "got 'book.sqlite'; expected postgresql://HOST/DATABASE"),
    ],
)
def test_a_book_is_a_database_beside_a_broker(url: str, book: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"log.book: {says}")):
        url_of("home", url, book)


def test_connect_takes_paths_and_sqlite_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, url in enumerate(["log.db", f"{tmp_path}/log.db", "sqlite:///log.db", f"sqlite:///{tmp_path}/log.db"]):
        log = connect(url, "power")
        assert log.append([example(str(number))]) == [number + 1]
        log.close()


@pytest.mark.parametrize("url", ["ftp://host/x", "sqlite://log.db", "amqp://host/queue"])
def test_connect_refuses_other_addresses(url: str) -> None:
    with pytest.raises(
        ConfigError,
        match="expected a path, sqlite:///PATH, postgresql://HOST/DATABASE, nats://HOST/STREAM or kafka://HOST:PORT/TOPIC",
    ):
        connect(url)


def test_the_log_of_a_loop_is_in_its_folder_unless_a_url_names_another_place(tmp_path: Path) -> None:
    assert url_of(tmp_path) == str(tmp_path / "log.sqlite")
    assert not exists(tmp_path)
    connect(url_of(tmp_path)).close()
    assert exists(tmp_path)
    named = url_of(tmp_path / "fraud", "postgresql://host/db?sslmode=require")
    assert named == "postgresql://host/db?sslmode=require&loop=fraud"
    assert url_of("other", named) == named
    assert exists("nowhere", named)


def test_an_older_epoch_saves_nothing(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.db") as log, SqliteLog(tmp_path / "log.db") as other:
        first = log.acquire()
        assert log.save([example("a")], first) == [1]
        second = other.acquire()
        assert second > first
        with pytest.raises(LogError, match=f"began epoch {first}, and another began epoch {second} since"):
            log.save([example("b")], first)
        assert other.save([example("c")], second) == [2]
        assert [event.payload.id for event in log.read()] == ["a", "c"]


@pytest.mark.parametrize(("module", "examples"), [(rows, 2), (deduplication, 1), (seals, 1), (sqlite, 3)])
def test_examples_in_the_docs(module: ModuleType, examples: int) -> None:
    done = doctest.testmod(module)
    assert done.attempted == examples
    assert done.failed == 0
