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
    """A model broke the contract; `uid` says which contestant's it is, 0 if nobody's yet."""

    def __init__(self, uid: int, why: str) -> None:
        super().__init__(why if len(why) <= _LONGEST else f"{why[:_LONGEST]} ...")
        self.uid = uid


@dataclass(frozen=True, slots=True)
class IsolatedModel:
    """A model whose failures are told apart from all others. `columns`: how wide its answers are; 0: not known."""

    model: Model
    uid: int = 0
    columns: int = 0

    def predict(self, batch: Batch) -> Singles:
        """As the model's own; raises ModelFailure."""
        try:
            said = self.model.predict(batch)
            wrong = _wrong(said, len(batch), self.columns)
        except MemoryError:  # which says nothing about the model
            raise
        except Exception as error:
            raise self._raised("predict", error) from error
        if wrong:
            raise self._faulty(f"predict {wrong}")
        return said

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """As the model's own; raises ModelFailure."""
        try:
            said = self.model.learn(batch, y, weight)
            wrong = _wrong(said, len(batch), self.columns)
        except MemoryError:
            raise
        except Exception as error:
            raise self._raised("learn", error) from error
        if wrong:
            raise self._faulty(f"learn {wrong}")
        return said

    def twin(self) -> Model:
        """An independent model with the same content; raises ModelFailure."""
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


def _wrong(said: Any, rows: int, columns: int) -> str:
    """What is wrong with an answer for so many rows; "" if nothing is."""
    if not isinstance(said, np.ndarray):
        return f"returned a {type(said).__name__}, expected an array"
    if said.ndim != 2 or len(said) != rows or (columns and said.shape[1] != columns):
        return f"returned shape {said.shape}, expected {(rows, columns or 'its columns')}"
    return "" if np.isfinite(said).all() else "returned a number that is not finite"


@dataclass(slots=True)
class FailureLog:
    """What is known of faults since the last checkpoint, for folding again from there."""

    _groups: dict[str, tuple[int, int]] = field(default_factory=dict)  # in which a fault is, by cursor
    _found: dict[tuple[str, int], list[ModelFailure]] = field(default_factory=dict)  # by cursor and position, in order

    def note(self, fault: ModelFailure, cursor: str, first: int, last: int) -> None:
        """A model failed while the events `first` to `last` were folded together."""
        low, high = self._groups.get(cursor, (first, last))
        self._groups[cursor] = min(low, first), max(high, last)
        if first == last:
            self._found.setdefault((cursor, first), []).append(fault)

    def within(self, cursor: str, first: int, last: int) -> bool:
        """Whether the events `first` to `last` must be folded one by one."""
        low, high = self._groups.get(cursor, (1, 0))
        return first <= high and last >= low

    def at(self, cursor: str, position: int) -> list[ModelFailure]:
        """Who is known to fail with an event."""
        return self._found.get((cursor, position), [])

    def clear(self) -> None:
        """A checkpoint was made: nothing before it is folded again."""
        self._groups.clear()
        self._found.clear()
