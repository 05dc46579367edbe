"""Evaluate one model on a stream of tasks: online, and on the test rows of all tasks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from rich.text import Text

from everlearn import metrics, report
from everlearn.errors import ConfigError
from everlearn.evaluate.continual import measures, plots
from everlearn.evaluate.continual.streams import TaskStream
from everlearn.evaluate.prequential import Report, prequential
from everlearn.model import Deferred, Model, bind, cut, learn, predict_traced
from everlearn.records import Batch, Examples, Floats, Ints, Singles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # largest number of tasks whose accuracy matrix is shown as a table
ROUNDING = 1e-6  # of a row: tolerance for sums of costs
PROBED = 500  # rows over which the time of a row is measured, after as many to warm up


@runtime_checkable
class Consolidates(Protocol):
    """A model that can protect what it knows of a task when the task ends."""

    def consolidate(self) -> None:
        """Protect what has been learned so far."""
        ...


@dataclass(frozen=True, repr=False, eq=False)
class ContinualReport:
    """The result of an evaluation on a stream of tasks.

    `points` int64 (moments,) are the rows that had come when the model was tested, 0 first; `scores` float64 (moments,
    tasks) are the accuracies on the test rows of each task then. `borders` are the rows at which tasks end, `tests` the
    number of test rows of each task. `online` is the report of the predictions made before learning, and `right` bool
    (rows,) marks the correct ones. `learned` counts the rows that there was time to learn, and `seconds` is the CPU
    time of predicting and learning the stream.
    """

    name: str
    stream: str
    tasks: tuple[str, ...]
    borders: tuple[int, ...]
    tests: tuple[int, ...]
    points: Ints
    scores: Floats
    online: Report
    right: NDArray[np.bool_]
    learned: int
    seconds: float

    @property
    def matrix(self) -> Floats:
        """Accuracy matrix: a row after each task (only the last one if the model was tested at the end only)."""
        return self.scores[np.isin(self.points, self.borders)]

    @property
    def online_by_task(self) -> Floats:
        """Accuracy of the predictions before learning, between one border and the next."""
        return np.array([part.mean() for part in np.split(self.right, self.borders[:-1])])

    @property
    def seen_accuracy(self) -> Floats:
        """Mean accuracy over the tasks begun by each moment but 0."""
        return measures.seen_accuracy(self.scores[1:], self._seen)

    @property
    def metrics(self) -> dict[str, float]:
        """A mapping of names to the measures of `evaluate.continual.measures` that are defined here.

        `test_accuracy` is the accuracy on all test rows at the end, `online_accuracy` that of the predictions before
        learning. Transfer and forgetting need a test after each task; `minimum_accuracy` and `worst_case_accuracy` also
        tests within tasks.
        """
        matrix = self.matrix
        result = {
            "average_accuracy": measures.average_accuracy(matrix),
            "test_accuracy": float(np.average(matrix[-1], weights=self.tests)),
            "online_accuracy": float(self.right.mean()),
        }
        if len(self.points) > 2:
            result["anytime_accuracy"] = measures.anytime_accuracy(self.scores[1:], self._seen)
        if len(matrix) == len(self.tasks) > 1:
            result |= {
                "forgetting": measures.forgetting(matrix),
                "backward_transfer": measures.backward_transfer(matrix),
                "forward_transfer": measures.forward_transfer(matrix, self.scores[0]),
                "learning_accuracy": measures.learning_accuracy(matrix),
            }
        if len(self.points) > len(self.tasks) + 1 and len(self.borders) == len(self.tasks) > 1:
            moments = self.points, self.scores, self.borders
            result["minimum_accuracy"] = measures.minimum_accuracy(*moments)
            result["worst_case_accuracy"] = measures.worst_case_accuracy(*moments)
        if len(self.borders) > 1:
            result["plasticity_slope"] = measures.plasticity_slope(self.online_by_task)
            result["learning_speed"] = measures.learning_speed(self.right, (0, *self.borders[:-1]))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return everything but `right` as plain values, for JSON."""
        return {
            "name": self.name,
            "stream": self.stream,
            "tasks": list(self.tasks),
            "borders": list(self.borders),
            "tests": list(self.tests),
            "points": self.points.tolist(),
            "scores": self.scores.tolist(),
            "online": dict(self.online.metrics),
            "online_by_task": self.online_by_task.tolist(),
            "rows": len(self.right),
            "learned": self.learned,
            "seconds": self.seconds,
            "metrics": self.metrics,
        }

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the accuracy matrix, and accuracy over the stream beside it; write it to `path` if given."""
        trace = plots.Trace(
            self.tasks,
            self.borders,
            self.points[1:],
            self.seen_accuracy,
            self.matrix,
            plots.online(self.online.curve),
            float(self.right.mean()),
        )
        measured = self.metrics
        shown = [
            f"{report.named(key)} {measured[key]:.3f}" for key in ("average_accuracy", "forgetting") if key in measured
        ]
        caption = " · ".join([f"{len(self.right):,} rows", f"{len(self.tasks)} tasks", *shown])
        return plots.outcome(trace, f"{self.name} on {self.stream}", caption, path)

    def __repr__(self) -> str:
        values = ", ".join(f"{report.named(key)} {value:.4f}" for key, value in self.metrics.items())
        return f"ContinualReport({self.name} on {self.stream}: {values})"

    def __rich__(self) -> Group:
        parts: list[Table | Text] = [Text(f"{self.name} on {self.stream}", style="bold"), self._measured()]
        if len(self.tasks) <= SHOWN:
            parts += [Text(), self._grid()]
        return Group(*parts, Text(), Text(self._line))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{report.named(key)}</td><td>{value:.4f}</td></tr>" for key, value in self.metrics.items()
        )
        return f"<table><caption>{escape(self.name)} on {escape(self.stream)}: {self._line}</caption>{rows}</table>"

    @property
    def _seen(self) -> Ints:
        """Number of tasks begun by each moment but 0."""
        if len(self.borders) < len(self.tasks):
            return np.full(len(self.points) - 1, len(self.tasks))
        return 1 + np.searchsorted(np.asarray(self.borders), self.points[1:]).astype(np.int64)

    @property
    def _line(self) -> str:
        rows = len(self.right)
        learned = "" if self.learned == rows else f" · {self.learned:,} of them learned, the rest came too fast"
        return f"{rows:,} rows · {len(self.tasks)} tasks{learned} · {self.seconds:.2g} CPU seconds"

    def _measured(self) -> Table:
        grid = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
        grid.add_column("measure")
        grid.add_column("value", justify="right")
        for key, value in self.metrics.items():
            grid.add_row(report.named(key), f"{value:.4f}")
        return grid

    def _grid(self) -> Table:
        matrix = self.matrix
        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        grid.add_column("accuracy on", no_wrap=True)
        for task in self.tasks:
            grid.add_column(task, justify="right", no_wrap=True)
        for row, values in enumerate(matrix):
            after = f"after {self.tasks[row]}" if len(matrix) == len(self.tasks) else "at the end"
            cells = [Text(f"{value:.3f}", style="" if task <= row else "dim") for task, value in enumerate(values)]
            grid.add_row(after, *cells)
        return grid


def evaluate(
    model: Model,
    stream: TaskStream,
    every: Literal["task"] | int | None = "task",
    *,
    consolidate: bool = False,
    cost: float = 1.0,
    name: str = "",
) -> ContinualReport:
    """Let a model learn a stream of tasks, each row predicted first, and test it on all tasks along the way.

    The model is tested before the first row and at the end; with `every` "task" also after each task, and with a number
    also after every so many rows (which shows the drop right after a border, and costs as many tests). With
    `consolidate`, `model.consolidate()` is called at each border but the last, if the model has it. A model built
    without a shape takes that of the stream. `name` is its name in the report.

    `cost` is the number of rows that come while the model learns one. Above 1 the stream does not wait: a row that
    comes while the model is busy is predicted, but not learned unless the model is free before the next one; a row that
    is being learned does not affect predictions yet. At cost c, one of c rows is learned, so that methods are compared
    at equal compute (Ghunaim et al. 2023, "Real-Time Evaluation in Online Continual Learning: A New Hope");
    `seconds_per_row` measures it. The result depends only on the model, the stream and the cost. Raises `ConfigError`
    for a model of another task or number of classes, and for invalid settings.

    >>> from everlearn.evaluate.continual import split
    >>> from everlearn.model import build
    >>> random = np.random.default_rng(0)
    >>> y = random.integers(4, size=4000)
    >>> x = (3 * np.eye(4)[y] + random.normal(size=(4000, 4))).astype(np.float32)
    >>> outcome = evaluate(build({"family": "linear"}), split((x[:3000], y[:3000]), (x[3000:], y[3000:])))
    >>> outcome.matrix.shape, bool(outcome.matrix[0, 0] > 0.9)
    ((2, 2), True)
    """
    if not isinstance(stream, TaskStream):
        raise ConfigError(
            f"stream is of type {type(stream).__name__}; expected a task stream, as returned by continual.split"
        )
    if isinstance(model, str | Mapping):
        raise ConfigError(f"model is of type {type(model).__name__}; expected a model, such as everlearn.build(spec)")
    points = _points(stream, every)
    if not 0 <= cost < float("inf"):
        raise ConfigError(f"cost is {cost}; expected a number from 0, the rows that come while one is learned")
    bind(model, stream.shape)
    if isinstance(model, Deferred) and model.built is not None:
        model = model.built
    _check(model, stream)
    paced = _PacedModel(model, stream, cost)
    scores = np.zeros((len(points), len(stream.tasks)))
    consolidating = model if consolidate and isinstance(model, Consolidates) else None
    online = prequential(paced, _tested(model, stream, paced, points, scores, consolidating))
    return ContinualReport(
        name=name or str(model.spec.get("family", "model")),
        stream=stream.name,
        tasks=tuple(task.name for task in stream.tasks),
        borders=stream.borders,
        tests=tuple(len(task.test) for task in stream.tasks),
        points=np.array(points, np.int64),
        scores=scores,
        online=replace(online, events_per_second=len(stream) / max(paced.seconds, 1e-9)),
        right=paced.right,
        learned=paced.learned,
        seconds=paced.seconds,
    )


def seconds_per_row(model: Model, stream: TaskStream, rows: int = PROBED) -> float:
    """Measure the CPU seconds in which a warm model predicts and learns one row of the stream, ten rows at a time.

    The model learns up to 2 * `rows` rows in this test, so pass one built for it. The result times the rows that come
    in a second is the `cost` of `evaluate`; so is the result times the rows of a stream, divided by the seconds
    available for all of them. Raises `ConfigError` for a stream of fewer than two rows.

    >>> from everlearn.evaluate.continual import split
    >>> from everlearn.model import build
    >>> x, y = np.zeros((2000, 4), np.float32), np.arange(2000) % 4
    >>> 0 < seconds_per_row(build({"family": "linear"}), split((x, y), (x, y))) < 0.01
    True
    """
    bind(model, stream.shape)
    half = min(rows, len(stream) // 2)
    if half < 1:
        raise ConfigError(f"{half} rows to measure the time of; expected at least 1, and a stream of twice as many")
    spent = 0.0
    for begin, end in ((0, half), (half, 2 * half)):
        pieces = [
            cut(examples, start, min(start + 10, len(examples.y)))
            for examples in stream.chunks(begin, end)
            for start in range(0, len(examples.y), 10)
        ]
        began = time.process_time()
        for piece in pieces:
            model.learn(piece.batch, piece.y, piece.weight)
        spent = time.process_time() - began
    return spent / half


class _Waiting(NamedTuple):
    """A row that is being learned, or is next, and the time when it is done, in rows of the stream."""

    done: float
    row: Examples
    trace: Singles | None


class _PacedModel:
    """A model that learns only the rows that it has time for, and records which predictions were right.

    Predictions are restricted to the classes of a row's task where the stream reveals the task.
    """

    def __init__(self, model: Model, stream: TaskStream, cost: float) -> None:
        self.spec: Mapping[str, Any] = {**stream.shape, **model.spec}
        self.arrays = model.arrays
        self.right = np.zeros(len(stream), np.bool_)
        self.learned, self.seconds = 0, 0.0
        self._model, self._stream, self._cost = model, stream, cost
        self._at, self._free = 0, 0.0
        self._queue: deque[_Waiting] = deque()

    def predict(self, batch: Batch) -> Singles:
        """Score n rows, as the model does."""
        return self._model.predict(batch)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Return the scores of n rows, and learn those for which time is left."""
        began = time.process_time()
        if self._cost <= 1:
            scores = self._model.learn(batch, y, weight)
            self.learned += len(y)
        else:
            scores = self._learn_in_time(Examples(batch, y, weight, np.arange(len(y))))
        self.seconds += time.process_time() - began
        span = slice(self._at, self._at + len(y))
        scores = self._stream.restrict(scores, self._stream.order[span, 0])
        self.right[span] = metrics.losses("error", scores, y) == 0
        self._at += len(y)
        return scores

    def finish(self) -> None:
        """Learn the rows that have been begun."""
        began = time.process_time()
        self._done(float("inf"))
        self.seconds += time.process_time() - began

    def _learn_in_time(self, examples: Examples) -> Singles:
        """Predict each row with the model of that time, and begin to learn it if there is time."""
        predictions = []
        for place in range(len(examples.y)):
            now, row = self._at + place, cut(examples, place, place + 1)
            self._done(now)
            scores, trace = predict_traced(self._model, row.batch)
            predictions.append(scores)
            if self._free < now + 1 - ROUNDING:
                self._free = max(self._free, now) + self._cost
                self._queue.append(_Waiting(self._free, row, trace))
        return np.concatenate(predictions)

    def _done(self, now: float) -> None:
        while self._queue and self._queue[0].done <= now + ROUNDING:
            _, row, trace = self._queue.popleft()
            learn(self._model, row.batch, row.y, row.weight, trace)
            self.learned += 1


