"""Prequential evaluation: each row is predicted first, and learned when its label arrives."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from everlearn import metrics, report, schema
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate import partitioned
from everlearn.evaluate.scoring import (
    LateRow,
    NaiveScores,
    Scored,
    checked_segment,
    metric_of,
    model_of,
    pieces,
    predictions,
    task_of,
)
from everlearn.evaluate.windows import window_of
from everlearn.gate import interval
from everlearn.gate.interval import MeanInterval
from everlearn.model import Model, own_loss
from everlearn.records import Examples, Rejected, Task
from everlearn.report.pictures import NOT_MEASURED
from everlearn.scale.partitions.dealing import Dealing
from everlearn.schema import moments
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
    left out. `windows` has each metric over a sliding window or with a fading factor, where one was asked for: `x` and
    a curve of each name in `metrics` (`everlearn.evaluate.windows`).
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
    windows: dict[str, NDArray[Any]] = field(default_factory=dict)

    def plot(self, path: str | Path | None = None, metric: str = "") -> Figure:
        """Draw a metric over the stream, by default the headline metric if that has a curve.

        A metric that only `windows` has is drawn from there. The figure is also written to `path`, if given. Raises
        `InputError` for a metric that has no curve.
        """
        late = f", labels {self.delay:,} rows late" if self.delay else ""
        drawable = report.drawable(self.metric, self.curve)
        chosen = metric or (self.metric if self.metric in self.windows else drawable)
        curves = {"model": self.curve, **self.baseline_curves}
        if chosen in self.windows and chosen not in self.curve:
            known = np.isfinite(self.windows[chosen])
            x = self.windows["x"][known]
            curves = {"model": {"x": x, chosen: self.windows[chosen][known], "weight": np.ones(len(x))}}
            curves["model"]["count"] = np.diff(x, prepend=0)
        return report.picture(curves, (), path, f"{self.name}{late}", chosen)

    def interval(self, metric: str = "", alpha: float = 0.05) -> MeanInterval:
        """Return the mean of a metric with its interval at 1 - `alpha`: a confidence sequence over the curve.

        `metric` is one of the curve: accuracy or log_loss, mae or mse. The interval heeds that neighbouring rows are
        alike (`gate.interval`). Raises `InputError` for a metric without a curve.
        """
        chosen = metric or report.drawable(self.metric, self.curve)
        if chosen not in self.curve or chosen in NOT_MEASURED:
            known = ", ".join(name for name in self.curve if name not in NOT_MEASURED)
            raise InputError(f"metric: got {chosen!r}; expected one with a curve: {known}")
        weight = self.curve["weight"]
        bound = 1.0 if chosen == "accuracy" else np.inf
        return interval.of_stretches(self.curve[chosen] * weight, weight, self.events, alpha, bound)

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
    model: Model | Mapping[str, Any] | str,
    stream: Stream | Examples | Iterable[Examples],
    delay: int = 0,
    chunk: int = 8192,
    *,
    metric: str = "auto",
    segment: str = "",
    share: float = 0.01,
    window: int = 0,
    fading: float = 0.0,
    partitions: int = 1,
    key: str = "",
) -> Report:
    """Score each row of a stream before the model learns it, and report the metrics.

    The label of row i arrives right after the prediction for row i + `delay`. With 0, each row is learned as soon as it
    is predicted; with d, the model has learned rows up to t - d - 1 when it predicts row t. Labels that are still
    pending when the stream ends are learned then. The result does not depend on `chunk`, the rows read at a time; at
    most `delay` rows and two chunks are held in memory. A delay is slower, since every row is two calls to the model.
    `model` may be a spec or the name of a family; those, and a model built without a shape, take the shape of the
    stream's schema. Naive baselines are scored on the same rows, with the labels that were known at each. (Prequential:
    Dawid 1984; with delay: Grzenda, Gomes and Bifet 2020, "Delayed labelling evaluation for data streams".)

    `metric`, `segment` and `share` are the settings `metric`, `metrics.segment` and `metrics.share` of a loop; a metric
    may have River's name, such as "LogLoss". Examples
    have segments if their `segment` is set. With a `window` of rows, or a `fading` factor such as 0.999, the report has
    every metric over that window along the stream, in `windows`.

    With `partitions`, so many processes learn, each its part of the rows, and their models are merged after each 8,192
    rows. Rows with the same value in the column `key` are in one partition; without a key, neighbouring rows are. The
    report is over all rows, and the model gets the merged arrays. Labels then come at once: the delay is 0. See
    docs/how-to/partitions.md.

    Raises `ConfigError` if the delay is negative, if neither the model's spec nor the stream gives the task, or for a
    metric, segment, share or window that does not fit.

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
    model = model_of(model, shape)
    task, classes = task_of({**shape, **model.spec})
    own = own_loss(model)
    metric = metrics.checked(metric_of(metric), task, own)
    segment, recent = checked_segment(segment, stream), window_of(window, fading)
    timed = moments.clock(stream.schema) if isinstance(stream, Stream) else None
    if partitions != 1 or key:
        _check_undelayed(partitions, delay)
        scoring = partitioned.Scoring(
            task=task, classes=classes, own=own, share=share, segment=segment, window=recent, clock=timed
        )
        dealing = Dealing(count=partitions, key=key)
        return _in_partitions(model, stream, dealing, partitioned.PartitionedScores(scoring), metric, segment)
    scored = Scored(task, classes, own, share, segment, recent)
    naive = NaiveScores(task, classes, delay, own, timed)
    pending: deque[LateRow] = deque()
    events, rejected, kept = 0, 0, list[Rejected]()
    began, before = time.perf_counter(), 0
    for number, (examples, refused) in enumerate(pieces(stream, chunk, segment)):
        if number == 1:
            began, before = time.perf_counter(), events
        scores = predictions(model, examples, pending, delay)
        scored.add(examples, scores, events, naive.score(examples, events))
        events += len(examples.y)
        rejected += len(refused)
        kept += refused[: KEPT - len(kept)]
    for late in pending:
        late.teach(model)
    seconds = time.perf_counter() - began
    return Report(
        name=_name(model, stream),
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


def _name(model: Model, stream: object) -> str:
    return Path(stream.name).name if isinstance(stream, Stream) else str(model.spec.get("family", "model"))


def _check_undelayed(partitions: int, delay: int) -> None:
    """Raise ConfigError for late labels in partitions, or a number of partitions out of range."""
    if not 1 <= partitions <= 256:
        raise ConfigError(f"partitions: got {partitions}; expected 1 to 256")
    if delay:
        raise ConfigError(
            f"delay: got {delay} rows with {partitions} partitions; expected 0, since each partition has an order of "
            "its rows. Leave the delay out, or use one partition"
        )


def _in_partitions(
    model: Model,
    stream: Stream | Examples | Iterable[Examples],
    dealing: Dealing,
    scores: partitioned.PartitionedScores,
    metric: str,
    segment: str,
) -> Report:
    """Evaluate a model that several processes learn."""
    every = dealing.every - dealing.every % dealing.count
    _, costs = partitioned.learned(
        model, stream, msgspec.structs.replace(dealing, every=every), scores, segment=segment
    )
    task = task_of({**(schema.shape(stream.schema) if isinstance(stream, Stream) else {}), **model.spec})[0]
    return Report(
        name=_name(model, stream),
        task=task,
        delay=0,
        events=scores.events,
        events_per_second=costs.rate,
        rejected=scores.rejected,
        rejects=tuple(scores.rejects),
        metric=metrics.chosen(metric, task, scores.scored.arrays, own_loss(model)),
        **scores.scored.results(),
        **scores.naive.results(),
    )
