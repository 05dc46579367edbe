"""One learner of a partition: it predicts each of its rows before it learns it, and begins again at each barrier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from everlearn.merge import partitions
from everlearn.model import Model, build, copied, cut
from everlearn.records import Arrays, Examples, Rejected, Singles


class DealtRows(NamedTuple):
    """Some rows of a partition, in order, the rejected ones among them, and the position of the stream reached."""

    examples: Examples
    rejected: tuple[Rejected, ...]
    last: int


class Scorer(Protocol):
    """What scores predictions in the process of a partition: the part of the metrics that this partition keeps.

    All rows come in the order of the stream, those of other partitions too, so order may matter.
    """

    def warm(self) -> None:
        """Load what scoring needs, before the first row."""

    def add(self, examples: Examples, scores: Singles, rejected: Sequence[Rejected]) -> None:
        """Add rows with their predictions; `examples` have those dense columns alone that are `returned`."""

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return what must survive the death of the process: arrays and plain values."""

    def load(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Restore the result of `state`, or of those of all partitions together."""

    @property
    def returned(self) -> tuple[int, int]:
        """The dense columns that scoring needs, from the first to before the second."""

    @property
    def first(self) -> int:
        """The position of the first row that is scored."""


class PartitionRows:
    """The rows of one partition, taken up to one position after the other; `ended` once there are no more."""

    def __init__(self, pieces: Iterable[DealtRows], after: int = 0) -> None:
        self._pieces: Iterator[DealtRows] = iter(pieces)
        self._left: DealtRows | None = None
        self.last, self.ended = after, False

    def upto(self, position: int) -> list[DealtRows]:
        """Return the rows not taken yet, up to a position of the stream."""
        found = []
        while self.last < position and not self.ended:
            piece = self._left or next(self._pieces, None)
            self._left = None
            if piece is None:
                self.ended = True
                break
            if piece.last > position:
                piece, self._left = _split(piece, position)
            found.append(piece)
            self.last = piece.last
        return found

    def more(self) -> bool:
        """Return True if rows may be left."""
        if self._left is None and not self.ended:
            self._left = next(self._pieces, None)
            self.ended = self._left is None
        return not self.ended


def _split(piece: DealtRows, position: int) -> tuple[DealtRows, DealtRows]:
    """Return the rows of a piece up to a position, and the others."""
    at = int(np.searchsorted(piece.examples.position, position, "right"))
    before = tuple(row for row in piece.rejected if row.at <= position)
    first = DealtRows(cut(piece.examples, 0, at), before, position)
    rest = cut(piece.examples, at, len(piece.examples.y))
    return first, DealtRows(rest, piece.rejected[len(before) :], piece.last)


class PartitionLearner:
    """The model of one partition of `count`, and the rows that it has learned since the last barrier."""

    def __init__(self, spec: Mapping[str, Any], partition: int, count: int) -> None:
        self._rules = partitions.rules(spec)
        self._partition, self._count = partition, count
        self.model: Model = build(spec)
        self.rows = 0

    def begin(self, arrays: Arrays, local: Arrays | None = None, *, opening: bool = False) -> None:
        """Begin at merged arrays: after a barrier, or after a restart with the partition's own `local` arrays.

        In the opening the model trains all that it has, afterwards what its partition owns.
        """
        kept = self.local() if local is None else local
        self.adopt(copied(arrays) | copied(kept), opening=opening)

    def adopt(self, arrays: Arrays, *, opening: bool = False) -> None:
        """Begin as `begin` does, at arrays that this learner may change."""
        self.model.arrays = arrays
        self._rules.own(self.model, *((0, 1) if opening else (self._partition, self._count)))
        self.rows = 0

    def local(self) -> Arrays:
        """Return the arrays that stay with this partition."""
        return self.local_of(self.model.arrays)

    def local_of(self, arrays: Arrays) -> Arrays:
        """Return those of some arrays that stay with a partition."""
        return {name: array for name, array in arrays.items() if self._rules.local(self.model.spec, name)}

    def learn(self, examples: Examples) -> Singles:
        """Predict and then learn each row, in order; return the predictions."""
        scores = self.model.learn(examples.batch, examples.y, examples.weight)
        self.rows += len(examples.y)
        return scores


def merged(learners: Sequence[PartitionLearner], base: Arrays, *, opening: bool = False) -> Arrays:
    """Return the arrays of learners at a barrier, merged in the order given.

    All have learned the rows of an `opening`, so their arrays are the same, and those of the first are returned. Raises
    what `everlearn.merge.partitions.merged` raises.
    """
    parts = [learner.model.arrays for learner in learners]
    if opening:
        return copied(parts[0])
    return partitions.merged(learners[0].model.spec, base, parts, [learner.rows for learner in learners])


def replayed(
    spec: Mapping[str, Any], base: Arrays, rows: Sequence[PartitionRows], barriers: Iterable[tuple[Sequence[int], bool]]
) -> Arrays:
    """Return the merged arrays after some barriers, learned again in this process.

    `barriers` are (cursors, opening): the positions up to which each partition had taken its rows, and True for the
    opening. `base` are the arrays before the first, `rows` those of each partition.
    """
    learners = [PartitionLearner(spec, partition, len(rows)) for partition in range(len(rows))]
    for learner in learners:
        learner.begin(base, {name: base[name] for name in learner.local()}, opening=True)
    for cursors, opening in barriers:
        for learner, own, cursor in zip(learners, rows, cursors, strict=True):
            learner.begin(base, opening=opening)
            for piece in own.upto(cursor):
                learner.learn(piece.examples)
        base = merged(learners, base, opening=opening)
    return base
