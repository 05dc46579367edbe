"""Room for feedback that comes before its prediction: it is refused where it would have to be dropped later.

The fold keeps early feedback within a bound of bytes. Feedback is accepted before the fold sees it, by several
processes. Each of them counts what the fold held at a position of the log, and what it has accepted itself since, as if
every other process had accepted as much. So what all of them accept fits.

One source may hold at most as much as is still free (dynamic thresholds: Choudhury and Hahne 1998). One sender can then
take half of the room, and n senders 1/(n + 1) each: there is always room for another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from everlearn import _private
from everlearn.errors import NoRoom
from everlearn.feedback.pending import EARLY_SHARE, Earlier, Early
from everlearn.records import Feedback
from everlearn.spec import FeedbackSpec

FORGOTTEN = 60.0  # seconds after which feedback that was not written is forgotten: no writer waits for so long

_SHOWN = 256  # sources with the most bytes that are published
FILE = "early.json"  # the name of the file with the use, in the folder that the processes share


class EarlyUse(Struct, frozen=True):
    """The bytes of early feedback that the fold holds once it has folded the log up to `position`, by source too."""

    position: int = 0
    bytes: int = 0
    sources: dict[str, int] = {}


def use(early: Early, position: int) -> EarlyUse:
    """Return the use of the fold's early feedback; of many sources those that hold most."""
    held = early.by_source
    most = dict(sorted(held.items(), key=lambda item: -item[1])[:_SHOWN]) if len(held) > _SHOWN else dict(held)
    return EarlyUse(position, early.nbytes, most)


def publish(folder: Path, early: EarlyUse) -> None:
    """Write the use for other processes; replaced whole. Raises OSError."""
    unfinished = folder / f".{FILE}.unfinished"
    _private.write(unfinished, msgspec.json.encode(early))
    unfinished.replace(folder / FILE)


class PublishedUse:
    """The use that another process publishes, read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._seen: tuple[int, int] | None = None
        self._use = EarlyUse()

    def __call__(self) -> EarlyUse:
        """Return the newest use; that of an empty buffer before the first one."""
        try:
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_ino) != self._seen:
                self._use = msgspec.json.decode(self._path.read_bytes(), type=EarlyUse)
                self._seen = found.st_mtime_ns, found.st_ino
        except (OSError, msgspec.MsgspecError):
            pass  # the last one counts until there is another
        return self._use


@dataclass(slots=True, eq=False)
class Ticket:
    """Accepted early feedback; `until` is a position at or behind it, once it is in the log."""

    source: str
    size: int
    at: float
    until: int | None = None


@dataclass(slots=True)
class EarlyRoom:
    """The room for early feedback as one of `processes` sees it; `now` returns what the fold holds."""

    spec: FeedbackSpec
    now: Callable[[], EarlyUse]
    processes: int = 1
    clock: Callable[[], float] = time.monotonic
    _tickets: list[Ticket] = field(default_factory=list)

    def take(self, feedback: Feedback) -> Ticket:
        """Count one piece of early feedback. Raises NoRoom if it might have to be dropped, or its source has its share.

        Set `until` of the ticket to the end of the log once the feedback is in it.
        """
        use, moment = self.now(), self.clock()
        self._tickets = [ticket for ticket in self._tickets if self._counts(ticket, use.position, moment)]
        source, size = named(feedback.source), Earlier(0, 0.0, feedback).nbytes
        underway = sum(ticket.size for ticket in self._tickets)
        mine = sum(ticket.size for ticket in self._tickets if ticket.source == source)
        free = self.spec.bytes // EARLY_SHARE - use.bytes - self.processes * underway
        held = use.sources.get(source, 0) + self.processes * (mine + size)
        if held > free:
            raise NoRoom(
                f"feedback for {feedback.id!r} came before its prediction, and what waits so from source {source!r} "
                f"has no more room: got {held} bytes; expected at most {max(free, 0)}. Send it again once predictions "
                "have come, or set feedback.bytes higher"
            )
        ticket = Ticket(source, size, moment)
        self._tickets.append(ticket)
        return ticket

    def _counts(self, ticket: Ticket, position: int, moment: float) -> bool:
        """Return True for a ticket that the use does not hold yet."""
        if ticket.until is None:
            return moment - ticket.at < FORGOTTEN
        return ticket.until > position


def named(source: str) -> str:
    """Return the part of a source that a sender cannot choose: the name of its token."""
    return source.partition("/")[0]
