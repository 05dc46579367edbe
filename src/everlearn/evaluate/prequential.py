"""Prequential evaluation: each row is predicted first, and learned when its label arrives."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from everlearn import metrics, report, schema
from everlearn.errors import ConfigError
from everlearn.metrics import baselines, seasonal
from everlearn.model import Model, bind, cut, learn, own_loss, predict_traced
from everlearn.records import Examples, Floats, Loss, Rejected, Singles, Task
from everlearn.schema import moments
from everlearn.schema.segments import checked
from everlearn.stream import Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = 100  # rejected rows shown in a report; all are counted


@dataclass(frozen=True, repr=False)
class Report:
    """The result of a prequential evaluation.

    `metrics` and `curve` are those of `everlearn.metrics`; `baselines` and `baseline_curves` are the same of the last
    known label and of the majority class or the mean (`everlearn.metrics.baselines`). `metric` is the headline metric,
    `segments` the metrics of each value of the field that was asked for, and `reliability` the reliability curve
    (`metrics.reliability`; empty for a regression). `events` counts labelled rows and
    `rejected` the rows that could not be used, the first 100 of which are in `rejects`. `events_per_second` is the rate
    of the whole pass, including reading; if there are several chunks, the first one (in which kernels are loaded) is
    left out.
    """

    name: str
    task: Task
    delay: int
    metrics: dict[str, float]
    curve: dict[str, NDArray[Any]]
    events: int
    events_per_second: float
    rejected: int
    rejects: tuple[Rejected, ...]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    baseline_curves: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    metric: str = "accuracy"
    segments: dict[str, dict[str, Any]] = field(default_factory=dict)
    reliability: dict[str, NDArray[Any]] = field(default_factory=dict)

    def plot(self, path: str | Path | None = None, metric: str = "") -> Figure:
        """Draw a metric over the stream, by default the headline metric if that has a curve.

        The figure is also written to `path`, if given. Raises `InputError` for a metric that the curve does not have.
        """
        late = f", labels {self.delay:,} rows late" if self.delay else ""
        chosen = metric or report.drawable(self.metric, self.curve)
        curves = {"model": self.curve, **self.baseline_curves}
        return report.picture(curves, (), path, f"{self.name}{late}", chosen)

    def __repr__(self) -> str:
        values = ", ".join(f"{report.named(key)} {text}" for key, text in report.written(self.metrics).items())
        return f"Report({self.name}: {values}; {report.counts(vars(self))})"

    def __rich__(self) -> Group:
        return report.summary({**vars(self), "metrics": {self.name: self.metrics, **self.baselines}})

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{report.named(key)}</td><td>{text}</td></tr>"
            for key, text in report.written(self.metrics).items()
        )
        return f"<table><caption>{escape(self.name)}: {report.counts(vars(self))}</caption>{cells}</table>"


def prequential(
    model: Model,
    stream: Stream | Examples | Iterable[Examples],
    delay: int = 0,
    chunk: int = 8192,
    *,
    metric: str = "auto",
    segment: str = "",
    share: float = 0.01,
) -> Report:
    """Score each row of a stream before the model learns it, and report the metrics.

    The label of row i arrives right after the prediction for row i + `delay`. With 0, each row is learned as soon as it
    is predicted; with d, the model has learned rows up to t - d - 1 when it predicts row t. Labels that are still
    pending when the stream ends are learned then. The result does not depend on `chunk`, the rows read at a time; at
    most `delay` rows and two chunks are held in memory. A delay is slower, since every row is two calls to the model. A
    model built without a shape takes that of the stream's schema. Naive baselines are scored on the same rows, with the
    labels that were known at each. (Prequential: Dawid 1984; with delay: Grzenda, Gomes
    and Bifet 2020, "Delayed labelling evaluation for data streams".)

    `metric`, `segment` and `share` are the settings `metric`, `metrics.segment` and `metrics.share` of a loop. Examples
    have segments if their `segment` is set.

    Raises `ConfigError` if the delay is negative, if neither the model's spec nor the stream gives the task, or for a
    metric, segment or share that does not fit.

    >>> import numpy as np
    >>> from everlearn.model import build
    >>> from everlearn.records import Batch
    >>> x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    >>> batch = Batch(x, np.zeros(2001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> y = (x[:, 0] > 0).astype(float)
    >>> examples = Examples(batch, y, np.ones(2000, np.float32), np.arange(1, 2001))
    >>> model = build({"family": "linear", "task": "binary", "dense": 2})
    >>> prequential(model, examples, delay=10).metrics["accuracy"] > 0.95
    True
    """
    if delay < 0 or chunk < 1:
        raise ConfigError(f"delay is {delay} and chunk is {chunk}; expected a delay from 0 and a chunk from 1")
    shape = schema.shape(stream.schema) if isinstance(stream, Stream) else {}
    bind(model, shape)
    task, classes = _task({**shape, **model.spec})
    own = own_loss(model)
    metric = metrics.checked(metric, task, own)
    scored = _Scored(task, classes, own, share, _checked_segment(segment, stream))
    timed = moments.clock(stream.schema) if isinstance(stream, Stream) else None
    naive = _Naive(task, classes, delay, own, timed)
    pending: deque[_Late] = deque()
    events, rejected, kept = 0, 0, list[Rejected]()
    began, before = time.perf_counter(), 0
    for number, (examples, refused) in enumerate(_pieces(stream, chunk, segment)):
        if number == 1:
            began, before = time.perf_counter(), events
        scores = _predict(model, examples, pending, delay)
        scored.add(examples, scores, events, naive.score(examples, events))
        events += len(examples.y)
        rejected += len(refused)
        kept += refused[: KEPT - len(kept)]
    for late in pending:
        late.teach(model)
    seconds = time.perf_counter() - began
    return Report(
        name=Path(stream.name).name if isinstance(stream, Stream) else str(model.spec.get("family", "model")),
        task=task,
        delay=delay,
        events=events,
        events_per_second=(events - before) / seconds,
        rejected=rejected,
        rejects=tuple(kept),
        metric=metrics.chosen(metric, task, scored.arrays, own),
        **scored.results(),
        **naive.results(),
    )


class _Late(NamedTuple):
    """A row whose label comes later, with the trace of its prediction where the model has one."""

    row: Examples
    trace: Singles | None

    def teach(self, model: Model) -> None:
        learn(model, self.row.batch, self.row.y, self.row.weight, self.trace)


class _Scored:
    """The metrics of the model that is evaluated, with those of its segments."""

    def __init__(self, task: Task, classes: int, own: Loss | None, share: float, segment: str) -> None:
        self.arrays = metrics.start(task, classes, own=own, share=share, segmented=bool(segment))
        self._task: Task = task
        self._table = metrics.SegmentTable(segment)
        self._is_segmented = bool(segment)

    def add(self, examples: Examples, scores: Singles, index: int, known: Floats) -> None:
        """Add rows `index` and further, with what the naive baselines answered."""
        segments = None
        if self._is_segmented and examples.segment is not None:
            segments = self._table.number(examples.segment)
        metrics.update(self.arrays, self._task, scores, examples.y, examples.weight, index, known, segments)

    def results(self) -> dict[str, Any]:
        """Return fields of the report."""
        return {
            "metrics": metrics.report(self.arrays, self._task),
            "curve": metrics.curve(self.arrays),
            "segments": metrics.segment_report(self.arrays, self._task, self._table),
            "reliability": metrics.reliability(self.arrays, self._task),
        }


class _Naive:
    """The naive baselines of one evaluation, with the labels that are still to come."""

    def __init__(self, task: Task, classes: int, delay: int, own: Loss | None, clock: int | None) -> None:
        """`clock` is the dense column where the time of a row starts; None where rows have no time."""
        self.measured = {name: baselines.measures(task, classes, own) for name in baselines.names(task)}
        self._season = None if clock is None else seasonal.start()
        if self._season is not None:
            self.measured[seasonal.NAME] = baselines.measures(task, classes, own)
        self._task: Task = task
        self._classes, self._delay, self._clock = classes, delay, clock
        self._state = baselines.start(task, classes)
        self._y, self._weight, self._at = np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64)

    def score(self, examples: Examples, index: int) -> Floats:
        """Score rows `index` and further; return what the first two baselines answered, float64 (n, 2)."""
        y = np.concatenate([self._y, examples.y])
        weight = np.concatenate([self._weight, examples.weight])
        rows = np.arange(index, index + len(examples.y) + 1)
        came = np.maximum(rows - self._delay, 0) - (index - len(self._y))  # labels known at each row, of these
        upto, first = came[-1], came[:-1]
        answers = list(baselines.answers(self._state, self._task, y[:upto], weight[:upto], first))
        known = baselines.labels(*answers)
        if self._season is not None and self._clock is not None:
            when = moments.minutes(examples.batch.dense, self._clock)
            at = np.concatenate([self._at, when])
            labels = y[:upto], weight[:upto], at[:upto]
            answers.append(seasonal.answers(self._season, self._task, self._classes, *labels, first, when))
            self._at = at[upto:]
        self._y, self._weight = y[upto:], weight[upto:]
        for arrays, scores in zip(self.measured.values(), answers, strict=True):
            metrics.update(arrays, self._task, scores, examples.y, examples.weight, index, known)
        return known

    def results(self) -> dict[str, Any]:
        """Return fields of the report."""
        return {
            "baselines": {name: baselines.report(name, arrays, self._task) for name, arrays in self.measured.items()},
            "baseline_curves": {name: baselines.curve(name, arrays) for name, arrays in self.measured.items()},
        }


def _task(spec: Mapping[str, Any]) -> tuple[Task, int]:
    task = spec.get("task")
    known = [name for name in get_args(Task) if name != "preference"]  # whose models have a binary task
    if task not in known:
        raise ConfigError(
            f"the model's spec has task {task!r}; expected one of {', '.join(known)}: build the model with "
            "task, dense, hashed and classes in its spec, or evaluate it on a stream that has a schema"
        )
    return cast(Task, task), int(spec.get("classes") or 2)


def _checked_segment(segment: str, stream: Stream | Examples | Iterable[Examples]) -> str:
    return checked(segment, stream.schema.fields, where="segment") if isinstance(stream, Stream) else segment


def _pieces(
    stream: Stream | Examples | Iterable[Examples], chunk: int, segment: str
) -> Iterator[tuple[Examples, tuple[Rejected, ...]]]:
    if isinstance(stream, Stream):
        for piece in stream.chunks(0, chunk, segment):
            yield piece.examples, piece.rejected
        return
    for examples in (stream,) if isinstance(stream, Examples) else stream:
        for begin in range(0, len(examples.y), chunk):
            yield cut(examples, begin, min(begin + chunk, len(examples.y))), ()


def _predict(model: Model, examples: Examples, pending: deque[_Late], delay: int) -> Singles:
    """Return the prediction for each row, after the model has learned the labels that arrived before it."""
    if delay == 0:
        return model.learn(examples.batch, examples.y, examples.weight)
    predictions = []
    for place in range(len(examples.y)):
        row = cut(examples, place, place + 1)
        scores, trace = predict_traced(model, row.batch)
        predictions.append(scores)
        pending.append(_Late(row, trace))
        if len(pending) > delay:
            pending.popleft().teach(model)
    return np.concatenate(predictions) if predictions else model.predict(examples.batch)
