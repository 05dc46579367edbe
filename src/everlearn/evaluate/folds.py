"""K-fold distributed prequential evaluation: k models learn different rows of one stream, in one pass.

Each row trains some of the models and tests the others, as a hash of its number decides, so the spread of the models
shows how much a result depends on the rows (Bifet, de Francisci Morales, Read, Holmes and Pfahringer 2015, "Efficient
online evaluation of big data stream classifiers", section 3).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from rich.table import Table

from everlearn import metrics, report, schema
from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.errors import ConfigError, did_you_mean
from everlearn.evaluate.scoring import NaiveScores, metric_of, model_of, pieces, task_of
from everlearn.model import FAMILIES, Model, cut, learn, own_loss, predict_traced
from everlearn.records import Examples, Floats, Singles, Task
from everlearn.stream import Stream

Mode = Literal["cross", "split", "bootstrap"]
MODES: tuple[str, ...] = get_args(Mode)
_SEED = 0xF01D
_UNNEUTRAL = ("neural", "preference")  # families in which a row of weight 0 has a place in a minibatch


@dataclass(frozen=True, repr=False, eq=False)
class FoldReport:
    """The metrics of each of k models on the rows that tested it, in `folds`; `metric` is the headline metric."""

    mode: str
    delay: int
    events: int
    metric: str
    folds: tuple[dict[str, float], ...]

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric over the models that have it."""
        return {name: float(np.mean(values)) for name, values in self._values().items() if name != "examples"}

    def interval(self, metric: str = "", alpha: float = 0.05) -> tuple[float, float]:
        """Return the interval of Student's t for the mean of a metric over the models, at 1 - `alpha`.

        It says how far another draw of the rows would move the mean, and nothing of another stream. Models share most
        of their rows (with "cross"), so it is too narrow for that mode. Raises `ConfigError` for an unknown metric.
        """
        name, values = metric or self.metric, self._values()
        if name not in values or len(values[name]) < 2:
            raise ConfigError(f"metric: got {name!r}; expected one of {', '.join(values)}, from two models or more")
        found = np.array(values[name])
        half = _quantile(1.0 - alpha / 2.0, len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found))
        return float(found.mean()) - half, float(found.mean()) + half

    def _values(self) -> dict[str, list[float]]:
        names = dict.fromkeys(name for fold in self.folds for name in fold if not name.endswith("_lately"))
        return {name: [fold[name] for fold in self.folds if name in fold] for name in names}

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"FoldReport({self.mode}, {len(self.folds)} folds: {report.named(self.metric)} {low:.4f} to {high:.4f})"

    def __rich__(self) -> Table:
        grid = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
        for heading in ("metric", "mean", "standard deviation", "lowest", "highest"):
            grid.add_column(heading, justify="left" if heading == "metric" else "right")
        for name, values in self._values().items():
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            shown = (float(np.mean(values)), spread, min(values), max(values))
            grid.add_row(report.named(name), *(report.number(float(one)) for one in shown))
        return grid


def folds(
    spec: Mapping[str, Any] | str,
    stream: Stream | Examples | Iterable[Examples],
    k: int = 10,
    mode: Mode = "cross",
    delay: int = 0,
    chunk: int = 8192,
    *,
    metric: str = "auto",
    seed: int = 0,
) -> FoldReport:
    """Evaluate k models of one spec on a stream, each row training some of them and testing the others.

    With "cross", a row tests one model and trains all others; with "split", it trains one model and tests all others;
    with "bootstrap", it trains each model with a weight drawn from Poisson(1), and tests those whose weight is 0. The
    draws are functions of `seed`, the number of the row and the model; the result does not depend on `chunk`. Labels
    come `delay` rows late. Raises `ConfigError` for fewer than two models, an unknown mode, or as `prequential` does.

    >>> from everlearn.stream.generated import generate
    >>> found = folds({"family": "linear"}, generate("sea", rows=4000, noise=0.1), k=5)
    >>> len(found.folds), sum(fold["examples"] for fold in found.folds), round(found.metrics["accuracy"], 1)
    (5, 4000, 0.9)
    """
    if k < 2 or delay < 0 or chunk < 1:
        raise ConfigError(f"folds: got k {k}, delay {delay} and chunk {chunk}; expected 2 or more, from 0, from 1")
    if mode not in MODES:
        raise ConfigError(f"mode: got {mode!r}; expected one of {', '.join(MODES)}{did_you_mean(str(mode), MODES)}")
    shape = schema.shape(stream.schema) if isinstance(stream, Stream) else {}
    models = [model_of(spec, shape) for _ in range(k)]
    task, classes = task_of({**shape, **models[0].spec})
    own = own_loss(models[0])
    runs = [_Fold(model, task, classes, delay) for model in models]
    naive, rows = NaiveScores(task, classes, delay, own, None), 0
    metric = metrics.checked(metric_of(metric), task, own)
    for examples, _ in pieces(stream, chunk, ""):
        shares = np.empty((len(examples.y), k), np.float32)
        _draw(seed ^ _SEED, rows, MODES.index(mode), shares)
        known = naive.score(examples, rows)
        for number, run in enumerate(runs):
            run.take(examples, shares[:, number], known)
        rows += len(examples.y)
    headline = metrics.chosen(metric, task, runs[0].arrays, own)
    return FoldReport(mode, delay, rows, headline, tuple(metrics.report(run.arrays, task) for run in runs))


