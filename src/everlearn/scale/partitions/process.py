"""The process of one partition: it learns its rows step by step, merges with the others, and scores its part.

python -m everlearn.scale.partitions.process     the setup and the segments come from standard input, one a line

    learn step n -> post its record -> read ahead -> wait for the records of all -> merge step n -> learn step n + 1

Every process makes the same merge from the shared arrays, so the group is not needed at a barrier. Files that are
written in turn, two for arrays, keep what a process needs that begins again: the arrays of all parts at the barrier
before, and the merged arrays of the one before that.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from everlearn.errors import EverlearnError
from everlearn.merge import partitions
from everlearn.records import Arrays, Batch, Examples, Rejected, Singles
from everlearn.scale.partitions.board import Board, StepRecord
from everlearn.scale.partitions.learner import DealtRows, PartitionLearner, PartitionRows, Scorer
from everlearn.scale.partitions.messages import Done, Failed, PartitionSetup, Segment, send
from everlearn.scale.partitions.shared import SharedArrays, SharedColumns

EACH = 8  # steps after which predictions are scored, at the latest
TURNS = 2  # files of arrays, and of scores, that are written in turn
NO_SCORES = np.zeros((0, 0), np.float32)
NO_ENTRIES = np.zeros(0, np.int32), np.zeros(0, np.float32)  # of a batch without hashed entries


class SharedState:
    """The files through which the processes of a group and the group itself exchange arrays and scores.

    base    the merged arrays, by barrier; written by the first partition
    parts   the arrays of each partition after its rows, by step; it learns in place
    results the predictions of each partition, by step
    scores  the part of the metrics that each partition keeps
    """

    def __init__(self, folder: Path, like: Arrays, count: int) -> None:
        self.base = [SharedArrays(folder / f"base-{turn}", like) for turn in range(TURNS)]
        self.parts = [[SharedArrays(folder / f"part-{p}-{turn}", like) for turn in range(TURNS)] for p in range(count)]
        self.results = [
            [SharedColumns(folder / f"result-{p}-{turn}") for turn in range(EACH + 1)] for p in range(count)
        ]
        self.scores = [[SharedColumns(folder / f"scores-{p}-{turn}") for turn in range(TURNS)] for p in range(count)]
        self.board = Board(folder, count)

    def part(self, partition: int, number: int) -> SharedArrays:
        """Return the arrays of a partition after a step."""
        return self.parts[partition][number % TURNS]

    def merged(self, number: int) -> SharedArrays:
        """Return the merged arrays of a barrier."""
        return self.base[number % TURNS]

    def result(self, partition: int, number: int) -> SharedColumns:
        """Return the predictions of a partition in a step."""
        return self.results[partition][number % (EACH + 1)]

    def scored(self, partition: int) -> SharedColumns:
        """Return the last scores of a partition that were written to the end."""
        return max(self.scores[partition], key=lambda one: one.number)


def found(name: str) -> Any:
    """Return a function by "module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


