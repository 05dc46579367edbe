"""A contestant of the roster: a model, the version that it came from, and the record of its trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from everlearn.gate.policy import By
from everlearn.metrics.queued import QueuedMetrics
from everlearn.model import Model
from everlearn.records import Arrays, Floats, Singles
from everlearn.serve.isolation import IsolatedModel

Role = Literal["champion", "frozen", "previous", "challenger", "fresh", "candidate", "shadow"]


class Progress(NamedTuple):
    """How much some arrays have learned: everything up to this log position, and up to this row of files."""

    log: int
    row: int


UNKNOWN = Progress(-1, -1)


class Trial:
    """The record of one candidate: the gate's evidence, its metrics, and how many examples it was tested on."""

    __slots__ = ("_scored", "evidence", "tested")

    def __init__(self, evidence: Arrays, metrics: Arrays, tested: int = 0) -> None:
        self.evidence, self.tested = evidence, tested
        self._scored = QueuedMetrics(metrics)

    @property
    def metrics(self) -> Arrays:
        """The metrics of all examples that it was tested on."""
        return self._scored.arrays

    def score(self, scores: Singles, y: Floats, weight: Singles, known: Floats | None) -> None:
        """Add n examples to the metrics; see `everlearn.metrics.update`. The arrays are kept, and not copied."""
        self._scored.add(scores, y, weight, self.tested, known)
        self.tested += len(y)


@dataclass(slots=True, eq=False)
class Contestant:
    """A model in the roster. `uid` is never used twice; `version` is the version that its arrays came from.

    `trial` is None until the gate first compares it. `snapshot` and `by` belong to challengers: the frozen copy that
    one has nominated, and what started it. `learned` belongs to snapshots: what they had learned when they were taken.
    `columns` is the width of predictions (0: any). `place` orders contestants; it stays when the uid changes. `noticed`
    is the number of the label up to which drift of its groups was reported; -1 before the first look.
    """

    uid: int
    version: str
    model: Model
    learns: bool
    by: By = "loop"
    snapshot: Contestant | None = None
    trial: Trial | None = None
    learned: Progress = UNKNOWN
    columns: int = 0
    place: int = 0
    noticed: int = -1

    @property
    def tried(self) -> IsolatedModel:
        """The model for use in a fold: its failures are raised as ModelFailure with this uid."""
        return IsolatedModel(self.model, self.uid, self.columns)
