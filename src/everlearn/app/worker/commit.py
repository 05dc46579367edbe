"""Group commit on the event loop: whatever waits is written in one transaction, and acknowledged when that is done.

Never on a timer: a group is what has come together since the last one, so one request alone waits for nobody, and
many share the cost of one commit. Only while another process is writing does a group wait, without stopping the loop,
and what comes meanwhile joins it.
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
PATIENCE = 30.0  # seconds until a group gives up

Later = Callable[[float, Callable[[], None]], object]  # as `loop.call_later`


class Entry(Protocol):
    """What one request has to write: all of its rows or none."""

    @property
    def rows(self) -> Sequence[Row]: ...

    def written(self, new: int) -> None:
        """The rows are in the log, durably; so many of them were not there before."""
        ...

    def failed(self, error: Exception) -> None:
        """The log does not hold them."""
        ...


class GroupCommit:
    """Writes entries to the log, in groups; `counted(entries, rows, seconds)` is told of each transaction.

    An entry whose rows contradict the log fails alone (InputError); where the log cannot be written, all fail.
    """

    def __init__(self, log: Log, later: Later, counted: Callable[[int, int, float], None]) -> None:
        self._log = log
        self._later = later
        self._counted = counted
        self._waiting: list[Entry] = []
        self._pause = 0.0  # seconds; 0 unless another process is writing
        self._since = 0.0  # when the oldest that waits began to wait
        self._failed = -math.inf  # when the log last failed to take rows; it has taken some since where this is -inf

    def __len__(self) -> int:
        return len(self._waiting)

    def failing(self, within: float) -> bool:
        """Whether the last group that had something to write failed, in these last seconds, because of the log."""
        return time.monotonic() - self._failed < within

    def put(self, entries: Sequence[Entry]) -> None:
        """Write these now, or as soon as no other process is writing."""
        self._waiting += entries
        if not self._pause:
            self._write()

    def _write(self) -> None:
        entries, self._waiting = self._waiting, []
        left = self._written(entries)
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
        self._waiting = left
        self._pause = min(self._pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
        self._later(self._pause, self._write)

    def _written(self, entries: list[Entry]) -> list[Entry]:
        """Write a group, and settle its entries; return those that must wait, because another process is writing."""
        rows = [row for entry in entries for row in entry.rows]
        began = time.perf_counter()
        try:
            put = self._log.try_put(rows)
        except InputError as error:
            if len(entries) == 1:
                entries[0].failed(error)
                return []
            half = len(entries) // 2
            return self._written(entries[:half]) + self._written(entries[half:])
        except Exception as error:
            if isinstance(error, LogError):
                self._failed = time.monotonic()
            for entry in entries:
                entry.failed(error)
            return []
        if put is None:
            return entries
        self._counted(len(entries), len(rows), time.perf_counter() - began)
        news = _new([len(entry.rows) for entry in entries], *put)
        if any(news):  # to find what was known proves nothing
            self._failed = -math.inf
        for entry, new in zip(entries, news, strict=True):
            entry.written(new)
        return []


def _new(counts: list[int], positions: list[int], end: int) -> list[int]:
    """How many rows of each entry were written, of a log that ended at `end`; of two that are alike the first was."""
    if not positions or positions[-1] == end + len(positions):  # none was known: the rule
        return counts
    left, new = set(range(end + 1, max(positions) + 1)), []
    rest = iter(positions)
    for count in counts:
        mine = left.intersection(islice(rest, count))
        left -= mine
        new.append(len(mine))
    return new
