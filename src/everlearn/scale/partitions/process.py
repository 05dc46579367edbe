"""The process of one partition: it learns its rows step by step, and reads ahead while the group merges.

python -m everlearn.scale.partitions.process     the setup and the steps come from standard input, one a line
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from everlearn import _private
from everlearn.errors import EverlearnError
from everlearn.records import Arrays, Rejected, Singles
from everlearn.scale.partitions.learner import DealtRows, PartitionLearner, PartitionRows
from everlearn.scale.partitions.messages import Done, Failed, PartitionSetup, Step, send
from everlearn.scale.partitions.shared import SharedArrays
from everlearn.version.codec import dump, load

MERGED = "merged"  # the file of the merged arrays; "part-0" and so on are those of the partitions


def opened(setup: PartitionSetup) -> Iterable[DealtRows]:
    """Return the rows of a partition, from where its setup begins."""
    module, _, name = setup.rows.partition(":")
    find = getattr(importlib.import_module(module), name)
    found: Iterable[DealtRows] = find(setup.source, setup.dealing, setup.partition, setup.after)
    return found


class PartitionProcess:
    """A learner, its rows, and the files through which it gives and takes arrays."""

    def __init__(self, setup: PartitionSetup) -> None:
        self._setup = setup
        self._learner = PartitionLearner(setup.spec, setup.partition, setup.dealing.count)
        self._rows = PartitionRows(opened(setup), setup.after)
        folder, arrays = Path(setup.folder), self._learner.model.arrays
        self._merged = SharedArrays(folder / MERGED, arrays)
        self._part = SharedArrays(folder / f"part-{setup.partition}", arrays)
        self._local: Arrays | None = load(Path(setup.local).read_bytes(), Path(setup.local))[0] if setup.local else None
        self._ahead: list[DealtRows] = []

    def step(self, step: Step) -> Done:
        """Learn the rows of a step, and write their predictions and the arrays."""
        first = self._setup.partition == 0 or not step.opening  # of an opening, one learner gives the predictions
        local, self._local = self._local, None
        if local is None and step.number == 1:
            local = {name: self._merged.views[name] for name in self._learner.local()}
        self._learner.begin(self._merged.views, local, opening=step.opening)
        pieces = [*self._ahead, *self._rows.upto(step.upto)]
        self._ahead = []
        scores = [self._learner.learn(piece.examples) for piece in pieces]
        self._part.write(self._learner.model.arrays)
        result = self._write_result(step.number, pieces, scores) if first else ""
        cursor = next((int(piece.examples.position[-1]) for piece in reversed(pieces) if len(piece.examples.y)), 0)
        return Done(
            number=step.number, rows=self._learner.rows, cursor=cursor, last=self._rows.last, more=self._rows.more(),
            result=result, seconds=time.process_time(),
        )  # fmt: skip

    def read_ahead(self, step: Step) -> None:
        """Read and encode the rows of the next step while the group merges."""
        self._ahead = self._rows.upto(self._setup.dealing.next_barrier(step.upto))

    def _write_result(self, number: int, pieces: list[DealtRows], scores: list[Singles]) -> str:
        """Write the predictions of a step, with what scores need of its rows; return the path."""
        examples, columns = [piece.examples for piece in pieces], slice(*self._setup.returned)
        arrays: Arrays = {}
        if examples:
            arrays = {
                "scores": np.concatenate(scores),
                "y": np.concatenate([one.y for one in examples]),
                "weight": np.concatenate([one.weight for one in examples]),
                "position": np.concatenate([one.position for one in examples]),
                "dense": np.concatenate([one.batch.dense[:, columns] for one in examples]),
            }
        segments = [one.segment for one in examples if one.segment is not None]
        if segments:
            named = np.concatenate(segments)
            arrays["segment"] = named.view(np.uint8).reshape(len(named), named.dtype.itemsize)
        rejected: list[Rejected] = [row for piece in pieces for row in piece.rejected]
        path = Path(self._setup.folder) / f"result-{self._setup.partition}-{number}"
        _private.write(path, dump(arrays, {"rejected": msgspec.to_builtins(rejected)}))
        return str(path)


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
                step = msgspec.json.decode(line, type=Step)
                send(answers, process.step(step))
                process.read_ahead(step)
        except EverlearnError as error:
            send(answers, Failed(type(error).__name__, str(error)))


if __name__ == "__main__":
    main()
