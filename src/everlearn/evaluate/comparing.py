"""Compare several models on one stream, in one pass: metrics, curves, costs, and intervals of the differences."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult

from everlearn import metrics, schema
from everlearn.errors import ConfigError, EverlearnError
from everlearn.evaluate import peers
from everlearn.evaluate.entrants import Entrant, Maker, ModelEntrant, Piece, Terms
from everlearn.evaluate.paired import LossSums, McNemar, difference, of_counts
from everlearn.evaluate.prequential import KEPT, Report
from everlearn.evaluate.scoring import Cost, NaiveScores, Scored, metric_of, pieces, task_of
from everlearn.evaluate.windows import window_of
from everlearn.gate.interval import MeanInterval
from everlearn.model import Model, build, cut, own_loss
from everlearn.records import Examples, Floats, Rejected, Singles, Task
from everlearn.schema import moments
from everlearn.stream import Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = {"accuracy": "error", "log_loss": "log_loss", "mae": "absolute", "rmse": "squared"}  # of headline metrics
_KINDS = {"regression": ("absolute", "squared"), "binary": ("error", "log_loss"), "multiclass": ("error", "log_loss")}
_BOUNDS = {"error": 1.0}  # of the difference in one row
_WARM = 20  # rows on which a second copy of each model loads its kernels, before time is measured


@dataclass(frozen=True, repr=False, eq=False)
class StreamComparison:
    """The results of several models on the same rows.

    `reports` are prequential reports, each over the rows that its model reached; `costs` the CPU time and the
    memory, `failures` the models that failed, with the reason. `baselines` are the metrics of naive baselines on all
    `rows`. `loss` is the loss by which models are compared ("error", "log_loss", "absolute" or "squared").
    """

    name: str
    rows: int
    delay: int
    reports: dict[str, Report]
    costs: dict[str, Cost]
    failures: dict[str, str]
    baselines: dict[str, dict[str, float]]
    loss: str
    alpha: float
    stretches: dict[str, dict[str, LossSums]]
    wrong: dict[tuple[str, str], float]

    @property
    def best(self) -> str:
        """The model with the lowest mean loss of those that reached every row."""
        names = [name for name, cost in self.costs.items() if cost.rows == max(one.rows for one in self.costs.values())]
        return min(names, key=lambda name: _mean(self.stretches[name][self.loss], self.reports[name], self.loss))

    def measured(self, name: str) -> bool:
        """Return True for a model or a naive baseline whose losses can be compared."""
        return self.loss in self.stretches.get(name, {})

    def difference(self, first: str, second: str, loss: str = "", alpha: float | None = None) -> MeanInterval:
        """Return how much more the first model loses per row than the second, on the rows that both reached.

        The interval holds for all pairs of models together, at every moment, unless `alpha` is given for one pair. A
        naive baseline can be named, too, where it has the loss. Raises `ConfigError` for an unknown name or loss.
        """
        loss = loss or self.loss
        for name in (first, second):
            if loss not in self.stretches.get(name, {}):
                known = ", ".join(one for one, held in self.stretches.items() if loss in held)
                raise ConfigError(f"difference: got {name!r} and the loss {loss!r}; models with that loss: {known}")
        pairs = max(math.comb(len(self.reports), 2), 1)
        level = self.alpha / pairs if alpha is None else alpha
        one, other = self.stretches[first][loss], self.stretches[second][loss]
        return difference(one, other, level, _BOUNDS.get(loss, math.inf))

    def same_rows(self, first: str, second: str, loss: str = "") -> tuple[float, float]:
        """Return the mean losses of two models on the rows that both reached, to the last whole stretch of 16 rows.

        Without a whole stretch they are NaN.
        """
        loss = loss or self.loss
        (sums, weights), (others, heavy) = (self.stretches[name][loss].sums() for name in (first, second))
        n = min(len(sums), len(others))
        total, heavier = float(weights[:n].sum()), float(heavy[:n].sum())
        return (
            float(sums[:n].sum()) / total if total > 0 else math.nan,
            float(others[:n].sum()) / heavier if heavier > 0 else math.nan,
        )

    def mcnemar(self, first: str, second: str) -> McNemar:
        """Return McNemar's test of two classifiers, on the rows that both reached; see `paired.mcnemar`."""
        if (first, second) not in self.wrong:
            known = ", ".join(dict.fromkeys(name for name, _ in self.wrong)) or "none: there are no classes"
            raise ConfigError(f"mcnemar: got {first!r} and {second!r}; expected two different models of {known}")
        return of_counts(self.wrong[first, second], self.wrong[second, first])

    def to_dict(self) -> dict[str, Any]:
        """Return metrics, costs and differences to the best model as plain values, for JSON."""
        best, models = self.best, {}
        for name, one in self.reports.items():
            gap = self.difference(name, best) if name != best else None
            models[name] = {
                "metrics": one.metrics,
                "rows": self.costs[name].rows,
                "cpu_seconds": self.costs[name].seconds,
                "rows_per_cpu_second": one.events_per_second,
                "bytes": self.costs[name].bytes,
                "reads": self.costs[name].reads,
                "above_best": None if gap is None else gap._asdict(),
                "best_on_same_rows": _finite(self.same_rows(name, best)[1]),
            }
        shared = {"name": self.name, "rows": self.rows, "delay": self.delay, "loss": self.loss, "best": best}
        return shared | {"models": models, "baselines": self.baselines, "failures": self.failures}

    def plot(self, path: str | Path | None = None, metric: str = "") -> Figure:
        """Draw quality against speed, and curves over the stream; the figure is also written to `path`, if given."""
        from everlearn.evaluate import drawing

        return drawing.comparison(self, path, metric)

    def __repr__(self) -> str:
        return f"StreamComparison({self.name}: {self.rows:,} rows, {', '.join(self.reports)}; best {self.best})"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from everlearn.evaluate import drawing

        yield drawing.fitted(self, console, options)


