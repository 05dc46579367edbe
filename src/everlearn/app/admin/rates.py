"""What workers counted: added up, and since an earlier moment. Plain arithmetic on what `tally.read` gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from everlearn.app.admin.responses import Traffic
from everlearn.app.counters import quantile

Counts = Mapping[str, Any]

ROUTES = ("predict", "feedback", "learn")
CLASSES = ("2xx", "4xx", "5xx")


class Reading(NamedTuple):
    """What each worker had counted at one moment, in seconds of a clock that never goes back."""

    moment: float
    workers: Sequence[Counts]


def summed(workers: Iterable[Counts]) -> Counts:
    """What several counted together.

    >>> one = {"counts": {"rows": 2}, "seconds": {"learn": {"sum": 0.5, "buckets": [1, 0]}}}
    >>> summed([one, one])
    {'counts': {'rows': 4}, 'seconds': {'learn': {'sum': 1.0, 'buckets': [2, 0]}}}
    """
    counts: dict[str, int] = {}
    seconds: dict[str, dict[str, Any]] = {}
    for one in workers:
        for name, number in one["counts"].items():
            counts[name] = counts.get(name, 0) + number
        for route, taken in one["seconds"].items():
            held = seconds.setdefault(route, {"sum": 0.0, "buckets": [0] * len(taken["buckets"])})
            held["sum"] += taken["sum"]
            held["buckets"] = [a + b for a, b in zip(held["buckets"], taken["buckets"], strict=True)]
    return {"counts": counts, "seconds": seconds}


def rates(readings: Sequence[Reading], back: int, worker: int | None = None) -> Traffic:
    """Requests a second and percentiles over the last `back` readings, of all workers or of one.

    A count that went down began anew: then all of it is new.
    """
    if len(readings) < 2:
        return Traffic(0.0, None, None)
    now, then = readings[-1], readings[max(0, len(readings) - 1 - back)]
    pairs = list(zip(now.workers, then.workers, strict=True))
    buckets: list[int] = []
    for after, before in pairs if worker is None else pairs[worker : worker + 1]:
        for route, taken in after["seconds"].items():
            held = before["seconds"].get(route, {}).get("buckets") or [0] * len(taken["buckets"])
            fresh = sum(taken["buckets"]) < sum(held)
            added = taken["buckets"] if fresh else [a - b for a, b in zip(taken["buckets"], held, strict=True)]
            buckets = [a + b for a, b in zip(buckets, added, strict=True)] if buckets else added
    passed = now.moment - then.moment
    rate = sum(buckets) / passed if passed > 0 else 0.0
    return Traffic(round(rate, 2), quantile(buckets, 0.5), quantile(buckets, 0.99))


def requests(counts: Counts) -> int:
    """How many requests were answered, well or not."""
    return sum(answered(counts, route, kind) for route in ROUTES for kind in CLASSES)


def refused(counts: Counts) -> int:
    """How many requests were refused: the caller was wrong, or came too often."""
    return sum(answered(counts, route, "4xx") for route in ROUTES)


def faults(counts: Counts) -> int:
    """How many requests the server failed to answer."""
    return sum(answered(counts, route, "5xx") for route in ROUTES)


def answered(counts: Counts, route: str, kind: str) -> int:
    """How many requests on a route were answered with a class of status."""
    return int(counts["counts"].get(f"{route}_{kind}", 0))
