"""A tree as a picture: boxes with tests and answers, coloured by the likeliest class, drawn by matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from everlearn.export.labels import DEPTH, ShownNode, labelled
from everlearn.model import Model
from everlearn.report import FAINT, INK, OTHERS
from everlearn.spec import Schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1.75, 1.25  # of the room of a leaf, and of a level, in inches
LETTERS = 24  # of a line in a box
PALE = 0.75  # of white in the colour of a box, at least


def picture(
    model: Model,
    schema: Schema,
    path: str | Path | None = None,
    tree: str | int = 0,
    depth: int = DEPTH,
    entries: Mapping[int, str] | None = None,
) -> Figure:
    """Draw a tree, and write it to `path` if given: the ending chooses SVG, PNG or PDF. Other arguments as `text`.

    The left branch is where the test in the box holds. The colour of a box is that of its likeliest class, stronger
    where it is more likely; for numbers, stronger where the number is higher. Raises as `text` does.
    """
    from matplotlib.figure import Figure

    nodes = labelled(model, schema, tree, depth, entries)
    places = _places(nodes)
    levels = max(node.depth for node in nodes) + 1
    across = max(x for x in places) + 1.0
    figure = Figure(figsize=(max(across * WIDTH, 4.0), levels * HEIGHT + 0.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(-0.5, across - 0.5)
    axes.set_ylim(-levels + 0.4, 0.6)
    axes.axis("off")
    for number, node in enumerate(nodes):
        x, y = places[number], -float(node.depth)
        for side, child in zip(("yes", "no"), node.below or (), strict=False):
            end = places[child], -float(nodes[child].depth)
            axes.plot([x, end[0]], [y, end[1]], color=FAINT, linewidth=1.2, zorder=1)
            axes.text(
                x + 0.5 * (end[0] - x), y + 0.5 * (end[1] - y), side, fontsize=8, color=INK, zorder=2, ha="center",
                va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
        box = {"boxstyle": "round,pad=0.4", "facecolor": _colour(node), "edgecolor": INK, "linewidth": 0.8}
        box["linestyle"] = "--" if node.leaves else "-"
        axes.text(x, y, _words(node), ha="center", va="center", fontsize=8, color=INK, zorder=3, bbox=box)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _places(nodes: list[ShownNode]) -> list[float]:
    """Return the x of each node: ends of branches stand side by side, others over the middle of their children."""
    places, ends = [0.0] * len(nodes), 0
    for number, node in enumerate(nodes):
        if node.below is None:
            places[number] = float(ends)
            ends += 1
    for number in range(len(nodes) - 1, -1, -1):
        below = nodes[number].below
        if below is not None:
            places[number] = 0.5 * (places[below[0]] + places[below[1]])
    return places


def _words(node: ShownNode) -> str:
    """Return the text of a box."""
    lines = textwrap.wrap(node.left, LETTERS) if node.below else []
    shares = node.answer.replace(": ", ":\N{NO-BREAK SPACE}")  # a class and its share stay on one line
    lines += textwrap.wrap(shares, LETTERS) if not node.below else []
    lines.append(f"weight {node.weight:,.0f}")
    if node.leaves:
        lines.append(f"{node.leaves:,} leaves below")
    return "\n".join(line.replace("$", r"\$") for line in lines)


def _colour(node: ShownNode) -> tuple[float, float, float]:
    """Return the colour of a box: that of its class, mixed with white."""
    text = OTHERS[max(node.top, 0) % len(OTHERS)].lstrip("#")
    white = 1.0 - (1.0 - PALE + 0.25) * max(node.share, 0.0) * 0.8
    red, green, blue = (white + (1.0 - white) * int(text[at : at + 2], 16) / 255.0 for at in (0, 2, 4))
    return red, green, blue
