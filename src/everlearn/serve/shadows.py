"""Predictions of every model in the roster, each made at its own moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from everlearn.model import row_slice
from everlearn.records import Batch, Singles
from everlearn.serve.roster import Contestant


class ShadowPredictions:
    """What everyone says of consecutive predictions, each at its own moment.

    Who does not learn is asked once for all rows, who learns is asked again as soon as it has learned.
    """

    def __init__(self, batch: Batch, contestants: Sequence[Contestant]) -> None:
        self._batch = batch
        self._order = [one.uid for one in contestants]
        self._learners = {one.uid: one for one in contestants if one.learns}
        self._said = predict_all([one for one in contestants if not one.learns], batch)
        self._heard = range(0)  # the rows that the learners were asked of, as they are now

    def row(self, row: int) -> Batch:
        """A copy of a row, lest it keep all the others in memory."""
        batch = self._batch
        begin, end = batch.indptr[row], batch.indptr[row + 1]
        indptr = np.array([0, end - begin], np.int64)
        return Batch(
            batch.dense[row : row + 1].copy(), indptr, batch.indices[begin:end].copy(), batch.values[begin:end].copy()
        )

    def said(self, row: int, upto: int, learned: bool) -> dict[int, Singles]:
        """What everyone says of a row; `learned`: whether learners have learned since they were asked last.

        Rows before `upto` may be asked for next, without anything being learned in between.
        """
        if learned or row not in self._heard:
            self._heard = range(row, upto)
            self._now = predict_all(self._learners.values(), row_slice(self._batch, row, upto))
        at = row - self._heard.start
        return {
            uid: self._now[uid][at : at + 1].copy() if uid in self._learners else self._said[uid][row : row + 1].copy()
            for uid in self._order
        }


def predict_all(contestants: Iterable[Contestant], batch: Batch) -> dict[int, Singles]:
    """What each contestant says of each row, by uid; a model that several share is asked once. Raises ModelFailure."""
    heard: dict[int, Singles] = {}
    said: dict[int, Singles] = {}
    for one in contestants:
        if id(one.model) not in heard:
            heard[id(one.model)] = one.tried.predict(batch)
        said[one.uid] = heard[id(one.model)]
    return said
