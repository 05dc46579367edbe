"""The SQLite file of a log: its tables, its connections, and the advice for each of its errors."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, NoReturn

from everlearn import _private
from everlearn.errors import LogError
from everlearn.events import seals
from everlearn.events.rows import IS_RARE

Durability = Literal["process", "power"]

PATIENCE = 30.0  # seconds that a writer waits for a writer of another process
_STATEMENTS = 128, 8  # that stay prepared, in a large connection and in a small one
_SMALL = (
    # Pages that are kept; the operating system has the others. SQLite allocates up to 20 pages at once when it reads
    # the first page into an empty cache, as it has just done: emptying the cache frees them.
    "PRAGMA cache_size = 4",
    "PRAGMA shrink_memory",
    "PRAGMA cache_spill = 0",  # a longer transaction keeps its pages until it ends
)

_APPLICATION = 0x45564C4E  # "EVLN": marks the file, so that no other program's database is touched
FORMAT = 2  # format 1 had neither seals nor erased events
FIXED = "CREATE TRIGGER fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
_SINCE_2 = (*seals.SCHEMA, "CREATE INDEX erased ON events (position) WHERE kind = 'erased'")
_SCHEMA = (
    "CREATE TABLE events (position INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL,"
    " key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL)",
    f"CREATE INDEX rare ON events (kind) WHERE {IS_RARE}",
    # Rows are never deleted, so SQLite, which takes the largest position plus 1, never reuses a position.
    "CREATE TRIGGER kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    FIXED,
    *_SINCE_2,
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then do it again",
    sqlite3.SQLITE_IOERR: "the disk reported an error: check its space, quota and health, then do it again",
    sqlite3.SQLITE_READONLY: "make the file and its folder (where FILE-wal and FILE-shm live) writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and that this user may write there",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: put back a copy, or save the rest with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "this is not an event log: give the path of a log, or of a file that does not exist yet",
    sqlite3.SQLITE_BUSY: f"another process held the log for {PATIENCE:.0f} seconds: end it, or do it again",
    sqlite3.SQLITE_TOOBIG: "an event is too big for one entry: store its content in a file and the file name here",
}


def code(error: Exception) -> int:
    """Return SQLite's primary result code; 0 if there is none."""
    return error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) and error.args else 0


def is_busy(error: BaseException | None) -> bool:
    """Return True for an error that another process causes by holding the log."""
    return isinstance(error, sqlite3.Error) and code(error) == sqlite3.SQLITE_BUSY


def place(path: Path) -> tuple[int, int] | None:
    """Return the device and the number of the file that is at a path now; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def explain(error: Exception, path: Path, what: str) -> NoReturn:
    """Raise a `LogError` that explains a failure of the file and gives advice."""
    raise LogError(f"the log {path} {what}: {error}; {_ADVICE.get(code(error), 'see the cause above')}") from error


def reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection."""
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    return connection


def writer(path: Path, durability: Durability, tidy: bool, small: bool = False) -> sqlite3.Connection:
    """Open a connection that writes, and create the tables in a new file. A `small` one keeps little in memory.

    Raises `LogError` for the database of another program, or of a newer format.
    """
    with suppress(OSError, sqlite3.Error):  # which are reported below as well
        _create(path)
    with suppress(OSError):  # the files beside it get the rights of this one
        _private.touch(path)
    connection = sqlite3.connect(
        path, PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS[small]
    )
    try:
        if _is_blank(connection):
            connection.execute("BEGIN IMMEDIATE")
            if _is_blank(connection):  # no other process created it in the meantime
                _lay_out(connection)
            connection.execute("COMMIT")
        _check_format(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        for setting in _SMALL if small else ("PRAGMA cache_size = -16000",):  # 16 MB hold the top of the index of keys
            connection.execute(setting)
        connection.execute(f"PRAGMA wal_autocheckpoint = {4000 if tidy else 0}")  # pages, 16 MB
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """Make the file of a new log with one sync of the disk, unless there is a file at the path.

    SQLite itself would sync eight times: for the tables, and for the switch to a write-ahead log. The file is made
    under another name instead, and takes its place once it is whole. Raises OSError or sqlite3.Error.
    """
    if os.path.lexists(path):
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.unfinished")
    try:
        _private.write(draft, b"")
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("BEGIN")
            _lay_out(connection)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        with draft.open("rb") as whole:
            os.fsync(whole.fileno())
        with suppress(FileExistsError):  # another process created it in the meantime
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _lay_out(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse the files of other programs, and upgrade a log of an older format."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION:
        raise LogError(f"{path} is the database of another program; give the path of an event log, or of a new file")
    if _version(connection) == 1:
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) == 1:
            for statement in _SINCE_2:
                connection.execute(statement)
            seals.seal_all(connection.execute)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    if (version := _version(connection)) != FORMAT:
        raise LogError(f"the log {path} has format {version}, this Everlearn reads format {FORMAT}; upgrade Everlearn")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_blank(connection: sqlite3.Connection) -> bool:
    queries = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    return all(connection.execute(query).fetchone()[0] == 0 for query in queries)
