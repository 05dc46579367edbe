"""The chain of decisions: each is sealed with a digest of itself and of the seal before it.

    seal = sha256(seal before, position, time, decision)

So nobody can change, remove or insert a decision without making new seals for all that follow, and whoever has kept
an older seal elsewhere finds out even then.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from everlearn.events.rows import IS_RARE

START = "0" * 64  # the seal before the first

SCHEMA = (
    "CREATE TABLE seals (position INTEGER PRIMARY KEY, digest TEXT NOT NULL)",
    "CREATE TRIGGER seal_kept BEFORE DELETE ON seals BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER seal_fixed BEFORE UPDATE ON seals BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
)


class Chain(NamedTuple):
    """Whether the chain holds, its newest seal, and the first position where it does not hold (None if it does)."""

    ok: bool
    head: str
    bad: int | None


def digest(before: str, position: int, time: float, decision: str) -> str:
    """The seal of a decision, given as the JSON text that is in the log.

    >>> digest(START, 1, 0.5, "{}")[:12]
    '3cd675e3952b'
    """
    return hashlib.sha256(json.dumps([before, position, time, decision]).encode()).hexdigest()


def head(connection: sqlite3.Connection) -> str:
    """The newest seal."""
    found = connection.execute("SELECT digest FROM seals ORDER BY position DESC LIMIT 1").fetchone()
    return str(found[0]) if found else START


def seal(connection: sqlite3.Connection, position: int, time: float, decision: str) -> None:
    """Seal the newest decision, within the transaction that writes it."""
    made = digest(head(connection), position, time, decision)
    connection.execute("INSERT INTO seals VALUES (?, ?)", (position, made))


def seal_all(connection: sqlite3.Connection) -> None:
    """Seal the decisions of a log that was begun before there were seals, within one transaction."""
    for position, time, decision in _decisions(connection):
        seal(connection, position, time, decision)


def verify(connection: sqlite3.Connection) -> Chain:
    """Walk along all decisions and seals; a gap in the positions counts as a decision that was removed."""
    before, checked = START, 0
    seals = connection.execute("SELECT position, digest FROM seals ORDER BY position")
    for decision, sealed in zip_longest(_decisions(connection), seals):
        places = [found[0] for found in (decision, sealed) if found is not None]
        if len(set(places)) > 1 or len(places) < 2 or digest(before, *decision) != sealed[1]:
            return Chain(False, head(connection), _gap(connection, checked, min(places)) or min(places))
        checked, before = sealed
    (end,) = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
    gap = _gap(connection, 0, end)
    return Chain(gap is None, before, gap)


def _decisions(connection: sqlite3.Connection) -> Iterator[tuple[int, float, str]]:
    ask = f"SELECT position, time, payload FROM events WHERE kind = 'decision' AND {IS_RARE} ORDER BY position"
    yield from connection.execute(ask)


def _gap(connection: sqlite3.Connection, after: int, upto: int) -> int | None:
    """The first position in (after, upto] where there is no event."""
    count = "SELECT count(*) FROM events WHERE position > ? AND position <= ?"
    low, high = after, upto
    if connection.execute(count, (low, high)).fetchone()[0] == high - low:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if connection.execute(count, (low, middle)).fetchone()[0] == middle - low:
            low = middle
        else:
            high = middle
    return high
