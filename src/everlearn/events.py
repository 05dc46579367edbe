"""The event log: one ordered, durable, append-only list of everything that happened.

    append(payloads) -> positions      one atomic transaction, acknowledged when it returns
    read(after, limit) -> events       in order of position, each event once

The default home is one SQLite file in WAL mode. `docs/why/log.md` says what is guaranteed under which failure.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from time import time as now
from types import TracebackType
from typing import Any, Literal, NoReturn, Protocol, Self, get_args

import msgspec
import numpy as np

from everlearn.errors import ConfigError, InputError, LogError
from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Erased,
    Event,
    Example,
    Feedback,
    Label,
    Payload,
    Prediction,
    Preference,
    Rejected,
    Reward,
    Scalar,
)

Durability = Literal["process", "power"]

KINDS: dict[type[Any], str] = {record: str(record.__struct_config__.tag) for record in get_args(Payload)}

_APPLICATION = 0x45564C4E  # "EVLN": the file says whose it is, so that nobody else's is touched
_FORMAT = 1
_PATIENCE = 30.0  # seconds that an append waits for one of another process
_RARE = ("decision", "version", "checkpoint", "rejected")
_IS_RARE = f"kind IN ({', '.join(map(repr, _RARE))})"  # word for word as in the index, or SQLite will not use it

_SCHEMA = (
    "CREATE TABLE events (position INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL,"
    " key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL)",
    f"CREATE INDEX rare ON events (kind) WHERE {_IS_RARE}",
    # Rows are never deleted, so SQLite's "one more than the largest" never gives a position twice.
    "CREATE TRIGGER kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)
_INSERT = "INSERT INTO events (time, kind, key, payload) VALUES (?, ?, ?, ?)"
_TEN = 10
_INSERT_TEN = _INSERT + ", (?, ?, ?, ?)" * (_TEN - 1)  # half the time of ten statements
_SELECT = "SELECT position, time, payload FROM events"

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then do it again",
    sqlite3.SQLITE_IOERR: "the disk refused: check its space, quota and health, then do it again",
    sqlite3.SQLITE_READONLY: "make the file and its folder (where FILE-wal and FILE-shm live) writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and that this user may write there",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: put back a copy, or save what is left with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "this is not an event log: give the path of a log, or of a file that does not exist yet",
    sqlite3.SQLITE_BUSY: f"another process held the log for {_PATIENCE:.0f} seconds: end it, or do it again",
    sqlite3.SQLITE_TOOBIG: "an event is too big for one entry: keep its content in a file, and the name in the event",
}


class Log(Protocol):
    """What every home of the log provides."""

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, atomically and durably, and return a position for each payload."""
        ...

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """The first `limit` events behind position `after`, in order; of these `kinds` only, where given."""
        ...

    def find(self, key: str) -> Event | None:
        """The event with this key (see `everlearn.events.key`)."""
        ...

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        ...

    def count(self, kind: str) -> int:
        """How many events of a kind there are."""
        ...

    def close(self) -> None:
        """Let go of the log; closing twice is fine."""
        ...


def connect(url: str, durability: Durability = "process") -> Log:
    """Open the log at a path, or at `sqlite:///relative.db` or `sqlite:////absolute.db`; create it if there is none."""
    scheme, marked, rest = url.partition("://")
    if not marked:
        return SqliteLog(url, durability)
    if scheme == "sqlite" and rest.startswith("/"):
        return SqliteLog(rest[1:], durability)
    if scheme in ("postgresql", "kafka"):
        raise ConfigError(f"a log at {scheme}:// is not there yet (got {url!r}); give the path of a file instead")
    raise ConfigError(f"no log can be kept at {url!r}; expected a path, or sqlite:///PATH")


