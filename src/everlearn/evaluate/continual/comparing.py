"""Compare several methods on the same streams, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.table import Table
from rich.text import Text

from everlearn import report
from everlearn.errors import ConfigError
from everlearn.evaluate.continual import measures, plots
from everlearn.evaluate.continual.evaluation import ContinualReport, evaluate, seconds_per_row
from everlearn.evaluate.continual.streams import TaskStream
from everlearn.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Build = Callable[[TaskStream, int], Model]


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """The reports of each method, by its name, one for each seed."""

    outcomes: dict[str, tuple[ContinualReport, ...]]
    seeds: tuple[int, ...]

    @property
    def metrics(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The measures of each method as (mean, standard deviation over seeds; 0 for one seed).

        `seconds` is CPU time, `learned` the share of rows that there was time to learn.
        """
        result = {}
        for name, outcomes in self.outcomes.items():
            values = [
                {**outcome.metrics, "learned": outcome.learned / len(outcome.right), "seconds": outcome.seconds}
                for outcome in outcomes
            ]
            result[name] = {key: _spread([value[key] for value in values]) for key in values[0]}
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return seeds, measures and reports as plain values, for JSON."""
        return {
            "seeds": list(self.seeds),
            "metrics": {
                name: {key: {"mean": mean, "sd": sd} for key, (mean, sd) in values.items()}
                for name, values in self.metrics.items()
            },
            "outcomes": {name: [outcome.to_dict() for outcome in outcomes] for name, outcomes in self.outcomes.items()},
        }

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw each method's accuracy on the tasks seen so far, and its mean accuracy matrix.

        The figure is also written to `path`, if given.
        """
        first = next(iter(self.outcomes.values()))[0]
        bands = {}
        for name, outcomes in self.outcomes.items():
            seen = np.stack([outcome.seen_accuracy for outcome in outcomes])
            matrix = np.mean([outcome.matrix for outcome in outcomes], axis=0)
            deviation = seen.std(axis=0, ddof=1) if len(seen) > 1 else np.zeros(seen.shape[1])
            bands[name] = plots.Band(outcomes[0].points[1:], seen.mean(axis=0), deviation, matrix)
        return plots.methods(bands, first.borders, first.tasks, first.stream, self._line, path)

    def __repr__(self) -> str:
        means = {name: values["average_accuracy"] for name, values in self.metrics.items()}
        return f"Comparison({', '.join(f'{name} {mean:.3f} ± {sd:.3f}' for name, (mean, sd) in means.items())})"

    def __rich__(self) -> Table:
        names = list(self.outcomes)
        first = self.outcomes[names[0]][0]
        grid = Table(box=None, padding=(0, 3, 0, 0), header_style="bold", title=first.stream, caption=self._line)
        grid.title_justify = grid.caption_justify = "left"
        grid.add_column("measure")
        for name in names:
            grid.add_column(name, justify="right")
        for key, cells, best in self._rows():
            styles = ["bold green" if number in best else "" for number in range(len(names))]
            grid.add_row(report.named(key), *map(Text, cells, styles))
        return grid

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.outcomes)
        rows = []
        for key, cells, best in self._rows():
            shown = [f"<b>{cell}</b>" if number in best else cell for number, cell in enumerate(cells)]
            rows.append(f"<tr><td>{report.named(key)}</td>{''.join(f'<td>{cell}</td>' for cell in shown)}</tr>")
        return f"<table><caption>{escape(self._line)}</caption><tr><th></th>{head}</tr>{''.join(rows)}</table>"

    @property
    def _line(self) -> str:
        rows = len(next(iter(self.outcomes.values()))[0].right)
        seeds = f"mean ± standard deviation of {len(self.seeds)} seeds" if len(self.seeds) > 1 else "one seed"
        return f"{rows:,} rows · {seeds}"

    def _rows(self) -> list[tuple[str, list[str], set[int]]]:
        """Return for each measure its name, a cell for each method, and the methods with the best mean."""
        measured = list(self.metrics.values())
        result = []
        for key in measured[0]:
            means = [values[key][0] for values in measured]
            if key == "learned" and min(means) == 1:
                continue
            digits = 1 if key == "seconds" else 3
            repeated = len(self.seeds) > 1
            cells = [
                f"{mean:.{digits}f} ± {sd:.{digits}f}" if repeated else f"{mean:.{digits}f}"
                for mean, sd in (values[key] for values in measured)
            ]
            shown = [round(mean, digits) for mean in means]
            top = min(shown) if key in measures.LOWER_IS_BETTER or key == "seconds" else max(shown)
            differ = len(set(shown)) > 1
            result.append((key, cells, {number for number, mean in enumerate(shown) if differ and mean == top}))
        return result


def compare(
    methods: Mapping[str, Build],
    streams: Callable[[int], TaskStream],
    seeds: Iterable[int] = range(3),
    every: Literal["task"] | int | None = "task",
    *,
    consolidate: bool = False,
    budget: float | None = None,
) -> Comparison:
    """Evaluate each method on the streams of all seeds.

    `methods[name](stream, seed)` builds a model, `streams(seed)` a stream. With a `budget` of CPU seconds for a whole
    stream, methods are compared at equal compute: the cost of a row is measured once for each method
    (`seconds_per_row`), and a method that is too slow learns only the share of the rows that fits the budget. `every`
    and `consolidate` are those of `evaluate`. Raises `ConfigError` if there is no method or no seed, or the budget is
    not above 0.

    >>> from everlearn.evaluate.continual import split
    >>> from everlearn.model import build
    >>> random = np.random.default_rng(0)
    >>> y = random.integers(4, size=2000)
    >>> x = (3 * np.eye(4)[y] + random.normal(size=(2000, 4))).astype(np.float32)
    >>> def linear(stream, seed):
    ...     return build({"family": "linear"}, stream.shape)
    >>> result = compare({"linear": linear}, lambda seed: split((x, y), (x, y), seed=seed), seeds=[0, 1])
    >>> len(result.outcomes["linear"]), result.metrics["linear"]["average_accuracy"][0] > 0.4
    (2, True)
    """
    chosen = tuple(seeds)
    if not methods or not chosen or (budget is not None and not budget > 0):
        raise ConfigError(
            f"{len(methods)} methods, {len(chosen)} seeds and a budget of {budget}; expected at least one method and "
            "one seed, and a budget of CPU seconds above 0, or None"
        )
    outcomes: dict[str, list[ContinualReport]] = {name: [] for name in methods}
    costs: dict[str, float] = {}
    for seed in chosen:
        stream = streams(seed)
        for name, build in methods.items():
            if budget is not None and name not in costs:
                costs[name] = seconds_per_row(build(stream, seed), stream) * len(stream) / budget
            outcome = evaluate(
                build(stream, seed), stream, every, consolidate=consolidate, cost=costs.get(name, 1.0), name=name
            )
            outcomes[name].append(outcome)
    return Comparison({name: tuple(reports) for name, reports in outcomes.items()}, chosen)


def _spread(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
