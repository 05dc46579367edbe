"""Learn and predict with several threads: the same bytes as with one.

To learn, a block of rows is prepared once. Then threads take ranges of members, each of which writes its votes to rows
that it alone has, and the votes are summed in the order of the members. To predict, threads take ranges of rows, since
no prediction depends on another row. `families/threads.py` has the threads, `rows` the stages of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from everlearn.families.batches import Labels, Rows
from everlearn.families.threads import spread, uninterrupted
from everlearn.families.trees.rows import BLOCK_ROWS, CHECK, FINISH, MEMBERS, PREPARE, space_floats
from everlearn.records import Floats, Singles

LEAST_WORK = 2048  # rows times members of a call that is worth threads
PIECES = 4  # for each thread, so that none waits long for the others
BLOCK_FLOATS = 1 << 19  # of a block, whose rows are fewer where they are wide or members many


def pays(rows: int, members: int) -> bool:
    """Return True if a call is worth threads; one row never is.

    >>> pays(1, 10_000), pays(64, 10), pays(64, 32)
    (False, False, True)
    """
    return rows > 1 and members > 1 and rows * members >= LEAST_WORK


def predict(kernel: Callable[..., int], head: tuple[Any, ...], rows: Rows, out: Singles, threads: int) -> int:
    """Write the predictions of rows to `out`; return 0, or the fault of the first row that has one.

    The kernel takes `head`, rows and `out`.
    """
    n = len(out)
    pieces = min(PIECES * threads, n)
    faults = [0] * pieces

    def predict_piece(piece: int) -> None:
        start, stop = n * piece // pieces, n * (piece + 1) // pieces
        faults[piece] = kernel(*head, *_cut(rows, start, stop), out[start:stop])

    spread(predict_piece, pieces, threads)
    return kernel(*head, *rows, out) if any(faults) else 0  # in which row of all the fault is


class Learning(NamedTuple):
    """A kernel of stages and the model that it learns: what it takes before the rows, members, votes of a member."""

    kernel: Callable[..., int]
    head: tuple[Any, ...]
    members: int
    width: int
    threads: int

    def learn(self, rows: Rows, labels: Labels, out: Singles) -> int:
        """Write the prediction of each row to `out`, then learn it; return 0, or a fault with nothing learned."""
        fault = self._run(CHECK, 0, 0, np.empty(0), rows, labels, out)
        if fault == 0:
            uninterrupted(lambda: self._learn_blocks(rows, labels, out))
        return fault

    def _learn_blocks(self, rows: Rows, labels: Labels, out: Singles) -> None:
        """Learn rows without a fault, block by block."""
        n, floats = len(out), space_floats(1, rows[0].shape[1], self.width, self.members)
        most = min(max(BLOCK_FLOATS // floats, 1), BLOCK_ROWS, n)
        space = np.empty(most * floats)
        for start in range(0, n, most):
            stop = min(start + most, n)
            given = labels[0][start:stop], labels[1][start:stop]
            self._learn_block(space[: (stop - start) * floats], _cut(rows, start, stop), given, out[start:stop])

    def _learn_block(self, space: Floats, rows: Rows, labels: Labels, out: Singles) -> None:
        pieces = min(PIECES * self.threads, self.members)

        def learn_piece(piece: int) -> None:
            first, last = self.members * piece // pieces, self.members * (piece + 1) // pieces
            self._run(MEMBERS, first, last, space, rows, labels, out)

        self._run(PREPARE, 0, 0, space, rows, labels, out)
        spread(learn_piece, pieces, self.threads)
        self._run(FINISH, 0, 0, space, rows, labels, out)

    def _run(self, stage: int, first: int, last: int, space: Floats, rows: Rows, labels: Labels, out: Singles) -> int:
        return self.kernel(stage, first, last, space, *self.head, *rows, *labels, out)


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    """Return rows start to stop - 1; nothing is copied."""
    dense, indptr, indices, values = rows
    return dense[start:stop], indptr[start : stop + 1], indices, values