class _Fold:
    """One of the models: it learns rows whose share is above 0, and is scored on all others."""

    def __init__(self, model: Model, task: Task, classes: int, delay: int) -> None:
        self.model = model
        self.arrays = metrics.start(task, classes, own=own_loss(model))
        self._task: Task = task
        self._delay, self._tested = delay, 0
        family = str(model.spec.get("family", ""))
        self._neutral = family in FAMILIES and family not in _UNNEUTRAL
        self._pending: deque[tuple[Examples, float, Singles | None]] = deque()

    def take(self, examples: Examples, share: Singles, known: Floats) -> None:
        """Learn and score the next rows; `share` float32 (n,) multiplies the weights of learning."""
        if self._delay or not self._neutral:
            scores = self._by_rows(examples, share)
        else:  # a row without weight teaches nothing, and is predicted in its turn
            scores = self.model.learn(examples.batch, examples.y, examples.weight * share)
        tested = share == 0
        scores, y, weight = scores[tested], examples.y[tested], examples.weight[tested]
        metrics.update(self.arrays, self._task, scores, y, weight, self._tested, np.ascontiguousarray(known[tested]))
        self._tested += len(y)

    def _by_rows(self, examples: Examples, share: Singles) -> Singles:
        found = []
        for place in range(len(examples.y)):
            row = cut(examples, place, place + 1)
            scores, trace = predict_traced(self.model, row.batch)
            found.append(scores)
            self._pending.append((row, float(share[place]), trace))
            if len(self._pending) > self._delay:
                late, part, trace = self._pending.popleft()
                if part > 0:
                    learn(self.model, late.batch, late.y, late.weight * np.float32(part), trace)
        return np.concatenate(found) if found else self.model.predict(examples.batch)


@exact_kernel
def _draw(seed: int, first: int, mode: int, shares: Singles) -> None:
    """Draw the weight with which each row trains each model, float32 (n, k)."""
    rows, k = shares.shape
    for row in range(rows):
        chosen = int(uniform(seed, first + row, 0) * k)
        for number in range(k):
            if mode == 0:
                shares[row, number] = 0.0 if number == chosen else 1.0
            elif mode == 1:
                shares[row, number] = 1.0 if number == chosen else 0.0
            else:
                left, count, term = uniform(seed, first + row, number + 1), 0, math.exp(-1.0)
                while left >= term and count < 20:  # the inverse of Poisson's distribution function
                    left -= term
                    count += 1
                    term /= count
                shares[row, number] = count


def _quantile(level: float, degrees: int) -> float:
    """Return a quantile of Student's t, by bisection of its distribution function.

    >>> round(_quantile(0.975, 9), 3)
    2.262
    """
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2.0
        if _distribution(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return low


def _distribution(t: float, degrees: int) -> float:
    """Return Student's distribution function at t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, total, term = math.cos(angle) ** 2, 0.0, 1.0
    if degrees % 2:
        term = math.cos(angle)
        for j in range(1, degrees - 1, 2):
            total += term
            term *= cosine * (j + 1) / (j + 2)
        inside = 2.0 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))
    else:
        for j in range(0, degrees, 2):
            total += term
            term *= cosine * (j + 1) / (j + 2)
        inside = math.sin(angle) * total
    return 0.5 + 0.5 * inside
