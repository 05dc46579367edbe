"""The log in one SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from time import time as now
from typing import Any, NoReturn, Self

from everlearn.errors import ConfigError, LogError
from everlearn.events import file, seals
from everlearn.events.deduplication import DIGEST
from everlearn.events.rows import (
    IS_RARE,
    RARE,
    Row,
    check_agreement,
    check_kinds,
    check_usable,
    events_of,
    row,
    rows_of,
    tombstone,
)
from everlearn.events.seals import ChainCheck
from everlearn.records import Erased, Event, Payload

_INSERT = "INSERT INTO events (time, kind, key, payload) VALUES (?, ?, ?, ?)"
_MOST = 32  # rows of one statement: each number of rows has its statement, which stays prepared
_FEW = 4  # the same, for a connection that holds little memory: a prepared statement takes .7 kB for each row
_INSERTS = [_INSERT + ", (?, ?, ?, ?)" * more for more in range(_MOST)]
_LONG = 8000  # pages of the write-ahead log from which it is restarted, 32 MB
_MOMENT = 0.03  # seconds that a restart waits for other connections, and they for it
_SELECT = "SELECT position, time, payload FROM events"


class SqliteLog:
    """A log in one SQLite file, shared by any number of threads and processes of one machine.

    `append` is safe from any thread: groups are written one after the other. Reading has a separate connection and
    never waits for a writer. After a fork, open the log again. `durability` is what an acknowledged event survives: the
    death of any "process", or also a loss of "power" (each group is synced). With `tidy=False` another connection must
    call `tidy` now and then. Raises `LogError` if the file belongs to another program or a newer format, or cannot be
    used.

    >>> from tempfile import TemporaryDirectory
    >>> from everlearn.records import Example
    >>> with TemporaryDirectory() as home, SqliteLog(Path(home) / "log.db") as log:
    ...     log.append([Example("a", {"x": 1.0}, True), Example("b", {"x": 2.5}, False)])
    ...     log.append([Example("b", {"x": 2.5}, False)])  # a duplicate
    ...     [event.payload.id for event in log.read(after=1)]
    [1, 2]
    [2]
    ['b']
    """

    rests = True

    def __init__(self, path: str | Path, durability: file.Durability = "process", tidy: bool = True) -> None:
        if durability not in ("process", "power"):
            raise ConfigError(f"durability is {durability!r}, expected 'process' or 'power'")
        self.path = Path(path)
        self._process = os.getpid()
        self._open = True
        self._opened = durability, tidy
        self._patience = file.PATIENCE  # seconds that the writer waits for other processes
        self._resting = True
        self._small = False  # one connection writes and reads
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._counted: dict[str, tuple[int, int]] = {}  # kind: number of events, up to which position
        self.quick = durability == "process"  # a sync of the disk takes milliseconds
        if self.path.name == ":memory:" or self.path.is_dir():
            raise LogError(f"got the log {self.path}; expected the path of a file")
        try:
            self._connect()
            self._place = file.place(self.path)
        except LogError:
            self._open = False
            raise

    # ---- writing -----------------------------------------------------------------------------------------------

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, atomically and durably, and return the position of each payload.

        New payloads get ascending positions without gaps. A payload whose key is already in the log is not written
        again and gets its old position. `time` is in seconds since 1970 (default: now), one value for the group. Raises
        `InputError`, and writes nothing, if a payload cannot be stored unchanged (not finite, not JSON) or contradicts
        a prediction, example or version of the same id; `LogError` if the file cannot be written.
        """
        at = now() if time is None else float(time)
        return self.write(rows_of(payloads, [at] * len(payloads)))

    def write(self, rows: Sequence[Row]) -> list[int]:
        """Write rows that `everlearn.events.row` has encoded, as `append` does."""
        self._check_usable()
        with self._writing:
            return self._write_waiting(rows, file.PATIENCE)[0]

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        """Write rows as `write` does, or write nothing and return None at once if another writer is busy."""
        put = self.try_put(rows)
        return None if put is None else put[0]

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        """Write rows as `try_write` does, and also return the position of the last event before them."""
        self._check_usable()
        if not self._writing.acquire(blocking=False):
            return None
        try:
            return self._write_waiting(rows, 0.0)
        except LogError as error:
            if isinstance(error.__cause__, sqlite3.Error) and file.code(error.__cause__) == sqlite3.SQLITE_BUSY:
                return None
            raise
        finally:
            self._writing.release()

    def acquire(self) -> int:
        """Begin a new epoch, and return its number: `save` refuses all earlier ones from now on.

        The lock of the folder keeps out a second process that is well; this keeps out one that was stopped and goes on.
        """
        self._check_usable()
        with self._writing, self._undone("could not begin an epoch"):
            self._wait(file.PATIENCE)
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute("CREATE TABLE IF NOT EXISTS lease (epoch INTEGER NOT NULL)")
            epoch = self._epoch() + 1
            self._writer.execute("DELETE FROM lease")
            self._writer.execute("INSERT INTO lease VALUES (?)", (epoch,))
            self._writer.execute("COMMIT")
        return epoch

    def save(self, payloads: Sequence[Payload], epoch: int) -> list[int]:
        """Write a group as `append` does, unless a later epoch has begun: then write nothing and raise `LogError`."""
        at = now()
        rows = [row(payload, at) for payload in payloads]
        self._check_usable()
        with self._writing, self._undone(f"refused a group of {len(rows)}, and holds none of it"):
            self._wait(file.PATIENCE)
            self._writer.execute("BEGIN IMMEDIATE")
            seals.check_epoch(epoch, self._epoch(), str(self.path))
            positions = self._add(rows)
            self._writer.execute("COMMIT")
        return positions

    def _epoch(self) -> int:
        """Return the newest epoch, within a transaction that has made the table."""
        found = self._writer.execute("SELECT epoch FROM lease").fetchone()
        return int(found[0]) if found else 0

    def tidy(self) -> None:
        """Copy the write-ahead log into the file, and restart it where it has grown long.

        Copying blocks no writer. But under a steady load there is always something new after the copied part, and the
        write-ahead log would grow for ever. So once it is longer than 32 MB, writers wait for the milliseconds that the
        rest takes. Raises `LogError` if the file cannot be written.
        """
        self._check_usable()
        with self._writing:
            try:
                ((_, pages, _),) = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if pages > _LONG:
                    self._wait(_MOMENT)
                    self._writer.execute(
                        "PRAGMA wal_checkpoint(RESTART)"
                    ).fetchall()  # gives up if other connections stay busy
            except sqlite3.Error as error:
                self._explain(error, "could not be tidied")

    def check_place(self) -> None:
        """Raise `LogError` if the file that was opened is no longer at its path: it was deleted, or replaced."""
        if file.place(self.path) != self._place:
            raise LogError(
                f"the log {self.path} was deleted or replaced while it was open, so nothing more is written to it; put "
                "it back, or close the loop (restart the server) and open it again"
            )

    def check_writable(self, patience: float) -> None:
        """Write nothing new to the file, durably. Raise `LogError` if that fails within `patience` seconds.

        The number of the format is written again: it needs the lock of writers and room in the write-ahead log, as any
        event does.
        """
        self.check_place()
        self._check_usable()
        with self._writing, self._undone("cannot be written"):
            self._wait(patience)
            self._writer.execute(f"PRAGMA user_version = {file.FORMAT}")

    # ---- erasing -----------------------------------------------------------------------------------------------

    def erase(self, positions: Sequence[int], payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Replace each event by a tombstone (`Erased`), and append `payloads`, in one transaction.

        Only predictions, examples, feedback and rejected rows can be erased; an existing tombstone stays. Returns the
        positions of the payloads. The bytes leave the disk only with `scrub`. Raises `InputError`, and changes nothing,
        for an event of another kind or a position without one.
        """
        at = now() if time is None else float(time)
        rows = [row(payload, at) for payload in payloads]
        self._check_usable()
        with self._writing, self._undone(f"could not erase {len(positions)} events; all of them are still there"):
            self._wait(file.PATIENCE)
            self._writer.execute("PRAGMA secure_delete = ON")
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute("DROP TRIGGER fixed")
            for position in positions:
                self._bury(position)
            self._writer.execute(file.FIXED)
            added = self._add(rows)
            self._writer.execute("COMMIT")
        self._counted.clear()
        return added

    def scrub(self) -> None:
        """Rewrite the file, so that no erased bytes remain in it or in its write-ahead log.

        It needs free space of twice the size of the log. Raises `LogError` while another process has the log open.
        """
        self._check_usable()
        with self._writing, self._undone("could not be rewritten; do it again"):
            self._wait(file.PATIENCE)
            self._writer.execute("PRAGMA secure_delete = ON")
            self._writer.execute("VACUUM")
            (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise LogError(
                f"the log {self.path} is open in another process, so erased bytes are still in {self.path}-wal; "
                "stop that process (such as the server), then do it again"
            )

    def _bury(self, position: int) -> None:
        found = self._writer.execute("SELECT kind FROM events WHERE position = ?", (position,)).fetchone()
        if (buried := tombstone(position, found[0] if found else None)) is not None:
            change = "UPDATE events SET kind = ?, key = ?, payload = ? WHERE position = ?"
            self._writer.execute(change, (*buried[1:], position))

    # ---- transactions ------------------------------------------------------------------------------------------

    def _write_waiting(self, rows: Sequence[Row], patience: float) -> tuple[list[int], int]:
        with self._undone(f"refused a group of {len(rows)}, and holds none of it"):
            self._wait(patience)
            try:
                return self._write_new(rows)
            except sqlite3.IntegrityError:  # some key exists already: only this rare case looks keys up
                self._undo()
                return self._write_unknown(rows)

    def _wait(self, patience: float) -> None:
        """Set the seconds that the writer waits for other processes."""
        if patience != self._patience:
            self._writer.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            self._patience = patience

    @contextmanager
    def _undone(self, otherwise: str) -> Iterator[None]:
        """Roll a transaction back after any exception."""
        try:
            yield
        except sqlite3.Error as error:
            self._undo()
            self._explain(error, otherwise)
        except BaseException:
            self._undo()
            raise

    def _write_new(self, rows: Sequence[Row]) -> tuple[list[int], int]:
        """Write rows with new keys, or raise IntegrityError; return the positions and where the log ended before."""
        if "decision" in [kind for _, kind, _, _ in rows]:
            return self._write_unknown(rows)
        if not rows:
            return [], 0
        most = _FEW if self._small else _MOST
        if len(rows) <= most:  # a single statement is a transaction, at half the cost of three
            end = self._insert(rows)
        else:
            self._writer.execute("BEGIN IMMEDIATE")
            for start in range(0, len(rows), most):
                end = self._insert(rows[start : start + most])
            self._writer.execute("COMMIT")
        return list(range(end - len(rows) + 1, end + 1)), end - len(rows)

    def _insert(self, rows: Sequence[Row]) -> int:
        """Write up to `_MOST` rows by one statement; return the position of the last one."""
        return self._writer.execute(_INSERTS[len(rows) - 1], [*chain.from_iterable(rows)]).lastrowid or 0

    def _write_unknown(self, rows: Sequence[Row]) -> tuple[list[int], int]:
        self._writer.execute("BEGIN IMMEDIATE")
        (end,) = self._writer.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
        positions = self._add(rows)
        self._writer.execute("COMMIT")
        return positions, end

    def _add(self, rows: Sequence[Row]) -> list[int]:
        """Write the rows with new keys, and seal the decisions among them; the caller has begun a transaction."""
        positions = []
        for at, kind, name, text in rows:
            found = self._writer.execute("SELECT position, payload FROM events WHERE key = ?", (name,)).fetchone()
            if found is None:
                position = self._writer.execute(_INSERT, (at, kind, name, text)).lastrowid or 0
                if kind == "decision":
                    seals.seal(self._writer.execute, position, at, text)
            else:
                position, kept = found
                check_agreement(position, kept, text, str(self.path))
            positions.append(position)
        return positions

    def _undo(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """Return the first `limit` events after position `after`, in order; only of these `kinds`, if given.

        Raises `LogError`, with the position, for an event that cannot be read.
        """
        check_kinds(kinds)
        if not kinds:
            rows = self._rows(f"{_SELECT} WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
        elif set(kinds) <= set(RARE):
            query = f"{_SELECT} WHERE kind = ? AND {IS_RARE} AND position > ? ORDER BY position LIMIT ?"
            rows = sorted(row for kind in sorted(set(kinds)) for row in self._rows(query, (kind, after, limit)))[:limit]
        else:
            among = ", ".join("?" * len(kinds))
            query = f"{_SELECT} WHERE position > ? AND kind IN ({among}) ORDER BY position LIMIT ?"
            rows = self._rows(query, (after, *kinds, limit))
        return self._events(rows)

    def find(self, key: str) -> Event | None:
        """Return the event with this key (see `everlearn.events.key`)."""
        return self._one(f"{_SELECT} WHERE key = ?", (key,))

    def about(self, id: str) -> list[Event]:
        """Return the prediction or example of an id and all feedback for it, in order."""
        named = [f"{kind}:{id}" for kind in ("prediction", "example")]
        within: list[str | int] = []
        for kind in ("label", "reward", "preference"):
            start = f"{kind}:{id}:"
            within += [start, f"{kind}:{id};", len(start.encode("utf-8", "surrogatepass")) + DIGEST]
        # One search of the index each (";" is what follows ":"); joined by OR, SQLite would walk the whole log.
        searches = [f"{_SELECT} WHERE key = ?"] * len(named)
        # Feedback for ids that continue after a ":" lies in the same range. Its keys are longer, so the index
        # skips it without reading the rows.
        searches += [f"{_SELECT} WHERE key > ? AND key < ? AND length(CAST(key AS BLOB)) = ?"] * (len(within) // 3)
        return self._events(sorted(self._rows(" UNION ALL ".join(searches), [*named, *within])))

    def last(self, kind: str) -> Event | None:
        """Return the newest event of a kind."""
        check_kinds([kind])
        rare = f" AND {IS_RARE}" if kind in RARE else ""
        return self._one(f"{_SELECT} WHERE kind = ?{rare} ORDER BY position DESC LIMIT 1", (kind,))

    def count(self, kind: str) -> int:
        """Return the number of events of a kind, including erased ones; later calls only scan new events."""
        check_kinds([kind])
        number, upto = self._counted.get(kind, (0, 0))
        end = self.end()
        rare = f" AND {IS_RARE}" if kind in RARE else ""
        query = f"SELECT count(*) FROM events WHERE kind = ?{rare} AND position > ? AND position <= ?"
        number += int(self._rows(query, (kind, upto, end))[0][0])
        query = f"{_SELECT} WHERE kind = 'erased' AND position > ? AND position <= ?"
        erased = [event.payload for event in self._events(self._rows(query, (upto, end)))]
        number += sum(isinstance(payload, Erased) and payload.was == kind for payload in erased)
        self._counted[kind] = (number, end)
        return number

    def end(self) -> int:
        """Return the position of the newest event; 0 if there is none."""
        return int(self._rows("SELECT coalesce(max(position), 0) FROM events", ())[0][0])

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """Return the seal of each decision after position `after`, up to position `upto`."""
        return dict(
            self._rows("SELECT position, digest FROM seals WHERE position > ? AND position <= ?", (after, upto))
        )

    def verify(self) -> ChainCheck:
        """Check that all decisions are unchanged since they were sealed.

        The check scans all decisions and counts all events. It finds removed and changed decisions, unless all later
        seals were replaced as well; compare with a seal stored elsewhere to detect that. Raises `LogError` if the file
        cannot be read.
        """
        self._check_usable()
        with self._reading:
            try:
                self._wait_reading()
                self._reader.execute("BEGIN")  # one state of the log, even if events are appended meanwhile
                return seals.verify(self._reader.execute)
            except sqlite3.Error as error:
                self._explain(error, "could not be verified")
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

    def _rows(self, query: str, values: Iterable[Any]) -> list[Any]:
        self._check_usable()
        with self._reading:
            try:
                self._wait_reading()
                return self._reader.execute(query, tuple(values)).fetchall()
            except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                self._explain(error, "could not be read")

    def _wait_reading(self) -> None:
        if self._small:  # the connection may wait for another writer as briefly as `try_put` does
            self._wait(file.PATIENCE)

    def _one(self, query: str, values: Iterable[Any]) -> Event | None:
        events = self._events(self._rows(query, values))
        return events[0] if events else None

    def _events(self, rows: list[Any]) -> list[Event]:
        return events_of(rows, str(self.path))

    # ---- opening and closing -----------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out all other threads."""
        with self._writing, nullcontext() if self._small else self._reading:
            yield

    def _connect(self) -> None:
        """Open both connections. Raises `LogError` for a file that cannot be used."""
        try:
            self._writer = file.writer(self.path, *self._opened, small=self._small)
            self._reader = self._writer if self._small else file.reader(self.path)
        except sqlite3.Error as error:
            self._explain(error, "could not be opened")
        self._patience = file.PATIENCE
        self._resting = False

    @property
    def resting(self) -> bool:
        """True while the connections are closed until the next call."""
        return self._resting

    def rest(self) -> None:
        """Close the connections until the next call opens them again, so that an idle log holds no memory.

        Call it only while no other thread uses the log.
        """
        with self._alone():
            if self._open and not self._resting:
                self._resting = True
                self._reader.close()
                self._writer.close()

    def economize(self) -> None:
        """Write and read by one connection with a small cache from now on: a quarter of the memory.

        Reading then waits while another thread writes. Call it before other threads use the log.
        """
        self._check_usable()
        with self._alone():
            if not self._small:
                larger, self._small = (self._reader, self._writer), True
                self._connect()  # before the others close, so that none of them is the last one of the file
                for connection in larger:
                    connection.close()
                self._reading = self._writing

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        with self._alone():
            if self._open:
                self._open = False
                self._reader.close()
                self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_usable(self) -> None:
        check_usable(self.path, self._open, self._process)
        if self._resting:
            with self._alone():
                if self._resting:
                    self.check_place()
                    self._connect()

    def _explain(self, error: Exception, what: str) -> NoReturn:
        file.explain(error, self.path, what)
