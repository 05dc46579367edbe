"""Metrics over sliding windows and with fading factors: every metric of a report, at points along the stream.

A window holds the last rows alone; with a fading factor a, a row that is k rows old counts a**k. Both are computed by
`everlearn.metrics` from the rows of the window and their weights, so that a metric has one definition (Gama, Sebastião
and Rodrigues 2013, "On evaluating stream learning algorithms").
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn import metrics
from everlearn.errors import ConfigError
from everlearn.model import prefixed, within
from everlearn.records import Arrays, Floats, Loss, Singles, Task

POINTS = 512  # at most; then every second one is dropped, and they come half as often
_TAIL = 1e-6  # share of the weight of a faded sum that may be left out
_HELD = "scores", "y", "weight", "known"  # of consecutive rows
_LONGEST = 10_000_000  # rows that a window may hold


class Window(NamedTuple):
    """A sliding window of `size` rows, or a fading factor below 1 (then `size` rows have all but a millionth of it).

    There is a point after each `every` rows.
    """

    size: int
    fading: float
    every: int


def window_of(size: int, fading: float) -> Window | None:
    """Return the window of `size` rows, or of a fading factor; None for neither.

    Raises `ConfigError` for both, and for values that do not fit.

    >>> window_of(0, 0.999).size
    13809
    """
    if size and fading:
        raise ConfigError(f"window: got {size} rows and a fading factor of {fading}; expected one of them")
    if size < 0 or size > _LONGEST or size == 1:
        raise ConfigError(f"window: got {size} rows; expected 2 to {_LONGEST:,}, or 0 for none")
    if size:
        return Window(size, 1.0, size)
    if not fading:
        return None
    if not 0.5 <= fading < 1.0:
        raise ConfigError(
            f"fading: got {fading!r}; expected a factor from 0.5 to below 1, such as 0.999, or 0 for none"
        )
    rows = math.ceil(math.log(_TAIL) / math.log(fading))
    if rows > _LONGEST:
        raise ConfigError(f"fading: got {fading!r}; expected a factor that forgets within {_LONGEST:,} rows")
    return Window(rows, fading, max(round(1.0 / (1.0 - fading)), 1))


class Recent:
    """The rows of a window, and the points of its curve so far."""

    def __init__(self, window: Window, task: Task, classes: int, own: Loss | None, share: float) -> None:
        self._window, self._every = window, window.every
        self._task: Task = task
        self._classes, self._own, self._share = classes, own, share
        self._held: list[tuple[Any, ...]] = []  # scores, y, weight and known labels of consecutive rows
        self._rows = 0
        self._points: list[tuple[int, dict[str, float]]] = []

    def add(self, scores: Singles, y: Floats, weight: Singles, index: int, known: Floats) -> None:
        """Add rows `index` and further; a point follows each `every` rows, wherever calls are cut."""
        start = 0
        while start < len(y):
            stop = min(len(y), start + self._every - (index + start) % self._every)
            part = slice(start, stop)
            self._held.append((scores[part].copy(), y[part], weight[part], known[part]))
            self._rows += stop - start
            if (index + stop) % self._every == 0:
                self._point(index + stop)
            start = stop

    def curve(self) -> dict[str, NDArray[Any]]:
        """Return `x`, int64 (points,), the rows at which points are, and each metric, float64 (points,), or NaN."""
        names = dict.fromkeys(name for _, values in self._points for name in values if name != "examples")
        curve: dict[str, NDArray[Any]] = {"x": np.array([x for x, _ in self._points], np.int64)}
        return curve | {
            name: np.array([values.get(name, np.nan) for _, values in self._points], np.float64) for name in names
        }

    def state(self) -> Arrays:
        """Return the rows of the window, and the points, as arrays."""
        held = {}
        if self._held:
            parts = zip(*self._held, strict=True)
            held = {name: np.concatenate(part) for name, part in zip(_HELD, parts, strict=True)}
        lengths = np.array([len(one[1]) for one in self._held], np.int64)
        return (
            prefixed("held/", held)
            | prefixed("points/", self.curve())
            | {"lengths": lengths, "every": np.array([self._every])}
        )

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`."""
        points, ends = within(arrays, "points/"), np.cumsum(arrays["lengths"])
        parts = [np.split(arrays[f"held/{name}"].copy(), ends[:-1]) for name in _HELD] if len(ends) else []
        self._held = list(zip(*parts, strict=True))
        self._rows, self._every = int(arrays["lengths"].sum()), int(arrays["every"][0])
        values = {name: line for name, line in points.items() if name != "x"}
        self._points = [
            (int(x), {name: float(line[at]) for name, line in values.items() if not math.isnan(line[at])})
            for at, x in enumerate(points["x"])
        ]

    def _point(self, x: int) -> None:
        size = self._window.size
        while self._rows - len(self._held[0][1]) >= size:
            self._rows -= len(self._held.pop(0)[1])
        scores, y, weight, known = (np.concatenate(parts)[-size:] for parts in zip(*self._held, strict=True))
        if self._window.fading < 1.0:
            ages = np.arange(len(y) - 1, -1, -1, dtype=np.float64)
            weight = (weight * self._window.fading**ages).astype(np.float32)
        arrays = metrics.start(self._task, self._classes, 2, own=self._own, share=self._share)
        metrics.update(arrays, self._task, scores, y, weight, 0, np.ascontiguousarray(known))
        found = metrics.report(arrays, self._task)
        self._points.append((x, {name: one for name, one in found.items() if not name.endswith("_lately")}))
        if len(self._points) > POINTS:
            self._every *= 2
            self._points = [point for point in self._points if point[0] % self._every == 0]
