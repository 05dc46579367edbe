"""The keys of a loop in one SQLite file: `keys.sqlite` in the folder of the loop, beside the log and not in it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from everlearn import _private
from everlearn.errors import LogError

FILE = "keys.sqlite"

_PATIENCE = 30.0  # seconds that a process waits for another one
_APPLICATION = 0x45564C4B  # "EVLK"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS keys (handle TEXT PRIMARY KEY, subject BLOB UNIQUE, secret BLOB, made REAL)"
    " WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS destroyed ON keys (handle) WHERE secret IS NULL",
    "CREATE TABLE IF NOT EXISTS salt (only INTEGER PRIMARY KEY CHECK (only = 1), bytes BLOB NOT NULL)",
)
_SOME = 500  # values of one statement

Found = TypeVar("Found")


class SqliteKeys:
    """A store of keys in a file, for the processes of one machine; see `everlearn.scale.keys.KeyStore`.

    With `power`, a key is on the disk before it is used. Raises `LogError` for a file that cannot be used.
    """

    quick = True

    def __init__(self, path: Path, power: bool = False) -> None:
        self.place = str(path)
        self.quick = not power
        self._path, self._power = path, power
        self._lock = threading.Lock()
        self._resting = False
        try:
            _private.touch(path)
        except OSError as error:
            raise LogError(f"the keys {path} could not be opened: {error}; check the folder and its rights") from error
        self._connection = self._connected()
        self._run(lambda execute: self._begin(execute, power))

    def _connected(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise LogError(
                f"the keys {self.place} could not be opened: {error}; check the folder and its rights"
            ) from error

    def _begin(self, execute: Callable[..., sqlite3.Cursor], power: bool) -> None:
        application, tables = (execute(query).fetchone()[0] for query in (
            "PRAGMA application_id", "SELECT count(*) FROM sqlite_master"
        ))  # fmt: skip
        if tables and application != _APPLICATION:
            raise LogError(f"{self.place} is the database of another program; move it away")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if power else 'NORMAL'}")
        execute("PRAGMA secure_delete = ON")
        execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            execute(statement)
        execute("INSERT OR IGNORE INTO salt VALUES (1, ?)", (os.urandom(32),))
        execute(f"PRAGMA application_id = {_APPLICATION}")
        execute("COMMIT")

    def salt(self) -> bytes:
        """Return the random bytes that digests of subjects are made with."""
        return bytes(self._rows("SELECT bytes FROM salt", ())[0][0])

    def destroyed(self) -> int:
        """Return the number of keys that were destroyed."""
        return int(self._rows("SELECT count(*) FROM keys WHERE secret IS NULL", ())[0][0])

    def held(self, handles: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Return each known handle with its secret; None for a destroyed key."""
        return self._among("SELECT handle, secret FROM keys WHERE handle IN", handles)

    def known(self, subjects: Sequence[bytes]) -> list[tuple[bytes, str, bytes]]:
        """Return digest, handle and secret of each subject that has a key."""
        return self._among("SELECT subject, handle, secret FROM keys WHERE subject IN", subjects)

    def made(self, subjects: Sequence[bytes]) -> list[tuple[str, float]]:
        """Return the handle of the key of each subject that has one, and when it was made, in seconds since 1970."""
        return self._among("SELECT handle, made FROM keys WHERE subject IN", subjects)

    def add(self, keys: Sequence[tuple[bytes, str, bytes]], at: float) -> None:
        """Add keys (digest, handle, secret), made at a time, durably; a subject that has a key keeps it."""

        def insert(execute: Callable[..., sqlite3.Cursor]) -> None:
            execute("BEGIN IMMEDIATE")
            for subject, handle, secret in keys:
                values = (handle, subject, secret, at)
                execute("INSERT INTO keys VALUES (?, ?, ?, ?) ON CONFLICT (subject) DO NOTHING", values)
            execute("COMMIT")

        self._run(insert)

    def destroy(self, handles: Sequence[str]) -> None:
        """Destroy keys durably, and overwrite their bytes in the file and in its write-ahead log."""

        def remove(execute: Callable[..., sqlite3.Cursor]) -> None:
            execute("PRAGMA synchronous = FULL")
            execute("BEGIN IMMEDIATE")
            for handle in handles:
                execute(
                    "INSERT INTO keys VALUES (?, NULL, NULL, NULL)"
                    " ON CONFLICT (handle) DO UPDATE SET subject = NULL, secret = NULL, made = NULL",
                    (handle,),
                )
            execute("COMMIT")
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        self._run(remove)

    def rest(self) -> None:
        """Close the file until the next call opens it again."""
        with self._lock:
            self._connection.close()
            self._resting = True

    def _wake(self) -> None:
        """Open the file again. Raises `LogError` if it is gone: other keys must not take its place."""
        if not self._path.exists():
            raise LogError(f"the file of keys {self.place} is gone; put it back")
        self._connection = self._connected()
        self._begin(self._connection.execute, self._power)
        self._resting = False

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        with self._lock:
            self._resting = False
            self._connection.close()

    def _among(self, query: str, values: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(values), _SOME):
            part = values[start : start + _SOME]
            found += self._rows(f"{query} ({', '.join('?' * len(part))})", part)
        return found

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        return self._run(lambda execute: execute(query, tuple(values)).fetchall())

    def _run(self, action: Callable[[Callable[..., sqlite3.Cursor]], Found]) -> Found:
        """Run an action on the connection; undo its transaction after an error."""
        with self._lock:
            try:
                if self._resting:
                    self._wake()
                return action(self._connection.execute)
            except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                self._undo()
                raise LogError(f"the keys {self.place}: {error}; check the disk, and do it again") from error

    def _undo(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it is closed
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
