"""The records of a server of many loops: one loop in a list, and a page of the list."""

from __future__ import annotations

from msgspec import Struct


class LoopEntry(Struct, frozen=True):
    """One loop: if it is `resident` in memory, and its last known numbers.

    `position` is the last event folded, `used` the time of the last use in seconds since 1970, `value` the champion's
    headline `metric`, and `version` the champion. A loop that was never used has 0, None and "".
    """

    name: str
    resident: bool
    position: int
    used: float | None
    metric: str
    value: float | None
    version: str


class LoopPage(Struct, frozen=True):
    """A page of loops in the order of their names; `next` continues it.

    `total` is the number of loops that match, and `resident` the number of all loops in memory.
    """

    loops: list[LoopEntry]
    total: int
    resident: int
    next: str | None