class PartitionProcess:
    """A learner, its rows, and the files through which it gives and takes arrays."""

    def __init__(self, setup: PartitionSetup) -> None:
        self._setup, self._own = setup, setup.partition
        self._dealing, self._count = setup.dealing, setup.dealing.count
        self._learner = PartitionLearner(setup.spec, self._own, self._count)
        self._shared = SharedState(Path(setup.folder), self._learner.model.arrays, self._count)
        self._scorer: Scorer = found(setup.scorer)(setup.scoring, self._own, self._count)
        self._rows: PartitionRows | None = None
        self._ahead: list[DealtRows] = []
        state = self._shared.scored(self._own)
        self._scored = state.number
        arrays, header = state.read()
        if header is not None:
            self._scorer.load(arrays, header)
        self._warm()

    def _warm(self) -> None:
        """Load what merging and scoring need, so that the first barrier does not wait for it."""
        base = self._shared.base[0].views
        if self._count > 1:
            partitions.merged(self._setup.spec, base, [base] * self._count, [1.0] * self._count)
        self._scorer.warm()

    def run(self, segment: Segment) -> Done:
        """Learn a segment, from where this partition has come in it."""
        board, first = self._shared.board, segment.number
        number = board.reached()[self._own]
        before = segment.at if number <= first + 1 else self._at(number - 1)
        if number == first:
            self._begin(number, self._shared.merged(number).views, opening=before < self._dealing.opening)
            self._learn(number + 1, before)
            number += 1
        while True:
            board.wait(number)
            at = self._at(number)
            if at <= before:  # there was no row left
                self._score(number - 1)
                return self._done(number - 1, ended=True)
            more = any(one.more for one in board.records(number))
            self._merge(number, before, at)
            if not more or (segment.until and at >= segment.until):
                self._score(number)
                return self._done(number, ended=not more)
            if number - self._scored >= EACH:
                self._score(number)
            self._learn(number + 1, at)
            number, before = number + 1, at

    def _at(self, number: int) -> int:
        """Return the position of the stream at a barrier."""
        return max(one.last for one in self._shared.board.records(number))

    def _done(self, number: int, ended: bool) -> Done:
        return Done(number=number, ended=ended, cpu=time.process_time_ns(), at=time.monotonic_ns())

    def _begin(self, number: int, arrays: Arrays, *, opening: bool) -> None:
        """Begin the step after a barrier at its arrays, in the place of this partition's next ones."""
        mine = self._shared.part(self._own, number + 1)
        mine.write(arrays | self._learner.local_of(self._shared.part(self._own, number).views))
        self._learner.adopt(dict(mine.views), opening=opening)

    def _merge(self, number: int, before: int, at: int) -> None:
        """Merge the arrays of all partitions at a barrier, in order, and begin again at them."""
        shared, opening = self._shared, self._dealing.opening
        parts = [shared.part(partition, number).views for partition in range(self._count)]
        if before < opening:
            merged = parts[0]
        else:
            rows = [one.rows for one in shared.board.records(number)]
            merged = partitions.merged(self._setup.spec, shared.merged(number - 1).views, parts, rows)
        if self._own == 0:
            shared.merged(number).write(merged)
        self._begin(number, merged, opening=at < opening)

    def _learn(self, number: int, before: int) -> None:
        """Learn the rows of a step, write what comes of them, and read the rows of the next step."""
        upto, opening = self._dealing.next_barrier(before), before < self._dealing.opening
        if self._rows is None:
            self._rows = PartitionRows(found(self._setup.rows)(
                self._setup.source, self._dealing, self._own, before
            ), before)  # fmt: skip
        pieces = [*self._ahead, *self._rows.upto(upto)]
        scores = [self._learner.learn(piece.examples) if len(piece.examples.y) else NO_SCORES for piece in pieces]
        self._shared.part(self._own, number).write(self._learner.model.arrays)
        if self._own == 0 or not opening:  # of an opening, one learner gives the predictions
            self._write_result(number, pieces, scores)
        else:
            self._write_result(number, [], [])
        cursor = next((int(piece.examples.position[-1]) for piece in reversed(pieces) if len(piece.examples.y)), 0)
        last, more = self._rows.last, int(self._rows.more())
        if opening:  # the first rows behind it may load kernels, for which the first step should not wait
            self._read_ahead(upto)
        now = time.process_time_ns(), time.monotonic_ns()
        self._shared.board.post(self._own, number, StepRecord(self._learner.rows, cursor, last, more, *now))
        if not opening:
            self._read_ahead(upto)

    def _read_ahead(self, upto: int) -> None:
        """Read the rows of the step after position `upto`, while others may still learn."""
        if self._rows is not None:
            self._ahead = self._rows.upto(self._dealing.next_barrier(upto))

    def _write_result(self, number: int, pieces: list[DealtRows], scores: list[Singles]) -> None:
        """Write the predictions of a step, with what scores need of its rows."""
        columns, arrays = slice(*self._scorer.returned), dict[str, Any]()
        known = [(one.examples, own) for one, own in zip(pieces, scores, strict=True) if len(one.examples.y)]
        if known:
            position = _joined([one.position for one, _ in known])
            begin = int(np.searchsorted(position, self._scorer.first))
            arrays = {
                "scores": _joined([own for _, own in known]),
                "y": _joined([one.y for one, _ in known]),
                "weight": _joined([one.weight for one, _ in known]),
                "position": position,
                "dense": _joined([one.batch.dense[:, columns] for one, _ in known]),
            }
            segments = [one.segment for one, _ in known if one.segment is not None]
            arrays |= {"segment": np.concatenate(segments)} if segments else {}
            arrays = {name: array[begin:] for name, array in arrays.items()}
        rejected = [msgspec.to_builtins(row) for piece in pieces for row in piece.rejected]
        self._shared.result(self._own, number).write(number, arrays, rejected)

    def _score(self, number: int) -> None:
        """Score the rows up to a barrier, and write the state of the scores."""
        if number <= self._scored:
            return
        for step in range(self._scored + 1, number + 1):
            self._scorer.add(*predicted([self._shared.result(own, step) for own in range(self._count)]))
        oldest = min(self._shared.scores[self._own], key=lambda one: one.number)
        oldest.write(number, *self._scorer.state())
        self._scored = number


def _joined(arrays: list[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def predicted(results: list[SharedColumns]) -> tuple[Examples, Singles, tuple[Rejected, ...]]:
    """Return the rows of a step that are scored, their predictions, and the rejected rows, in the order of the stream.

    `results` are those of each partition, in order.
    """
    read = [one.read() for one in results]
    refused = [msgspec.convert(row, Rejected) for _, rows in read for row in rows]
    rejected = tuple(sorted(refused, key=lambda row: row.at))
    found = [arrays for arrays, _ in read if len(arrays.get("y", ()))]
    if not found:
        nothing = Batch(np.zeros((0, 0), np.float32), np.zeros(1, np.int64), *NO_ENTRIES)
        none = Examples(nothing, np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return none, NO_SCORES, rejected
    whole = {name: _joined([arrays[name] for arrays in found]) for name in found[0]}
    if any(one["position"][-1] > other["position"][0] for one, other in pairwise(found)):
        order = np.argsort(whole["position"], kind="stable")
        whole = {name: array[order] for name, array in whole.items()}
    batch = Batch(whole["dense"], np.zeros(len(whole["y"]) + 1, np.int64), *NO_ENTRIES)
    examples = Examples(batch, whole["y"], whole["weight"], whole["position"], whole.get("segment"))
    return examples, whole["scores"], rejected


def main() -> None:
    """Learn until standard input ends: the group closes it, or is gone."""
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a user's model prints does not mix with the answers
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=PartitionSetup)
    sys.path[:] = setup.path
    with suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            process = PartitionProcess(setup)
            for line in sys.stdin.buffer:
                send(answers, process.run(msgspec.json.decode(line, type=Segment)))
        except EverlearnError as error:
            send(answers, Failed(type(error).__name__, str(error)))


if __name__ == "__main__":
    main()
