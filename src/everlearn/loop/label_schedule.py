"""When the rows of a replay are predicted, and when their labels come: arithmetic on times, without a log or a model.

    add(row, at, due), in order of `at`     a row joins the group that is predicted together
    closes(at) -> bool                      the group must be predicted before a row at `at` joins
    close(at) -> (group, [(due, row)])       the group, and the rows whose labels have come by `at`, in order

Times are seconds, or numbers of rows. No label comes early. A label is late by at most a tenth of its delay, and the
times of a group span at most a tenth of its shortest delay, so that one call can predict many rows.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST = 4096  # rows of a group
_SHARE = 10  # a label may be late by one part in this many of its delay


class LabelSchedule(Generic[T]):
    """Rows on their way to a prediction and to a label.

    Where times count rows, the label of row i with delay d comes right after row i + d: ask `closes` of the next row,
    and `close` of the row before it. `window` is the time after which a prediction takes a default label, 0 for none:
    that, too, is late by a tenth at most.

    >>> schedule = LabelSchedule[str]()
    >>> schedule.add("first", 1, due=2)
    >>> schedule.closes(2), schedule.close(1), schedule.closes(3), schedule.close(2)
    (True, (['first'], []), True, ([], [(2, 'first')]))
    """

    def __init__(self, window: float = 0.0) -> None:
        self._window = window
        self._group: list[T] = []
        self._end = math.inf  # the last time at which a row may join the group
        self._due: list[tuple[float, int, T]] = []
        self._limits: list[tuple[float, float]] = []  # the last time without a label, and the label's time
        self._count, self._came = 0, -math.inf

    def add(self, row: T, at: float, due: float) -> None:
        """Let a row join the group; its label comes at `due`, or never if that is infinite."""
        self._group.append(row)
        self._count += 1
        waits = [(due, due - at)] if due < math.inf else []
        waits += [(at + self._window, self._window)] if self._window else []
        for end, delay in waits:
            slack = max(delay, 0.0) / _SHARE
            heapq.heappush(self._limits, (end + slack, end))
            self._end = min(self._end, at + slack)
        if due < math.inf:
            heapq.heappush(self._due, (due, self._count, row))

    def closes(self, at: float) -> bool:
        """Return True if the group must be predicted, or labels must come, before a row at `at` is added."""
        while self._limits and self._limits[0][1] <= self._came:
            heapq.heappop(self._limits)
        late = bool(self._limits) and at > self._limits[0][0]
        return late or (bool(self._group) and (at > self._end or len(self._group) >= _MOST))

    def close(self, at: float) -> tuple[list[T], list[tuple[float, T]]]:
        """Return the group, and the rows whose labels have come by `at`, each with the time of its label, in order."""
        group, self._group = self._group, []
        self._end, self._came = math.inf, at
        came: list[tuple[float, T]] = []
        while self._due and self._due[0][0] <= at:
            due, _, row = heapq.heappop(self._due)
            came.append((due, row))
        return group, came
