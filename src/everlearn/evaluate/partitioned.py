"""Prequential evaluation in partitions: a learner for each, in its own process, and one report over all rows.

Every row is predicted by the learner of its partition before that learner learns it. The predictions of all partitions
are scored in the order of the stream, since some metrics depend on it. The processes share that work by metric, not by
rows: the first scores the model, the next one each naive baseline. See `everlearn.scale.partitions` for barriers
and merges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from everlearn.evaluate import dealt_rows
from everlearn.evaluate.scoring import NaiveScores, Scored, naive_names
from everlearn.evaluate.windows import Window
from everlearn.metrics.recent import ROWS
from everlearn.model import Model, prefixed, within
from everlearn.records import Arrays, Batch, Examples, Loss, Rejected, Singles, Task
from everlearn.scale.partitions.dealing import Dealing, checked
from everlearn.scale.partitions.group import Barrier, Group, Saved
from everlearn.scale.partitions.shared import scratch
from everlearn.schema.layout import width
from everlearn.stream import Stream

KEPT = 100  # rejected rows that a report shows
SCORER = "everlearn.evaluate.partitioned:scorer"
MODEL = "model"  # is scored beside the baselines

Source = Stream | Examples | Iterable[Examples]
Progress = Callable[[Barrier], None]


class Costs(NamedTuple):
    """The CPU seconds of each partition's process and of this one, and the seconds passed, after the first barrier.

    Before it, processes start and kernels load; `rows` are the rows after it. `restarts` counts the learners that were
    started again.
    """

    partitions: list[float]
    own: float
    wall: float
    rows: int
    restarts: int

    @property
    def rate(self) -> float:
        """Rows a second; 0 where all rows came before the first barrier."""
        return self.rows / self.wall if self.rows and self.wall > 0.0 else 0.0


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics that are kept, as plain values; see `scoring.Scored` and `scoring.NaiveScores`.

    The first `warm` rows are not. A baseline uses the time of each row, if that begins at the dense column `clock`.
    """

    task: Task
    classes: int
    own: Loss | None = None
    share: float = 0.01
    segment: str = ""
    window: Window | None = None
    clock: int | None = None
    warm: int = 0

    @property
    def scored(self) -> tuple[str, ...]:
        """The model and the baselines."""
        return MODEL, *naive_names(self.task, self.clock is not None)


class PartitionedScores:
    """The metrics of all partitions together, the naive baselines, and the counts of rows; or a part of these.

    A process of a partition has the part that `own` names. The counts are in each part.
    """

    def __init__(self, scoring: Scoring, own: Sequence[str] | None = None) -> None:
        self.scoring, self._own = scoring, scoring.scored if own is None else own
        task, classes, loss = scoring.task, scoring.classes, scoring.own
        self.scored = Scored(task, classes, loss, scoring.share, scoring.segment, scoring.window)
        names = [name for name in self._own if name != MODEL]
        self.naive = NaiveScores(task, classes, 0, loss, None if scoring.clock is None else 0, names)
        self.events = self.rejected = 0
        self.rejects: list[Rejected] = []

    @property
    def returned(self) -> tuple[int, int]:
        """The dense columns of the time, if there is one."""
        clock = self.scoring.clock
        return (0, 0) if clock is None else (clock, clock + width("datetime"))

    @property
    def first(self) -> int:
        """The position of the first row that is scored."""
        return self.scoring.warm + 1

    def warm(self) -> None:
        """Load the kernels, on rows that do not count; more than are held back as the last ones."""
        columns, n = 1 if self.scoring.task == "regression" else self.scoring.classes, 2 * ROWS
        dense, none = np.zeros((n, width("datetime")), np.float32), (np.zeros(0, np.int32), np.zeros(0, np.float32))
        batch, position = Batch(dense, np.zeros(n + 1, np.int64), *none), np.arange(n) + self.first
        rows = Examples(batch, (np.arange(n) % 2).astype(np.float64), np.ones(n, np.float32), position)
        PartitionedScores(self.scoring, self._own).add(rows, np.full((n, columns), 0.5, np.float32), ())

    def add(self, examples: Examples, scores: Singles, rejected: Sequence[Rejected]) -> None:
        """Add rows with their predictions, and what was rejected among them."""
        n = len(examples.y)
        if n and self._own:
            known = self.naive.score(examples, self.events)
            if MODEL in self._own:
                self.scored.add(examples, scores, self.events, known)
        self.events += n
        self.rejected += len(rejected)
        self.rejects += rejected[: KEPT - len(self.rejects)]

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return what must survive a restart: views of arrays, and plain values."""
        arrays = prefixed("scored/", self.scored.state()) if MODEL in self._own else {}
        if self._own:
            arrays |= prefixed("naive/", self.naive.state())
        header = {"events": self.events, "rejected": self.rejected, "rejects": msgspec.to_builtins(self.rejects)}
        return arrays, header

    def load(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Restore the result of `state`, or of all parts together."""
        if MODEL in self._own:
            self.scored.load(within(arrays, "scored/"))
        if self._own:
            self.naive.load(within(arrays, "naive/"))
        self.events, self.rejected = int(header["events"]), int(header["rejected"])
        self.rejects = msgspec.convert(header["rejects"], list[Rejected])


