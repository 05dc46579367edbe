"""Plots of continual learning: the accuracy matrix as a heat map, and accuracy over the stream.

Nothing here computes a measure; the data come as plain arrays. Accuracy is shown in one blue from white to dark, which
is readable with any colour vision and in print; numbers are written into the cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Floats, Ints
from everlearn.report import FAINT, INK, OTHERS, spread, trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "Blues"
DARK = 0.55  # accuracy above which the text of a cell is white
DECIMAL = 6  # largest number of tasks with a decimal in large maps
NUMBERED = 20  # largest number of tasks with numbers in the cells
LETTERS = 9  # longest task name that is not slanted
NAMED = 12  # largest number of tasks with names over the curves


class Trace(NamedTuple):
    """One model on one stream, for a plot.

    The tasks, the rows at which they end, the accuracy on the tasks seen by each of `points`, the accuracy matrix, and
    the accuracy of the predictions before learning: (x, smooth, raw), and its mean.
    """

    tasks: tuple[str, ...]
    borders: tuple[int, ...]
    points: Ints
    seen: Floats
    matrix: Floats
    online: tuple[NDArray[Any], Floats, Floats]
    mean: float


class Band(NamedTuple):
    """One method over several seeds: mean and deviation of the accuracy at `points`, and the mean matrix."""

    points: Ints
    mean: Floats
    spread: Floats
    matrix: Floats


def online(curve: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], Floats, Floats]:
    """Return the x, the smoothed and the raw accuracy of the curve of a prequential report."""
    return curve["x"], trend(curve["accuracy"], curve["weight"]), curve["accuracy"]


def outcome(trace: Trace, title: str, caption: str, path: str | Path | None = None) -> Figure:
    """Draw the accuracy matrix at the left and accuracy over the stream at the right, 1300 x 600 pixels."""
    figure = _figure(13, 6)
    square = figure.add_axes((0.085, 0.15, 0.33, 0.64))
    heat(square, trace.matrix, trace.tasks, large=True)
    axes = figure.add_axes((0.535, 0.15, 0.325, 0.64))
    x, smooth, raw = trace.online
    axes.plot(x, raw, color=OTHERS[0], linewidth=0.7, alpha=0.25, zorder=1)
    axes.plot(x, smooth, color=OTHERS[0], linewidth=2.0, zorder=3)
    marker = "o" if len(trace.points) <= 2 * len(trace.tasks) else ""
    axes.plot(
        trace.points, trace.seen, color=OTHERS[1], linewidth=2.0, marker=marker, markersize=5, zorder=4, clip_on=False
    )
    _frame(axes, trace.borders, trace.tasks)
    ends = [
        ("online", float(smooth[-1]), f"{trace.mean:.3f} on average", OTHERS[0]),
        ("tasks so far", float(trace.seen[-1]), f"{trace.seen[-1]:.3f} at the end", OTHERS[1]),
    ]
    _ends(axes, ends)
    figure.text(0.03, 0.945, title, fontsize=17, fontweight="bold", color=INK, va="center")
    figure.text(0.03, 0.885, caption, fontsize=11, color=FAINT, va="center")
    return _written(figure, path)


def methods(
    bands: Mapping[str, Band],
    borders: Sequence[int],
    tasks: Sequence[str],
    title: str,
    caption: str,
    path: str | Path | None = None,
) -> Figure:
    """Draw the accuracy on the tasks seen so far, with a band of a standard deviation; matrices below."""
    figure = _figure(12, 9.2)
    axes = figure.add_axes((0.08, 0.50, 0.70, 0.36))
    colours = [OTHERS[number % len(OTHERS)] for number in range(len(bands))]
    marks = "osD^vP"
    for (_, band), colour, mark in zip(bands.items(), colours, marks * len(bands), strict=False):
        low, high = band.mean - band.spread, band.mean + band.spread
        axes.fill_between(band.points, low, high, color=colour, alpha=0.18, linewidth=0)
        marker = mark if len(band.points) <= 2 * len(tasks) else ""
        axes.plot(
            band.points, band.mean, color=colour, linewidth=2.0, marker=marker, markersize=5, zorder=3, clip_on=False
        )
    _frame(axes, borders, tasks)
    axes.set_ylabel("accuracy on the tasks so far", color=FAINT)
    texts = [
        f"{band.mean[-1]:.3f} ± {band.spread[-1]:.3f}" if band.spread.any() else f"{band.mean[-1]:.3f}"
        for band in bands.values()
    ]
    _ends(
        axes,
        [
            (name, float(bands[name].mean[-1]), text, colour)
            for name, text, colour in zip(bands, texts, colours, strict=True)
        ],
    )
    width = min(0.30, 0.88 / max(1, len(bands)))
    for number, (name, band) in enumerate(bands.items()):
        square = figure.add_axes((0.085 + number * width, 0.07, width * 0.80, 0.30))
        heat(square, band.matrix, tasks, large=False, labelled=number == 0)
        square.set_title(name, color=colours[number], fontsize=12, fontweight="bold", pad=8)
    figure.text(0.03, 0.965, title, fontsize=17, fontweight="bold", color=INK, va="center")
    figure.text(0.03, 0.925, caption, fontsize=11, color=FAINT, va="center")
    return _written(figure, path)


def heat(axes: Axes, matrix: Floats, tasks: Sequence[str], *, large: bool, labelled: bool = True) -> None:
    """Draw the accuracy matrix, with a line between learned and later tasks."""
    rows, columns = matrix.shape
    axes.imshow(matrix, cmap=COLOURS, vmin=0, vmax=1, aspect="equal")
    size = (13 if large else 10) - 0.35 * columns
    if columns <= (NUMBERED if large else NUMBERED // 2):
        digits = 1 if large and columns <= DECIMAL else 0
        for row in range(rows):
            for column in range(columns):
                value = float(matrix[row, column])
                ahead = rows == columns and column > row
                colour = "white" if value > DARK else FAINT if ahead else INK
                text = f"{100 * value:.{digits}f}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=max(6.0, size))
    if rows == columns > 1:
        steps = np.arange(rows + 1) - 0.5
        x = np.repeat(steps, 2)[1:]
        y = np.repeat(steps, 2)[:-1]
        axes.plot(x, y, color=INK, linewidth=1.3, clip_on=False, solid_capstyle="butt")
    _name_cells(axes, rows, tasks, large, labelled)


def _name_cells(axes: Axes, rows: int, tasks: Sequence[str], large: bool, labelled: bool) -> None:
    columns = len(tasks)
    slanted = max(map(len, tasks)) > LETTERS or columns * max(map(len, tasks)) > (60 if large else 24)
    small = max(6.0, (11 if large else 8.5) - 0.15 * columns)
    axes.set_xticks(range(columns), tasks, fontsize=small)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(rows), tasks if rows == columns else ["at the end"] * rows, fontsize=small)
    axes.tick_params(length=0, colors=FAINT, labelleft=labelled)
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if labelled:
        axes.set_xlabel("accuracy (%) on", color=FAINT, fontsize=11 if large else 10)
    if labelled and rows == columns:
        axes.set_ylabel("after learning", color=FAINT, fontsize=11 if large else 10)


def _frame(axes: Axes, borders: Sequence[int], tasks: Sequence[str]) -> None:
    axes.set_xlim(0, borders[-1])
    axes.set_ylim(0, 1.015)
    for border in borders[:-1]:
        axes.axvline(border, color="#AAAAAA", linewidth=1.0, linestyle=(0, (3, 3)), zorder=0)
    if len(borders) == len(tasks) <= NAMED and sum(map(len, tasks)) <= 70:
        top = axes.get_xaxis_transform()
        for name, begin, end in zip(tasks, (0, *borders), borders, strict=False):
            axes.text((begin + end) / 2, 1.015, name, transform=top, color=FAINT, fontsize=9, ha="center", va="bottom")
    axes.set_xlabel("rows of the stream", color=FAINT)
    axes.set_ylabel("accuracy", color=FAINT)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=FAINT, length=3)


def _ends(axes: Axes, lines: Sequence[tuple[str, float, str, str]]) -> None:
    """Label each line, (name, end, text, colour), at its right end, and separate labels that would overlap."""
    ordered = sorted(lines, key=lambda line: line[1])
    heights = spread([value / axes.get_ylim()[1] for _, value, _, _ in ordered], 0.13)
    for (name, value, text, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            f"{name}\n{text}",
            xy=(1.0, value / axes.get_ylim()[1]),
            xytext=(1.04, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=11,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)
            },
        )  # fmt: skip


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _written(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure
