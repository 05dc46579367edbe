"""What a run came to, as a table and as a picture, made from plain data.

Nothing here computes a metric or knows a model: `summary` reads the object that `run --json` prints, `picture` the
points of `everlearn.metrics.curve`.
"""

from __future__ import annotations

import importlib
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.control import Control
from rich.segment import SegmentLines
from rich.table import Table
from rich.text import Text

from everlearn.errors import InputError
from everlearn.records import Decision, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Mapping[str, NDArray[Any]]
Kind = Literal["drift", "promotion", "rollback", "rejection"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened after `index` labelled examples; `text` (a version's name, up to 16 letters)
    is shown where it fits."""

    index: int
    kind: Kind
    text: str = ""


class Style(NamedTuple):
    """How a line or a mark looks, and in which order lines are drawn."""

    colour: str
    shape: str
    width: float = 1.5
    order: int = 2


LOWER_IS_BETTER = frozenset({"log_loss", "brier", "mae", "mse", "rmse"})
NAMES = {
    "kappa_t": "kappa-T",
    "roc_auc": "ROC AUC",
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "rmse": "root mean squared error",
}
NOT_MEASURED = frozenset({"x", "count", "weight"})  # the keys of a curve that are no metrics

# The colours of Okabe and Ito (2008), which the colour-blind tell apart; line and symbol shapes differ as well.
LINES = {
    "champion": Style("#0072B2", "-", 2.4, 4),
    "challenger": Style("#E69F00", "-", 1.5, 3),
    "frozen": Style("#555555", "--", 1.8, 2),
}
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS: dict[Kind, Style] = {
    "drift": Style("#D55E00", "v"),
    "promotion": Style("#009E73", "^"),
    "rollback": Style("#CC79A7", "X"),
    "rejection": Style("#777777", "x"),
}
LEFT, WIDTH = 0.11, 0.71  # of the figure; the rest is for the names of marks and lines
LETTERS = 16  # a longer text is no name, and would lie across the picture
NAMED = 16  # promotions and rollbacks beyond this are symbols only
INK, FAINT = "#222222", "#666666"
TREND = 5  # stretches of the curve that a line averages over; the single stretches are drawn faintly behind it


def summary(result: Mapping[str, Any]) -> Group:
    """The report of a run as a rich table, the best of each metric in bold, with a line of counts below.

    `result` has `events`, `events_per_second`, `metrics` = {model: {metric: value}}, and counts (or lists) of
    `drifts`, `versions`, `promotions`, `rollbacks` and `rejected` rows; what it lacks is not shown.
    """
    return Group(table(result["metrics"]), Text(), counts(result))


def table(measured: Mapping[str, Mapping[str, float]]) -> Table:
    """Metrics by model, a column for each model that has any; where values differ the best is bold."""
    models = [name for name in measured if measured[name].get("examples", 0) > 0]
    grid = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    grid.add_column("metric")
    for name in models:
        grid.add_column(name, justify="right")
    for metric in dict.fromkeys(metric for name in models for metric in measured[name]):
        values = [measured[name].get(metric) for name in models]
        known = [value for value in values if value is not None]
        best = min(known) if metric in LOWER_IS_BETTER else max(known)
        choice = metric not in ("examples", "unscored") and len(known) > 1 and min(known) < max(known)
        cells = [Text(number(value), style="bold green" if choice and value == best else "") for value in values]
        grid.add_row(named(metric), *cells)
    return grid


def counts(result: Mapping[str, Any]) -> Text:
    """One line: how many events, how fast, and what happened on the way."""
    events, rate = _count(result["events"]), result.get("events_per_second", 0.0)
    line = Text(f"{events:,} events" + (f", {rate:,.0f}/s" if rate else ""))
    for key in ("drifts", "versions", "promotions", "rollbacks"):
        if key in result:
            number = _count(result[key])
            line.append(f" · {number:,} {key.removesuffix('s') if number == 1 else key}")
    rejected = _count(result.get("rejected", 0))
    if rejected:
        line.append(f" · {rejected:,} {'row' if rejected == 1 else 'rows'} rejected", style="bold yellow")
    return line


def marked(decisions: Iterable[Decision]) -> list[Mark]:
    """What is marked below a picture: drifts, promotions, rollbacks and rejections, but those of the loop's own."""
    kinds: dict[str, Kind] = {"drift": "drift", "promote": "promotion", "rollback": "rollback", "reject": "rejection"}
    return [
        Mark(int(one.detail.get("examples", 0)), kinds[one.action], one.version[:6])
        for one in decisions
        if one.action in kinds and one.by != "loop"
    ]


def picture(
    curves: Mapping[str, Curve],
    marks: Sequence[Mark] = (),
    path: str | Path | None = None,
    title: str = "",
    metric: str = "accuracy",
) -> Figure:
    """Draw one metric over the stream for each model, with what happened below, 1200 x 600 pixels.

    `curves` holds what `everlearn.metrics.curve` gives, by model: "champion", "challenger" and "frozen" have looks of
    their own. The bold line is the mean over the last 5 stretches of the curve, never over later ones; the faint line
    is each stretch alone. With `path` (.png, .svg, .pdf) the figure is written there too. Raises InputError if no
    curve has the metric.
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
    """Draw one model; return where its line ends."""
    smooth = trend(curve[metric], curve["weight"])
    axes.plot(curve["x"], curve[metric], color=style.colour, linewidth=0.7, alpha=0.2, zorder=1, scaley=False)
    axes.plot(curve["x"], smooth, color=style.colour, linestyle=style.shape, linewidth=style.width, zorder=style.order)
    return float(smooth[-1])


def trend(values: NDArray[Any], weight: NDArray[Any]) -> Floats:
    """The mean over each stretch and the 4 before it, each example counting by its weight.

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
    """Name each line at its right end, with its mean over the whole stream, moved apart where they would touch."""
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
            f"{name}\n{mean:.3f} {since}",
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
    """Heights in ascending order, moved as little as keeps neighbours `gap` apart, inside 0 and 1 if they fit."""
    result = list(heights)
    for place in range(1, len(result)):
        result[place] = max(result[place], result[place - 1] + gap)
    over = max(0.0, result[-1] - 1) if result else 0.0
    for place in reversed(range(len(result))):
        ceiling = result[place + 1] - gap if place + 1 < len(result) else result[place] - over
        result[place] = min(result[place], ceiling)
    return result


def _draw_marks(strip: Axes, axes: Axes, marks: Sequence[Mark], kinds: Sequence[Kind], end: int) -> None:
    """A row of symbols for each kind below the lines; promotions and rollbacks reach up into them."""
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
    """Lines up from promotions and rollbacks, with the names of those that do not run into the one before."""
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
    said = f"{name[0].upper()}{name[1:]} of answers given before their labels"
    return f"{said}, {better}; mean of the last {window:,} examples"


def named(metric: str) -> str:
    """A metric as people write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def number(value: float | None) -> str:
    """A metric's value: counts in full, the rest to 4 digits, a dash for what is not known."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _count(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


SHOWN = {
    "drift": "drift",
    "promote": "promotion",
    "rollback": "rollback",
    "reject": "rejection",
    "challenger": "challenger",
}


_EVERY = 0.25  # seconds between two drawings


_RARELY = 10.0  # the same where a drawing cannot replace the one before


def shown(now: Mapping[str, Any]) -> Group:
    """A status as a person reads it: where the loop stands, its metrics, the gate, and what happened last."""
    lines: list[Any] = [_headline(now), Text(), table(now["metrics"])]
    asked = [one for one in now["gate"] if one["examples"]]
    if asked:
        lines.append(Text())
    for one in asked[:3]:
        best = max(one["log_e_better"], one["log_e_worse"], 0.0)
        leaning = "better" if one["log_e_better"] >= one["log_e_worse"] else "worse"
        share = min(1.0, best / one["threshold"]) if one["threshold"] > 0 else 0.0
        lines.append(
            Text(
                f"gate: {one['role']} {one['candidate'][:6]} against {one['reference_role']} {one['reference'][:6]}: "
                f"{one['difference']:+.4f} after {one['examples']:,} examples, {share:.0%} of the proof of {leaning}"
            )
        )
    if now["marks"]:
        lines.append(Text())
    lines += [Text(f"{one['at']:,}: {one['kind']} {one['version'][:6]}", style="dim") for one in now["marks"][-3:]]
    return Group(*lines)


def _headline(now: Mapping[str, Any]) -> Text:
    line = Text(f"{now['label']} · {now['mode']} · ", style="bold")
    line.append(f"{now['examples']:,} labelled examples · {now['waiting']:,} waiting for feedback")
    if now["lag"]["events"]:
        line.append(f" · {now['lag']['events']:,} events behind ({now['lag']['seconds']:.1f} s)", style="bold yellow")
    state = now["drift"]["state"]
    if state != "stable":
        line.append(f" · {state}", style="bold red" if state == "drift" else "bold yellow")
    return line


class Watch:
    """A status that stays up to date where it was first shown: a notebook's cell, or the end of a terminal.

    Call it to draw again, at most four times a second; it can be handed to `Loop.run` as `progress`. Where a drawing
    cannot replace the one before (a pipe, a file), a new one follows after ten seconds.
    """

    def __init__(self, look: Callable[[], dict[str, Any]], console: Console | None = None) -> None:
        self._look = look
        self._console = console or Console()
        self._notebook = _notebook()
        self._cell: Any = None
        self._height = 0
        self._next = 0.0
        self.draw()

    def __call__(self, rows: int = 0, loop: object = None) -> None:
        """Draw again if it is time; the arguments are those of a `progress` and are not needed."""
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draw what is so now."""
        picture = shown(self._look())
        if self._notebook:
            self._draw_cell(picture)
        else:
            self._draw_lines(picture)
        apart = _EVERY if self._notebook or self._console.is_terminal else _RARELY
        self._next = time.monotonic() + apart

    def _draw_cell(self, picture: Group) -> None:
        display = importlib.import_module("IPython.display")
        cell = display.HTML(_html(picture))
        if self._cell is None:
            self._cell = display.display(cell, display_id=True)
        else:
            self._cell.update(cell)

    def _draw_lines(self, picture: Group) -> None:
        screen, over = self._console, self._console.is_terminal
        lines = screen.render_lines(picture, pad=True)  # to the full width, so that nothing of the old is left
        if over:
            lines = lines[: screen.height - 1]
            lines += screen.render_lines("\n" * (self._height - len(lines) - 1)) if len(lines) < self._height else []
            if self._height:
                screen.control(Control.move_to_column(0, -self._height))
        screen.print(SegmentLines(lines, new_lines=True), end="")
        self._height = len(lines)

    def _ipython_display_(self) -> None:
        """The last value of a cell is displayed once more: it is there already."""

    def __repr__(self) -> str:
        now = self._look()
        return (
            f"<watching {now['label']}: {now['examples']:,} labelled examples, {now['lag']['events']:,} events behind>"
        )


def _html(picture: Group) -> str:
    console = Console(record=True, file=io.StringIO(), width=110)
    console.print(picture)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')


def _notebook() -> bool:
    """Whether this runs in a notebook's kernel, which can change what it has displayed."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
