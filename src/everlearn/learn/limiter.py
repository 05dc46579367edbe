"""Limits of one loop: the arrays of `everlearn.learn.limits`, and the settings that they follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn import metrics
from everlearn.gate import losses
from everlearn.learn import limits
from everlearn.learn.class_weights import ClassWeights
from everlearn.model import row_slice, select
from everlearn.records import Arrays, Batch, Examples, Singles
from everlearn.spec import Spec

_RANGES = ("held", "seen", "low", "high")  # arrays that `bound` changes


class Weights(NamedTuple):
    """Weights of one label in the scores and in learning; 0 in learning where the label is quarantined."""

    scored: float
    learned: float


class Admitted(NamedTuple):
    """Rows that count.

    `examples` carry the weights for scoring, `learned` float32 (n,) those for learning. `keep`, bool (m,), marks them
    among the m rows that were offered; None if all of them count.
    """

    examples: Examples
    learned: Singles
    keep: NDArray[np.bool_] | None


class Limiter:
    """Ranges of features, shares of sources and thresholds of losses; `arrays` is all its state.

    While it is `paused`, labels are scored and have no weight in learning.
    """

    def __init__(self, spec: Spec, shape: Mapping[str, Any], ranges: Mapping[str, Any] | None = None) -> None:
        """Start without any history. With `ranges` (see `limits.bounds`), features are clipped to these for good."""
        self.spec = spec.limits
        self.loss = losses.chosen(spec.gate, shape["task"])
        self.arrays: Arrays = limits.start(spec.limits, int(shape["dense"]), int(shape["classes"]))
        self.arrays |= {name: np.array(array) for name, array in (ranges or {}).items()}
        self.class_weights = ClassWeights(spec)
        self._by_name = spec.schema.task == "preference"  # each annotator is a source, not all people together
        self._learns_ranges = ranges is None
        self.paused = False

    @property
    def judges(self) -> bool:
        """True if admission depends on the loss of a label."""
        return self.spec.quarantine < 1.0

    @property
    def clips(self) -> bool:
        """True if features are clipped."""
        return "low" in self.arrays

    def bound(self, batch: Batch) -> Batch:
        """Clip features to the ranges learned so far, and learn the ranges of these rows."""
        return limits.look(self.arrays, self.spec, batch) if self._learns_ranges else self.clip(batch)

    def clip(self, batch: Batch) -> Batch:
        """Clip features to the ranges learned so far."""
        return limits.clip(self.arrays, self.spec, batch)

    def admit(
        self, y: float, weight: float, source: str, position: int, answer: Singles | None = None
    ) -> Weights | None:
        """Return the weights of one label, or None if its source may give no more.

        `answer`, float32 (1, k), is the answer that the label judges; None where the label must not be quarantined.
        A quarantined label is scored all the same, so that the reported metrics are not better than what users got.
        """
        loss = np.nan
        if self.judges and answer is not None:
            loss = float(metrics.losses(self.loss.kind, answer, np.array([y]), self.loss.parameter)[0])
        source = source.replace("/", ":") if self._by_name else source
        learned, why = limits.admit(self.arrays, self.spec, source, weight, loss, y, position)
        if why == limits.REASONS[limits.SOURCE] and not learned:
            return None
        quarantined = why == limits.REASONS[limits.QUARANTINE]
        return Weights(min(weight, self.spec.weight) if quarantined else learned, 0.0 if self.paused else learned)

    def admit_rows(self, examples: Examples, sources: Sequence[str], answers: Singles | None) -> Admitted:
        """Admit n labels in order, as `admit` does; `sources` is empty where no label has one."""
        weight, y = examples.weight, examples.y
        if not limits.binds(self.spec, weight):
            return Admitted(examples, np.zeros_like(weight) if self.paused else weight, None)
        judged = np.full(len(y), np.nan)
        if self.judges and answers is not None:
            judged = metrics.losses(self.loss.kind, answers, y, self.loss.parameter)
        learned, why = limits.admit_rows(self.arrays, self.spec, sources, weight, judged, y, examples.position)
        scored = np.where(why == limits.QUARANTINE, np.minimum(weight, np.float32(self.spec.weight)), learned)
        keep = (scored > 0.0) | ~(weight > 0.0)
        examples = dataclasses.replace(examples, weight=scored)
        learned = np.zeros_like(learned) if self.paused else learned
        return (
            Admitted(examples, learned, None) if keep.all() else Admitted(select(examples, keep), learned[keep], keep)
        )


class ClippedAhead:
    """Rows that were clipped together although some of them have not come yet.

    Each row is clipped to the ranges learned before it. `advance` sets the ranges to those after the rows that came.
    """

    def __init__(self, limiter: Limiter, batch: Batch) -> None:
        self._limiter, self._batch = limiter, batch
        self._before = {name: array.copy() for name, array in limiter.arrays.items() if name in _RANGES}
        self._known = len(batch)
        self.clipped = limiter.bound(batch)

    def advance(self, rows: int) -> None:
        """Set the ranges to those after the first `rows` rows."""
        if self._before and rows != self._known:
            for name, array in self._before.items():
                self._limiter.arrays[name][...] = array
            self._limiter.bound(row_slice(self._batch, 0, rows))
            self._known = rows
