"""Counters and latency histograms of a worker, in a mapped file: one process writes, any process reads without waiting.

A file holds named counters, and for each route a histogram of seconds. Names for which there is no room are counted
together. Each number is stored by one move of eight
bytes, so that a reader never sees half of a number. A new worker continues the counts of the one before it. While a
worker is being replaced, two processes count at one path: the second uses a file beside it, and `read` adds them up.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from everlearn.errors import ConfigError, LogError

# Upper ends of the buckets in seconds, five to a decade; one more bucket holds longer times.
BOUNDS: tuple[float, ...] = (
    *(round(first * 10.0**power, 10) for power in range(-6, -1) for first in (50, 80, 125, 200, 315)),
    *(5.0, 8.0, 10.0),
)

_MAGIC, _FORMAT = 0x594C4C41544C5645, 1
_COUNTERS, _ROUTES = 128, 8
_NAME = 56  # bytes
OTHER = "other"  # the counter of all further names, which has the last place
# In words of eight bytes: a front (magic, format, counters used, routes used), then the counters (name, number), then
# the routes (name, sum of seconds, a number for each bucket).
_FRONT, _COUNTER, _ROUTE = 8, _NAME // 8 + 1, _NAME // 8 + 2 + len(BOUNDS)
_BYTES = 8 * (_FRONT + _COUNTERS * _COUNTER + _ROUTES * _ROUTE)
_FILES = 4  # at one path


class Counters:
    """The counters of one process, for one thread. Raises LogError if too many processes count at one path.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     counters = Counters(Path(folder) / "worker-0.counters")
    ...     counters.add("answers", 3)
    ...     for microseconds in range(1000):
    ...         counters.observe("predict", microseconds * 1e-6)
    ...     counts = read(Path(folder) / "worker-0.counters")
    >>> counts["counts"], round(quantile(counts["seconds"]["predict"]["buckets"], 0.5), 4)
    ({'answers': 3}, 0.0005)
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _claimed(path)
        self._map = mmap.mmap(self._descriptor, _BYTES)
        self._words, self._sums = memoryview(self._map).cast("Q"), memoryview(self._map).cast("d")
        if tuple(self._words[:2]) != (_MAGIC, _FORMAT):
            self._map[:] = bytes(_BYTES)
            self._words[1], self._words[0] = _FORMAT, _MAGIC
        self._counters = dict(_places(self._map, self._words, 2))
        self._routes = dict(_places(self._map, self._words, 3))

    def add(self, name: str, n: int = 1) -> None:
        """Add `n` to the counter `name`; to the counter "other" if it is not a name of 1 to 56 bytes, or the 128th.

        It refuses nothing, because a request must not fail for its count.
        """
        self._words[self._counters.get(name) or self._place(name)] += n

    def observe(self, route: str, seconds: float) -> None:
        """Count one reply on a route, and the seconds it took. Raises ConfigError for the ninth route."""
        at = self._routes.get(route) or self._new(route, self._routes, 3)
        self._sums[at] += seconds
        self._words[at + 1 + bisect_left(BOUNDS, seconds)] += 1

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if not self._map.closed:
            self._words.release()
            self._sums.release()
            self._map.close()
            os.close(self._descriptor)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are counted, also by the process before this one."""
        return tuple(self._counters)

    def _place(self, name: str) -> int:
        """Return the place of a new counter; that of all further names if it has no room."""
        text = name.encode("utf-8", "replace")
        if name != OTHER and (self._words[2] >= _COUNTERS - 1 or not 0 < len(text) <= _NAME or b"\0" in text):
            return self._counters.get(OTHER) or self._new(OTHER, self._counters, 2)
        return self._new(name, self._counters, 2)

    def _new(self, name: str, places: dict[str, int], kind: int) -> int:
        """Return the place of a new name; the number of names is raised last, so that readers see whole names."""
        first, size, room = _TABLES[kind]
        text, used = name.encode("utf-8", "replace"), self._words[kind]
        if used >= room or not 0 < len(text) <= _NAME or b"\0" in text:
            raise ConfigError(
                f"cannot count {name!r}: expected a name of 1 to {_NAME} bytes, and at most {room} of them; there are "
                f"{used}: {', '.join(places)}"
            )
        begin = first + used * size
        self._map[8 * begin : 8 * begin + len(text)] = text
        places[name] = begin + _NAME // 8
        self._words[kind] = used + 1
        return places[name]


def read(path: Path) -> dict[str, Any]:
    """Return the counts at `path` so far, of this process or any other; empty if there is no file.

    `counts` maps a name to its number; `seconds` maps a route to its `count`, its `sum`, and `buckets`: how many
    replies took up to each of `BOUNDS`, and last how many took longer.
    """
    counts: dict[str, int] = {}
    seconds: dict[str, dict[str, Any]] = {}
    for part in _files(path):
        with suppress(FileNotFoundError), part.open("rb") as file:
            if os.fstat(file.fileno()).st_size == _BYTES:  # else it is being made now
                with mmap.mmap(file.fileno(), _BYTES, access=mmap.ACCESS_READ) as held:
                    _read_into(held, counts, seconds)
    return {"counts": counts, "seconds": seconds}


def quantile(buckets: Sequence[int], q: float) -> float | None:
    """Return the seconds that a share `q` of the replies stayed below, as far as buckets tell; None without replies.

    Replies are taken as evenly spread within a bucket. For the last seconds only, subtract the buckets of an earlier
    reading.

    >>> quantile([0, 10, 10] + [0] * 26, 0.5)
    8e-05
    """
    total = sum(buckets)
    if total <= 0:
        return None
    wanted, below = q * total, 0
    for bucket, number in enumerate(buckets[:-1]):
        if number and below + number >= wanted:
            low = BOUNDS[bucket - 1] if bucket else 0.0
            return low + (BOUNDS[bucket] - low) * (wanted - below) / number
        below += number
    return BOUNDS[-1]


_TABLES = {2: (_FRONT, _COUNTER, _COUNTERS), 3: (_FRONT + _COUNTERS * _COUNTER, _ROUTE, _ROUTES)}


def _places(data: Any, words: memoryview, kind: int) -> list[tuple[str, int]]:
    """Return the names in one table, and the word at which the numbers of each begin."""
    first, size, room = _TABLES[kind]
    begins = [first + i * size for i in range(min(words[kind], room))]
    names = [bytes(data[8 * begin : 8 * begin + _NAME]).rstrip(b"\0").decode("utf-8", "replace") for begin in begins]
    return [(name, begin + _NAME // 8) for name, begin in zip(names, begins, strict=True)]


def _read_into(held: mmap.mmap, counts: dict[str, int], seconds: dict[str, dict[str, Any]]) -> None:
    with memoryview(held).cast("Q") as words, memoryview(held).cast("d") as sums:
        if tuple(words[:2]) != (_MAGIC, _FORMAT):
            return
        for name, at in _places(held, words, 2):
            counts[name] = counts.get(name, 0) + words[at]
        for route, at in _places(held, words, 3):
            buckets = words[at + 1 : at + 2 + len(BOUNDS)].tolist()
            before = seconds.get(route, {"count": 0, "sum": 0.0, "buckets": [0] * len(buckets)})
            buckets = [sum(pair) for pair in zip(before["buckets"], buckets, strict=True)]
            seconds[route] = {"count": sum(buckets), "sum": before["sum"] + sums[at], "buckets": buckets}


def _files(path: Path) -> list[Path]:
    """Return the file at `path`, and the files beside it that further processes take."""
    return [path, *(path.with_name(f"{path.name}.{i}") for i in range(1, _FILES))]


def _claimed(path: Path) -> int:
    """Open the first file that no other process uses, at full length, so that a full disk cannot stop later writes."""
    for file in _files(path):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if os.fstat(descriptor).st_size != _BYTES:
            os.pwrite(descriptor, bytes(_BYTES), 0)
            os.ftruncate(descriptor, _BYTES)
        return descriptor
    raise LogError(f"{path} and {_FILES - 1} files beside it are all in use; end the processes that count there")
