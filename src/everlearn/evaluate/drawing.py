"""The table and the picture of a comparison: quality against speed, and quality over the stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from everlearn import report
from everlearn.errors import InputError
from everlearn.records import Floats
from everlearn.report import FAINT, INK, OTHERS, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from everlearn.evaluate.prequential import Report
    from everlearn.evaluate.scoring import Cost
    from everlearn.gate.interval import MeanInterval

NAIVE = "#999999"
CLEAR = 6  # models whose lines stand out: as many as there are colours
SHAPES = "osD^vPX*h<>p"
SHORT = {"mae": "MAE", "rmse": "RMSE", "skill_last": "skill, last", "skill_mean": "skill, mean", "r2": "R²"}
LOSS_NAMES = {"error": "error", "log_loss": "log loss", "absolute": "MAE", "squared": "MSE"}
COSTS = ("rows", "rows/s", "state")


class Compared(Protocol):
    """What a table and a picture show: a `StreamComparison`, which describes each part."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def delay(self) -> int: ...
    @property
    def reports(self) -> dict[str, Report]: ...
    @property
    def costs(self) -> dict[str, Cost]: ...
    @property
    def baselines(self) -> dict[str, dict[str, float]]: ...
    @property
    def loss(self) -> str: ...
    @property
    def best(self) -> str: ...
    def difference(self, first: str, second: str) -> MeanInterval: ...
    def measured(self, name: str) -> bool: ...


