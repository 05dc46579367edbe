"""Curves of metrics over the stream, drawn from the points of `everlearn.metrics.curve`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Decision, Floats
from everlearn.report.tables import LOWER_IS_BETTER, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Mapping[str, NDArray[Any]]
Kind = Literal["drift", "promotion", "rollback", "rejection"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark after `index` labelled examples; `text` (a version's name, up to 16 letters) is shown if it fits."""

    index: int
    kind: Kind
    text: str = ""


class Style(NamedTuple):
    """The look of a line or a mark, and the drawing order of lines."""

    colour: str
    shape: str
    width: float = 1.5
    order: int = 2


NOT_MEASURED = frozenset({"x", "count", "weight"})  # keys of a curve that are not metrics

# The colours of Okabe and Ito (2008), which are distinct in colour-blind vision; line and symbol shapes differ as well.
LINES = {
    "champion": Style("#0072B2", "-", 2.4, 4),
    "challenger": Style("#E69F00", "-", 1.5, 3),
    "frozen": Style("#555555", "--", 1.8, 2),
    "last_label": Style("#777777", ":", 1.5, 1),
    "majority": Style("#999999", "-.", 1.5, 1),
    "mean": Style("#999999", "-.", 1.5, 1),
    "seasonal": Style("#777777", "--", 1.5, 1),
}
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS: dict[Kind, Style] = {
    "drift": Style("#D55E00", "v"),
    "promotion": Style("#009E73", "^"),
    "rollback": Style("#CC79A7", "X"),
    "rejection": Style("#777777", "x"),
}
LEFT, WIDTH = 0.11, 0.71  # of the figure; the rest is for the names of marks and lines
LETTERS = 16  # longest text that is shown as a name
NAMED = 16  # most promotions and rollbacks with names; more are symbols only
INK, FAINT = "#222222", "#666666"
TREND = 5  # stretches of the curve in the average of a line; single stretches are drawn faintly behind it


def marked(decisions: Iterable[Decision]) -> list[Mark]:
    """Return the marks for drifts, promotions, rollbacks and rejections, without decisions by the loop itself."""
    kinds: dict[str, Kind] = {"drift": "drift", "promote": "promotion", "rollback": "rollback", "reject": "rejection"}
    return [
        Mark(int(decision.detail.get("examples", 0)), kinds[decision.action], decision.version[:6])
        for decision in decisions
        if decision.action in kinds and decision.by != "loop"
    ]


def picture(
    curves: Mapping[str, Curve],
    marks: Sequence[Mark] = (),
    path: str | Path | None = None,
    title: str = "",
    metric: str = "accuracy",
) -> Figure:
    """Draw one metric over the stream for each model, with marks below, 1200 x 600 pixels.

    `curves` holds curves of `everlearn.metrics.curve`, by model; champion, challenger and baselines have fixed looks.
    The bold line is the mean over the last 5 stretches of the curve, never over later ones; the faint line is each
    stretch alone. With `path` (.png, .svg, .pdf) the figure is also written there. Raises `InputError` if no curve has
    the metric.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {name: curve for name, curve in curves.items() if metric in curve and len(curve["x"])}
    if not drawn:
        offered = sorted({key for curve in curves.values() for key in curve} - NOT_MEASURED)
        raise InputError(f"no curve has a point of {metric!r}; the curves given hold {', '.join(offered) or 'nothing'}")
    kinds = [kind for kind in MARKS if any(mark.kind == kind for mark in marks)]
    strip = 0.035 * len(kinds)
    figure = Figure(figsize=(12, 6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((LEFT, 0.125 + strip, WIDTH, 0.705 - strip))
    styles = _styles(drawn)
    end = max(int(curve["x"][-1]) for curve in drawn.values())
    last = {name: _draw_line(axes, drawn[name], metric, styles[name]) for name in drawn}
    _frame(axes, metric, end)
    _label_lines(axes, drawn, last, metric, styles)
    bottom = axes
    if kinds:
        bottom = figure.add_axes((LEFT, 0.115, WIDTH, strip), sharex=axes)
        axes.tick_params(labelbottom=False)
        _draw_marks(bottom, axes, marks, kinds, end)
    bottom.set_xlabel("labelled examples", color=FAINT)
    figure.text(0.03, 0.945, title, fontsize=17, fontweight="bold", color=INK, va="center")
    figure.text(0.03, 0.885, _caption(drawn, metric), fontsize=11, color=FAINT, va="center")
    if path is not None:
        figure.savefig(path)
    return figure


def _styles(names: Mapping[str, Curve]) -> dict[str, Style]:
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    return {name: LINES[name] if name in LINES else Style(next(free), "-", 2.0, 3) for name in names}


def _draw_line(axes: Axes, curve: Curve, metric: str, style: Style) -> float:
    """Draw one model and return the end of its line."""
    smooth = trend(curve[metric], curve["weight"])
    axes.plot(curve["x"], curve[metric], color=style.colour, linewidth=0.7, alpha=0.2, zorder=1, scaley=False)
    axes.plot(curve["x"], smooth, color=style.colour, linestyle=style.shape, linewidth=style.width, zorder=style.order)
    return float(smooth[-1])


def trend(values: NDArray[Any], weight: NDArray[Any]) -> Floats:
    """Return the mean over each stretch and the 4 before it, weighted by the examples.

    >>> trend(np.array([1.0, 3.0]), np.array([1.0, 3.0])).tolist()
    [1.0, 2.5]
    """
    window = np.ones(TREND)
    sums = np.convolve(values * weight, window)[: len(values)]
    result: Floats = sums / np.convolve(weight, window)[: len(values)]
    return result


def _frame(axes: Axes, metric: str, end: int) -> None:
    axes.set_xlim(0, end)
    axes.margins(y=0.12)
    axes.autoscale_view(scalex=False)
    axes.set_ylabel(named(metric), color=FAINT)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=FAINT, length=3)


def _label_lines(
    axes: Axes, curves: Mapping[str, Curve], last: Mapping[str, float], metric: str, styles: Mapping[str, Style]
) -> None:
    """Label each line at its right end with its mean over the whole stream, and separate labels that would overlap."""
    low, high = axes.get_ylim()
    names = sorted(last, key=lambda name: last[name])
    ends = [(last[name] - low) / (high - low) for name in names]
    boldest = max(style.width for style in styles.values())
    begin = min(_begin(curve) for curve in curves.values())
    for name, end, height in zip(names, ends, spread(ends, 0.125), strict=True):
        curve, style = curves[name], styles[name]
        mean = float(np.average(curve[metric], weights=curve["weight"]))
        since = "on average" if _begin(curve) == begin else f"since {_begin(curve):,}"
        line = {"arrowstyle": "-", "color": style.colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            f"{name.replace('_', ' ')}\n{mean:.3f} {since}",
            xy=(1.0, end),
            xytext=(1.025, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=style.colour,
            fontweight="bold" if style.width == boldest else "normal",
            fontsize=11,
            annotation_clip=False,
            arrowprops=line | {"relpos": (0, 0.5)},
        )


def _begin(curve: Curve) -> int:
    return int(curve["x"][0] - curve["count"][0])


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights, moved as little as possible to keep neighbours `gap` apart within 0 to 1."""
    result = list(heights)
    for place in range(1, len(result)):
        result[place] = max(result[place], result[place - 1] + gap)
    over = max(0.0, result[-1] - 1) if result else 0.0
    for place in reversed(range(len(result))):
        ceiling = result[place + 1] - gap if place + 1 < len(result) else result[place] - over
        result[place] = min(result[place], ceiling)
    return result


