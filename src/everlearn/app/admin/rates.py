"""Sums of the workers' counters, and request rates from two samples of them; arithmetic on `counters.read` only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from everlearn.app.counters import quantile
from everlearn.client.records import RequestRates

Counts = Mapping[str, Any]

ROUTES = ("predict", "feedback", "learn")
CLASSES = ("2xx", "4xx", "5xx")


class CounterSample(NamedTuple):
    """The counters of each worker at one moment, in seconds of a monotonic clock."""

    moment: float
    workers: Sequence[Counts]


def summed(workers: Iterable[Counts]) -> Counts:
    """Return the sums of several workers' counters.

    >>> worker = {"counts": {"rows": 2}, "seconds": {"learn": {"sum": 0.5, "buckets": [1, 0]}}}
    >>> summed([worker, worker])
    {'counts': {'rows': 4}, 'seconds': {'learn': {'sum': 1.0, 'buckets': [2, 0]}}}
    """
    counts: dict[str, int] = {}
    seconds: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, number in worker["counts"].items():
            counts[name] = counts.get(name, 0) + number
        for route, taken in worker["seconds"].items():
            held = seconds.setdefault(route, {"sum": 0.0, "buckets": [0] * len(taken["buckets"])})
            held["sum"] += taken["sum"]
            held["buckets"] = [a + b for a, b in zip(held["buckets"], taken["buckets"], strict=True)]
    return {"counts": counts, "seconds": seconds}


def rates(samples: Sequence[CounterSample], back: int, worker: int | None = None) -> RequestRates:
    """Return requests a second and percentiles over the last `back` samples, of all workers or of one.

    A counter that went down belongs to a restarted worker, and all of it counts.
    """
    if len(samples) < 2:
        return RequestRates(0.0, None, None)
    now, then = samples[-1], samples[max(0, len(samples) - 1 - back)]
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
    return RequestRates(round(rate, 2), quantile(buckets, 0.5), quantile(buckets, 0.99))


def requests(counts: Counts) -> int:
    """Return the number of requests that got a reply of any status."""
    return sum(answered(counts, route, kind) for route in ROUTES for kind in CLASSES)


def refused(counts: Counts) -> int:
    """Return the number of requests refused with a 4xx status."""
    return sum(answered(counts, route, "4xx") for route in ROUTES)


def faults(counts: Counts) -> int:
    """Return the number of requests that failed with a 5xx status."""
    return sum(answered(counts, route, "5xx") for route in ROUTES)


def answered(counts: Counts, route: str, kind: str) -> int:
    """Return the number of replies on a route with a class of status, for instance "2xx"."""
    return int(counts["counts"].get(f"{route}_{kind}", 0))
