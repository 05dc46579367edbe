"""The chain of decisions, against a tamperer with full access to the file, and against the arithmetic written out."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from everlearn.errors import LogError
from everlearn.events import ChainCheck, SqliteLog
from everlearn.records import Decision, Example, Label, Payload

TRIGGERS = ("kept", "fixed", "seal_kept", "seal_fixed")


def decision(at: int, reason: str = "the loss rose") -> Decision:
    return Decision("drift", at, reason, "drift")


def filled(path: Path) -> list[int]:
    """Write a log with twelve decisions between other events; return the positions of the decisions."""
    where = []
    with SqliteLog(path) as log:
        for at in range(12):
            group: list[Payload] = [Example(f"{at}", {"x": 0.5}, True), decision(at), Label(f"{at}", True)]
            where.append(log.append(group[: 2 + at % 2], time=float(at))[1])
    return where


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def places(path: Path) -> list[int]:
    where = filled(path)
    with SqliteLog(path) as log:
        assert log.verify().ok
    return where


def forge(path: Path, *statements: str) -> None:
    """Change the file with full rights, bypassing the log."""
    with closing(sqlite3.connect(path)) as other:
        for trigger in TRIGGERS:
            other.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            other.execute(statement)
        other.commit()


def make_older(path: Path) -> None:
    """Turn a log into one of format 1, which had no seals."""
    with closing(sqlite3.connect(path)) as other:
        for statement in ("DROP TABLE seals", "DROP INDEX erased", "PRAGMA user_version = 1"):
            other.execute(statement)


def verified(path: Path) -> ChainCheck:
    with SqliteLog(path) as log:
        return log.verify()


def test_seals_are_the_arithmetic_that_the_docs_say(path: Path, places: list[int]) -> None:
    before = "0" * 64
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT position, time, payload FROM events WHERE kind = 'decision' ORDER BY position")
        expected = {}
        for position, time, text in rows:
            before = hashlib.sha256(json.dumps([before, position, time, text]).encode()).hexdigest()
            expected[position] = before
    with SqliteLog(path) as log:
        assert log.seals(0, log.end()) == expected
        assert log.seals(places[3], places[5]) == {place: expected[place] for place in places[4:6]}
        assert log.verify() == (True, before, None)
    assert list(expected) == places


def test_a_log_without_decisions_holds(path: Path) -> None:
    with SqliteLog(path) as log:
        assert log.verify() == (True, "0" * 64, None)
        log.append([Example("a", {}, True)])
        assert log.verify() == (True, "0" * 64, None)


def test_the_chain_goes_on_after_reopening_and_a_decision_sent_again_is_not_sealed_again(path: Path) -> None:
    with SqliteLog(path) as log:
        log.append([decision(1)])
        first = log.verify().head
    with SqliteLog(path) as log:
        assert log.append([decision(1, "in other words")]) == [1]
        assert log.verify().head == first
        assert log.append([decision(2)]) == [2]
        assert log.verify().head != first
        assert log.seals(0, 1) == {1: first}


TAMPERING: dict[str, Callable[[int, int], str]] = {
    "reason": lambda at, _: f"UPDATE events SET payload = replace(payload, 'rose', 'fell') WHERE position = {at}",
    "time": lambda at, _: f"UPDATE events SET time = time + 1e-6 WHERE position = {at}",
    "kind": lambda at, _: f"UPDATE events SET kind = 'label' WHERE position = {at}",
    "removed, seal left": lambda at, _: f"DELETE FROM events WHERE position = {at}",
    "seal removed": lambda at, _: f"DELETE FROM seals WHERE position = {at}",
    "seal changed": lambda at, _: f"UPDATE seals SET digest = '{'f' * 64}' WHERE position = {at}",
    "swapped": lambda at, other: (
        f"UPDATE events SET payload = (SELECT payload FROM events AS e WHERE e.position = {at + other - 1} - "
        f"events.position + 1) WHERE position IN ({at}, {other})"
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
@pytest.mark.parametrize("which", [0, 5, 10])
def test_what_was_tampered_with_is_found_where_it_is(path: Path, places: list[int], how: str, which: int) -> None:
    forge(path, TAMPERING[how](places[which], places[which + 1]))
    ok, _, bad = verified(path)
    assert (ok, bad) == (False, places[which])


@pytest.mark.parametrize("which", [0, 5, 10])
def test_a_decision_removed_with_its_seal_is_found_by_its_gap(path: Path, places: list[int], which: int) -> None:
    gone = places[which]
    forge(path, f"DELETE FROM events WHERE position = {gone}", f"DELETE FROM seals WHERE position = {gone}")
    assert verified(path)[::2] == (False, gone)


def test_the_last_decision_removed_with_its_seal_is_found_while_events_follow(path: Path, places: list[int]) -> None:
    forge(path, *(f"DELETE FROM {table} WHERE position = {places[-1]}" for table in ("events", "seals")))
    assert verified(path)[::2] == (False, places[-1])


def test_a_decision_inserted_in_the_place_of_another_event_is_found(path: Path, places: list[int]) -> None:
    place = places[4] - 1
    forge(path, f"UPDATE events SET kind = 'decision', payload = '{{}}' WHERE position = {place}")
    assert verified(path)[::2] == (False, place)


def test_an_inserted_decision_with_a_right_seal_is_found_at_the_next_one(path: Path, places: list[int]) -> None:
    place = places[4] - 1
    with SqliteLog(path) as log:
        before = log.seals(0, place)[places[3]]
    seal = hashlib.sha256(json.dumps([before, place, 4.0, "{}"]).encode()).hexdigest()
    forge(
        path,
        f"UPDATE events SET kind = 'decision', payload = '{{}}' WHERE position = {place}",
        f"INSERT INTO seals VALUES ({place}, '{seal}')",
    )
    assert verified(path)[::2] == (False, places[4])


def test_who_seals_everything_anew_is_found_by_a_head_kept_elsewhere_only(path: Path, places: list[int]) -> None:
    _, kept, _ = verified(path)
    forge(path, f"UPDATE events SET payload = replace(payload, 'rose', 'fell') WHERE position = {places[2]}")
    make_older(path)
    ok, head, _ = verified(path)
    assert ok
    assert head != kept


def test_logs_from_before_the_seals_are_sealed_when_opened(path: Path, places: list[int]) -> None:
    expected = verified(path)
    make_older(path)
    assert verified(path) == expected
    with SqliteLog(path) as log:
        log.append([decision(99)])
        assert log.verify().ok


def test_the_file_refuses_to_change_a_seal(path: Path, places: list[int]) -> None:
    with closing(sqlite3.connect(path)) as other:
        for statement in ("DELETE FROM seals", "UPDATE seals SET digest = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)


CHILD = """
    import sys
    from everlearn.events import SqliteLog, row
    from everlearn.records import Decision, Example
    path, name = sys.argv[1:3]
    with SqliteLog(path) as log:
        for at in range(150):
            group = [Example(f"{name}/{at}", {}, True), Decision("drift", at, name, "drift", detail={"by": name})]
            if at % 3:
                log.append(group)
            else:
                while log.try_write([row(payload, 1.0) for payload in group]) is None:
                    pass
"""


def test_processes_that_seal_at_once_make_one_chain(path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path)]
    children = [subprocess.Popen([*command, f"child{number}"]) for number in range(3)]
    assert [process.wait(timeout=60) for process in children] == [0, 0, 0]
    with SqliteLog(path) as log:
        assert log.verify().ok
        assert len(log.seals(0, log.end())) == log.count("decision") == 450


def test_a_group_that_is_refused_leaves_no_seal(path: Path, places: list[int]) -> None:
    with SqliteLog(path) as log:
        before = log.verify()
        log._writer.execute("PRAGMA max_page_count = 1")
        with pytest.raises(LogError, match="holds none of it"):
            log.append([decision(50), Example("big", {"text": "x" * 60_000}, 1)])
        assert log.verify() == before


def test_a_flipped_bit_in_any_decision_is_found(path: Path, places: list[int]) -> None:
    chance = random.Random(7)
    data = path.read_bytes()
    starts = [found.start() for found in re.finditer(b"the loss rose", data)]
    assert len(starts) == 12
    for start in starts:
        flipped = bytearray(data)
        flipped[start + chance.randrange(13)] ^= 1 << chance.randrange(3)
        path.write_bytes(flipped)
        assert not verified(path).ok
