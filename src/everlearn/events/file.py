"""The SQLite file of a log: its tables, how it is opened, and what to do when it refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal, NoReturn

from everlearn.errors import LogError
from everlearn.events import seals
from everlearn.events.rows import IS_RARE

Durability = Literal["process", "power"]

PATIENCE = 30.0  # seconds that a writer waits for one of another process

_APPLICATION = 0x45564C4E  # "EVLN": the file says whose it is, so that nobody else's is touched
_FORMAT = 2  # 1 had no seals, and nothing was erased
FIXED = "CREATE TRIGGER fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
_SINCE_2 = (*seals.SCHEMA, "CREATE INDEX erased ON events (position) WHERE kind = 'erased'")
_SCHEMA = (
    "CREATE TABLE events (position INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL,"
    " key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL)",
    f"CREATE INDEX rare ON events (kind) WHERE {IS_RARE}",
    # Rows are never deleted, so SQLite's "one more than the largest" never gives a position twice.
    "CREATE TRIGGER kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    FIXED,
    *_SINCE_2,
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then do it again",
    sqlite3.SQLITE_IOERR: "the disk refused: check its space, quota and health, then do it again",
    sqlite3.SQLITE_READONLY: "make the file and its folder (where FILE-wal and FILE-shm live) writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and that this user may write there",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: put back a copy, or save what is left with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "this is not an event log: give the path of a log, or of a file that does not exist yet",
    sqlite3.SQLITE_BUSY: f"another process held the log for {PATIENCE:.0f} seconds: end it, or do it again",
    sqlite3.SQLITE_TOOBIG: "an event is too big for one entry: keep its content in a file, and the name in the event",
}


def code(error: Exception) -> int:
    """SQLite's primary result code; 0 where there is none."""
    return error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) and error.args else 0


def explain(error: Exception, path: Path, what: str) -> NoReturn:
    """Raise the `LogError` that says what a failure of the file means, and what to do."""
    raise LogError(f"the log {path} {what}: {error}; {_ADVICE.get(code(error), 'see the cause above')}") from error


def reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    return connection


def writer(path: Path, durability: Durability, tidy: bool) -> sqlite3.Connection:
    """A connection that writes, on a file that is surely a log of this format."""
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        if _is_blank(connection):
            connection.execute("BEGIN IMMEDIATE")
            if _is_blank(connection):  # still: nobody else was quicker
                for statement in _SCHEMA:
                    connection.execute(statement)
            connection.execute("COMMIT")
        _check_format(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        connection.execute("PRAGMA cache_size = -16000")  # 16 MB hold the upper levels of the index of keys
        connection.execute(f"PRAGMA wal_autocheckpoint = {4000 if tidy else 0}")  # pages, 16 MB
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse the files of others; bring a log of an older format up to this one."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION:
        raise LogError(f"{path} is the database of another program; give the path of an event log, or of a new file")
    if _version(connection) == 1:
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) == 1:
            for statement in _SINCE_2:
                connection.execute(statement)
            seals.seal_all(connection)
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        connection.execute("COMMIT")
    if (version := _version(connection)) != _FORMAT:
        raise LogError(f"the log {path} has format {version}, this Everlearn reads format {_FORMAT}; upgrade Everlearn")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_blank(connection: sqlite3.Connection) -> bool:
    asked = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    return all(connection.execute(ask).fetchone()[0] == 0 for ask in asked)
