"""Train the first model offline, before a loop serves anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from everlearn import model
from everlearn.learn.monitor import Monitor
from everlearn.learn.teach import warm
from everlearn.model import Model
from everlearn.records import Examples
from everlearn.spec import Spec


class WarmUp:
    """The rows of the warm start, and the model that learns them; `make` builds that model.

    `rows` is their planned number, `learned` the number learned so far.
    """

    def __init__(self, spec: Spec, monitor: Monitor, make: Callable[[], Model]) -> None:
        self.rows = int(spec.warm_start)  # a share below 1 needs the length of the stream, so the loop sets it
        self._weight = np.float32(spec.limits.weight)
        self._monitor, self._make = monitor, make
        self._model: Model | None = None

    @property
    def learned(self) -> int:
        """The number of rows learned so far."""
        return self._monitor.warmed

    @learned.setter
    def learned(self, rows: int) -> None:
        self._monitor.warmed = rows

    def model(self) -> Model:
        """Return the model that the loop starts with; build it on the first call.

        Raises `ConfigError` or `ModelError` if it cannot be built.
        """
        self._model = self._model or self._make()
        return self._model

    def end(self) -> Model:
        """Return the model, and let go of it."""
        first, self._model = self.model(), None
        return first

    def learn(self, examples: Examples) -> int:
        """Learn the rows that belong to the warm start, and remember those of weight above 0; return their number."""
        used = min(len(examples.y), self.rows - self.learned)
        if used > 0:
            rows = model.cut(examples, 0, used)
            self._monitor.remember(self._learn(model.select(rows, rows.weight > 0.0)))
            self.learned += used
        return max(used, 0)

    def _learn(self, examples: Examples) -> Examples:
        """Learn rows in one pass; return them as learned."""
        first = self.model()
        weight = np.minimum(examples.weight, self._weight)
        self._monitor.naive.rows(examples.y, weight, examples.batch)
        limiter = self._monitor.limiter
        bounded = Examples(limiter.bound(examples.batch), examples.y, weight, examples.position)
        warm(first, replace(bounded, weight=limiter.class_weights.weigh(examples.y, weight)))
        return bounded
