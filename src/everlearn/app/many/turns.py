"""Share the time of one process among loops: round robin, one bounded piece of learning a turn.

A loop with a backlog gets as many turns as one with a single event, so it does not delay the others by more than a
piece. The order in which loops were used decides which of them leaves memory first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator


class Turns:
    """The loops that have work, in the order of their turns; each is there once.

    >>> turns = Turns()
    >>> for name in ("a", "b", "a"):
    ...     turns.add(name)
    >>> turns.next(), turns.next(), turns.next()
    ('a', 'b', None)
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, None] = OrderedDict()

    def add(self, name: str) -> None:
        """Give a loop a turn, behind those that wait, unless it waits already."""
        self._waiting.setdefault(name)

    def next(self) -> str | None:
        """Return the loop that has waited longest; None if none waits."""
        return self._waiting.popitem(last=False)[0] if self._waiting else None

    def drop(self, name: str) -> None:
        """Take a loop's turn away."""
        self._waiting.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return iter(self._waiting)


class Residents:
    """The bytes of the loops in memory, least recently used first, within bounds of bytes and of their number.

    >>> residents = Residents(most_bytes=100, most=9)
    >>> for name in ("a", "b", "c"):
    ...     residents.use(name, 40)
    >>> residents.use("a", 40)
    >>> residents.surplus(lambda name: True), residents.surplus(lambda name: name != "b")
    (['b'], ['c'])
    """

    def __init__(self, most_bytes: int, most: int) -> None:
        self._most_bytes, self._most = most_bytes, most
        self._bytes: OrderedDict[str, int] = OrderedDict()
        self.total = 0

    def use(self, name: str, size: int) -> None:
        """Note that a loop of so many bytes is used now."""
        self.drop(name)
        self._bytes[name] = size
        self.total += size

    def drop(self, name: str) -> None:
        """Forget a loop."""
        self.total -= self._bytes.pop(name, 0)

    def surplus(self, idle: Callable[[str], bool], more: int = 0, loops: int = 0) -> list[str]:
        """Return the idle loops that must go so that as many `loops` of `more` bytes fit; fewer if others are busy."""
        left, number, found = self.total + more, len(self._bytes) + loops, []
        for name, size in self._bytes.items():
            if left <= self._most_bytes and number <= self._most:
                break
            if idle(name):
                found.append(name)
                left, number = left - size, number - 1
        return found

    def fits(self, more: int = 0, loops: int = 0) -> bool:
        """Return True if as many `loops` of `more` bytes fit."""
        return self.total + more <= self._most_bytes and len(self._bytes) + loops <= self._most

    def __len__(self) -> int:
        return len(self._bytes)
