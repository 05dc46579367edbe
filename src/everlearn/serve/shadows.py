"""Predictions of every contestant, each with the weights of the moment of the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from everlearn.model import row_slice, traced
from everlearn.records import Batch, Singles
from everlearn.serve.contestant import Contestant


class ShadowPredictions:
    """Predictions for consecutive prediction events, made when each event comes.

    Frozen models predict the whole batch once; learning models predict again after each update.
    """

    def __init__(self, batch: Batch, contestants: Sequence[Contestant], policies: bool = False) -> None:
        """With `policies`, the frozen models are asked for their traces as well; see `all_traces`."""
        self._batch = batch
        self._order = [contestant.uid for contestant in contestants]
        self._learners = {contestant.uid: contestant for contestant in contestants if contestant.learns}
        frozen = [contestant for contestant in contestants if not contestant.learns]
        self._frozen_traces: dict[int, Singles] = {}
        if policies:
            self._frozen, self._frozen_traces = predict_all_traced(frozen, batch)
        else:
            self._frozen = predict_all(frozen, batch)
        self._fresh = range(0)  # rows for which the learners have predicted with their weights of now
        self._learned: dict[int, Singles] = {}
        self._traced = any(traced(contestant.model) for contestant in self._learners.values())
        self._traces: dict[int, Singles] = {}  # of the learners that have one

    def row(self, row: int) -> Batch:
        """Copy one row so that it does not keep the whole batch alive."""
        return copy_row(self._batch, row)

    def predict(self, row: int, upto: int, learned: bool) -> dict[int, Singles]:
        """Return the scores (1, k) of each contestant for one row, by uid.

        `learned` is true if the learners have learned since the last call. They predict for all rows before `upto` at
        once; these follow without an update in between. Raises ModelFailure.
        """
        if learned or row not in self._fresh:
            self._fresh = range(row, upto)
            batch, learners = row_slice(self._batch, row, upto), self._learners.values()
            if self._traced:
                self._learned, self._traces = predict_all_traced(learners, batch)
            else:
                self._learned = predict_all(learners, batch)
        at = row - self._fresh.start
        return {
            uid: self._learned[uid][at : at + 1].copy()
            if uid in self._learners
            else self._frozen[uid][row : row + 1].copy()
            for uid in self._order
        }

    def traces(self, row: int) -> dict[int, Singles] | None:
        """Return the traces (1, trace), by uid, that came with the last `predict`; None if no learner has one.

        Frozen models learn from no label, so they are not asked for a trace.
        """
        if not self._traced:
            return None
        at = row - self._fresh.start
        return {uid: trace[at : at + 1].copy() for uid, trace in self._traces.items()}

    def all_traces(self, row: int) -> dict[int, Singles]:
        """Return the traces (1, trace) of all contestants, by uid, those of the frozen ones included."""
        frozen = {uid: trace[row : row + 1].copy() for uid, trace in self._frozen_traces.items()}
        return frozen | (self.traces(row) or {})


def predict_all(contestants: Iterable[Contestant], batch: Batch) -> dict[int, Singles]:
    """Return the scores of each contestant for n rows, float32 (n, k), by uid; a shared model predicts once.

    Raises ModelFailure if a model breaks the contract.
    """
    by_model: dict[int, Singles] = {}
    predictions: dict[int, Singles] = {}
    for contestant in contestants:
        if id(contestant.model) not in by_model:
            by_model[id(contestant.model)] = contestant.tried.predict(batch)
        predictions[contestant.uid] = by_model[id(contestant.model)]
    return predictions


def predict_all_traced(
    contestants: Iterable[Contestant], batch: Batch
) -> tuple[dict[int, Singles], dict[int, Singles]]:
    """Return the scores of each contestant for n rows, by uid, and the traces of those that have one.

    Raises ModelFailure if a model breaks the contract.
    """
    predictions: dict[int, Singles] = {}
    traces: dict[int, Singles] = {}
    for contestant in contestants:
        predictions[contestant.uid], trace = contestant.tried.predict_traced(batch)
        if trace is not None:
            traces[contestant.uid] = trace
    return predictions, traces


def copy_row(batch: Batch, row: int) -> Batch:
    """Return a copy of one row of a batch, which shares no memory with it."""
    begin, end = batch.indptr[row], batch.indptr[row + 1]
    indptr = np.array([0, end - begin], np.int64)
    return Batch(
        batch.dense[row : row + 1].copy(), indptr, batch.indices[begin:end].copy(), batch.values[begin:end].copy()
    )
