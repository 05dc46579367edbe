"""Show labelled rows to learning models, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from everlearn.feedback.correction import Arrival
from everlearn.model import Model, row_slice
from everlearn.records import Batch, Examples, Floats, Singles
from everlearn.serve.isolation import IsolatedModel


class Teachable(Protocol):
    """The part of a model that `teach` calls; one without a trace is never called with one."""

    @property
    def predict(self) -> Callable[[Batch], Singles]: ...

    @property
    def learn(self) -> Callable[..., Singles]: ...


def teach(
    models: Sequence[Teachable],
    batch: Batch,
    y: Floats,
    weight: Singles,
    arrivals: Sequence[Arrival | None],
    traces: Sequence[Singles | None] = (),
) -> None:
    """Let each model learn n rows in order.

    `y` is float64 (n,), `weight` float32 (n,). A row with an `Arrival` is weighted by what each model predicts for it
    just before learning it; see `everlearn.feedback.correction`. `traces` holds float32 (n, trace) for each model, as
    `gathered` returns it, or None. Raises ModelError if a model fails.
    """
    given = [() if trace is None else (trace,) for trace in traces or (None,) * len(models)]
    if not any(arrivals):
        for model, trace in zip(models, given, strict=True):
            model.learn(batch, y, weight, *trace)
        return
    for i, arrival in enumerate(arrivals):
        row = row_slice(batch, i, i + 1)
        for model, trace in zip(models, given, strict=True):
            factor = 1.0
            if arrival is not None:
                column = int(y[i]) if arrival.positive else 1 - int(y[i])
                factor = arrival.weight(float(model.predict(row)[0, column]))
            own = [part[i : i + 1] for part in trace]
            model.learn(row, y[i : i + 1], weight[i : i + 1] * np.float32(factor), *own)


def learned_one_by_one(model: IsolatedModel, batch: Batch, y: Floats, weight: Singles) -> tuple[Singles, Singles]:
    """Let a model with a trace learn n rows in order; return what it predicted for each before, and its trace.

    `y` is float64 (n,), `weight` float32 (n,). Raises ModelFailure.
    """
    scores, traces = np.empty((len(y), 1), np.float32), np.empty((len(y), model.trace), np.float32)
    for i in range(len(y)):
        row = row_slice(batch, i, i + 1)
        scores[i : i + 1], trace = model.predict_traced(row)
        if trace is not None:
            traces[i] = trace[0]
        model.learn(row, y[i : i + 1], weight[i : i + 1], trace)
    return scores, traces


def gathered(traces: Sequence[Mapping[int, Singles] | None], uid: int, width: int) -> Singles | None:
    """Return one contestant's traces of n rows, float32 (n, width), NaN where it has none; None if `width` is 0.

    `traces` maps uids to traces (1, width), for each row.

    >>> gathered([{7: np.ones((1, 2), np.float32)}, None], 7, 2)
    array([[ 1.,  1.],
           [nan, nan]], dtype=float32)
    """
    if not width:
        return None
    rows = np.full((len(traces), width), np.nan, np.float32)
    for row, held in zip(rows, traces, strict=True):
        if held is not None and uid in held:
            row[:] = held[uid][0]
    return rows


def warm(model: Model, examples: Examples, epochs: int = 1) -> None:
    """Learn examples offline, in order, `epochs` times over. Raises ModelError if the model raises anything."""
    for _ in range(epochs):
        IsolatedModel(model).learn(examples.batch, examples.y, examples.weight)