def comparison(result: Compared, path: str | Path | None = None, metric: str = "") -> Figure:
    """Draw a metric of each model against its rows per CPU second, and over the stream, 1400 x 640 pixels.

    `metric` is one that the curves hold; by default the headline metric or the nearest. With `path` (.png, .svg, .pdf)
    the figure is also written there. Raises `InputError` for a metric without a curve.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reports = result.reports
    first = next(iter(reports.values()))
    chosen = metric or report.drawable(first.metric, first.curve)
    if chosen not in first.curve or chosen not in first.metrics:
        known = ", ".join(name for name in first.curve if name in first.metrics)
        raise InputError(f"metric: got {chosen!r}; expected one with a curve: {known}")
    figure = Figure(figsize=(14, 6.4), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    colours = {name: OTHERS[place % len(OTHERS)] for place, (name, _) in enumerate(_ranked(result, chosen))}
    left, right = figure.add_axes((0.06, 0.12, 0.36, 0.68)), figure.add_axes((0.49, 0.12, 0.36, 0.68))
    _against_speed(left, result, chosen, colours)
    _over_stream(right, result, chosen, colours)
    late = f", labels {result.delay:,} rows late" if result.delay else ""
    better = "lower is better" if chosen in report.LOWER_IS_BETTER else "higher is better"
    word = report.named(chosen)
    caption = f"{word[0].upper()}{word[1:]} of predictions made before their labels, {better}; {result.rows:,} rows"
    figure.text(0.03, 0.945, f"{result.name}{late}", fontsize=17, fontweight="bold", color=INK, va="center")
    figure.text(0.03, 0.885, caption, fontsize=11, color=FAINT, va="center")
    if path is not None:
        figure.savefig(path)
    return figure


def _against_speed(axes: Axes, result: Compared, metric: str, colours: Mapping[str, str]) -> None:
    """Draw a symbol for each model; a hollow one did not reach all rows. Naive baselines are lines."""
    points = []
    for number, (name, one) in enumerate(result.reports.items()):
        rate, value = one.events_per_second, one.metrics[metric]
        whole = result.costs[name].rows == result.rows
        axes.scatter(
            [rate], [value], s=70, marker=SHAPES[number % len(SHAPES)], zorder=3, linewidths=1.6,
            edgecolors=colours[name], facecolors=colours[name] if whole else "white",
        )  # fmt: skip
        points.append((name, rate, value))
    axes.set_xscale("log")
    rates = [rate for _, rate, _ in points]
    axes.set_xlim(min(rates) / 2.0, max(rates) * 6.0)
    naive = sorted((found[metric], name) for name, found in result.baselines.items() if metric in found)
    for value, _ in naive:
        axes.axhline(value, color=NAIVE, linewidth=1, linestyle=":", zorder=0)
    axes.margins(y=0.1)
    heights = _apart(axes, [value for value, _ in naive], 0.032)
    for (_, name), height in zip(naive, heights, strict=True):
        words = name.replace("_", " ")
        axes.annotate(words, (0.005, height), xycoords="axes fraction", fontsize=8, color=NAIVE, va="bottom")
    _name_points(axes, points, colours)
    _plain(axes, "rows per CPU second (predict and learn)")


def _name_points(axes: Axes, points: list[tuple[str, float, float]], colours: Mapping[str, str]) -> None:
    """Write names right of the symbols, moved apart where symbols are near."""
    points = sorted(points, key=lambda one: one[2])
    for (name, rate, value), height in zip(points, _apart(axes, [one[2] for one in points], 0.04), strict=True):
        place = axes.transAxes.inverted().transform(axes.transData.transform((rate, value)))
        axes.annotate(
            name, tuple(place), xytext=(place[0] + 0.035, height), xycoords="axes fraction", fontsize=9,
            color=colours[name], va="center",
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.6, "alpha": 0.6},
        )  # fmt: skip


def _apart(axes: Axes, values: list[float], gap: float) -> list[float]:
    """Return heights for ascending values as fractions of the axes, at least `gap` apart."""
    low, high = axes.get_ylim()
    return spread([min(max((value - low) / (high - low), 0.0), 1.0) for value in values], gap)


def _over_stream(axes: Axes, result: Compared, metric: str, colours: Mapping[str, str]) -> None:
    """Draw the mean over the last twelfth of the stream at each point; only the first few models stand out."""
    ends, drawn = [], []
    for place, (name, one) in enumerate(_ranked(result, metric)):
        line, clear = _smooth(one.curve, metric), place < CLEAR
        colour = colours[name] if clear else NAIVE
        axes.plot(one.curve["x"], line, color=colour, linewidth=1.8 if clear else 0.9, zorder=3 if clear else 2)
        ends.append((name, float(line[-1]), colour))
        drawn.append(line[len(line) // 12 :] if len(line) > 24 else line)
    for name, curve in next(iter(result.reports.values())).baseline_curves.items():
        if metric in curve and len(curve["x"]):
            line = _smooth(curve, metric)
            axes.plot(curve["x"], line, color=NAIVE, linewidth=1, linestyle=":")
            ends.append((name.replace("_", " "), float(line[-1]), FAINT))
    axes.set_xlim(0, result.rows)
    _clip(axes, drawn)
    ends.sort(key=lambda one: one[1])
    values = [value for _, value, _ in ends]
    places = zip(ends, _apart(axes, values, 0.0), _apart(axes, values, 0.042), strict=True)
    for (name, value, colour), start, height in places:
        axes.annotate(
            f"{name}  {value:.3f}", (1.0, start), xytext=(1.04, height), fontsize=9,
            xycoords="axes fraction", textcoords="axes fraction", va="center", color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6},
        )  # fmt: skip
    _plain(axes, "labelled rows (mean of the last twelfth of them)")


def _ranked(result: Compared, metric: str) -> list[tuple[str, Report]]:
    """Return the reports, the best first; those that reached fewer rows come last."""
    sign = 1.0 if metric in report.LOWER_IS_BETTER else -1.0
    found = list(result.reports.items())
    return sorted(found, key=lambda one: (-result.costs[one[0]].rows, sign * one[1].metrics[metric]))


def _smooth(curve: Mapping[str, Any], metric: str) -> Floats:
    """Return the mean of a metric over the last twelfth of the points, weighted by the rows."""
    weight, window = curve["weight"], np.ones(max(len(curve["x"]) // 12, 1))
    sums = np.convolve(curve[metric] * weight, window)[: len(weight)]
    found: Floats = sums / np.convolve(weight, window)[: len(weight)]
    return found


def _clip(axes: Axes, lines: list[Floats]) -> None:
    """Keep the scale readable where one model is far off: limits from the middle 96 % of all points."""
    low, high = np.percentile(np.concatenate(lines), [2, 98])
    middle = max(float(high - low), 1e-6)
    axes.set_ylim(low - 0.15 * middle, high + 0.15 * middle)


def _plain(axes: Axes, words: str) -> None:
    axes.set_xlabel(words, color=FAINT)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")


def fitted(result: Compared, console: Console, options: ConsoleOptions) -> Table:
    """Return the table of a comparison with as many columns as fit into the width of the console."""
    for metrics, costs in ((4, 3), (3, 3), (2, 3), (2, 2)):
        grid = table(result, metrics, costs)
        if Measurement.get(console, options.update(width=1000), grid).maximum <= options.max_width:
            return grid
    return table(result, 1, 1)


def table(result: Compared, most: int = 4, spent: int = 3) -> Table:
    """Return a comparison as a rich table, best first, the best of each metric bold: `most` metrics, `spent` costs."""
    regression = next(iter(result.reports.values())).task == "regression"
    shown = ["mae", "rmse", "r2", "skill_last"] if regression else ["accuracy", "log_loss", "kappa_t", "kappa_m"]
    shown, costs = shown[:most], COSTS[:spent]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", *(SHORT.get(metric, report.named(metric)) for metric in shown), *costs):
        grid.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    grid.add_column(f"{LOSS_NAMES[result.loss]} above the best", justify="right", no_wrap=True)
    best = result.best
    values = {metric: [one.metrics.get(metric) for one in result.reports.values()] for metric in shown}
    order = sorted(result.reports, key=lambda name: (-result.costs[name].rows, _gap(result, name, best)))
    for name in order:
        cost = result.costs[name]
        cells = [_cell(result.reports[name].metrics.get(metric), values[metric], metric) for metric in shown]
        part = Text(f"{cost.rows:,}", "" if cost.rows == result.rows else "yellow")
        paid = (part, _scaled(result.reports[name].events_per_second, ""), _scaled(cost.bytes, "B"))[: len(costs)]
        grid.add_row(name, *cells, *paid, _above(result, name, best))
    grid.add_section()
    for name, found in result.baselines.items():
        cells = [Text(report.number(found.get(metric))) for metric in shown]
        gap = _above(result, name, best) if result.measured(name) else Text("")
        grid.add_row(name.replace("_", " "), *cells, *("" for _ in costs), gap, style="dim")
    return grid


def _cell(value: float | None, values: list[float | None], metric: str) -> Text:
    known = [one for one in values if one is not None]
    top = (min if metric in report.LOWER_IS_BETTER else max)(known, default=None)
    return Text(report.number(value), "bold green" if value is not None and value == top and len(known) > 1 else "")


def _gap(result: Compared, name: str, best: str) -> float:
    return 0.0 if name == best else result.difference(name, best).mean


def _above(result: Compared, name: str, best: str) -> Text:
    """Return the interval of a model's loss above that of the best one: red where it is shown worse."""
    if name == best:
        return Text("best", "bold green")
    gap = result.difference(name, best)
    if gap.low is None or gap.high is None:
        return Text(f"{gap.mean:+.4f}, no interval", "dim")
    return Text(f"{gap.low:+.4f} to {gap.high:+.4f}", "red" if gap.low > 0 else "green" if gap.high < 0 else "")


def _scaled(value: float, unit: str) -> str:
    """Return a number in three figures with k, M or G.

    >>> _scaled(3_207_815, ""), _scaled(950, "B")
    ('3.21M', '950B')
    """
    for sign, power in (("G", 9), ("M", 6), ("k", 3)):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:#.3g}".rstrip(".") + sign + unit
    return f"{value:.0f}{unit}"
