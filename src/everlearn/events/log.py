"""The protocols of the event log, and how one is opened and scanned.

append(payloads) -> positions      one atomic transaction, acknowledged when it returns
read(after, limit) -> events       in order of position, each event once

`Traffic`, `Index`, `Book` and `Lease` are the parts that a log has. SQLite and PostgreSQL have all of them in one
place, and are a `Log`. A broker carries traffic alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from everlearn.errors import ConfigError
from everlearn.events.file import Durability
from everlearn.events.rows import Row
from everlearn.events.seals import ChainCheck
from everlearn.events.sqlite import SqliteLog
from everlearn.records import Event, Payload

PAGE = 4096  # events read at a time
FILE = "log.sqlite"  # the log in the folder of a loop
_SCHEMES = {"postgresql": "everlearn.scale.postgres:connect"}


class Traffic(Protocol):
    """Events in one order: append, and read after a position.

    `quick` is true where a small group is written in microseconds, so that an event loop may wait for it.
    """

    quick: bool

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, atomically and durably, and return a position for each payload."""
        ...

    def write(self, rows: Sequence[Row]) -> list[int]:
        """Write rows that `row` has encoded, as `append` does."""
        ...

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        """Write rows as `write` does, or write nothing and return None at once if another writer is busy."""
        ...

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        """Write rows as `try_write` does, and also return the position of the last event before them."""
        ...

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """Return the first `limit` events after position `after`, in order; only of these `kinds`, if given."""
        ...

    def end(self) -> int:
        """Return the position of the newest event; 0 if there is none."""
        ...

    def tidy(self) -> None:
        """Do the maintenance that writers would otherwise do now and then."""
        ...

    def check_place(self) -> None:
        """Raise `LogError` if the log is no longer where it was opened."""
        ...

    def check_writable(self, patience: float) -> None:
        """Raise `LogError` if an event could not be written durably within `patience` seconds."""
        ...

    def close(self) -> None:
        """Close the log; closing twice is allowed."""
        ...


class Index(Protocol):
    """Look-ups of any age."""

    def find(self, key: str) -> Event | None:
        """Return the event with this key (see `everlearn.events.key`)."""
        ...

    def about(self, id: str) -> list[Event]:
        """Return the prediction or example of an id and all feedback for it, in order."""
        ...

    def last(self, kind: str) -> Event | None:
        """Return the newest event of a kind."""
        ...

    def count(self, kind: str) -> int:
        """Return the number of events of a kind."""
        ...


class Book(Protocol):
    """Decisions, versions and checkpoints, sealed, each group in one transaction of the present epoch."""

    def save(self, payloads: Sequence[Payload], epoch: int) -> list[int]:
        """Write a group as `Traffic.append` does.

        Raises `LogError`, and writes nothing, where another process took the lease after this epoch began.
        """
        ...

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """Return the seal of each decision after position `after`, up to position `upto`."""
        ...

    def verify(self) -> ChainCheck:
        """Check that all decisions are unchanged since they were sealed."""
        ...


class Lease(Protocol):
    """The right to save: one process has it at a time, and each turn has a higher epoch."""

    def acquire(self) -> int:
        """Take the lease, until the log is closed, and return the epoch.

        Raises `InUse` while another process has it.
        """
        ...


class Log(Traffic, Index, Book, Lease, Protocol):
    """The protocol of a log that has all parts in one place."""


class Erasing(Protocol):
    """A log from which events can be erased."""

    def erase(self, positions: Sequence[int], payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Replace each event by a tombstone, and append payloads, in one transaction."""
        ...

    def scrub(self) -> None:
        """Remove the erased bytes from the disk."""
        ...


@runtime_checkable
class ErasableLog(Log, Erasing, Protocol):
    """A log with all parts, from which events can be erased."""


def url_of(home: str | Path, url: str = "") -> str:
    """Return where the log of a loop is: at the URL of its settings, or in its folder.

    A URL that names no loop gets the name of the folder, so that several loops may share a database.

    >>> url_of("fraud"), url_of("loops/fraud", "postgresql://db.example/ml")
    ('fraud/log.sqlite', 'postgresql://db.example/ml?loop=fraud')
    """
    if not url:
        return str(Path(home) / FILE)
    if "loop=" in url.partition("?")[2]:
        return url
    return f"{url}{'&' if '?' in url else '?'}loop={Path(home).resolve().name}"


def exists(home: str | Path, url: str = "") -> bool:
    """Return True if a folder holds the log of a loop, or names another place for it."""
    return bool(url) or (Path(home) / FILE).exists()


def scan(log: Log, after: int = 0, kinds: Sequence[str] = (), upto: int | None = None) -> Iterator[Event]:
    """Yield the events after position `after` in order, up to position `upto` or the end of the log.

    `kinds` limits them to these kinds. The log is read one page at a time, so that a long log needs little memory.

    >>> from tempfile import TemporaryDirectory
    >>> from everlearn.records import Example
    >>> with TemporaryDirectory() as folder, connect(f"{folder}/log.sqlite") as log:
    ...     _ = log.append([Example(str(i), {}, i) for i in range(5)])
    ...     [event.position for event in scan(log, after=1, upto=4)]
    [2, 3, 4]
    """
    while (upto is None or after < upto) and (page := log.read(after, PAGE, kinds)):
        for event in page:
            if upto is not None and event.position > upto:
                return
            yield event
        after = page[-1].position


def evict(url: str) -> bool:
    """End the session of another process that holds the lease of a log in a database; return True if there was one.

    What that process saves from now on is refused, since the next one to acquire the lease begins a later epoch. A log
    in a file has no sessions: its lease ends with its process.
    """
    found = _SCHEMES.get(url.partition("://")[0])
    if found is None:
        return False
    return bool(importlib.import_module(found.partition(":")[0]).evict(url))


def connect(url: str, durability: Durability = "process", tidy: bool = True) -> Log:
    """Open the log at a path, or at `sqlite:///relative.db` or `sqlite:////absolute.db`; create it if there is none.

    A log at `postgresql://HOST/DATABASE?loop=NAME` is in that database (see `everlearn.scale.postgres`). With
    `tidy=False` this connection leaves the maintenance of the file to another one, which must call `tidy`. Raises
    `ConfigError` for another kind of URL, and `LogError` for a log that cannot be used.
    """
    scheme, marked, rest = url.partition("://")
    if not marked:
        return SqliteLog(url, durability, tidy)
    if scheme == "sqlite" and rest.startswith("/"):
        return SqliteLog(rest[1:], durability, tidy)
    if (found := _SCHEMES.get(scheme)) is not None:
        module, _, name = found.partition(":")
        return cast(Log, getattr(importlib.import_module(module), name)(url))
    raise ConfigError(f"got the log {url!r}; expected a path, sqlite:///PATH or postgresql://HOST/DATABASE")
