"""Show labelled rows to learning models, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from everlearn.feedback.correction import Correction
from everlearn.model import Model, row_slice
from everlearn.records import (
    Batch,
    Examples,
    Floats,
    Singles,
)
from everlearn.serve.isolation import IsolatedModel


class Taught(Protocol):
    """What `teach` asks of a model."""

    def predict(self, batch: Batch) -> Singles: ...

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles: ...


def teach(
    models: Sequence[Taught],
    batch: Batch,
    y: Floats,
    weight: Singles,
    late: Sequence[bool | None],
    correction: Correction | None,
    default: float | None,
) -> None:
    """Let each model learn n rows in order; with a `correction`, weighed as it says.

    `late` says of each row whether the default label had been learned for it; None where it is not known to matter.
    """
    if correction is None:
        for model in models:
            model.learn(batch, y, weight)
        return
    for i in range(len(y)):
        row = row_slice(batch, i, i + 1)
        positive, came_late = bool(y[i] != default), late[i]
        if positive and came_late is not None:
            correction.positive(came_late)
        for model in models:
            factor = 1.0
            if came_late is not None:
                chance = float(model.predict(row)[0, int(y[i]) if positive else 1 - int(y[i])])
                factor = correction.weight(chance, positive=positive, late=came_late)
            model.learn(row, y[i : i + 1], weight[i : i + 1] * np.float32(factor))


def warm(model: Model, examples: Examples, epochs: int = 1) -> None:
    """Learn examples offline, in order, `epochs` times over. Raises ModelError if the model raises anything."""
    for _ in range(epochs):
        IsolatedModel(model).learn(examples.batch, examples.y, examples.weight)
