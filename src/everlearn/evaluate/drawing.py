"""The picture of a comparison: quality against speed, and quality over the stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import report
from everlearn.errors import InputError
from everlearn.report import FAINT, INK, OTHERS, spread, trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from everlearn.evaluate.comparing import StreamComparison

NAIVE = "#999999"
SHAPES = "osD^vPX*h<>p"


def comparison(result: StreamComparison, path: str | Path | None = None, metric: str = "") -> Figure:
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
    colours = {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(reports)}
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


def _against_speed(axes: Axes, result: StreamComparison, metric: str, colours: Mapping[str, str]) -> None:
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
    for name, found in result.baselines.items():
        if metric in found:
            axes.axhline(found[metric], color=NAIVE, linewidth=1, linestyle=":", zorder=0)
            axes.annotate(
                name.replace("_", " "), (0.005, found[metric]), xycoords=("axes fraction", "data"), fontsize=8,
                color=NAIVE, va="bottom",
            )  # fmt: skip
    axes.margins(y=0.1)
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


def _over_stream(axes: Axes, result: StreamComparison, metric: str, colours: Mapping[str, str]) -> None:
    ends = []
    for number, (name, one) in enumerate(result.reports.items()):
        smooth = trend(one.curve[metric], one.curve["weight"])
        style = "-" if number < len(OTHERS) else "--"
        axes.plot(one.curve["x"], smooth, color=colours[name], linewidth=1.6, linestyle=style, zorder=3)
        ends.append((name, float(smooth[-1]), int(one.curve["x"][-1])))
    drawn = next(iter(result.reports.values())).baseline_curves
    for name, curve in drawn.items():
        if metric in curve and len(curve["x"]):
            axes.plot(curve["x"], trend(curve[metric], curve["weight"]), color=NAIVE, linewidth=1, linestyle=":")
            ends.append((name.replace("_", " "), float(trend(curve[metric], curve["weight"])[-1]), result.rows))
    axes.set_xlim(0, result.rows)
    axes.margins(y=0.08)
    _clip(axes, [one.curve for one in result.reports.values()], metric)
    ends.sort(key=lambda one: one[1])
    starts = _apart(axes, [value for _, value, _ in ends], 0.0)
    for (name, value, _), start, height in zip(
        ends, starts, _apart(axes, [one[1] for one in ends], 0.042), strict=True
    ):
        axes.annotate(
            f"{name}  {value:.3f}", (1.0, start), xytext=(1.04, height), fontsize=9,
            xycoords="axes fraction", textcoords="axes fraction", va="center",
            color=colours.get(name, FAINT), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours.get(name, NAIVE), "linewidth": 0.6, "alpha": 0.6},
        )  # fmt: skip
    _plain(axes, "labelled rows")


def _clip(axes: Axes, curves: list[Mapping[str, Any]], metric: str) -> None:
    """Keep the scale readable where one model is far off: limits from the middle 98 % of all lines."""
    values = np.concatenate([trend(curve[metric], curve["weight"]) for curve in curves])
    low, high = np.percentile(values, [1, 99])
    middle = max(float(high - low), 1e-6)
    axes.set_ylim(low - 0.15 * middle, high + 0.15 * middle)


def _plain(axes: Axes, words: str) -> None:
    axes.set_xlabel(words, color=FAINT)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
