"""The index of a brokered log: a SQLite file that gives the number, the message and the key of each event.

Positions count the events whose key came for the first time, in the order of the broker, so that every index of one log
has the same. The file holds digests and no content. It is a cache: any process of its machine extends it, and if it is
deleted it is made again from the messages.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from everlearn import _private
from everlearn.errors import LogError
from everlearn.events.deduplication import DIGEST
from everlearn.events.file import PATIENCE
from everlearn.events.rows import RARE
from everlearn.scale.broker import Contents, EventCount

FORMAT = 1
KINDS = (
    *("prediction", "example", "label", "reward", "preference", "rejected"),
    *("decision", "version", "checkpoint", "erased"),
)  # an event has the place of its kind here
_CODES = {kind: code for code, kind in enumerate(KINDS)}
_JUDGEMENTS = ("label", "reward", "preference")
_MOST = 500  # values of one statement
_IS_RARE = f"kind IN ({', '.join(str(_CODES[kind]) for kind in RARE)})"  # as the index has it
_SCHEMA = (
    "CREATE TABLE cursor (format INTEGER NOT NULL, sequence INTEGER NOT NULL, events INTEGER NOT NULL, digest BLOB)",
    f"INSERT INTO cursor VALUES ({FORMAT}, 0, 0, NULL)",
    "CREATE TABLE events (position INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, place INTEGER NOT NULL,"
    " kind INTEGER NOT NULL, key BLOB NOT NULL UNIQUE, about BLOB)",
    "CREATE INDEX judged ON events (about) WHERE about IS NOT NULL",
    f"CREATE INDEX rare ON events (kind, position) WHERE {_IS_RARE}",
    "CREATE TABLE kinds (kind INTEGER PRIMARY KEY, events INTEGER NOT NULL, last INTEGER NOT NULL)",
)
_SELECT = "SELECT position, sequence, place, key FROM events"


class Cursor(NamedTuple):
    """The last message in an index, a digest of its body (None before the first), and the events up to it."""

    sequence: int
    events: int
    digest: bytes | None


class Place(NamedTuple):
    """The position of an event, the sequence of its message, its place there, and the digest of its key."""

    position: int
    sequence: int
    place: int
    key: bytes


class Numbered(NamedTuple):
    """A message with its sequence, as the broker has it, and decoded."""

    sequence: int
    body: bytes
    contents: Contents


class LocalIndex:
    """The index in one file, shared by any number of threads and processes of one machine.

    Raises `LogError` for a file that cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with self._explained("could not be opened"):
            path.parent.mkdir(mode=_private.FOLDER_MODE, parents=True, exist_ok=True)
            _private.touch(path)
            self._writer = self._connected()
            self._reader = self._connected()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
        (found,) = connection.execute("SELECT format FROM cursor").fetchone()
        if found != FORMAT:
            raise LogError(
                f"the index {self.path} has format {found}; expected {FORMAT}. Delete it: it is made again from the "
                "messages"
            )
        return connection

    # ---- extending ---------------------------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        """Return how far the index goes."""
        ((sequence, events, digest),) = self._rows("SELECT sequence, events, digest FROM cursor")
        return Cursor(sequence, events, digest)

    def add(self, messages: Sequence[Numbered], check: Callable[[Cursor], None]) -> None:
        """Add the events of messages that follow each other; what another process has added already is passed over.

        `check` gets the cursor as of the first message that is added. Raises `LogError`, and adds nothing, for messages
        whose writer counted other events before them than this index has.
        """
        with self._writing, self._explained("could not be extended"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._add(messages, check)
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise

    def _add(self, messages: Sequence[Numbered], check: Callable[[Cursor], None]) -> None:
        (cursor,) = self._writer.execute("SELECT sequence, events, digest FROM cursor").fetchall()
        sequence, events, _ = cursor
        left = [message for message in messages if message.sequence > sequence]
        if not left:
            return
        check(Cursor(*cursor))
        keys = [[digest(row[2]) for row in message.contents.rows] for message in left]
        known = self._known([key for of_message in keys for key in of_message])
        found: list[tuple[Any, ...]] = []
        kinds: Counter[int] = Counter()
        last: dict[int, int] = {}
        for message, of_message in zip(left, keys, strict=True):
            self._check_count(message, found)
            for place, ((_, kind, name, _), key) in enumerate(zip(message.contents.rows, of_message, strict=True)):
                if key in known:
                    continue
                known.add(key)
                events += 1
                if (code := _CODES.get(kind)) is None:
                    raise LogError(f"message {message.sequence} holds a {kind!r}, unknown here; upgrade Everlearn")
                found.append((events, message.sequence, place, code, key, _subject(kind, name)))
                kinds[code] += 1
                last[code] = events
        self._writer.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", found)
        counted = "INSERT INTO kinds VALUES (?, ?, ?) ON CONFLICT (kind) DO UPDATE SET"
        counted += " events = events + excluded.events, last = excluded.last"
        self._writer.executemany(counted, [(code, number, last[code]) for code, number in kinds.items()])
        changed = left[-1].sequence, events, digest(left[-1].body)
        self._writer.execute("UPDATE cursor SET sequence = ?, events = ?, digest = ?", changed)

    def _known(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return the digests that the index has already."""
        known: set[bytes] = set()
        for some in _chunks(keys):
            marks = ", ".join("?" * len(some))
            known.update(key for (key,) in self._writer.execute(f"SELECT key FROM events WHERE key IN ({marks})", some))
        return known

    def _check_count(self, message: Numbered, found: Sequence[tuple[Any, ...]]) -> None:
        """Raise `LogError` if the writer of a message has counted other events than this index."""
        if (counted := message.contents.counted) is None:
            return
        here = next((one[0] for one in reversed(found) if one[1] <= counted.sequence), None)
        if here is None:
            query = "SELECT position FROM events WHERE sequence <= ? ORDER BY position DESC LIMIT 1"
            here = next((one[0] for one in self._writer.execute(query, (counted.sequence,))), 0)
        if here != counted.events:
            raise LogError(
                f"the index {self.path} has {here} events up to message {counted.sequence}, and the process that wrote "
                f"message {message.sequence} had {counted.events}: messages were removed from the broker. Copy the "
                f"index of the machine that learns to {self.path}, or restore the messages"
            )

    # ---- looking up --------------------------------------------------------------------------------------------

    def before(self, sequence: int) -> int:
        """Return the position of the last event of the messages before a sequence; 0 if there is none."""
        found = self._rows("SELECT position FROM events WHERE sequence < ? ORDER BY position DESC LIMIT 1", (sequence,))
        return int(found[0][0]) if found else 0

    def after(self, position: int, limit: int, kinds: Sequence[str] = ()) -> list[Place]:
        """Return the first `limit` events after a position, in order; only of these `kinds`, if given."""
        among = f" AND kind IN ({', '.join(str(_CODES[kind]) for kind in kinds)})" if kinds else ""
        rare = f" AND {_IS_RARE}" if kinds and set(kinds) <= set(RARE) else ""
        query = f"{_SELECT} WHERE position > ?{among}{rare} ORDER BY position LIMIT ?"
        return self._places(query, (position, limit))

    def find(self, keys: Iterable[str]) -> dict[str, Place]:
        """Return the events that have these keys, by key."""
        digests = {digest(key): key for key in keys}
        found: dict[str, Place] = {}
        for some in _chunks(list(digests)):
            query = f"{_SELECT} WHERE key IN ({', '.join('?' * len(some))})"
            found.update((digests[place.key], place) for place in self._places(query, some))
        return found

    def about(self, id: str) -> list[Place]:
        """Return the prediction or example of an id and all feedback for it, in order."""
        values = digest(f"prediction:{id}"), digest(f"example:{id}"), digest(id)
        query = f"{_SELECT} WHERE key IN (?, ?) UNION ALL {_SELECT} WHERE about = ? ORDER BY position"
        return self._places(query, values)

    def last(self, kind: str) -> Place | None:
        """Return the newest event of a kind."""
        query = f"{_SELECT} WHERE position = (SELECT last FROM kinds WHERE kind = ?)"
        return next(iter(self._places(query, (_CODES[kind],))), None)

    def count(self, kind: str) -> int:
        """Return the number of events of a kind."""
        found = self._rows("SELECT events FROM kinds WHERE kind = ?", (_CODES[kind],))
        return int(found[0][0]) if found else 0

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._writer.close()
        self._reader.close()

    def _places(self, query: str, values: Sequence[Any]) -> list[Place]:
        return [Place(*found) for found in self._rows(query, values)]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reading, self._explained("could not be read"):
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LogError(
                f"the index {self.path} {what}: {error}; check the disk and the rights of its folder, or delete the "
                "index: it is made again from the messages"
            ) from error


def digest(content: str | bytes) -> bytes:
    """Return 16 bytes that stand for a key, an id or a body."""
    held = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.blake2b(held, digest_size=16).digest()


def counted(cursor: Cursor) -> EventCount:
    """Return what a message notes of the index of its writer."""
    return EventCount(cursor.sequence, cursor.events)


def _subject(kind: str, key: str) -> bytes | None:
    """Return the digest of the id that a judgement is about; None for other events."""
    return digest(key[len(kind) + 1 : -DIGEST - 1]) if kind in _JUDGEMENTS else None


def _chunks(values: Sequence[bytes]) -> Iterator[list[bytes]]:
    rest = iter(values)
    while some := list(islice(rest, _MOST)):
        yield some
