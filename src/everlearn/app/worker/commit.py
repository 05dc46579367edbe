"""Group commit on the event loop: write all waiting entries in one transaction, then acknowledge them.

There is no timer. A group is what has arrived since the last one, so a single request never waits, and many share the
cost of one commit. A group waits only while another process is writing; the event loop runs on, and entries that arrive
meanwhile join the group.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from everlearn.errors import InputError, LogError
from everlearn.events import Log, Row

FIRST_PAUSE, LONGEST_PAUSE = 0.0001, 0.01  # seconds between attempts while another process is writing
PATIENCE = 5.0  # seconds until a group gives up
LOOK = 0.05  # seconds between two looks whether the log is still in its place

Later = Callable[[float, Callable[[], None]], object]  # as `loop.call_later`
Elsewhere = Callable[[Callable[[], None], Callable[[], None]], None]  # runs the first in a thread, then the second here
Outcome = int | Exception | None  # of an entry: its new rows, its error, or that it must wait for another process


class Entry(Protocol):
    """The rows that one request writes: all of them or none."""

    @property
    def rows(self) -> Sequence[Row]: ...

    def written(self, new: int) -> None:
        """Called once the rows are durable. `new` counts rows that were not already in the log."""
        ...

    def failed(self, error: Exception) -> None:
        """Called when the log does not hold the rows."""
        ...


class GroupCommit:
    """Writes entries to the log in groups; `counted(entries, rows, seconds)` is called after each transaction.

    A log that is not `quick` is written `elsewhere`, in a thread, while the event loop goes on; its next group is what
    has arrived meanwhile.
    An entry whose rows contradict the log fails alone (InputError). If the log cannot be written, all entries fail.
    """

    def __init__(
        self, log: Log, later: Later, counted: Callable[[int, int, float], None], elsewhere: Elsewhere | None = None
    ) -> None:
        self._log = log
        self._later = later
        self._elsewhere = elsewhere
        self._away = False  # while a group is written in another thread
        self._done: list[tuple[int, int, float]] = []  # transactions that were not counted yet
        self._counted = counted
        self.waiting: list[Entry] = []
        self._pause = 0.0  # seconds; 0 unless another process is writing
        self._since = 0.0  # when the oldest entry began to wait
        self._look = 0.0  # when to look at the place of the log again
        self._failed = -math.inf  # when the log last refused rows; -inf once it has taken some again

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def busy(self) -> bool:
        """True while entries wait, or are written in another thread."""
        return bool(self.waiting) or self._away

    def failing(self, within: float) -> bool:
        """Return True if the log refused the last group of new rows, at most `within` seconds ago."""
        return time.monotonic() - self._failed < within

    def put(self, entries: Sequence[Entry]) -> None:
        """Write entries now, or as soon as no other process is writing."""
        self.waiting += entries
        if not self._pause and not self._away:
            self._write()

    def _write(self) -> None:
        entries, self.waiting = self.waiting, []
        if self._log.quick or self._elsewhere is None:
            self._settle(entries, self._attempt(entries))
            return
        outcomes: list[Outcome] = []
        self._away = True

        def back() -> None:
            self._away = False
            self._settle(entries, outcomes or [LogError("the writer of the log ended early")] * len(entries))
            if self.waiting and not self._pause:
                self._write()

        self._elsewhere(lambda: outcomes.extend(self._attempt(entries)), back)

    def _settle(self, entries: list[Entry], outcomes: list[Outcome]) -> None:
        """Tell each entry what became of it; let those wait that met another writer."""
        for done in self._done:
            self._counted(*done)
        self._done.clear()
        left: list[Entry] = []
        wrote = False
        for entry, outcome in zip(entries, outcomes, strict=True):
            if outcome is None:
                left.append(entry)
            elif isinstance(outcome, int):
                wrote |= outcome > 0
                entry.written(outcome)
            else:
                if isinstance(outcome, LogError):
                    self._failed = time.monotonic()
                entry.failed(outcome)
        if wrote:  # finding only known rows does not show that the log can be written
            self._failed = -math.inf
        if not left:
            self._pause = 0.0
            return
        now = time.monotonic()
        self._since = self._since if self._pause else now
        if now - self._since > PATIENCE:
            self._pause, self._failed = 0.0, now
            error = LogError(f"another process held the log for {PATIENCE:.0f} seconds: end it, or do it again")
            for entry in left:
                entry.failed(error)
            return
        self.waiting = [*left, *self.waiting]
        self._pause = min(self._pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
        self._later(self._pause, self._write)

    def _attempt(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Write a group, and return what became of each entry; it may run in another thread."""
        rows = [row for entry in entries for row in entry.rows]
        began = time.perf_counter()
        try:
            if began >= self._look:
                self._log.check_place()  # what goes into a deleted file must not be acknowledged
                self._look = began + LOOK
            put = self._log.try_put(rows)
        except InputError as error:
            if len(entries) == 1:
                return [error]
            half = len(entries) // 2
            return self._attempt(entries[:half]) + self._attempt(entries[half:])
        except Exception as error:
            return [error] * len(entries)
        if put is None:
            return [None] * len(entries)
        self._done.append((len(entries), len(rows), time.perf_counter() - began))
        return [*_new([len(entry.rows) for entry in entries], *put)]


def _new(counts: list[int], positions: list[int], end: int) -> list[int]:
    """Count the new rows of each entry, of a log that ended at `end`; of two equal rows the first one is new."""
    if not positions or positions[-1] == end + len(positions):  # all rows are new: the usual case
        return counts
    left, new = set(range(end + 1, max(positions) + 1)), []
    rest = iter(positions)
    for count in counts:
        mine = left.intersection(islice(rest, count))
        left -= mine
        new.append(len(mine))
    return new