def compare(
    models: Mapping[str, Mapping[str, Any] | Model | Maker] | Sequence[str],
    stream: Stream | Examples | Iterable[Examples],
    delay: int = 0,
    chunk: int = 2048,
    *,
    metric: str = "auto",
    window: int = 0,
    fading: float = 0.0,
    alpha: float = 0.05,
    seconds: float = math.inf,
    progress: Callable[[int], None] | None = None,
) -> StreamComparison:
    """Evaluate several models on one stream in one pass, each prequentially, with labels `delay` rows late.

    `models` maps names to specs, models, or functions that make an `Entrant`, or lists families and peers, such as
    "forest" and "river:arf" (`evaluate.peers`). A model that has used `seconds` of CPU time stops at the end of a
    chunk, and is compared on the rows it reached. `metric`, `window` and
    `fading` are those of `prequential`. Differences have intervals that hold for all pairs together with 1 - `alpha`.

    A model that is built here is built twice: the copy runs on a few rows first, so that no time to load is counted.
    Raises `ConfigError` for no model, or settings that do not fit; other libraries' failures are in `failures`.

    >>> from everlearn.stream.generated import generate
    >>> models = {"linear": {"family": "linear"}, "last": {"family": "last"}}
    >>> result = compare(models, generate("sea", rows=5000, noise=0.1))
    >>> result.best, result.difference("last", "linear").low > 0.1, result.mcnemar("last", "linear").p < 1e-9
    ('linear', True, True)
    """
    if not models or delay < 0 or chunk < 1 or not seconds > 0 or not 0.0 < alpha < 1.0:
        raise ConfigError(
            f"compare: got {len(models)} models, delay {delay}, chunk {chunk}, {seconds} seconds and alpha {alpha}; "
            "expected a model or more, a delay from 0, a chunk from 1, seconds above 0, and alpha between 0 and 1"
        )
    if not isinstance(models, Mapping):
        models = {name: peers.maker(name) if name in peers.PEERS else {"family": name} for name in models}
    source = _Pieces(stream, chunk)
    terms = Terms(schema.shape(stream.schema) if isinstance(stream, Stream) else {}, source.schema, delay)
    race = _Race(models, terms, metric_of(metric), window_of(window, fading), seconds)
    for piece in source.read(raw=race.raw):
        race.add(piece)
        if progress is not None:
            progress(race.rows)
    return race.result(stream, source, alpha)


