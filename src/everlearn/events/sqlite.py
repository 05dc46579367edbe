"""The log in one SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from time import time as now
from types import TracebackType
from typing import Any, NoReturn, Self

import msgspec

from everlearn.errors import ConfigError, InputError, LogError
from everlearn.events import file, seals
from everlearn.events.file import Durability
from everlearn.events.rows import IS_RARE, KINDS, RARE, Row, decode, key, row
from everlearn.events.seals import Chain
from everlearn.records import Born, Erased, Event, Example, Label, Payload, Prediction

_INSERT = "INSERT INTO events (time, kind, key, payload) VALUES (?, ?, ?, ?)"
_ERASABLE = ("prediction", "example", "label", "reward", "preference", "rejected")
_TEN = 10
_INSERT_TEN = _INSERT + ", (?, ?, ?, ?)" * (_TEN - 1)  # half the time of ten statements
_LONG = 8000  # pages of the write-ahead log, 32 MB
_MOMENT = 0.03  # seconds that its new beginning waits for others, and others for it
_DIGEST = len(key(Label("", 0))) - len("label::")  # bytes at the end of the key of a judgement
_SELECT = "SELECT position, time, payload FROM events"


class SqliteLog:
    """A log in one SQLite file, shared by any number of threads and processes of one machine.

    `append` is safe from any thread: groups are written one after the other. Reading has a connection of its
    own and never waits for a writer. After a fork, open the log again. `durability` is what an acknowledged event
    survives: the death of any "process", or a loss of "power" as well (each group is synced). With `tidy=False`
    another connection must call `tidy` now and then.
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

    def __init__(self, path: str | os.PathLike[str], durability: Durability = "process", tidy: bool = True) -> None:
        if durability not in ("process", "power"):
            raise ConfigError(f"durability is {durability!r}, expected 'process' or 'power'")
        self.path = Path(path)
        self._process = os.getpid()
        self._open = True
        self._patience = file.PATIENCE  # seconds that the writer waits for other processes
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._counted: dict[str, tuple[int, int]] = {}  # kind: how many there are up to which position
        if self.path.name == ":memory:" or self.path.is_dir():
            raise LogError(f"{self.path} cannot be a log; expected the path of a file")
        try:
            self._writer = file.writer(self.path, durability, tidy)
            self._reader = file.reader(self.path)
        except sqlite3.Error as error:
            self._open = False
            self._explain(error, "could not be opened")

    # ---- writing -----------------------------------------------------------------------------------------------

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, atomically and durably, and return the position of each payload.

        New payloads get ascending positions without gaps. A payload whose key is in the log already is not written
        again and gets the position it has. `time` is in seconds since 1970 (default: now), one value for the group.
        Raises `InputError`, and writes nothing, when a payload cannot be kept as it is (not finite, not JSON) or
        contradicts a prediction, example or version of the same id; `LogError` when the file cannot be written.
        """
        at = now() if time is None else float(time)
        return self.write([row(payload, at) for payload in payloads])

    def write(self, rows: Sequence[Row]) -> list[int]:
        """As `append`, for what `everlearn.events.row` has encoded already."""
        self._check_usable()
        with self._writing:
            return self._write_waiting(rows, file.PATIENCE)[0]

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        """As `write`, but None at once, and nothing written, when another thread or process is writing."""
        put = self.try_put(rows)
        return None if put is None else put[0]

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        """As `try_write`, with the position at which the log ended before: what lies behind it is new."""
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

    def tidy(self) -> None:
        """Copy what is in the write-ahead log into the file; where it has grown long, begin it anew.

        Copying makes nobody wait. But under a steady load there is always something new behind what was copied, and
        the write-ahead log would grow for ever: so writers are held, for the milliseconds that the rest takes, once
        it is longer than 32 MB.
        """
        self._check_usable()
        with self._writing:
            try:
                ((_, pages, _),) = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if pages > _LONG:
                    self._wait(_MOMENT)
                    self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()  # gives up if others go on
            except sqlite3.Error as error:
                self._explain(error, "could not be tidied")

    # ---- erasing -----------------------------------------------------------------------------------------------

    def erase(self, positions: Sequence[int], payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Put a tombstone (`Erased`) in the place of each event, and append `payloads`, in one transaction.

        Only predictions, examples, feedback and rejected rows can be erased; where there is a tombstone already, it
        stays. Returns the positions of the payloads. The bytes are gone from the disk after `scrub`. Raises
        `InputError`, and changes nothing, for an event of another kind or a position without one.
        """
        at = now() if time is None else float(time)
        rows = [row(payload, at) for payload in payloads]
        self._check_usable()
        with self._writing, self._undone(f"could not erase {len(positions)} events, and holds all of them"):
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
        """Write the file anew, so that nothing of what was erased is left in it or in its write-ahead log.

        Takes as much free space as the log has, twice. Raises `LogError` while another process has the log open.
        """
        self._check_usable()
        with self._writing, self._undone("could not be written anew; do it again"):
            self._wait(file.PATIENCE)
            self._writer.execute("PRAGMA secure_delete = ON")
            self._writer.execute("VACUUM")
            (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise LogError(
                f"the log {self.path} is open in another process, so what was erased is still in {self.path}-wal; "
                "stop that one (the server, if there is one), then do it again"
            )

    def _bury(self, position: int) -> None:
        found = self._writer.execute("SELECT kind FROM events WHERE position = ?", (position,)).fetchone()
        kind = found[0] if found else None
        if kind == "erased":
            return
        if kind not in _ERASABLE:
            raise InputError(f"event {position} is {kind or 'not there'}; only {', '.join(_ERASABLE)} can be erased")
        _, buried, name, text = row(Erased(position, kind), 0.0)
        change = "UPDATE events SET kind = ?, key = ?, payload = ? WHERE position = ?"
        self._writer.execute(change, (buried, name, text, position))

    # ---- transactions ------------------------------------------------------------------------------------------

    def _write_waiting(self, rows: Sequence[Row], patience: float) -> tuple[list[int], int]:
        with self._undone(f"did not take a group of {len(rows)}, and holds none of it"):
            self._wait(patience)
            try:
                return self._write_new(rows)
            except sqlite3.IntegrityError:  # some key is known: the rare case pays for the lookups
                self._undo()
                return self._write_unknown(rows)

    def _wait(self, patience: float) -> None:
        """Let the writer wait so many seconds for other processes."""
        if patience != self._patience:
            self._writer.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            self._patience = patience

    @contextmanager
    def _undone(self, otherwise: str) -> Iterator[None]:
        """Around a transaction: whatever interrupts it, nothing of it is left."""
        try:
            yield
        except sqlite3.Error as error:
            self._undo()
            self._explain(error, otherwise)
        except BaseException:
            self._undo()
            raise

    def _write_new(self, rows: Sequence[Row]) -> tuple[list[int], int]:
        """Write rows that all have new keys, or raise IntegrityError; positions, and where the log ended before."""
        if any(kind == "decision" for _, kind, _, _ in rows):
            return self._write_unknown(rows)
        if len(rows) == 1:  # one statement is a transaction of its own, at half the cost of three
            position = self._writer.execute(_INSERT, rows[0]).lastrowid or 0
            return [position], position - 1
        if not rows:
            return [], 0
        self._writer.execute("BEGIN IMMEDIATE")
        tens = len(rows) // _TEN * _TEN
        for start in range(0, tens, _TEN):
            self._writer.execute(_INSERT_TEN, [*chain.from_iterable(rows[start : start + _TEN])])
        self._writer.executemany(_INSERT, rows[tens:])
        (end,) = self._writer.execute("SELECT last_insert_rowid()").fetchone()
        self._writer.execute("COMMIT")
        return list(range(end - len(rows) + 1, end + 1)), end - len(rows)

    def _write_unknown(self, rows: Sequence[Row]) -> tuple[list[int], int]:
        self._writer.execute("BEGIN IMMEDIATE")
        (end,) = self._writer.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
        positions = self._add(rows)
        self._writer.execute("COMMIT")
        return positions, end

    def _add(self, rows: Sequence[Row]) -> list[int]:
        """Within a transaction: write those rows whose keys are new, and seal the decisions among them."""
        positions = []
        for at, kind, name, text in rows:
            found = self._writer.execute("SELECT position, payload FROM events WHERE key = ?", (name,)).fetchone()
            if found is None:
                position = self._writer.execute(_INSERT, (at, kind, name, text)).lastrowid or 0
                if kind == "decision":
                    seals.seal(self._writer, position, at, text)
            else:
                position, kept = found
                _check_agreement(position, kept, text, self.path)
            positions.append(position)
        return positions

    def _undo(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """The first `limit` events behind position `after`, in order; of these `kinds` only, where given.

        Raises `LogError` when an event cannot be read, and names it.
        """
        _check_kinds(kinds)
        if not kinds:
            rows = self._rows(f"{_SELECT} WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
        elif set(kinds) <= set(RARE):
            ask = f"{_SELECT} WHERE kind = ? AND {IS_RARE} AND position > ? ORDER BY position LIMIT ?"
            rows = sorted(row for kind in sorted(set(kinds)) for row in self._rows(ask, (kind, after, limit)))[:limit]
        else:
            among = ", ".join("?" * len(kinds))
            ask = f"{_SELECT} WHERE position > ? AND kind IN ({among}) ORDER BY position LIMIT ?"
            rows = self._rows(ask, (after, *kinds, limit))
        return self._events(rows)

    def find(self, key: str) -> Event | None:
        """The event with this key (see `everlearn.events.key`)."""
        return self._one(f"{_SELECT} WHERE key = ?", (key,))

    def about(self, id: str) -> list[Event]:
        """The prediction or example of an id and all feedback for it, in order."""
        named = [f"{kind}:{id}" for kind in ("prediction", "example")]
        within: list[str | int] = []
        for kind in ("label", "reward", "preference"):
            start = f"{kind}:{id}:"
            within += [start, f"{kind}:{id};", len(start.encode("utf-8", "surrogatepass")) + _DIGEST]
        # One search of the index each (";" is what follows ":"); joined by OR, SQLite would walk the whole log.
        searches = [f"{_SELECT} WHERE key = ?"] * len(named)
        # The judgements of ids that go on after a ":" lie there as well. Their keys are longer, so they are passed
        # over within the index, and never read.
        searches += [f"{_SELECT} WHERE key > ? AND key < ? AND length(CAST(key AS BLOB)) = ?"] * (len(within) // 3)
        return self._events(sorted(self._rows(" UNION ALL ".join(searches), [*named, *within])))

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        _check_kinds([kind])
        rare = f" AND {IS_RARE}" if kind in RARE else ""
        return self._one(f"{_SELECT} WHERE kind = ?{rare} ORDER BY position DESC LIMIT 1", (kind,))

    def count(self, kind: str) -> int:
        """How many events of a kind there are, erased ones too; later calls only walk over what is new."""
        _check_kinds([kind])
        number, upto = self._counted.get(kind, (0, 0))
        end = self.end()
        rare = f" AND {IS_RARE}" if kind in RARE else ""
        ask = f"SELECT count(*) FROM events WHERE kind = ?{rare} AND position > ? AND position <= ?"
        number += int(self._rows(ask, (kind, upto, end))[0][0])
        ask = f"{_SELECT} WHERE kind = 'erased' AND position > ? AND position <= ?"
        erased = [event.payload for event in self._events(self._rows(ask, (upto, end)))]
        number += sum(isinstance(one, Erased) and one.was == kind for one in erased)
        self._counted[kind] = (number, end)
        return number

    def end(self) -> int:
        """The position of the newest event; 0 if there is none."""
        return int(self._rows("SELECT coalesce(max(position), 0) FROM events", ())[0][0])

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """The seal of each decision behind position `after`, up to position `upto`."""
        return dict(
            self._rows("SELECT position, digest FROM seals WHERE position > ? AND position <= ?", (after, upto))
        )

    def verify(self) -> Chain:
        """Whether all decisions are as they were sealed, the newest seal, and the first position that is wrong.

        Walks over all decisions, and counts all events. What was removed or changed is found, unless all seals
        that follow were made anew; compare with a seal that was kept elsewhere to find that.
        """
        self._check_usable()
        with self._reading:
            try:
                self._reader.execute("BEGIN")  # one state of the log, whatever is appended meanwhile
                return seals.verify(self._reader)
            except sqlite3.Error as error:
                self._explain(error, "could not be verified")
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

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
            return [Event(position, time, decode(text)) for position, time, text in rows]
        except msgspec.MsgspecError:
            for position, _, text in rows:
                _decoded(position, text, self.path)  # finds the one, and names it
            raise

    # ---- opening and closing -----------------------------------------------------------------------------------

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

    def _check_usable(self) -> None:
        if not self._open:
            raise LogError(
                f"the log {self.path} is closed; open it again to use it, or while its loop is served ask "
                "the server: server.client()"
            )
        if os.getpid() != self._process:
            raise LogError(
                f"the log {self.path} was opened by process {self._process} and is used in its child {os.getpid()}; "
                "open it again in each process"
            )

    def _explain(self, error: Exception, what: str) -> NoReturn:
        file.explain(error, self.path, what)


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
    if isinstance(known, Prediction | Example | Born) and known != decode(offered):
        raise InputError(
            f"{key(known)!r} is in the log already with other content, as event {position}; "
            f"got {offered[:300]}, expected {kept[:300]}; an id is used once: give this one another"
        )


def _decoded(position: int, text: str, path: Path) -> Payload:
    try:
        return decode(text)
    except msgspec.MsgspecError as error:
        raise LogError(
            f"event {position} of the log {path} cannot be read: {error}; got {text[:100]!r}; "
            "the file is damaged or was written by another version: put back a copy, or upgrade"
        ) from error