def key(payload: Payload) -> str:
    """The name under which a payload is in the log once: equal payloads have equal keys.

    Judgements carry a digest of their content, so that the same one sent twice is one event and a correction is
    another. Decisions are named by what they do and where, not by their wording or evidence; checkpoints by
    position and blob, so that the newest is always the one that was written last.

    >>> key(Label("a", True)) == key(Label("a", 1.0)), key(Label("a", 1)) == key(Label("a", 2))
    (True, False)
    """
    match payload:
        case Prediction() | Example():
            return f"{KINDS[type(payload)]}:{payload.id}"
        case Label() | Reward() | Preference():
            return f"{KINDS[type(payload)]}:{payload.id}:{_judgement(payload)}"
        case Decision():
            moved = (payload.alias, payload.version, payload.previous)
            return f"decision:{_digest((payload.action, payload.at, payload.by, *moved, payload.detail))}"
        case Born():
            return f"version:{payload.version.id}"
        case Checkpoint():
            return f"checkpoint:{payload.at}:{payload.blob}"
        case Rejected():
            return f"rejected:{payload.source}:{payload.line}:{payload.at}"
        case Erased():
            return f"erased:{payload.position}"


def _judgement(payload: Feedback) -> str:
    value = payload.chosen if isinstance(payload, Preference) else payload.value
    return _digest((_canonical(value), _canonical(payload.weight), payload.source))


def _canonical(value: Scalar) -> Scalar:
    """Equal numbers as the same number: True, 1 and 1.0 are one answer."""
    if isinstance(value, str):
        return value
    whole = int(value)
    return whole if whole == value else value


def _digest(content: tuple[Any, ...]) -> str:
    return hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=12).hexdigest()


