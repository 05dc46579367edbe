"""Two versions side by side: their specs, their metrics, and how far the arrays moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.app.admin.responses import ArrayChange, MetricPair, SpecChange
from everlearn.records import Arrays


def specs(a: Mapping[str, Any], b: Mapping[str, Any], within: str = "") -> list[SpecChange]:
    """The settings that differ, by dotted name; None stands for one that is not there.

    >>> specs({"family": "linear", "rate": {"by": 1}}, {"family": "linear", "rate": {"by": 2}})
    [SpecChange(name='rate.by', a=1, b=2)]
    """
    found: list[SpecChange] = []
    for name in sorted({*a, *b}):
        one, other = a.get(name), b.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += specs(one, other, f"{within}{name}.")
        elif one != other:
            found.append(SpecChange(f"{within}{name}", one, other))
    return found


def measured(a: Mapping[str, float], b: Mapping[str, float]) -> list[MetricPair]:
    """The metrics of both, in the order in which they are reported."""
    return [MetricPair(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]


def moved(a: Arrays, b: Arrays) -> list[ArrayChange]:
    """For each array the Euclidean norm in `a`, that of the difference, and the second over the first.

    The ratio is 0 where nothing moved, and None where it has no meaning: from a norm of 0, or where shapes differ.

    >>> moved({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
    [ArrayChange(name='w', shape=(2,), norm=5.0, moved=0.5, relative=0.1)]
    """
    found = []
    for name in sorted({*a, *b}):
        shape = (a[name] if name in a else b[name]).shape
        if name not in a or name not in b or a[name].shape != b[name].shape:
            found.append(ArrayChange(name, shape, None, None, None))
            continue
        before, after = a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            norm, change = _finite(np.linalg.norm(before)), _finite(np.linalg.norm(after - before))
        ratio = None if norm is None or change is None else 0.0 if not change else change / norm if norm else None
        found.append(ArrayChange(name, shape, norm, change, ratio))
    return found


def _finite(value: Any) -> float | None:
    """The number, if JSON can say it."""
    return float(value) if np.isfinite(value) else None
