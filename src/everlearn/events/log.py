"""The protocols of the event log, and how one is opened and scanned.

append(payloads) -> positions      one atomic transaction, acknowledged when it returns
read(after, limit) -> events       in order of position, each event once

`Traffic`, `Index`, `Book` and `Lease` are the parts that a log has. SQLite and PostgreSQL have all of them in one
place. The log of a broker has an index on each machine, and its book is another log.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeGuard, cast, runtime_checkable
from urllib.parse import parse_qsl, urlencode

from everlearn.errors import ConfigError
from everlearn.events.file import Durability
from everlearn.events.rows import Row
from everlearn.events.seals import ChainCheck
from everlearn.events.sqlite import SqliteLog
from everlearn.records import Event, Payload

PAGE = 4096  # events read at a time
FILE = "log.sqlite"  # the log in the folder of a loop
BOOK = "book.sqlite"  # the book there, of a log whose traffic a broker has
_BROKERS = dict.fromkeys(("nats", "kafka"), "everlearn.scale.brokered:connect")
_SECRETS = re.compile("((?:password|secret|token|pem)[^=&]*=)[^&]*", re.IGNORECASE)
_SCHEMES = {"postgresql": "everlearn.scale.postgres:connect"} | _BROKERS


class LogSettings(Protocol):
    """The settings that say where a log is and how it is kept (see `everlearn.spec.LogSpec`)."""

    @property
    def durability(self) -> Durability: ...

    @property
    def url(self) -> str: ...

    @property
    def book(self) -> str: ...

    @property
    def encrypt(self) -> bool: ...


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


class Removing(Protocol):
    """A log whose broker may remove old events."""

    def removed(self) -> int:
        """Return the position of the newest event that the broker has removed; 0 if it has all."""
        ...


@runtime_checkable
class RemovingLog(Log, Removing, Protocol):
    """A log with all parts, whose broker may remove old events."""


def removed(log: Log) -> int:
    """Return the position of the newest event that a broker has removed; 0 for a log that has all of its events."""
    return log.removed() if isinstance(log, RemovingLog) else 0


class Covered(NamedTuple):
    """The keys that would erase some events: `handles` of keys that no other event has, and the events `left`."""

    handles: tuple[str, ...]
    left: int


@runtime_checkable
class EncryptingLog(Protocol):
    """A log that encrypts the events of each subject with a key of the subject.

    `in_place` is true where events can also be replaced by tombstones; elsewhere the loss of the key erases them.
    """

    in_place: bool

    def handle(self, subject: str) -> str:
        """Return the handle of the key of a subject; "" for the empty subject."""
        ...

    def covered(self, positions: Collection[int], after: int = 0) -> Covered:
        """Return the keys whose destruction erases events at these positions and no others behind `after`."""
        ...

    def held(self, subjects: Collection[str]) -> dict[str, float]:
        """Return when the key of each of these subjects was made, in seconds since 1970, by the handle of the key."""
        ...

    def under(self, handles: Collection[str], after: int = 0) -> list[Event]:
        """Return the events behind position `after` that are encrypted with the keys of these handles, in order."""
        ...


@runtime_checkable
class ErasableLog(Log, Erasing, Protocol):
    """A log with all parts, from which events can be erased."""


@runtime_checkable
class RestingLog(Log, Protocol):
    """A log that can give up its connections while it is idle, where `rests` is true."""

    rests: bool

    @property
    def resting(self) -> bool:
        """True while the connections are closed until the next call."""
        ...

    def rest(self) -> None:
        """Close the connections until the next call opens them again."""
        ...

    def economize(self) -> None:
        """Hold as little memory as possible from now on, where reading may wait for writing."""
        ...


def rests(log: Log) -> TypeGuard[RestingLog]:
    """Return True for a log that can give up its connections."""
    return isinstance(log, RestingLog) and log.rests


class Restoring(Protocol):
    """A log whose book is elsewhere, and can be made again."""

    def restore_book(self) -> int:
        """Copy the decisions, versions and checkpoints of the log that the book lacks to it; return their number.

        Raises `InUse` while another process has the lease.
        """
        ...


@runtime_checkable
class RestorableLog(Log, Restoring, Protocol):
    """A log with all parts, whose book can be made again."""


def has_broker(url: str) -> bool:
    """Return True for the URL of a broker: its log has a book elsewhere, and an index in the folder of the loop."""
    return url.partition("://")[0] in _BROKERS


def url_of(home: str | Path, url: str = "", book: str = "") -> str:
    """Return where the log of a loop is: at the URL of its settings, or in its folder.

    A URL that names no loop gets the name of the folder, so that several loops may share a database. That of a broker
    gets the folder, for the index, and the place of the book: `book`, or a file in the folder. Raises `ConfigError` for
    a `book` that cannot be one, or that no broker needs.

    >>> url_of("fraud"), url_of("loops/fraud", "postgresql://db.example/ml")
    ('fraud/log.sqlite', 'postgresql://db.example/ml?loop=fraud')
    >>> url_of("/loops/fraud", "nats://broker.example/fraud")
    'nats://broker.example/fraud?home=%2Floops%2Ffraud&book=%2Floops%2Ffraud%2Fbook.sqlite'
    """
    if book and (not has_broker(url) or has_broker(book) or book.partition("://")[0] not in _SCHEMES):
        expected = "postgresql://HOST/DATABASE" if has_broker(url) else "none, since log.url names no broker"
        raise ConfigError(f"log.book: got {without_secrets(book)!r}; expected {expected}")
    if not url:
        return str(Path(home) / FILE)
    joined = f"{url}{'&' if '?' in url else '?'}"
    if has_broker(url):
        folder = Path(home).resolve()
        return joined + urlencode({"home": folder, "book": url_of(home, book) if book else folder / BOOK})
    if "loop=" in url.partition("?")[2]:
        return url
    return f"{joined}loop={Path(home).resolve().name}"


def without_secrets(url: str) -> str:
    """Return a URL for errors, without its login and its secret parameters; a password may hold `/`, `@` and `?`.

    >>> without_secrets("kafka://ml:p/w@rd@broker.example/fraud?sasl.password=secret&replicas=3")
    'kafka://...@broker.example/fraud?sasl.password=...&replicas=3'
    """
    return _SECRETS.sub(r"\1...", re.sub("//.*@", "//...@", url, flags=re.DOTALL))


def _public(url: str) -> str:
    """Return a URL as an error may show it: without its login, and without the loop that `url_of` adds."""
    return without_secrets(re.sub(r"[?&]loop=[^&]*$", "", url))


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


def log_of(home: str | Path, settings: LogSettings, tidy: bool = True) -> Log:
    """Open the log of the loop in a folder, as its settings say; raises as `connect` does."""
    log = connect(url_of(home, settings.url, settings.book), settings.durability, tidy)
    if not settings.encrypt:
        return log
    try:
        return cast(Log, importlib.import_module("everlearn.scale.encrypted").encrypted(log, home, settings))
    except BaseException:
        log.close()
        raise


def evict(url: str) -> bool:
    """End the session of another process that holds the lease of a log in a database; return True if there was one.

    What that process saves from now on is refused, since the next one to acquire the lease begins a later epoch. The
    lease of a log in a broker is that of its book. A log in a file has no sessions: its lease ends with its process.
    """
    if has_broker(url):
        url = dict(parse_qsl(url.partition("?")[2])).get("book", "")
    found = _SCHEMES.get(url.partition("://")[0])
    if found is None:
        return False
    return bool(importlib.import_module(found.partition(":")[0]).evict(url))


def connect(url: str, durability: Durability = "process", tidy: bool = True) -> Log:
    """Open the log at a path, or at `sqlite:///relative.db` or `sqlite:////absolute.db`; create it if there is none.

    A log at `postgresql://HOST/DATABASE?loop=NAME` is in that database (see `everlearn.scale.postgres`). One at
    `nats://HOST/STREAM` has its events there (see `everlearn.scale.brokered`); `url_of` adds what it needs. With
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
    raise ConfigError(
        f"log.url: got {_public(url)!r}; expected a path, sqlite:///PATH, postgresql://HOST/DATABASE, nats://HOST/"
        "STREAM or kafka://HOST:PORT/TOPIC"
    )