def _draw_marks(strip: Axes, axes: Axes, marks: Sequence[Mark], kinds: Sequence[Kind], end: int) -> None:
    """Draw a row of symbols for each kind below the lines; promotions and rollbacks also get vertical lines."""
    strip.set_ylim(len(kinds) - 0.5, -0.5)
    for row, kind in enumerate(kinds):
        x, style = [mark.index for mark in marks if mark.kind == kind], MARKS[kind]
        strip.scatter(x, [row] * len(x), marker=style.shape, color=style.colour, s=34, linewidths=1.4, clip_on=False)
    moves = sorted((mark for mark in marks if mark.kind in ("promotion", "rollback")), key=lambda mark: mark.index)
    if len(moves) <= NAMED:
        _name_moves(axes, moves, end)
    strip.set_yticks(range(len(kinds)), [_plural(kind, marks) for kind in kinds])
    strip.tick_params(axis="y", length=0)
    strip.tick_params(axis="x", colors=FAINT, length=3)
    for row, label in enumerate(strip.get_yticklabels()):
        label.set_color(MARKS[kinds[row]].colour)
    strip.spines[["top", "right", "left"]].set_visible(False)
    strip.spines["bottom"].set_color("#BBBBBB")
    strip.grid(axis="y", color="#F0F0F0", linewidth=0.8)
    strip.set_axisbelow(True)


def _name_moves(axes: Axes, moves: Sequence[Mark], end: int) -> None:
    """Draw vertical lines for promotions and rollbacks, with names where they do not overlap."""
    free = 0.0
    for mark in moves:
        colour, top = MARKS[mark.kind].colour, axes.get_xaxis_transform()
        axes.vlines(mark.index, 0, 1, transform=top, color=colour, linewidth=1, alpha=0.4, zorder=0)
        if 0 < len(mark.text) <= LETTERS and mark.index >= free:
            free = mark.index + (len(mark.text) + 2) * 0.0085 * end
            axes.text(mark.index, 1.01, mark.text, transform=top, color=colour, fontsize=9, va="bottom", ha="center")


def _plural(kind: Kind, marks: Sequence[Mark]) -> str:
    number = sum(mark.kind == kind for mark in marks)
    return f"{number:,} {kind}" + ("" if number == 1 else "s")


def _caption(curves: Mapping[str, Curve], metric: str) -> str:
    window = TREND * max(int(curve["count"].max()) for curve in curves.values())
    better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
    name = named(metric)
    subject = f"{name[0].upper()}{name[1:]} of predictions made before their labels"
    return f"{subject}, {better}; mean of the last {window:,} examples"
