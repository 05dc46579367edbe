"""Isolate model failures during a fold: exceptions, wrong shapes, numbers that are not finite.

The fold calls every model through `IsolatedModel`, which turns each failure into a `ModelFailure`. The loop then
returns to the last checkpoint and folds the failing group again, one event at a time, which finds the event. It folds a
third time without the model from that event on. So the result does not depend on how many events were folded together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everlearn import model as contract
from everlearn.errors import ModelError
from everlearn.model import Model, copy, traced
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

    @property
    def trace(self) -> int:
        """The number of values in the model's trace; 0 if it has none."""
        return traced(self.model)

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles | None]:
        """Call the model's own method, or `predict` where it has no trace. Raises ModelFailure."""
        if not self.trace:
            return self.predict(batch), None
        try:
            answer = contract.predict_traced(self.model, batch)
            wrong = _wrong_pair(answer, len(batch), self.columns, self.trace)
        except MemoryError:
            raise
        except Exception as error:
            raise self._raised("predict_traced", error) from error
        if wrong:
            raise self._faulty(f"predict_traced {wrong}")
        return answer

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Call the model's own method. Raises ModelFailure."""
        try:
            scores = contract.learn(self.model, batch, y, weight, trace)
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


def _wrong_pair(answer: Any, rows: int, columns: int, width: int) -> str:
    """Return the fault of scores and a trace for `rows` rows; "" if there is none."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        return f"returned a {type(answer).__name__}, expected a pair: scores and trace"
    if wrong := _wrong(answer[0], rows, columns):
        return wrong
    return wrong_trace(answer[1], rows, width)


def wrong_trace(trace: Any, rows: int, width: int) -> str:
    """Return the fault of a trace of `rows` rows and `width` values; "" if there is none."""
    if not isinstance(trace, np.ndarray):
        return f"returned a {type(trace).__name__} as trace, expected an array"
    if trace.shape != (rows, width) or trace.dtype != np.float32:
        return f"returned a trace of {trace.dtype} {trace.shape}, expected float32 {(rows, width)}"
    return "" if np.isfinite(trace).all() else "returned a trace with a number that is not finite"


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