def scorer(scoring: Mapping[str, Any], partition: int, count: int) -> PartitionedScores:
    """Return the part of the metrics that the process of a partition keeps.

    The first partition scores the model, the second one the first baseline, and so on; the last one has the rest. Of
    two partitions the first also has a baseline where classes are many: both baselines then cost more than the model.

    >>> [scorer({"task": "binary", "classes": 2}, partition, 2)._own for partition in range(2)]
    [['model'], ['last_label', 'majority']]
    >>> [scorer({"task": "multiclass", "classes": 7}, partition, 2)._own for partition in range(2)]
    [['model', 'last_label'], ['majority']]
    """
    known = msgspec.convert(scoring, Scoring)
    early = int(count == 2 and known.task == "multiclass")
    own = [name for place, name in enumerate(known.scored) if min(max(place - early, 0), count - 1) == partition]
    return PartitionedScores(known, own)


def learned(
    model: Model,
    stream: Source,
    dealing: Dealing,
    scores: PartitionedScores,
    *,
    segment: str = "",
    start: Saved | None = None,
    keep: int = 0,
    watch: Callable[[Group, Barrier | Saved], None] | None = None,
) -> tuple[list[Barrier], Costs]:
    """Learn a stream in partitions and score it; return the barriers, and what it cost.

    The model gets the arrays of the last barrier, and of what stays in a partition that of the first one. `watch` is
    called with each barrier, and with each state that is kept (`Group.run`), when `scores` and the model have it.
    Raises `ConfigError` for a model that cannot be merged, or rows that cannot be dealt.
    """
    barriers = list[Barrier]()
    with scratch() as folder:
        source = dealt_rows.described(stream, checked(dealing), segment, folder / "rows")
        scoring = msgspec.to_builtins(scores.scoring)
        with Group(model, dealing, (dealt_rows.OPENER, source), (SCORER, scoring), start, keep) as group:
            began, own, before = time.process_time(), 0.0, scores.events
            for reached in group.run():
                if isinstance(reached, Saved):
                    scores.load(*reached.scores)
                    model.arrays = reached.arrays | within(reached.local, "0/")
                else:
                    barriers.append(reached)
                    before += _rows(reached) if len(barriers) == 1 else 0
                if watch is not None:
                    watch(group, reached)
            own = time.process_time() - began
            opened, ended = group.opened, group.ended
            spent = [now - then for now, then in zip(ended.cpu, opened.cpu, strict=True)]
            costs = Costs(spent, own, ended.at - opened.at, max(scores.events - before, 0), group.restarts)
    return barriers, costs


def _rows(barrier: Barrier) -> int:
    """Return the rows of the stream that were learned before a barrier since the last one."""
    return barrier.rows[0] if barrier.opening else sum(barrier.rows)
