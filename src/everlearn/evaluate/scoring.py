"""What evaluations share: rows in order, labels that come later, and metrics of models and naive baselines."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from everlearn import metrics
from everlearn.errors import ConfigError
from everlearn.evaluate.windows import Recent, Window
from everlearn.metrics import baselines, seasonal
from everlearn.model import Model, bind, build, copied, cut, learn, predict_traced, prefixed, within
from everlearn.records import Arrays, Examples, Floats, Loss, Rejected, RowTask, Singles, Task
from everlearn.schema import moments
from everlearn.schema.segments import checked
from everlearn.stream import Stream


class Cost(NamedTuple):
    """What a model cost: CPU seconds for so many rows, and the bytes of its state at the end; what it was given."""

    seconds: float
    rows: int
    bytes: int
    reads: str


RIVER_METRICS = {
    "Accuracy": "accuracy", "BalancedAccuracy": "balanced_accuracy", "LogLoss": "log_loss", "CrossEntropy": "log_loss",
    "CohenKappa": "kappa", "Precision": "precision", "Recall": "recall", "F1": "f1", "ROCAUC": "roc_auc",
    "RollingROCAUC": "roc_auc", "MAE": "mae", "RMSE": "rmse", "R2": "r2",
}  # fmt: skip
"""Names of River's metrics, which evaluations take beside ours."""


def metric_of(name: str) -> str:
    """Return the name of a metric here, where River's name was given.

    >>> metric_of("LogLoss"), metric_of("kappa_t")
    ('log_loss', 'kappa_t')
    """
    return RIVER_METRICS.get(name, name)


def model_of(model: Model | Mapping[str, Any] | str, shape: Mapping[str, Any]) -> Model:
    """Return a model: itself, bound to the shape of a stream, or built from a spec or the name of a family.

    Raises `ConfigError` as `everlearn.build` does.
    """
    if isinstance(model, str | Mapping):
        return build({"family": model} if isinstance(model, str) else model, shape)
    bind(model, shape)
    return model


class LateRow(NamedTuple):
    """A row whose label comes later, with the trace of its prediction where the model has one."""

    row: Examples
    trace: Singles | None

    def teach(self, model: Model) -> None:
        learn(model, self.row.batch, self.row.y, self.row.weight, self.trace)


