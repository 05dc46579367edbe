"""The time series of the dashboard: one point a second over the last ten minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

KEPT = 600  # points
CLASSES = 20  # of the replay memory that are drawn, at most
LINES = ("requests", "p50", "p99", "lag", "staleness", "metric")
EVIDENCE = ("difference", "low", "high", "log_e_better", "log_e_worse")

Line = deque[float | None]


class Series:
    """Time series of equal length; an unknown point is None.

    >>> series = Series()
    >>> series.add(1.0, {"requests": 20.0}, {"fraud": 3}, None)
    >>> shown = series.shown()
    >>> shown["requests"], shown["p50"], shown["replay"]
    ([20.0], [None], {'fraud': [3.0]})
    """

    def __init__(self) -> None:
        self._time: deque[float] = deque(maxlen=KEPT)
        self._lines = {name: _line() for name in LINES}
        self._replay: dict[str, Line] = {}
        self._evidence = {name: _line() for name in EVIDENCE}
        self._candidate = ""

    def add(
        self,
        time: float,
        point: Mapping[str, float | None],
        replay: Mapping[str, float],
        gate: Mapping[str, Any] | None,
    ) -> None:
        """Add one point: values by line, rows of the replay memory by class, and the evidence of the gate if any."""
        length = len(self._time)
        self._time.append(round(time, 3))
        for name, line in self._lines.items():
            line.append(_digits(point.get(name)))
        for name in list(replay)[:CLASSES]:
            if name not in self._replay and len(self._replay) < CLASSES:
                self._replay[name] = _line(length)
        for name, line in self._replay.items():
            line.append(_digits(replay.get(name)))
        candidate = gate["candidate"] if gate else ""
        if candidate != self._candidate:  # earlier evidence is about another candidate
            self._candidate = candidate
            self._evidence = {name: _line(length) for name in EVIDENCE}
        for name, line in self._evidence.items():
            line.append(_digits(gate.get(name)) if gate else None)

    def shown(self) -> dict[str, Any]:
        """Return all lines as lists with the same first point in time."""
        gate: dict[str, Any] = {name: list(line) for name, line in self._evidence.items()}
        return {
            "time": list(self._time),
            **{name: list(line) for name, line in self._lines.items()},
            "replay": {name: list(line) for name, line in self._replay.items()},
            "gate": {"candidate": self._candidate, **gate},
        }


def _line(length: int = 0) -> Line:
    return deque([None] * length, maxlen=KEPT)


def _digits(value: float | None) -> float | None:
    """Round to five digits, which halves the size of the status."""
    return None if value is None else float(f"{value:.5g}")
