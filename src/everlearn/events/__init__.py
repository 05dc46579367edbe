"""The event log: one ordered, durable, append-only list of everything that happened.

    append(payloads) -> positions      one atomic transaction, acknowledged when it returns
    read(after, limit) -> events       in order of position, each event once

The default home is one SQLite file in WAL mode. `docs/why/log.md` says what is guaranteed under which failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from everlearn.errors import ConfigError
from everlearn.events.file import Durability
from everlearn.events.rows import KINDS, Row, key, row
from everlearn.events.seals import Chain
from everlearn.events.sqlite import SqliteLog
from everlearn.records import Event, Payload

__all__ = ["KINDS", "Chain", "Durability", "Log", "Row", "SqliteLog", "connect", "key", "row", "scan"]

PAGE = 4096  # events read at a time


class Log(Protocol):
    """What every home of the log provides."""

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, atomically and durably, and return a position for each payload."""
        ...

    def write(self, rows: Sequence[Row]) -> list[int]:
        """As `append`, for what `row` has encoded already."""
        ...

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        """As `write`, but None at once, and nothing written, when another is writing."""
        ...

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        """As `try_write`, with the position at which the log ended before: what lies behind it is new."""
        ...

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """The first `limit` events behind position `after`, in order; of these `kinds` only, where given."""
        ...

    def find(self, key: str) -> Event | None:
        """The event with this key (see `everlearn.events.key`)."""
        ...

    def about(self, id: str) -> list[Event]:
        """The prediction or example of an id and all feedback for it, in order."""
        ...

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        ...

    def count(self, kind: str) -> int:
        """How many events of a kind there are."""
        ...

    def end(self) -> int:
        """The position of the newest event; 0 if there is none."""
        ...

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """The seal of each decision behind position `after`, up to position `upto`."""
        ...

    def verify(self) -> Chain:
        """Whether all decisions are as they were sealed."""
        ...

    def tidy(self) -> None:
        """Do the upkeep that writers would otherwise do now and then."""
        ...

    def close(self) -> None:
        """Let go of the log; closing twice is fine."""
        ...


def scan(log: Log, after: int = 0, kinds: Sequence[str] = (), upto: int | None = None) -> Iterator[Event]:
    """Yield the events behind position `after` in order, up to position `upto` or the end of the log.

    `kinds` limits them to these kinds. The log is read one page at a time, so that a long log needs little memory.

    >>> from everlearn.records import Example
    >>> with connect(":memory:") as log:
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


def connect(url: str, durability: Durability = "process", tidy: bool = True) -> Log:
    """Open the log at a path, or at `sqlite:///relative.db` or `sqlite:////absolute.db`; create it if there is none.

    With `tidy=False` this connection leaves the upkeep of the file to another one, which must call `tidy`.
    """
    scheme, marked, rest = url.partition("://")
    if not marked:
        return SqliteLog(url, durability, tidy)
    if scheme == "sqlite" and rest.startswith("/"):
        return SqliteLog(rest[1:], durability, tidy)
    if scheme in ("postgresql", "kafka"):
        raise ConfigError(f"a log at {scheme}:// is not there yet (got {url!r}); give the path of a file instead")
    raise ConfigError(f"no log can be kept at {url!r}; expected a path, or sqlite:///PATH")