class SqliteLog:
    """A log in one SQLite file, shared by any number of threads and processes of one machine.

    `append` is safe from any thread: groups are written one after the other. Reading has a connection of its
    own and never waits for a writer. After a fork, open the log again. `durability` is what an acknowledged event
    survives: the death of any "process", or a loss of "power" as well (each group is synced).
    Raises `LogError` when the file is of another program or a newer format, or cannot be used.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home, SqliteLog(Path(home) / "log.db") as log:
    ...     log.append([Example("a", {"x": 1.0}, True), Example("b", {"x": 2.5}, False)])
    ...     log.append([Example("b", {"x": 2.5}, False)])  # sent again
    ...     [event.payload.id for event in log.read(after=1)]
    [1, 2]
    [2]
    ['b']
    """

    def __init__(self, path: str | os.PathLike[str], durability: Durability = "process") -> None:
        if durability not in ("process", "power"):
            raise ConfigError(f"durability is {durability!r}, expected 'process' or 'power'")
        self.path = Path(path)
        self._process = os.getpid()
        self._open = True
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._counted: dict[str, tuple[int, int]] = {}  # kind: how many there are up to which position
        if self.path.name == ":memory:" or self.path.is_dir():
            raise LogError(f"{self.path} cannot be a log; expected the path of a file")
        try:
            self._writer = _opened(self.path, durability)
            self._reader = _connection(self.path)
        except sqlite3.Error as error:
            self._open = False
            self._explain(error, "could not be opened")

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, atomically and durably, and return the position of each payload.

        New payloads get ascending positions without gaps. A payload whose key is in the log already is not written
        again and gets the position it has. `time` is in seconds since 1970 (default: now), one value for the group.
        Raises `InputError`, and writes nothing, when a payload cannot be kept as it is (not finite, not JSON) or
        contradicts a prediction, example or version of the same id; `LogError` when the file cannot be written.
        """
        at = now() if time is None else float(time)
        if not math.isfinite(at):
            raise InputError(f"the time of an event is {at}, expected seconds since 1970")
        rows = [_row(payload, at) for payload in payloads]
        self._check_usable()
        with self._writing:
            try:
                return self._write(rows)
            except sqlite3.IntegrityError:  # some key is known: the rare case pays for the lookups
                self._undo()
                return self._write_unknown(rows)
            except sqlite3.Error as error:
                self._undo()
                self._explain(error, f"did not take a group of {len(rows)}, and holds none of it")
            except BaseException:
                self._undo()
                raise

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """The first `limit` events behind position `after`, in order; of these `kinds` only, where given.

        Raises `LogError` when an event cannot be read, and names it.
        """
        _check_kinds(kinds)
        if not kinds:
            rows = self._rows(f"{_SELECT} WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
        elif set(kinds) <= set(_RARE):
            ask = f"{_SELECT} WHERE kind = ? AND {_IS_RARE} AND position > ? ORDER BY position LIMIT ?"
            rows = sorted(row for kind in sorted(set(kinds)) for row in self._rows(ask, (kind, after, limit)))[:limit]
        else:
            among = ", ".join("?" * len(kinds))
            ask = f"{_SELECT} WHERE position > ? AND kind IN ({among}) ORDER BY position LIMIT ?"
            rows = self._rows(ask, (after, *kinds, limit))
        return self._events(rows)

    def find(self, key: str) -> Event | None:
        """The event with this key (see `everlearn.events.key`)."""
        return self._one(f"{_SELECT} WHERE key = ?", (key,))

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        _check_kinds([kind])
        rare = f" AND {_IS_RARE}" if kind in _RARE else ""
        return self._one(f"{_SELECT} WHERE kind = ?{rare} ORDER BY position DESC LIMIT 1", (kind,))

    def count(self, kind: str) -> int:
        """How many events of a kind there are; the first call walks the log, later ones only what is new."""
        _check_kinds([kind])
        number, upto = self._counted.get(kind, (0, 0))
        end = self._rows("SELECT max(position) FROM events", ())[0][0] or 0
        rare = f" AND {_IS_RARE}" if kind in _RARE else ""
        ask = f"SELECT count(*) FROM events WHERE kind = ?{rare} AND position > ? AND position <= ?"
        number += int(self._rows(ask, (kind, upto, end))[0][0])
        self._counted[kind] = (number, end)
        return number

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        with self._writing, self._reading:
            if self._open:
                self._open = False
                self._reader.close()
                self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, rows: list[tuple[float, str, str, str]]) -> list[int]:
        if len(rows) == 1:  # one statement is a transaction of its own, at half the cost of three
            return [self._writer.execute(_INSERT, rows[0]).lastrowid or 0]
        if not rows:
            return []
        self._writer.execute("BEGIN IMMEDIATE")
        tens = len(rows) // _TEN * _TEN
        for start in range(0, tens, _TEN):
            self._writer.execute(_INSERT_TEN, [*chain.from_iterable(rows[start : start + _TEN])])
        self._writer.executemany(_INSERT, rows[tens:])
        (end,) = self._writer.execute("SELECT last_insert_rowid()").fetchone()
        self._writer.execute("COMMIT")
        return list(range(end - len(rows) + 1, end + 1))

    def _write_unknown(self, rows: list[tuple[float, str, str, str]]) -> list[int]:
        """Write those rows whose keys are new."""
        positions = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for row in rows:
                found = self._writer.execute("SELECT position, payload FROM events WHERE key = ?", row[2:3]).fetchone()
                if found is None:
                    positions.append(self._writer.execute(_INSERT, row).lastrowid or 0)
                else:
                    _check_agreement(found[0], found[1], row[3], self.path)
                    positions.append(found[0])
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            self._explain(error, f"did not take a group of {len(rows)}, and holds none of it")
        except BaseException:
            self._undo()
            raise
        return positions

    def _undo(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _rows(self, ask: str, values: Iterable[Any]) -> list[Any]:
        self._check_usable()
        with self._reading:
            try:
                return self._reader.execute(ask, tuple(values)).fetchall()
            except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                self._explain(error, "could not be read")

    def _one(self, ask: str, values: Iterable[Any]) -> Event | None:
        events = self._events(self._rows(ask, values))
        return events[0] if events else None

    def _events(self, rows: list[Any]) -> list[Event]:
        try:
            return [Event(position, time, _decode(text)) for position, time, text in rows]
        except msgspec.MsgspecError:
            for position, _, text in rows:
                _decoded(position, text, self.path)  # finds the one, and names it
            raise

    def _check_usable(self) -> None:
        if not self._open:
            raise LogError(f"the log {self.path} is closed; open it again to use it")
        if os.getpid() != self._process:
            raise LogError(
                f"the log {self.path} was opened by process {self._process} and is used in its child {os.getpid()}; "
                "open it again in each process"
            )

    def _explain(self, error: Exception, what: str) -> NoReturn:
        code = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) and error.args else 0
        advice = _ADVICE.get(code, "see the cause above")
        raise LogError(f"the log {self.path} {what}: {error}; {advice}") from error


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _opened(path: Path, durability: Durability) -> sqlite3.Connection:
    """A connection that writes, on a file that is surely a log of this format."""
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        if _is_blank(connection):
            connection.execute("BEGIN IMMEDIATE")
            if _is_blank(connection):  # still: nobody else was quicker
                for statement in _SCHEMA:
                    connection.execute(statement)
            connection.execute("COMMIT")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise LogError(
                f"{path} is the database of another program; give the path of an event log, or of a new file"
            )
        if version != _FORMAT:
            raise LogError(
                f"the log {path} has format {version}, this Everlearn reads format {_FORMAT}; upgrade Everlearn"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        connection.execute("PRAGMA cache_size = -16000")  # 16 MB hold the upper levels of the index of keys
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages, 16 MB
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_blank(connection: sqlite3.Connection) -> bool:
    asked = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    return all(connection.execute(ask).fetchone()[0] == 0 for ask in asked)


def _check_kinds(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS.values()]
    if unknown or isinstance(kinds, str):
        raise InputError(f"unknown kind of event {unknown or kinds!r}; expected a list of {', '.join(KINDS.values())}")


def _check_agreement(position: int, kept: str, offered: str, path: Path) -> None:
    """Refuse another content under a known name, where the name was to mean one thing for ever.

    Of decisions and rejected rows the first stands: they were computed, and the log knows better.
    """
    if kept == offered:
        return
    known = _decoded(position, kept, path)
    if isinstance(known, Prediction | Example | Born) and known != _decode(offered):
        raise InputError(
            f"{key(known)!r} is in the log already with other content, as event {position}; "
            f"got {offered[:300]}, expected {kept[:300]}; an id is used once: give this one another"
        )


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays as the numbers they hold."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_decode: Callable[[str], Payload] = msgspec.json.Decoder(Payload).decode


def _decoded(position: int, text: str, path: Path) -> Payload:
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        raise LogError(
            f"event {position} of the log {path} cannot be read: {error}; got {text[:100]!r}; "
            "the file is damaged or was written by another version: put back a copy, or upgrade"
        ) from error


def _row(payload: Payload, at: float) -> tuple[float, str, str, str]:
    """The row of a payload: read back before it is written, so that nothing unreadable gets into the log."""
    kind = KINDS.get(type(payload))
    if kind is None:
        raise InputError(f"a {type(payload).__name__} is no event; expected one of {', '.join(KINDS.values())}")
    try:
        text = _encode(payload).decode()
        # JSON turns a number that is not finite into null.
        lost = _not_finite(msgspec.to_builtins(payload, enc_hook=_plain), kind) if "null" in text else ""
        if lost:
            raise InputError(f"{lost}, expected a finite number, or None for a missing one")
        kept = _decode(text)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError(f"this {kind} cannot be kept in the log: {error}; got {_shown(payload)}") from error
    return at, kind, key(kept), text


def _shown(payload: Payload) -> str:
    try:
        return f"{payload!r:.300}"
    except (ValueError, RecursionError):  # a number too long to print, or lists too deep
        return f"a {type(payload).__name__} that cannot be printed"


def _not_finite(value: Any, where: str) -> str:
    """Which number inside is not finite, in words; empty if all are."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{where} is {value}"
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    return next((found for name, part in inside if (found := _not_finite(part, f"{where}.{name}"))), "")
