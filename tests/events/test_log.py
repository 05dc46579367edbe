"""The log against a plain list, and the addresses that open one."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from everlearn.errors import ConfigError, LogError
from everlearn.events import SqliteLog, connect, deduplication, exists, rows, seals, sqlite, url_of
from tests.support.log_model import ListModel
from tests.support.payloads import example

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


def test_a_wrong_address_is_shown_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url_of(tmp_path, "nat://ml:se/c@ret@broker.example/fraud"))
    assert str(caught.value).startswith("log.url: got 'nat://...@broker.example/fraud'; expected ")


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


@pytest.mark.parametrize(("module", "examples"), [(rows, 4), (deduplication, 1), (seals, 1), (sqlite, 3)])
def test_examples_in_the_docs(module: ModuleType, examples: int) -> None:
    done = doctest.testmod(module)
    assert done.attempted == examples
    assert done.failed == 0


@pytest.mark.parametrize("password", ["plain", "s/lash", "a@t", "quest?ion", "all/of@th?em&"])
def test_no_error_shows_the_password_of_a_url(password: str, tmp_path: Path) -> None:
    address = f"ml:{password}@db.example/ml"
    with pytest.raises(ConfigError) as unknown:
        connect(f"mysql://{address}")
    with pytest.raises(ConfigError) as book:
        url_of(tmp_path, "nats://broker.example/loop", f"mysql://{address}")
    for shown in (str(unknown.value), str(book.value)):
        assert "db.example" in shown
        assert password not in shown
        assert not any(part in shown for part in ("lash", "t@db", "ion@", "of@", "em&"))
