"""Compare two versions: their specs, their metrics, and the distance between their arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.client.records import ArrayChange, MetricPair, SpecChange
from everlearn.records import Arrays


def specs(a: Mapping[str, Any], b: Mapping[str, Any], within: str = "") -> list[SpecChange]:
    """Return the settings that differ, by dotted name; None stands for a missing one.

    >>> specs({"family": "linear", "rate": {"by": 1}}, {"family": "linear", "rate": {"by": 2}})
    [SpecChange(name='rate.by', a=1, b=2)]
    """
    found: list[SpecChange] = []
    for name in sorted({*a, *b}):
        first, second = a.get(name), b.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            found += specs(first, second, f"{within}{name}.")
        elif first != second:
            found.append(SpecChange(f"{within}{name}", first, second))
    return found


def metrics(a: Mapping[str, float], b: Mapping[str, float]) -> list[MetricPair]:
    """Return the metrics of both versions, in the order in which they are reported."""
    return [MetricPair(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]


def arrays(a: Arrays, b: Arrays) -> list[ArrayChange]:
    """Return the Euclidean norm of each array in `a`, the norm of its difference from `b`, and the ratio of the two.

    The ratio is 0 for an array that did not move, and None where it is undefined: for a norm of 0, and where the
    shapes differ.

    >>> arrays({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
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
    """Return the number, or None if JSON cannot hold it."""
    return float(value) if np.isfinite(value) else None
