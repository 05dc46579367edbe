"""The messages of a broker as an index follows them, and the rows of indexed events."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from everlearn.errors import EventsGone, LogError
from everlearn.events import Row
from everlearn.scale.broker import Broker, unpacked
from everlearn.scale.index import Cursor, LocalIndex, Numbered, Place, digest

PATIENCE = 30.0  # seconds to wait for a message that was acknowledged
BATCH = 1024  # messages read at a time
HELD = 32 << 20  # bytes of bodies that are kept, since what was indexed is mostly read next
_PAUSE = 0.005  # seconds between two reads of a broker whose replica is behind
_NEAR = 4  # messages that a range may have for each one wanted


class BrokerTail:
    """Extends an index by the messages of its broker; any thread may call the methods."""

    def __init__(self, broker: Broker, index: LocalIndex) -> None:
        self.broker, self.index = broker, index
        self._following = threading.Lock()
        self._held: OrderedDict[int, tuple[int, list[Row]]] = OrderedDict()  # sequence: bytes, rows
        self._bytes = 0
        self._holding = threading.Lock()

    def check_same(self) -> None:
        """Raise `LogError` if the index was made from other messages than those of the broker."""
        cursor = self.index.cursor()
        body = self.broker.get(cursor.sequence) if cursor.sequence else None
        if body is not None and digest(body) != cursor.digest:
            raise LogError(
                f"the log {self.broker.place}: message {cursor.sequence} is another one than {self.index.path} was "
                "made from. Name the stream that this loop began with, or start a new loop in a new folder"
            )

    def advance(self) -> bool:
        """Index the next messages; return False at the end of the log.

        Raises `LogError` if the broker no longer has the message after the last one indexed.
        """
        with self._following:
            sequence = self.index.cursor().sequence
            found = [self._decoded(*one) for one in self.broker.read(sequence, BATCH)]
            if not found:
                return False
            self.index.add(found, lambda cursor: self._check_next(cursor, found))
            for one in found:
                self._hold(one)
            return True

    def reach(self, sequence: int) -> None:
        """Index all messages up to a sequence, which was acknowledged."""
        until = time.monotonic() + PATIENCE
        while (came := self.index.cursor().sequence) < sequence:
            if self.advance():
                continue
            self._check_there(came)
            if time.monotonic() > until:
                raise LogError(
                    f"the log {self.broker.place}: message {came + 1} of {sequence} could not be read for "
                    f"{PATIENCE:.0f} seconds; check the servers of the broker. What was acknowledged is kept"
                )
            time.sleep(_PAUSE)

    def reach_end(self) -> None:
        """Index all messages that were acknowledged before this call.

        Raises `LogError` for a log that ends before the last message that was indexed.
        """
        until = time.monotonic() + PATIENCE
        while (end := self.broker.end()) < (came := self.index.cursor().sequence):
            if time.monotonic() > until:  # else a server that has just become the leader is not up to date
                raise LogError(
                    f"the log {self.broker.place} ends at message {end}, and {self.index.path} has read up to message "
                    f"{came}: the stream was replaced, or it lost messages. Restore it from a copy"
                )
            time.sleep(_PAUSE)
        self.reach(end)

    def take(self, sequence: int, body: bytes) -> None:
        """Index a message that this process wrote, and all before it."""
        own = self._decoded(sequence, body)
        with self._following:
            if self.index.cursor().sequence == sequence - 1:
                self.index.add([own], lambda cursor: self._check_next(cursor, [own]))
        self._hold(own)
        self.reach(sequence)

    def rows(self, places: Sequence[Place]) -> list[Row]:
        """Return the rows of indexed events. Raises `LogError` for one that the broker no longer has."""
        held: dict[int, list[Row]] = {}
        missing: list[int] = []
        for sequence in dict.fromkeys(place.sequence for place in places):
            with self._holding:
                found = self._held.get(sequence)
            if found is not None:
                held[sequence] = found[1]
            else:
                missing.append(sequence)
        missing.sort()
        while missing:
            held |= self._fetched(missing)
            missing = [sequence for sequence in missing if sequence not in held]
        return [held[place.sequence][place.place] for place in places]

    def _fetched(self, missing: Sequence[int]) -> dict[int, list[Row]]:
        """Return the rows of some missing messages, and of the first one at least; in one read where they are near."""
        first = missing[0]
        near = [*islice((one for one in missing if one - first < BATCH), BATCH)]
        span = near[-1] - first + 1
        found: list[tuple[int, bytes]] = []
        if 1 < span <= _NEAR * len(near):
            found = self.broker.read(first - 1, span)
        if not found or found[0][0] != first:
            if (body := self.broker.get(first)) is None:
                available = self.broker.first()
                raise EventsGone(
                    f"the log {self.broker.place}: message {first} is no longer there; the first available one is "
                    f"{available}. Keep messages for as long as labels may come, and models are rebuilt",
                    available,
                )
            found = [(first, body)]
        return {sequence: unpacked(sequence, body, self.broker.place).rows for sequence, body in found}

    def _decoded(self, sequence: int, body: bytes) -> Numbered:
        return Numbered(sequence, body, unpacked(sequence, body, self.broker.place))

    def _check_next(self, cursor: Cursor, found: Sequence[Numbered]) -> None:
        """Raise `LogError` if messages after the cursor are gone; called before they are indexed."""
        following = next(one.sequence for one in found if one.sequence > cursor.sequence)
        if following > cursor.sequence + 1:
            self._check_there(cursor.sequence)

    def _check_there(self, read: int) -> None:
        """Raise `LogError` if the broker no longer has the message after the last one read."""
        if (first := self.broker.first()) > read + 1:
            raise LogError(
                f"the log {self.broker.place}: messages {read + 1} to {first - 1} are gone, and were not read yet by "
                f"{self.index.path}; the first available one is {first}. Restore the messages, or copy the index of a "
                "machine that has read them. Let the broker keep messages longer"
            )

    def _hold(self, message: Numbered) -> None:
        """Keep the rows of a message for the next reads, and let go the oldest ones."""
        with self._holding:
            if message.sequence in self._held:
                return
            self._held[message.sequence] = len(message.body), message.contents.rows
            self._bytes += len(message.body)
            while self._bytes > HELD:
                _, (length, _) = self._held.popitem(last=False)
                self._bytes -= length