class _Pieces:
    """The pieces of a stream, and what was rejected on the way."""

    def __init__(self, stream: Stream | Examples | Iterable[Examples], chunk: int) -> None:
        self._stream, self._chunk = stream, chunk
        self.schema = stream.schema if isinstance(stream, Stream) else None
        self.rejected, self.kept = 0, list[Rejected]()

    def read(self, raw: bool) -> Iterator[Piece]:
        """Yield the pieces, with raw records if they are wanted and the stream has them."""
        records: Iterator[Any] | None = None
        if raw and isinstance(self._stream, Stream):
            if not self._stream.replayable:
                raise ConfigError("compare: models of River read the stream a second time; give a file, not a pipe")
            records = self._stream.records(size=self._chunk)
        for examples, refused in pieces(self._stream, self._chunk, ""):
            self.rejected += len(refused)
            self.kept += refused[: KEPT - len(self.kept)]
            yield Piece(examples, next(records).features if records is not None else [])


class _Contestant:
    """One model in a comparison: its scores, its losses and its CPU time."""

    def __init__(self, entrant: Entrant, scored: Scored, task: Task) -> None:
        self.entrant, self.scored = entrant, scored
        self.seconds, self.rows, self.failed = 0.0, 0, ""
        self.stretches = {kind: LossSums() for kind in _KINDS[task]}

    def take(self, piece: Piece, index: int, known: Floats) -> Singles:
        """Step through a piece, and add what was predicted."""
        began = time.process_time()
        scores = self.entrant.step(piece)
        self.seconds += time.process_time() - began
        examples = piece.examples
        self.scored.add(examples, scores, index, known)
        for kind, held in self.stretches.items():
            held.add(metrics.losses(kind, scores, examples.y), examples.weight)
        self.rows += len(examples.y)
        return scores


