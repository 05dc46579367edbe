"""Prequential evaluation in partitions: a learner for each, in its own process, and one report over all rows.

Every row is predicted by the learner of its partition before that learner learns it. The predictions of all partitions
are scored in the order of the stream, with the naive baselines, so the metrics are those of all rows. See
`everlearn.scale.partitions` for barriers and merges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from everlearn.evaluate import dealt_rows
from everlearn.evaluate.scoring import NaiveScores, Scored
from everlearn.model import Model, copied, cut, prefixed, within
from everlearn.records import Arrays, Examples, Rejected
from everlearn.scale.partitions.dealing import Dealing, checked
from everlearn.scale.partitions.group import Barrier, Group, Position, Reached, StretchScores
from everlearn.scale.partitions.shared import scratch
from everlearn.schema import moments
from everlearn.schema.layout import width
from everlearn.stream import Stream

KEPT = 100  # rejected rows that a report shows

Source = Stream | Examples | Iterable[Examples]


class Costs(NamedTuple):
    """The CPU seconds of each partition's process, of merging, and of this process with it, and the seconds passed.

    They begin at the first barrier, before which processes start and kernels load; `rows` are the rows after it.
    `restarts` counts the learners that were started again.
    """

    partitions: list[float]
    merging: float
    own: float
    wall: float
    rows: int
    restarts: int

    @property
    def rate(self) -> float:
        """Rows a second; 0 where all rows came before the first barrier."""
        return self.rows / self.wall if self.rows and self.wall > 0.0 else 0.0


class PartitionedScores:
    """The metrics of all partitions together, the naive baselines, and the counts of rows.

    The first `warm` rows are not scored. The time of a row, if the baselines need it, is in its first dense columns.
    """

    def __init__(self, scored: Scored, naive: NaiveScores, warm: int = 0) -> None:
        self.scored, self.naive, self._warm = scored, naive, warm
        self.events = self.rejected = 0
        self.rejects: list[Rejected] = []

    def add(self, found: StretchScores) -> None:
        """Add the rows between two barriers."""
        begin, n = int(np.searchsorted(found.examples.position, self._warm, "right")), len(found.examples.y)
        if n > begin:
            examples = cut(found.examples, begin, n)
            known = self.naive.score(examples, self.events)
            self.scored.add(examples, found.scores[begin:], self.events, known)
            self.events += n - begin
        self.rejected += len(found.rejected)
        self.rejects += found.rejected[: KEPT - len(self.rejects)]

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return what must survive a restart: copied arrays, and plain values."""
        arrays = prefixed("scored/", self.scored.state()) | prefixed("naive/", self.naive.state())
        header = {"events": self.events, "rejected": self.rejected, "rejects": msgspec.to_builtins(self.rejects)}
        return copied(arrays), header

    def load(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.scored.load(within(arrays, "scored/"))
        self.naive.load(within(arrays, "naive/"))
        self.events, self.rejected = int(header["events"]), int(header["rejected"])
        self.rejects = msgspec.convert(header["rejects"], list[Rejected])


class StartBarrier(NamedTuple):
    """Where learning begins: at the start of the stream, or at a barrier with the arrays that stay in partitions."""

    position: Position = Position()
    local: Arrays | None = None


def learned(
    model: Model,
    stream: Source,
    dealing: Dealing,
    scores: PartitionedScores,
    *,
    segment: str = "",
    start: StartBarrier | None = None,
    watch: Callable[[Group, Reached], None] | None = None,
) -> tuple[list[Barrier], Costs]:
    """Learn a stream in partitions and score it; return the barriers, and what it cost.

    The model gets the arrays of the last barrier, and of what stays in a partition that of the first one. `watch` is
    called at each barrier after its rows were scored. Raises `ConfigError` for a model that cannot be merged, or rows
    that cannot be dealt.
    """
    begin, barriers = start or StartBarrier(), list[Barrier]()
    timed = moments.clock(stream.schema) if isinstance(stream, Stream) else None
    returned = (0, 0) if timed is None else (timed, timed + width("datetime"))
    with scratch() as folder:
        source = dealt_rows.described(stream, checked(dealing), segment, folder / "rows")
        with Group(model, dealing, dealt_rows.OPENER, source, begin.position, begin.local, returned) as group:
            meter = _Meter(group)
            for reached in group.run():
                scores.add(reached.scores)
                barriers.append(reached.barrier)
                model.arrays = copied(reached.arrays) | copied(within(reached.local, "0/"))
                if watch is not None:
                    watch(group, reached)
                if len(barriers) == 1:
                    meter = _Meter(group, scores.events)
            costs = meter.read(scores.events)
    return barriers, costs


class _Meter:
    """The time that a group takes from now on."""

    def __init__(self, group: Group, rows: int = 0) -> None:
        self._group, self._rows = group, rows
        self._began, self._own = time.perf_counter(), time.process_time()
        self._seconds, self._merging = group.seconds, group.merging

    def read(self, rows: int) -> Costs:
        """Return the costs so far, after so many rows in all."""
        group = self._group
        seconds = [now - then for now, then in zip(group.seconds, self._seconds, strict=True)]
        own, wall = time.process_time() - self._own, time.perf_counter() - self._began
        return Costs(seconds, group.merging - self._merging, own, wall, rows - self._rows, group.restarts)
