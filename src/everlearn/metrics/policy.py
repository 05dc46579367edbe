"""The value of a policy from rows that another policy served, as fixed arrays."""

from __future__ import annotations

from everlearn.records import Arrays, Floats, Singles


def start() -> Arrays:
    """Return the sums of a policy that was not compared yet."""
    import numpy as np

    return {"sums": np.zeros(6)}


def add(
    arrays: Arrays,
    probability: Floats,
    value: Floats,
    forecast: Floats,
    propensity: Floats,
    reward: Floats,
    weight: Singles,
) -> None:
    """Add n rows in order."""
    for p, v, f, q, r, w in zip(probability, value, forecast, propensity, reward, weight, strict=True):
        if w > 0:
            k = p / q
            arrays["sums"] += [w, w * k * r, w * k, w * (v + k * (r - f)), w * (k * r) ** 2, 1]


def report(arrays: Arrays, rewards: tuple[float, float]) -> dict[str, float]:
    """Return the estimates."""
    w, ips, k, dr, sq, n = arrays["sums"].tolist()
    if not w:
        return {"value": 0.0, "low": rewards[0], "high": rewards[1], "snips": 0.0, "rows": 0}
    m = ips / w
    h = 3 * max(sq / w - m * m, 0) ** 0.5 / n**0.5 + 3 / n
    snips = ips / k if k else 0.0
    return {"value": dr / w, "low": m - h, "high": m + h, "ips": m, "snips": snips, "dr": dr / w, "rows": int(n)}
