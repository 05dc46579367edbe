"""Queue scored rows on their way to the metrics of one model: added a thousand at a time, they cost a fraction.

Rows that are added one after the other leave the same bytes however they are split into calls of `metrics.update`. So
scored rows can wait until the metrics are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from everlearn import metrics
from everlearn.records import Arrays, Floats, Ints, Singles, Task

_MOST = 1000  # rows that wait, at most


class QueuedMetrics:
    """The arrays that `metrics.start` made, and the rows that wait to be added to them.

    >>> held = QueuedMetrics(metrics.start("binary", 2))
    >>> for row in range(3):
    ...     held.add(np.array([[0.2, 0.8]], np.float32), np.ones(1), np.ones(1, np.float32), row)
    >>> metrics.report(held.arrays, "binary")["examples"]
    3
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._rows: list[tuple[Singles, Floats, Singles]] = []
        self._more: list[tuple[Floats | None, Ints | None]] = []  # labels that baselines answered with, and segments
        self._first = self._count = 0  # the index of the first waiting row, and how many wait

    @property
    def arrays(self) -> Arrays:
        """The arrays, with all rows added."""
        if self._count:
            rows, more, self._rows, self._more, self._count = self._rows, self._more, [], [], 0
            scores, y, weight = (_joined(parts) for parts in zip(*rows, strict=True))
            known, segment = (None if parts[0] is None else _joined(parts) for parts in zip(*more, strict=True))
            metrics.update(self._arrays, self._task, scores, y, weight, self._first, known, segment)
        return self._arrays

    @property
    def _task(self) -> Task:
        """The task as `metrics.update` needs it: it adds all classes alike."""
        return "multiclass" if "by_class" in self._arrays else "regression"

    def add(
        self,
        scores: Singles,
        y: Floats,
        weight: Singles,
        index: int,
        known: Floats | None = None,
        segment: Ints | None = None,
    ) -> None:
        """Add n rows as `metrics.update` does, which raises later what it raises. The arrays are not copied.

        Models own what they return, so a caller copies scores that come from one.
        """
        if self._count:
            (label, group), alike = self._more[0], index == self._first + self._count
            if not alike or (label is None) != (known is None) or (group is None) != (segment is None):
                _ = self.arrays
        if not self._count:
            self._first = index
        self._rows.append((scores, y, weight))
        self._more.append((known, segment))
        self._count += len(y)
        if self._count >= _MOST:
            _ = self.arrays


def _joined(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
