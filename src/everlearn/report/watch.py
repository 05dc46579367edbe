"""The status of a loop as text, and a display of it that stays up to date."""

from __future__ import annotations

import importlib
import io
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.control import Control
from rich.segment import SegmentLines
from rich.text import Text

from everlearn.report.tables import by_segment, mixed, policies, table

SHOWN = {
    "drift": "drift",
    "promote": "promotion",
    "rollback": "rollback",
    "reject": "rejection",
    "challenger": "challenger",
}

_EVERY = 0.25  # seconds between two drawings
_RARELY = 10.0  # the same where a drawing cannot replace the previous one


def shown(now: Mapping[str, Any]) -> Group:
    """Return a status as text: the state of the loop, its metrics, the gate, and the last decisions."""
    lines: list[Any] = [_headline(now), Text(), table(now["metrics"])]
    if now.get("segments"):
        lines += [Text(), by_segment(now["segments"])]
    if now.get("bandit"):
        lines += [Text(), policies(now["bandit"])]
    compared = [row for row in now["gate"] if row["examples"]]
    if compared:
        lines.append(Text())
    for row in compared[:3]:
        best = max(row["log_e_better"], row["log_e_worse"], 0.0)
        leaning = "better" if row["log_e_better"] >= row["log_e_worse"] else "worse"
        share = min(1.0, best / row["threshold"]) if row["threshold"] > 0 else 0.0
        lines.append(
            Text(
                f"gate: {row['role']} {row['candidate'][:6]} against {row['reference_role']} {row['reference'][:6]}: "
                f"{row['difference']:+.4f} after {row['examples']:,} examples, "
                f"{share:.0%} of the evidence for {leaning}"
            )
        )
    lines += [mixed(role, members) for role, members in now.get("members", {}).items()]
    if now["marks"]:
        lines.append(Text())
    lines += [Text(f"{mark['at']:,}: {mark['kind']} {mark['version'][:6]}", style="dim") for mark in now["marks"][-3:]]
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
    """A display of a status that is updated in place: in a notebook's cell, or at the end of a terminal.

    Call it to draw again, at most four times a second; `Loop.run` accepts it as `progress`. Where a drawing cannot
    replace the previous one (a pipe, a file), a new one follows after ten seconds.
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
        """Draw again if it is time; the arguments are those of a `progress` and are ignored."""
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draw the current status."""
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
        lines = screen.render_lines(picture, pad=True)  # to the full width, to overwrite the old text
        if over:
            lines = lines[: screen.height - 1]
            lines += screen.render_lines("\n" * (self._height - len(lines) - 1)) if len(lines) < self._height else []
            if self._height:
                screen.control(Control.move_to_column(0, -self._height))
        screen.print(SegmentLines(lines, new_lines=True), end="")
        self._height = len(lines)

    def _ipython_display_(self) -> None:
        """Display nothing: IPython displays the last value of a cell, and this one is on screen already."""

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
    """Return True in a notebook's kernel, which can change its output."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
