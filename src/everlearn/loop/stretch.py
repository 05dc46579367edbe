"""Events that the fold takes together: their predictions, encoded and clipped as one batch."""

from __future__ import annotations

from collections.abc import Sequence

from everlearn.errors import InputError
from everlearn.learn.limiter import ClippedAhead, Limiter
from everlearn.model import stack
from everlearn.records import Batch, Event, Prediction
from everlearn.schema import Reading
from everlearn.serve.contestant import Contestant
from everlearn.serve.shadows import ShadowPredictions, copy_row


class Stretch:
    """The predictions among consecutive events, and how far the fold has come with them.

    `rows` maps the index of a prediction event to its row, and to the end of its run of consecutive predictions.
    `unusable` counts the predictions that cannot be encoded. `decided` is true once decisions have fallen.
    """

    def __init__(self, events: Sequence[Event], encoder: Reading) -> None:
        self.rows: dict[int, tuple[int, int]] = {}
        self.unusable = 0
        self.decided = False
        self._batch = self._encoded(events, encoder)
        self._ahead: ClippedAhead | None = None
        self._shadows: ShadowPredictions | None = None
        self._arrived = 0  # rows whose predictions have come

    def arrive(self, row: int, limiter: Limiter, contestants: Sequence[Contestant]) -> ShadowPredictions:
        """Take the prediction event of a row; return the contestants' predictions for the stretch.

        All rows are clipped, and predicted by frozen models, when the first one comes.
        """
        self._arrived = row + 1
        if self._ahead is None or self._shadows is None:
            self._ahead = ClippedAhead(limiter, self._batch)
            self._shadows = ShadowPredictions(self._ahead.clipped, contestants)
        return self._shadows

    def row(self, row: int) -> Batch:
        """Return a copy of the row of a prediction event that no model predicts yet."""
        return copy_row(self._batch, row)

    def settle(self) -> None:
        """Set the ranges of features to those of this moment, although later rows were clipped ahead."""
        if self._ahead is not None:
            self._ahead.advance(self._arrived)

    def _encoded(self, events: Sequence[Event], encoder: Reading) -> Batch:
        found = [(i, event.payload) for i, event in enumerate(events) if isinstance(event.payload, Prediction)]
        if not found:
            return stack([], int(encoder.shape["dense"]))
        try:
            batch = encoder.read([prediction for _, prediction in found])
        except InputError:
            _, bad = encoder.sift([prediction for _, prediction in found])
            self.unusable = len(bad)
            found = [pair for row, pair in enumerate(found) if row not in bad]
            batch = encoder.read([prediction for _, prediction in found])
        end = len(found)
        for row in range(len(found) - 1, -1, -1):
            if row + 1 < len(found) and found[row + 1][0] != found[row][0] + 1:
                end = row + 1
            self.rows[found[row][0]] = (row, end)
        return batch