class _Race:
    """All models of a comparison on their way through the stream."""

    def __init__(self, models: Mapping[str, Any], terms: Terms, metric: str, window: Any, seconds: float) -> None:
        self._terms, self._window, self._seconds = terms, window, seconds
        self._models, self.failures = models, dict[str, str]()
        entrants = {
            name: entrant for name, one in models.items() if (entrant := self._made(name, one, terms)) is not None
        }
        if not entrants:
            raise ConfigError(f"compare: no model could be made: {self.failures}")
        own = [one.model for one in entrants.values() if isinstance(one, ModelEntrant)]
        self.task, self._classes = task_of({**terms.shape, **(own[0].spec if own else {})})
        self._metric = metrics.checked(metric, self.task, None)
        self.runs = {name: _Contestant(one, self._scored(one), self.task) for name, one in entrants.items()}
        timed = moments.clock(terms.schema) if terms.schema is not None else None
        self._naive = NaiveScores(self.task, self._classes, terms.delay, None, timed)
        self._simple = {name: LossSums() for name in self._naive.measured if name != "seasonal"}
        self._wrong: dict[tuple[str, str], float] = {}
        self.raw = any(one.raw for one in entrants.values())
        self.rows = 0

    def _made(self, name: str, model: Any, terms: Terms) -> Entrant | None:
        """Return a new contestant; None for a foreign one that cannot be made."""
        if isinstance(model, Mapping):
            return ModelEntrant(build(model, terms.shape), terms.delay)
        if not callable(model):
            return ModelEntrant(model, terms.delay)
        try:
            return cast(Maker, model)(terms)
        except EverlearnError:
            raise
        except Exception as error:  # another library may raise anything
            self.failures[name] = f"{type(error).__name__}: {error}"
            return None

    def _scored(self, entrant: Entrant) -> Scored:
        own = own_loss(entrant.model) if isinstance(entrant, ModelEntrant) else None
        return Scored(self.task, self._classes, own, 0.01, "", self._window)

    def add(self, piece: Piece) -> None:
        """Let all models that have time left predict and learn a piece."""
        examples, index = piece.examples, self.rows
        known = self._naive.score(examples, index)
        for name, column in zip(self._simple, known.T, strict=False):
            away = np.abs(column - examples.y) if self.task == "regression" else (column != examples.y) * 1.0
            self._simple[name].add(away, examples.weight)
        if not index:
            self._warm(piece)
        missed = {}
        for name, run in self.runs.items():
            if run.failed or run.rows < index or run.seconds >= self._seconds:
                continue
            scores = self._taken(name, run, piece, index, known)
            if scores is not None and self.task != "regression":
                missed[name] = metrics.losses("error", scores, examples.y) > 0.5
        names = list(missed)
        for one in names:
            for other in names:
                if one != other:
                    only = float((missed[one] & ~missed[other]).sum())
                    self._wrong[one, other] = self._wrong.get((one, other), 0.0) + only
        self.rows += len(examples.y)

    def _taken(self, name: str, run: _Contestant, piece: Piece, index: int, known: Floats) -> Singles | None:
        try:
            return run.take(piece, index, known)
        except Exception as error:  # another library may raise anything
            if isinstance(run.entrant, ModelEntrant):
                raise
            run.failed = self.failures[name] = f"after {run.rows:,} rows: {type(error).__name__}: {error}"
            return None

    def _warm(self, piece: Piece) -> None:
        """Load kernels and modules with a copy of each model that can be built again."""
        few = Piece(cut(piece.examples, 0, min(_WARM, len(piece.examples.y))), piece.records[:_WARM])
        for name, model in self._models.items():
            if name in self.runs and (isinstance(model, Mapping) or callable(model)):
                copy = self._made(name, model, self._terms._replace(delay=min(self._terms.delay, _WARM // 2)))
                if copy is not None:
                    with suppress(Exception):  # the model itself will fail, too, and then it is reported
                        copy.step(few)

    def result(self, stream: Any, source: _Pieces, alpha: float) -> StreamComparison:
        """Return what was measured."""
        done = {name: run for name, run in self.runs.items() if run.rows}
        if not done:
            raise ConfigError(f"compare: no model scored a row; {self.failures or 'the stream has no usable row'}")
        best = next(iter(done.values()))
        headline = metrics.chosen(self._metric, self.task, best.scored.arrays, None)
        simple = {name: {_KINDS[self.task][0]: held} for name, held in self._simple.items()}
        title = Path(stream.name).name if isinstance(stream, Stream) else "stream"
        return StreamComparison(
            name=title,
            rows=self.rows,
            delay=self._terms.delay,
            reports={name: self._report(name, run, headline, source) for name, run in done.items()},
            costs={
                name: Cost(run.seconds, run.rows, run.entrant.size(), run.entrant.reads) for name, run in done.items()
            },
            failures=self.failures,
            baselines=self._naive.results()["baselines"],
            loss=LOSSES.get(headline, _KINDS[self.task][0]),
            alpha=alpha,
            stretches={name: run.stretches for name, run in done.items()} | simple,
            wrong=self._wrong,
        )

    def _report(self, name: str, run: _Contestant, headline: str, source: _Pieces) -> Report:
        return Report(
            name=name,
            task=self.task,
            delay=self._terms.delay,
            events=run.rows,
            events_per_second=run.rows / max(run.seconds, 1e-9),
            rejected=source.rejected,
            rejects=tuple(source.kept),
            metric=headline,
            **run.scored.results(),
            **self._naive.results(),
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(stretches: LossSums, found: Report, loss: str) -> float:
    """Return the mean loss of a model; by its report where there is no whole stretch."""
    sums, weights = stretches.sums()
    if len(sums):
        return float(sums.sum() / max(float(weights.sum()), 1e-300))
    name = next(metric for metric, kind in LOSSES.items() if kind == loss)
    value = found.metrics.get(name, math.inf)
    return 1.0 - value if loss == "error" else value
