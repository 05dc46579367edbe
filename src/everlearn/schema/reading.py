"""The reading of a loop's predictions: rows of features, or pairs of answers, as the task says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from everlearn.errors import InputError
from everlearn.records import Batch, Example, Feedback, Prediction, Target
from everlearn.schema.encoder import Encoder
from everlearn.schema.pairs import PairReading
from everlearn.spec import Schema


class Reading(Protocol):
    """The way in which a task reads the predictions and the feedback of its log.

    `shape` is that of `everlearn.schema.shape`. With `late`, models predict a row when it is judged, just before they
    learn it; else at its prediction event.
    """

    shape: dict[str, Any]
    schema: Schema

    @property
    def late(self) -> bool: ...

    def read(self, predictions: Sequence[Prediction]) -> Batch:
        """Return the rows of n predictions. Raises `InputError`, with the row, for one that cannot be used."""
        ...

    def sift(self, events: Sequence[Prediction | Example]) -> tuple[Batch, set[int]]:
        """Return the rows of n predictions and examples, and the places of those that cannot be used."""
        ...

    def judge(self, feedback: Feedback) -> tuple[Target, ...]:
        """Return what feedback teaches about its row. Raises `InputError` where the task cannot learn from it."""
        ...

    def mark(self, row: Batch, feedback: Feedback) -> Batch:
        """Return a row with the columns that its judgement fills."""
        ...

    def scores(self, row: Batch) -> bool:
        """Return True for a row that models are scored on, once it is judged."""
        ...


def reading(schema: Schema) -> Reading:
    """Return the reading for the task of a schema. Raises `ConfigError` for a schema that contradicts itself."""
    return PairReading(schema) if schema.task == "preference" else Encoder(schema)


def features(reading: Reading) -> Encoder:
    """Return the encoder of records. Raises `InputError` for a loop whose rows are pairs of answers."""
    if isinstance(reading, Encoder):
        return reading
    raise InputError(
        "this loop learns preferences: its rows are pairs of answers, not records of fields. Record a pair with "
        "loop.record(question, features), and judge it with loop.judge(id, chosen=0)"
    )
