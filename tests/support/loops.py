"""A small loop with much going on, the stream that it learns, and its state as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.loop.loop import Loop
from everlearn.spec import DriftSpec, GateSpec, ReplaySpec, Schema, Spec

FIELDS = {"a": "numeric", "b": "numeric", "c": "categorical"}


def table(rows: int) -> dict[str, Any]:
    """A stream whose rule turns round twice, so that there is something to promote."""
    draw = np.random.default_rng(7)
    a, b = draw.normal(size=(2, rows))
    c = draw.integers(0, 5, rows)
    sign = np.where((np.arange(rows) * 3 // rows) % 2, -1.0, 1.0)
    label = (sign * (a + 0.5 * b) + 0.2 * (c - 2) + 0.3 * draw.normal(size=rows)) > 0
    return {"a": a, "b": b, "c": [f"c{value}" for value in c], "label": label.astype(int)}


def spec(**changes: Any) -> Spec:
    schema = Schema(label="label", task="binary", classes=(0, 1), fields=FIELDS, bits=10)
    settings: dict[str, Any] = {
        "schema": schema,
        "model": {"family": "linear"},
        "mode": "gated",  # the mode in which more can happen
        "tick": 20,
        "checkpoint": 300,
        "gate": GateSpec(minimum=100),
        "drift": DriftSpec(grace_period=200),
        "replay": ReplaySpec(kind="reservoir", bytes=20_000, width=4),
    }
    return Spec(**(settings | changes))


def record(columns: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: columns[name][row] for name in FIELDS}


def wave(row: int) -> dict[str, Any]:
    """Return the features of any row, without a table."""
    return {"a": np.sin(row), "b": np.cos(3 * row), "c": f"c{row % 4}"}


def bytes_of(loop: Loop) -> dict[str, bytes]:
    arrays, _ = loop.fold.state()
    return {name: array.tobytes() for name, array in arrays.items()}
