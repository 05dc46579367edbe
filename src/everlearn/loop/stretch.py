"""Events that the fold takes together: their predictions, encoded and clipped as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from everlearn.errors import InputError
from everlearn.learn.limiter import ClippedAhead, Limiter
from everlearn.learn.segments import Segments
from everlearn.model import select, stack
from everlearn.records import Batch, Event, Example, Examples, Ints, Label, Payload, Prediction, Preference, Reward
from everlearn.schema import Encoder, Reading, actions
from everlearn.serve.contestant import Contestant
from everlearn.serve.shadows import ShadowPredictions, copy_row

Cursor = Literal["row", "log"]
Known = tuple[Mapping[str, Any], Batch]  # a record and its encoded row


@dataclass(frozen=True, slots=True)
class Commit:
    """Decisions to log after position `at`; empty `payloads` mean that only a checkpoint is due.

    One that `waits` may become durable together with the next, since a replay makes it again.
    """

    at: int
    payloads: list[Payload]
    waits: bool = False


@dataclass(slots=True)
class Notes:
    """Predictions, events folded by the last commit, and the record that was encoded last."""

    predictions: int = 0
    committed: int = 0
    known: Known | None = None


Way = Literal["answer", "example", "decision"]
_WAYS: dict[type[Payload], Way] = {
    Prediction: "answer",
    Label: "answer",
    Reward: "answer",
    Preference: "answer",
    Example: "example",
}


def way_of(event: Event) -> Way:
    """Return the name of the way in which an event is folded."""
    return _WAYS.get(type(event.payload), "decision")


def encoded_examples(
    payloads: Sequence[Example],
    position: Ints,
    encoder: Encoder,
    segments: Segments,
    refused: Callable[[Batch], Mapping[int, str]],
) -> tuple[Examples, Sequence[str]]:
    """Return the rows of examples at these positions, int64 (n,), that models can take; and their sources, if any.

    `refused` maps rows that the models cannot take to reasons.
    """
    records = [example.features for example in payloads]
    batch, problems = encoder.records(records)
    y, unknown = encoder.labels([example.label for example in payloads], len(payloads))
    weight = np.array([example.weight for example in payloads], np.float32)
    examples, sources = Examples(batch, y, weight, position, segments.named(records)), [one.source for one in payloads]
    if bad := {problem.row for problem in (*problems, *unknown)} | refused(batch).keys():
        good = np.array([row not in bad for row in range(len(y))])
        examples, sources = select(examples, good), [source for source, fine in zip(sources, good, strict=True) if fine]
    return examples, sources if any(sources) else ()


class Stretch:
    """The predictions among consecutive events, and how far the fold has come with them.

    `rows` maps the index of a prediction event to its row, and to the end of its run of consecutive predictions.
    `unusable` counts the predictions that cannot be encoded. `decided` is true once decisions have fallen.
    """

    def __init__(self, events: Sequence[Event], encoder: Reading, known: Known | None = None) -> None:
        """`known` is a record that was encoded before, and its row."""
        self.rows: dict[int, tuple[int, int]] = {}
        self.unusable = 0
        self.decided = False
        self._policies = bool(encoder.schema.actions)
        self._batch = self._encoded(events, encoder, known)
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
            self._shadows = ShadowPredictions(self._ahead.clipped, contestants, self._policies)
        return self._shadows

    def row(self, row: int) -> Batch:
        """Return a copy of the row of a prediction event that no model predicts yet."""
        return copy_row(self._batch, row)

    def settle(self) -> None:
        """Set the ranges of features to those of this moment, although later rows were clipped ahead."""
        if self._ahead is not None:
            self._ahead.advance(self._arrived)

    def _encoded(self, events: Sequence[Event], encoder: Reading, known: Known | None) -> Batch:
        found = [(i, event.payload) for i, event in enumerate(events) if isinstance(event.payload, Prediction)]
        if not found:
            return stack([], int(encoder.shape["dense"]))
        if known is not None and len(events) == 1 and found[0][1].features is known[0]:
            self.rows[0] = 0, 1
            return actions.served(encoder.schema, known[1], [found[0][1]])
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
