"""Isolate model failures during a fold: exceptions, wrong shapes, numbers that are not finite.

The fold calls every model through `IsolatedModel`, which turns each failure into a `ModelFailure`. The loop then
returns to the last checkpoint and folds the failing group again, one event at a time, which finds the event. It folds a
third time without the model from that event on. So the result does not depend on how many events were folded together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everlearn.errors import ModelError
from everlearn.model import Model, copy
from everlearn.records import Batch, Floats, Singles

_LONGEST = 500  # characters of a reason


class ModelFailure(ModelError):
    """A model broke the contract; `uid` is that of its contestant, 0 if it has none yet."""

    def __init__(self, uid: int, why: str) -> None:
        super().__init__(why if len(why) <= _LONGEST else f"{why[:_LONGEST]} ...")
        self.uid = uid


@dataclass(frozen=True, slots=True)
class IsolatedModel:
    """A model whose failures are raised as `ModelFailure`. `columns` is the width of its answers; 0: unknown."""

    model: Model
    uid: int = 0
    columns: int = 0

    def predict(self, batch: Batch) -> Singles:
        """Call the model's own method. Raises ModelFailure."""
        try:
            scores = self.model.predict(batch)
            wrong = _wrong(scores, len(batch), self.columns)
        except MemoryError:  # not the fault of the model
            raise
        except Exception as error:
            raise self._raised("predict", error) from error
        if wrong:
            raise self._faulty(f"predict {wrong}")
        return scores

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Call the model's own method. Raises ModelFailure."""
        try:
            scores = self.model.learn(batch, y, weight)
            wrong = _wrong(scores, len(batch), self.columns)
        except MemoryError:
            raise
        except Exception as error:
            raise self._raised("learn", error) from error
        if wrong:
            raise self._faulty(f"learn {wrong}")
        return scores

    def twin(self) -> Model:
        """Return an independent copy of the model. Raises ModelFailure."""
        try:
            return copy(self.model)
        except MemoryError:
            raise
        except Exception as error:
            raise self._raised("being copied", error) from error

    def _raised(self, what: str, error: Exception) -> ModelFailure:
        return self._faulty(f"{what} raised {type(error).__name__}: {error}")

    def _faulty(self, what: str) -> ModelFailure:
        return ModelFailure(self.uid, f"family {str(self.model.spec.get('family', 'linear'))!r}: {what}")


def _wrong(scores: Any, rows: int, columns: int) -> str:
    """Return the fault of an answer for `rows` rows; "" if there is none."""
    if not isinstance(scores, np.ndarray):
        return f"returned a {type(scores).__name__}, expected an array"
    if scores.ndim != 2 or len(scores) != rows or (columns and scores.shape[1] != columns):
        return f"returned shape {scores.shape}, expected {(rows, columns or 'its columns')}"
    return "" if np.isfinite(scores).all() else "returned a number that is not finite"


@dataclass(slots=True)
class FailureLog:
    """The failures known since the last checkpoint, for folding again from there."""

    _groups: dict[str, tuple[int, int]] = field(default_factory=dict)  # that hold a failure, by cursor
    _found: dict[tuple[str, int], list[ModelFailure]] = field(default_factory=dict)  # by cursor and position, in order

    def note(self, failure: ModelFailure, cursor: str, first: int, last: int) -> None:
        """Note that a model failed while the events `first` to `last` were folded together."""
        low, high = self._groups.get(cursor, (first, last))
        self._groups[cursor] = min(low, first), max(high, last)
        if first == last:
            self._found.setdefault((cursor, first), []).append(failure)

    def within(self, cursor: str, first: int, last: int) -> bool:
        """Return True if the events `first` to `last` must be folded one by one."""
        low, high = self._groups.get(cursor, (1, 0))
        return first <= high and last >= low

    def at(self, cursor: str, position: int) -> list[ModelFailure]:
        """Return the failures known at an event."""
        return self._found.get((cursor, position), [])

    def clear(self) -> None:
        """Forget all failures, after a checkpoint: nothing before it is folded again."""
        self._groups.clear()
        self._found.clear()
