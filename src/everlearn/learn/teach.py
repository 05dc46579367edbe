"""Show labelled rows to learning models, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from everlearn.feedback.correction import Arrival
from everlearn.model import Model, row_slice
from everlearn.records import Batch, Examples, Floats, Singles
from everlearn.serve.isolation import IsolatedModel


class Teachable(Protocol):
    """The part of a model that `teach` calls."""

    def predict(self, batch: Batch) -> Singles: ...

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles: ...


def teach(
    models: Sequence[Teachable], batch: Batch, y: Floats, weight: Singles, arrivals: Sequence[Arrival | None]
) -> None:
    """Let each model learn n rows in order.

    `y` is float64 (n,), `weight` float32 (n,). A row with an `Arrival` is weighted by what each model predicts for it
    just before learning it; see `everlearn.feedback.correction`. Raises ModelError if a model fails.
    """
    if not any(arrivals):
        for model in models:
            model.learn(batch, y, weight)
        return
    for i, arrival in enumerate(arrivals):
        row = row_slice(batch, i, i + 1)
        for model in models:
            factor = 1.0
            if arrival is not None:
                column = int(y[i]) if arrival.positive else 1 - int(y[i])
                factor = arrival.weight(float(model.predict(row)[0, column]))
            model.learn(row, y[i : i + 1], weight[i : i + 1] * np.float32(factor))


def warm(model: Model, examples: Examples, epochs: int = 1) -> None:
    """Learn examples offline, in order, `epochs` times over. Raises ModelError if the model raises anything."""
    for _ in range(epochs):
        IsolatedModel(model).learn(examples.batch, examples.y, examples.weight)