def _tested(
    model: Model,
    stream: TaskStream,
    paced: _PacedModel,
    points: tuple[int, ...],
    scores: Floats,
    consolidating: Consolidates | None,
) -> Iterator[Examples]:
    """Yield the rows of the stream, and test the model at `points`, when the caller has learned the rows before."""
    before = 0
    for stop in sorted({*points, *stream.borders}):
        yield from stream.chunks(before, stop)
        before = stop
        if stop == len(stream):
            paced.finish()
        if stop in points:
            scores[points.index(stop)] = [_accuracy(model, stream, task) for task in range(len(stream.tasks))]
        if consolidating is not None and stop in stream.borders[:-1]:
            consolidating.consolidate()


def _accuracy(model: Model, stream: TaskStream, task: int) -> float:
    right = 0
    for examples in stream.tests(task):
        predicted = stream.restrict(model.predict(examples.batch), np.full(len(examples.y), task))
        right += int((metrics.losses("error", predicted, examples.y) == 0).sum())
    return right / len(stream.tasks[task].test)


def _points(stream: TaskStream, every: Literal["task"] | int | None) -> tuple[int, ...]:
    """Return the numbers of rows after which the model is tested."""
    if every is None:
        return 0, len(stream)
    if every == "task":
        return 0, *stream.borders
    if not isinstance(every, int) or every < 1:
        raise ConfigError(f"every is {every!r}; expected 'task', a number of rows from 1, or None")
    return tuple(sorted({*range(0, len(stream), every), *stream.borders}))


def _check(model: Model, stream: TaskStream) -> None:
    spec, shape = model.spec, stream.shape
    wrong = [key for key in ("dense", "classes") if key in spec and int(spec[key]) != shape[key]]
    if spec.get("task", shape["task"]) not in ("binary", "multiclass") or wrong:
        got = ", ".join(f"{key} {spec.get(key)!r}" for key in ("task", "dense", "classes"))
        raise ConfigError(
            f"the model has {got}, and the stream {shape}; build the model with everlearn.build(spec, stream.shape)"
        )
