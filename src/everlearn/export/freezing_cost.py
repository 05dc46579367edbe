"""What an exported model loses because its leaves answer with constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from everlearn.errors import InputError
from everlearn.families import frozen
from everlearn.model import Model
from everlearn.records import Examples, Floats, Singles


class FreezingCost(NamedTuple):
    """Measures of a model and of its exported form on `rows` labelled rows: (model, exported)."""

    rows: int
    measures: dict[str, tuple[float, float]]


def cost(model: Model, examples: Iterable[Examples]) -> FreezingCost:
    """Return accuracy and log loss, or mean absolute and root mean squared error, before and after freezing.

    Both predict the same rows and learn none. Raises `InputError` where there is no row.

    >>> import everlearn as el
    >>> x = np.random.default_rng(0).random(3000)
    >>> stream = el.read({"x": x, "y": x > 0.5}, label="y")
    >>> model = el.build({"family": "tree"})
    >>> report = el.prequential(model, stream)
    >>> found = cost(model, (chunk.examples for chunk in stream.chunks()))
    >>> found.rows, sorted(found.measures)
    (3000, ['accuracy', 'log_loss'])
    """
    other = frozen.still(model)
    rows, sums = 0, np.zeros((2, 2))
    numbers = model.spec["task"] == "regression"
    for part in examples:
        for which, one in enumerate((model, other)):
            scores = one.predict(part.batch)
            sums[which] += _of_numbers(scores, part.y) if numbers else _of_classes(scores, part.y)
        rows += len(part.y)
    if not rows:
        raise InputError("cost: got no labelled row; expected at least one. Give a file with rows that have labels")
    means = sums / rows
    if numbers:
        measures = {"mae": means[:, 0], "rmse": np.sqrt(means[:, 1])}
    else:
        measures = {"accuracy": means[:, 0], "log_loss": means[:, 1]}
    return FreezingCost(rows, {name: (float(both[0]), float(both[1])) for name, both in measures.items()})


def _of_classes(scores: Singles, y: Floats) -> Floats:
    """Return the sums of hits and of log losses."""
    own = scores[np.arange(len(y)), y.astype(int)].astype(np.float64)
    return np.array([float((scores.argmax(axis=1) == y).sum()), float(-np.log(np.maximum(own, 1e-15)).sum())])


def _of_numbers(scores: Singles, y: Floats) -> Floats:
    """Return the sums of absolute and of squared errors."""
    away = scores[:, 0].astype(np.float64) - y
    return np.array([float(np.abs(away).sum()), float((away * away).sum())])
