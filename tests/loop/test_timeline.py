"""The order of rows and events, read from the numbers that commits name, against loops whose order is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from everlearn.errors import LogError
from everlearn.events import SqliteLog
from everlearn.loop.timeline import Events, Order, Rows, Start, Timeline, Unlearn
from everlearn.records import Born, Checkpoint, Decision, Example, Payload, Version
from tests.support.homes import unpacked

START: list[Payload] = [
    Born(Version("v", (), 0, "b", {}, {}, "untrained start")),
    Decision("start", 0, "", "loop", "champion", "v", detail={"examples": 0, "learned": [0, 0]}),
    Checkpoint(0, "b"),
]


def orders(folder: Path, payloads: Sequence[Payload], rows: int | None = None, most: int = 1000) -> list[Order]:
    with SqliteLog(folder / "log.sqlite") as log:
        for number, payload in enumerate(payloads):
            log.append([payload], time=float(number))
        return list(Timeline(log).orders(rows, most))


def events(first: int, count: int) -> list[Payload]:
    return [Example(f"e{number}", {}, 1) for number in range(first, first + count)]


def test_the_home_of_release_0_1_0_that_read_a_file_began_with_100_rows(tmp_path: Path) -> None:
    with SqliteLog(unpacked("regression", tmp_path) / "log.sqlite") as log:
        likeliest = next(Timeline(log).orders(most=150))
    assert likeliest.steps == (Start(0, "log"), Rows(100), Events(304))
    assert (likeliest.rows, likeliest.of_rows) == (100, frozenset())


def test_a_sum_a_row_and_an_event_are_told_apart_by_what_follows(tmp_path: Path) -> None:
    """Events 4 to 13, a commit at row 50 and the end of a run at row 60, events, and the end of another run."""
    log = [*START, *events(4, 10), Checkpoint(13, "b"), Checkpoint(50, "b"), Checkpoint(73, "b")]
    log += [*events(17, 5), Checkpoint(21, "b"), Checkpoint(21 + 90, "b")]
    assert orders(tmp_path, log, rows=90)[0].steps == (
        Start(0, "log"),
        Events(13),
        Rows(60),
        Events(21),
        Rows(90),
        Events(23),
    )


def test_a_decision_of_a_row_is_known_from_the_progress_beside_it(tmp_path: Path) -> None:
    """Row 6 and event 6: the numbers are the same, and the decision says which."""
    born = Born(Version("w", ("v",), 6, "c", {}, {}, ""))
    made = Decision("challenger", 6, "", "drift", "challenger", "w", detail={"learned": [8, 6]})
    log = [*START, *events(4, 5), Checkpoint(8, "b"), born, made, Checkpoint(6, "b"), Checkpoint(18, "b")]
    found = orders(tmp_path, log, rows=10)
    assert found[0].of_rows == {10, 11}
    assert found[0].steps == (Start(0, "log"), Events(8), Rows(10), Events(13))


def test_two_readings_give_two_orders_and_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    reject = Decision("reject", 8, "", "gate", version="v")
    log = [*START, *events(4, 5), reject, Checkpoint(8, "b"), Checkpoint(18, "b")]
    found = orders(tmp_path / "two", log, rows=10)
    assert [order.of_rows for order in found] == [frozenset(), frozenset({9})]
    (tmp_path / "none").mkdir()
    with pytest.raises(LogError, match="got checkpoints that contradict each other and the 7 rows of the last one"):
        orders(tmp_path / "none", log, rows=7)


def test_an_erasure_stands_where_the_checkpoint_before_it_was(tmp_path: Path) -> None:
    """Events 10 to 14 were not folded when the erasure came."""
    log = [*START, *events(4, 5), Checkpoint(8, "b"), *events(10, 5), Decision("erase", 8, "", "user"), *START[2:]]
    log[-1] = Checkpoint(8, "c")
    found = orders(tmp_path, [*log, *events(17, 2)], rows=0)[0]
    assert found.steps == (Start(0, "log"), Events(8), Unlearn(15), Events(18))
    assert found.unfolded == ((9, 15),)
