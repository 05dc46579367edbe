"""The chain of decisions: each is sealed with a digest of itself and of the previous seal.

    seal = sha256(previous seal, position, time, decision)

A decision cannot be changed, removed or inserted without new seals for all later decisions. An older seal stored
elsewhere reveals even that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from everlearn.errors import LogError
from everlearn.events.rows import IS_RARE

Query = Callable[[str, Sequence[Any]], Iterable[Any]]  # runs SQL with ? for values in one transaction, returns rows

START = "0" * 64  # stands in for the seal before the first

SCHEMA = (
    "CREATE TABLE seals (position INTEGER PRIMARY KEY, digest TEXT NOT NULL)",
    "CREATE TRIGGER seal_kept BEFORE DELETE ON seals BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER seal_fixed BEFORE UPDATE ON seals BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
)


class ChainCheck(NamedTuple):
    """The result of a check: is the chain intact, its newest seal, and the first bad position (or None)."""

    ok: bool
    head: str
    bad: int | None


def digest(before: str, position: int, time: float, decision: str) -> str:
    """Return the seal of a decision, given as the JSON text in the log.

    >>> digest(START, 1, 0.5, "{}")[:12]
    '3cd675e3952b'
    """
    return hashlib.sha256(json.dumps([before, position, time, decision]).encode()).hexdigest()


def check_epoch(held: int, newest: int, log: str) -> None:
    """Raise `LogError` if a later epoch than the one held has begun."""
    if held != newest:
        raise LogError(
            f"the log {log}: this process began epoch {held}, and another began epoch {newest} since, so nothing more "
            "is saved here; end this process"
        )


def head(query: Query) -> str:
    """Return the newest seal."""
    found = next(iter(query("SELECT digest FROM seals ORDER BY position DESC LIMIT 1", ())), None)
    return str(found[0]) if found else START


def seal(query: Query, position: int, time: float, decision: str) -> None:
    """Seal the newest decision, within the transaction that writes it."""
    made = digest(head(query), position, time, decision)
    query("INSERT INTO seals VALUES (?, ?)", (position, made))


def seal_all(query: Query) -> None:
    """Seal the decisions of a log of format 1, which had no seals, within one transaction."""
    for position, time, decision in _decisions(query):
        seal(query, position, time, decision)


def verify(query: Query) -> ChainCheck:
    """Check all decisions against their seals; a gap in the positions counts as a removed decision."""
    before, checked = START, 0
    seals = query("SELECT position, digest FROM seals ORDER BY position", ())
    for decision, sealed in zip_longest(_decisions(query), seals):
        places = [found[0] for found in (decision, sealed) if found is not None]
        if len(set(places)) > 1 or len(places) < 2 or digest(before, *decision) != sealed[1]:
            return ChainCheck(False, head(query), _gap(query, checked, min(places)) or min(places))
        checked, before = sealed
    ((end,),) = query("SELECT coalesce(max(position), 0) FROM events", ())
    gap = _gap(query, 0, end)
    return ChainCheck(gap is None, before, gap)


def _decisions(query: Query) -> Iterator[tuple[int, float, str]]:
    sql = f"SELECT position, time, payload FROM events WHERE kind = 'decision' AND {IS_RARE} ORDER BY position"
    yield from query(sql, ())


def _gap(query: Query, after: int, upto: int) -> int | None:
    """Return the first position in (after, upto] without an event; None if there is none."""
    count = "SELECT count(*) FROM events WHERE position > ? AND position <= ?"
    low, high = after, upto
    if _number(query(count, (low, high))) == high - low:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _number(query(count, (low, middle))) == middle - low:
            low = middle
        else:
            high = middle
    return high


def _number(rows: Iterable[Any]) -> int:
    """Return the one number that a query found."""
    ((found,),) = rows
    return int(found)
