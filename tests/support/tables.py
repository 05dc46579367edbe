"""Data files for tests of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def table(rows: int) -> dict[str, Any]:
    """Return a stream whose rule is reversed twice, so that there is something to promote."""
    draw = np.random.default_rng(7)
    a, b = draw.normal(size=(2, rows))
    c = draw.integers(0, 5, rows)
    sign = np.where((np.arange(rows) * 3 // rows) % 2, -1.0, 1.0)
    label = (sign * (a + 0.5 * b) + 0.2 * (c - 2) + 0.3 * draw.normal(size=rows)) > 0
    return {"a": a, "b": b, "c": [f"c{value}" for value in c], "label": label.astype(int)}


def write_csv(path: Path, rows: int) -> None:
    columns = table(rows)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
