"""Room for feedback that comes before its prediction: it is refused where it would have to be dropped later.

The fold keeps early feedback within a bound of bytes. Feedback is accepted before the fold sees it, by several
processes. Each of them counts what the fold held at a position of the log, and what it has accepted itself since, as if
every other process had accepted as much. So what all of them accept fits.

One source may hold at most as much as is still free (dynamic thresholds: Choudhury and Hahne 1998). One sender can then
take half of the room, and n senders 1/(n + 1) each: there is always room for another one.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from everlearn import _private
from everlearn.errors import NoRoom
from everlearn.feedback.pending import EARLY_SHARE, Earlier, Early, named
from everlearn.records import Feedback
from everlearn.spec import FeedbackSpec

FORGOTTEN = 60.0  # seconds after which feedback that was not written is forgotten: no writer waits for so long

UNKNOWN = 512  # bytes: more than a label with a usual name and source takes

_SWEEP = 1.0  # seconds after which tickets are looked through, where the use has not changed
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


class FoldedUse:
    """The use of the fold of this process, computed again once its position has changed."""

    def __init__(self, now: Callable[[], tuple[Early, int]]) -> None:
        self._now = now
        self._use = EarlyUse(-1)

    def __call__(self) -> EarlyUse:
        """Return the use now."""
        early, position = self._now()
        if (position, early.nbytes) != (self._use.position, self._use.bytes):
            self._use = use(early, position)
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
    """The room for early feedback as one of `processes` sees it; `now` returns what the fold holds.

    What was accepted before this process began is in the log up to the position `begin`. Until the use holds that, each
    position between counts as early feedback of `UNKNOWN` bytes. The time of `take` does not depend on the number of
    tickets, except where the use has changed.
    """

    spec: FeedbackSpec
    now: Callable[[], EarlyUse]
    processes: int = 1
    clock: Callable[[], float] = time.monotonic
    begin: int = 0
    _underway: list[Ticket] = field(default_factory=list)  # not in the log yet, as far as is known
    _written: list[tuple[int, int, Ticket]] = field(default_factory=list)  # a heap: position, number, ticket
    _bytes: Counter[str] = field(default_factory=Counter)  # of all these tickets, by source
    _total: int = 0
    _number: int = 0
    _swept: tuple[int, float] = (-1, -math.inf)  # the position of the use, and the time, of the last sweep

    def take(self, feedback: Feedback) -> Ticket:
        """Count one piece of early feedback. Raises NoRoom if it might have to be dropped, or its source has its share.

        Set `until` of the ticket to the end of the log once the feedback is in it.
        """
        use, moment = self.now(), self.clock()
        if self._swept[0] != use.position or self._swept[1] + _SWEEP <= moment:
            self._sweep(use.position, moment)
        source, size = named(feedback.source), Earlier(0, 0.0, feedback).nbytes
        free = self.spec.bytes // EARLY_SHARE - use.bytes - self.processes * self._total
        held = use.sources.get(source, 0) + self.processes * (self._bytes[source] + size)
        unknown = UNKNOWN * max(self.begin - use.position, 0)
        if held <= free < held + unknown:
            raise NoRoom(
                f"feedback for {feedback.id!r} came before its prediction, and how much waits so is not known yet: the "
                f"learner has read the log up to {use.position}; expected {self.begin}. Send it again in a moment"
            )
        if held > free:
            raise NoRoom(
                f"feedback for {feedback.id!r} came before its prediction, and what waits so from source {source!r} "
                f"has no more room: got {held} bytes; expected at most {max(free, 0)}. Send it again once predictions "
                "have come, or set feedback.bytes higher"
            )
        ticket = Ticket(source, size, moment)
        self._underway.append(ticket)
        self._bytes[source] += size
        self._total += size
        return ticket

    def release(self, tickets: Collection[Ticket]) -> None:
        """Count tickets no more: their feedback is not in the log, and will not be."""
        gone, underway = set(tickets), self._underway
        self._underway = [ticket for ticket in underway if ticket not in gone]
        for ticket in gone.intersection(underway):
            self._forget(ticket)

    def _sweep(self, position: int, moment: float) -> None:
        """Forget the tickets that the use holds, and those that were never written."""
        self._swept = position, moment
        underway = []
        for ticket in self._underway:
            if ticket.until is not None:
                self._number += 1
                heapq.heappush(self._written, (ticket.until, self._number, ticket))
            elif moment - ticket.at < FORGOTTEN:
                underway.append(ticket)
            else:
                self._forget(ticket)
        self._underway = underway
        while self._written and self._written[0][0] <= position:
            self._forget(heapq.heappop(self._written)[2])

    def _forget(self, ticket: Ticket) -> None:
        self._total -= ticket.size
        self._bytes[ticket.source] -= ticket.size
        if not self._bytes[ticket.source]:
            del self._bytes[ticket.source]