class Scored:
    """The metrics of the model that is evaluated, with those of its segments."""

    def __init__(
        self, task: Task, classes: int, own: Loss | None, share: float, segment: str, window: Window | None = None
    ) -> None:
        self.arrays = metrics.start(task, classes, own=own, share=share, segmented=bool(segment))
        self._task: Task = task
        self._table = metrics.SegmentTable(segment)
        self._is_segmented = bool(segment)
        self._recent = None if window is None else Recent(window, task, classes, own, share)

    def add(self, examples: Examples, scores: Singles, index: int, known: Floats) -> None:
        """Add rows `index` and further, with what the naive baselines answered."""
        segments = None
        if self._is_segmented and examples.segment is not None:
            segments = self._table.number(examples.segment)
        metrics.update(self.arrays, self._task, scores, examples.y, examples.weight, index, known, segments)
        if self._recent is not None:
            self._recent.add(scores, examples.y, examples.weight, index, known)

    def state(self) -> Arrays:
        """Return the arrays of the metrics, of the names of segments, and of a window."""
        found = prefixed("metrics/", self.arrays) | prefixed("table/", self._table.state())
        return found | ({} if self._recent is None else prefixed("window/", self._recent.state()))

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`."""
        self.arrays = copied(within(arrays, "metrics/"))
        self._table.load(within(arrays, "table/"))
        if self._recent is not None:
            self._recent.load(within(arrays, "window/"))

    def results(self) -> dict[str, Any]:
        """Return fields of the report."""
        return {
            "metrics": metrics.report(self.arrays, self._task),
            "curve": metrics.curve(self.arrays),
            "segments": metrics.segment_report(self.arrays, self._task, self._table),
            "reliability": metrics.reliability(self.arrays, self._task),
            "windows": {} if self._recent is None else self._recent.curve(),
        }


def naive_names(task: Task, timed: bool) -> tuple[str, ...]:
    """Return the naive baselines of a task, with that of the season where rows have times."""
    return (*baselines.names(task), *((seasonal.NAME,) if timed else ()))


class NaiveScores:
    """The naive baselines of one evaluation, with the labels that are still to come."""

    def __init__(
        self,
        task: Task,
        classes: int,
        delay: int,
        own: Loss | None,
        clock: int | None,
        only: Collection[str] | None = None,
    ) -> None:
        """`clock` is the dense column where the time of a row starts; None where rows have no time.

        With `only`, the other baselines have no metrics.
        """
        chosen = [name for name in naive_names(task, clock is not None) if only is None or name in only]
        self.measured = {name: baselines.measures(task, classes, own) for name in chosen}
        self._season = seasonal.start() if seasonal.NAME in chosen else None
        self._task: Task = task
        self._classes, self._delay, self._clock = classes, delay, clock
        self._state = baselines.start(task, classes)
        self._y, self._weight, self._at = np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64)

    def score(self, examples: Examples, index: int) -> Floats:
        """Score rows `index` and further; return what the first two baselines answered, float64 (n, 2)."""
        y, weight, first = examples.y, examples.weight, np.arange(len(examples.y))
        if self._delay:
            y, weight = np.concatenate([self._y, y]), np.concatenate([self._weight, weight])
            rows = np.arange(index, index + len(examples.y) + 1)
            came = np.maximum(rows - self._delay, 0) - (index - len(self._y))  # labels known at each row, of these
            upto, first = came[-1], came[:-1]
        else:
            upto = len(y)
        answers, known = baselines.labelled_answers(
            self._state, self._task, y[:upto], weight[:upto], first, self.measured
        )
        if self._season is not None and self._clock is not None:
            when = moments.minutes(examples.batch.dense, self._clock)
            at = np.concatenate([self._at, when])
            labels = y[:upto], weight[:upto], at[:upto]
            answers[seasonal.NAME] = seasonal.answers(self._season, self._task, self._classes, *labels, first, when)
            self._at = at[upto:]
        self._y, self._weight = y[upto:], weight[upto:]
        for name, arrays in self.measured.items():
            metrics.update(arrays, self._task, answers[name], examples.y, examples.weight, index, known)
        return known

    def state(self) -> Arrays:
        """Return all arrays, where no label is still to come."""
        found = prefixed("known/", self._state) | prefixed("season/", self._season or {})
        for name, arrays in self.measured.items():
            found |= prefixed(f"measured/{name}/", arrays)
        return found

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`."""
        self._state = copied(within(arrays, "known/"))
        self._season = None if self._season is None else copied(within(arrays, "season/"))
        self.measured = {name: copied(within(arrays, f"measured/{name}/")) for name in self.measured}

    def results(self) -> dict[str, Any]:
        """Return fields of the report."""
        return {
            "baselines": {name: baselines.report(name, arrays, self._task) for name, arrays in self.measured.items()},
            "baseline_curves": {name: baselines.curve(name, arrays) for name, arrays in self.measured.items()},
        }


def task_of(spec: Mapping[str, Any]) -> tuple[Task, int]:
    task = spec.get("task")
    known = [*get_args(RowTask)]
    if task not in known:
        raise ConfigError(
            f"the model's spec has task {task!r}; expected one of {', '.join(known)}: build the model with "
            "task, dense, hashed and classes in its spec, or evaluate it on a stream that has a schema"
        )
    return cast(Task, task), int(spec.get("classes") or 2)


def checked_segment(segment: str, stream: Stream | Examples | Iterable[Examples]) -> str:
    return checked(segment, stream.schema.fields, where="segment") if isinstance(stream, Stream) else segment


def pieces(
    stream: Stream | Examples | Iterable[Examples], chunk: int, segment: str
) -> Iterator[tuple[Examples, tuple[Rejected, ...]]]:
    if isinstance(stream, Stream):
        for piece in stream.chunks(0, chunk, segment):
            yield piece.examples, piece.rejected
        return
    for examples in (stream,) if isinstance(stream, Examples) else stream:
        for begin in range(0, len(examples.y), chunk):
            yield cut(examples, begin, min(begin + chunk, len(examples.y))), ()


def predictions(model: Model, examples: Examples, pending: deque[LateRow], delay: int) -> Singles:
    """Return the prediction for each row, after the model has learned the labels that arrived before it."""
    if delay == 0:
        return model.learn(examples.batch, examples.y, examples.weight)
    predictions = []
    for place in range(len(examples.y)):
        row = cut(examples, place, place + 1)
        scores, trace = predict_traced(model, row.batch)
        predictions.append(scores)
        pending.append(LateRow(row, trace))
        if len(pending) > delay:
            pending.popleft().teach(model)
    return np.concatenate(predictions) if predictions else model.predict(examples.batch)
