"""Group commit: real logs, real writers beside it, and what becomes of each entry."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.app.worker import commit
from everlearn.app.worker.commit import GroupCommit
from everlearn.errors import InputError, LogError
from everlearn.events import Row, SqliteLog, row
from everlearn.records import Example, Label, Payload


class Request:
    """What one request wants written, and what became of it."""

    def __init__(self, *payloads: Payload) -> None:
        self.rows: list[Row] = [row(one, 1.0) for one in payloads]
        self.new: int | None = None
        self.error: Exception | None = None

    def written(self, new: int) -> None:
        assert self.new is None
        assert self.error is None
        self.new = new

    def failed(self, error: Exception) -> None:
        assert self.new is None
        assert self.error is None
        self.error = error


def example(id: str, x: float = 0.0) -> Example:
    return Example(id, {"x": x}, True)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with SqliteLog(tmp_path / "log.db") as log:
        yield log


def run(log: SqliteLog, act: Callable[[GroupCommit], Awaitable[None]]) -> list[tuple[int, int]]:
    """Let `act` use a group commit on an event loop; return what each transaction held: entries, rows."""
    groups: list[tuple[int, int]] = []

    async def main() -> None:
        later = asyncio.get_running_loop().call_later
        await act(GroupCommit(log, later, lambda entries, rows, _: groups.append((entries, rows))))

    asyncio.run(main())
    return groups


def test_what_comes_together_is_one_transaction_and_settled_at_once(log: SqliteLog) -> None:
    requests = [Request(example("a"), example("b")), Request(), Request(example("c"))]

    async def act(commits: GroupCommit) -> None:
        commits.put(requests)
        assert [one.new for one in requests] == [2, 0, 1]

    assert run(log, act) == [(3, 3)]
    assert [event.payload for event in log.read()] == [example("a"), example("b"), example("c")]


def test_what_is_known_is_acknowledged_again(log: SqliteLog) -> None:
    known, new = Request(example("a")), Request(example("a"), Label("a", True))
    log.append([example("a")])

    async def act(commits: GroupCommit) -> None:
        commits.put([known, new])

    run(log, act)
    assert (known.new, new.new) == (0, 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=3), max_size=12))
def test_a_contradiction_fails_alone(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[list[tuple[int, int]]]
) -> None:
    """Whatever contradicts whatever: an entry is in the log whole, or fails and is not; nobody else suffers."""
    requests = [Request(*(example(str(id), float(x)) for id, x in one)) for one in wanted]
    with SqliteLog(tmp_path_factory.mktemp("home") / "log.db") as log:
        log.append([example("0", 0.0), example("1", 1.0)])

        async def act(commits: GroupCommit) -> None:
            commits.put(requests)

        run(log, act)
        held = {event.payload.id: event.payload.features["x"] for event in log.read()}
    assert sum(one.new or 0 for one in requests) == len(held) - 2  # each new row is counted by one request alone
    for one, request in zip(wanted, requests, strict=True):
        if request.error is None:
            assert all(held[str(id)] == x for id, x in one)
        else:
            assert isinstance(request.error, InputError)
            assert any(held.get(str(id), x) != x or (id, 1 - x) in one for id, x in one)


def test_while_another_process_writes_nothing_stops_and_what_comes_joins(log: SqliteLog) -> None:
    other = sqlite3.connect(log.path, isolation_level=None)
    first, second = Request(example("a")), Request(example("b"))

    async def act(commits: GroupCommit) -> None:
        other.execute("BEGIN IMMEDIATE")
        commits.put([first])
        await asyncio.sleep(0.05)  # the loop goes on
        commits.put([second])
        assert (len(commits), first.new, second.new) == (2, None, None)
        other.execute("ROLLBACK")
        async with asyncio.timeout(5):
            while len(commits):
                await asyncio.sleep(0.001)

    assert run(log, act) == [(2, 2)]
    assert (first.new, second.new) == (1, 1)
    other.close()


def test_it_does_not_wait_for_ever(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "PATIENCE", 0.02)
    other = sqlite3.connect(log.path, isolation_level=None)
    first, second = Request(example("a")), Request(example("b"))

    async def act(commits: GroupCommit) -> None:
        other.execute("BEGIN IMMEDIATE")
        commits.put([first])
        async with asyncio.timeout(5):
            while first.error is None:
                await asyncio.sleep(0.001)
        other.execute("ROLLBACK")
        commits.put([second])

    run(log, act)
    assert isinstance(first.error, LogError)
    assert second.new == 1
    other.close()


def test_a_full_disk_fails_a_group_whole_and_the_next_one_goes_through(log: SqliteLog) -> None:
    before, big, small = Request(example("a")), Request(Example("b", {"text": "x" * 60_000}, 1)), Request(example("c"))
    after = Request(example("d"))

    async def act(commits: GroupCommit) -> None:
        commits.put([before])
        log._writer.execute("PRAGMA max_page_count = 14")  # SQLite's own way of having no space
        commits.put([big, small])
        log._writer.execute("PRAGMA max_page_count = 1000000")
        commits.put([after])

    run(log, act)
    assert isinstance(big.error, LogError)
    assert isinstance(small.error, LogError)
    assert [event.payload.id for event in log.read()] == ["a", "d"]
    assert after.new == 1
