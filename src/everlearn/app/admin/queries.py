"""Read-only queries over a home's log and blobs: pages of versions, decisions and events, and the events of one id.

`LogQueries` follows the log and keeps its versions, and the positions of its decisions, in memory. Everything else is
read from the log on demand, a bounded part at a time.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from everlearn.client.records import (
    ChainStatus,
    DecisionEntry,
    DecisionPage,
    EventPage,
    VersionEntry,
    VersionPage,
)
from everlearn.errors import InputError
from everlearn.events import KINDS, connect, scan, url_of
from everlearn.loop import details
from everlearn.records import Arrays, Born, Decision, Event, Payload, Version
from everlearn.spec import LogSpec
from everlearn.version.blobs import blobs_of
from everlearn.version.registry import Versions

_ABOUT_A_VERSION = (details.Started, details.Promoted, details.Challenged, details.Merged, details.Withdrawn)
_HERE = LogSpec()  # log and blobs are in the home
_STEP = 100  # events read at a time for a page
_SCANNED = 20_000  # events read for one page, at most
_ABOUT = 200  # events returned about one id, at most
_BYTES = 4 << 20  # approximate size of the events in a page, at most


class LogQueries:
    """Read-only queries over the log and the blobs in a home; any thread may call the methods."""

    def __init__(self, home: Path, log: LogSpec = _HERE) -> None:
        self._url = url_of(home, log.url, log.book)
        self._log = connect(self._url, tidy=False)
        self._blobs = blobs_of(home, log)
        self._versions = Versions(self._blobs)
        self._born: dict[str, tuple[int, float]] = {}
        self._version_positions = array("q")
        self._units: dict[str, Literal["row", "event"]] = {}  # of the positions of versions
        self._decisions = array("q")
        self._actions: Counter[str] = Counter()
        self._pauses: list[tuple[int, bool]] = []
        self._left_out: list[details.Without] = []
        self._seen = 0
        self._chain = ChainStatus(ok=True, head="", broken=None, checked=0)
        self._following = threading.Lock()
        self._checking = threading.Lock()
        self.follow()

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def end(self) -> int:
        """Return the position of the newest event."""
        return self._log.end()

    def lag(self, position: int) -> dict[str, Any]:
        """Return the number of events after a position, and the age of the oldest of them in seconds."""
        waiting = self._log.read(position, 1)
        if not waiting:
            return {"events": 0, "seconds": 0.0}
        return {"events": self._log.end() - position, "seconds": max(0.0, time.time() - waiting[0].time)}

    def time_of(self, position: int) -> float:
        """Return the time of the event at a position; minus infinity if there is none."""
        found = self._log.read(position - 1, 1)
        return found[0].time if found else -math.inf

    def follow(self) -> None:
        """Read the versions and decisions added to the log since the last call."""
        with self._following:
            for event in scan(self._log, self._seen, ("version", "decision")):
                self._note(event)
                self._seen = event.position

    def _note(self, event: Event) -> None:
        self._versions.note(event.payload)
        match event.payload:
            case Born(version=version) if version.id not in self._born:
                self._born[version.id] = event.position, event.time
                self._version_positions.append(event.position)
            case Decision(action=action) as decision:
                if action == "order" and (ask := decision.detail.get("ask")) in ("pause", "resume"):
                    self._pauses.append((event.position, ask == "pause"))
                if action == "rollback" and isinstance(made := details.read(decision), details.RolledBackWithout):
                    self._left_out.append(made.without)
                self._decisions.append(event.position)
                self._actions[action] += 1
                self._note_unit(decision)

    def _note_unit(self, decision: Decision) -> None:
        """Note whether the position of the version that a decision is about is a row of files or an event."""
        made = details.read(decision)
        if not isinstance(made, _ABOUT_A_VERSION) or made.learned is None or decision.version not in self._born:
            return
        position = self._versions.find(decision.version).position
        if position == made.learned.row:
            self._units[decision.version] = "row"
        elif position - made.learned.log in (0, 1):  # 1: it follows an order
            self._units[decision.version] = "event"

    # ---- versions ----------------------------------------------------------------------------------------------

    @property
    def versions(self) -> Versions:
        """The current versions and aliases."""
        self.follow()
        return self._versions

    def aliases(self) -> dict[str, str]:
        """Return the id of the version that each alias points to."""
        return {alias: id for id, names in self._versions.aliases().items() for alias in names}

    def versions_behind(self) -> int:
        """Return the number of versions newer than the champion."""
        champion = self._born.get(self._versions.alias("champion") or "")
        return len(self._version_positions) - bisect_right(self._version_positions, champion[0]) if champion else 0

    def arrays(self, version: Version) -> Arrays:
        """Return the arrays of a version; raises BlobError if they are no longer stored."""
        return self._blobs.get(version.blob)[0]

    def entry(self, version: Version) -> VersionEntry:
        """Return the record of a version."""
        return self._entry(version, self._blobs.hashes())

    def version_page(self, after: int, limit: int, newest: bool = False) -> VersionPage:
        """Return versions in the order in which they were stored, or reversed, starting after position `after`."""
        self.follow()
        positions, more = _page(self._version_positions, after, limit, newest)
        listed = {self._born[version.id][0]: version for version in self._versions.list()}
        kept = self._blobs.hashes()
        entries = [self._entry(listed[position], kept) for position in positions]
        following = positions[-1] if more else None
        return VersionPage(entries, self.aliases(), len(self._version_positions), following)

    def _entry(self, version: Version, kept: set[str]) -> VersionEntry:
        born, time = self._born[version.id]
        fields = msgspec.structs.asdict(version)
        aliases = self._versions.aliases().get(version.id, [])
        note = self._versions.note_of(version.id)
        return VersionEntry(
            **fields,
            aliases=aliases,
            kept=version.blob in kept,
            born=born,
            time=time,
            note=note,
            unit=self._units.get(version.id, ""),
        )

    # ---- decisions ---------------------------------------------------------------------------------------------

    def actions(self) -> dict[str, int]:
        """Return the number of decisions of each action."""
        return dict(self._actions)

    def decisions(self, after: int, limit: int, newest: bool = False) -> DecisionPage:
        """Return decisions in order, or reversed, with their seals, starting after position `after`."""
        self.follow()
        positions, more = _page(self._decisions, after, limit, newest)
        entries = self._read_decisions(positions)
        return DecisionPage(entries, len(self._decisions), self.chain(), positions[-1] if more else None)

    def around(self, first: int, last: int, margin: int = 3) -> list[DecisionEntry]:
        """Return the decisions between two positions, with a few before and after, at most 50."""
        low = max(0, bisect_left(self._decisions, first) - margin)
        high = bisect_right(self._decisions, last) + margin
        return self._read_decisions(list(self._decisions[low : min(high, low + 50)]))

    def chain(self) -> ChainStatus:
        """Return the result of the last check of the seals."""
        return self._chain

    def head(self) -> str:
        """Return the newest seal."""
        self.follow()
        newest = self._decisions[-1] if self._decisions else 0
        return self._log.seals(newest - 1, newest).get(newest, "")

    def check(self) -> ChainStatus:
        """Check all seals. This reads the whole log, on a separate connection."""
        with self._checking, closing(connect(self._url, tidy=False)) as log:
            end = log.end()
            found = log.verify()
        self._chain = ChainStatus(found.ok, found.head, found.bad, end)
        return self._chain

    def _read_decisions(self, positions: Sequence[int]) -> list[DecisionEntry]:
        """Return the decisions at these neighbouring positions, in this order, with their seals."""
        if not positions:
            return []
        low, high = min(positions) - 1, max(positions)
        found = {event.position: event for event in self._log.read(low, len(positions), kinds=("decision",))}
        seals = self._log.seals(low, high)
        return [_decision_entry(found[at], seals.get(at, "")) for at in positions if at in found]

    def pauses(self) -> list[tuple[int, bool]]:
        """Return the positions at which learning was paused (True) or went on (False), in order."""
        self.follow()
        return self._pauses

    def is_left_out(self, position: int, payload: Payload) -> bool:
        """Return True for a label that a rollback has left out."""
        return any(without.selects(position, payload) for without in self._left_out)

    # ---- events ------------------------------------------------------------------------------------------------

    def about(self, id: str) -> list[Event]:
        """Return the prediction or example of an id and the newest feedback for it, in order; at most 200 events."""
        found = self._log.about(id)
        return [*found[:1], *found[1:][-(_ABOUT - 1) :]]

    def events(self, after: int, limit: int, kinds: Sequence[str] = (), newest: bool = False) -> EventPage:
        """Return events after position `after`; with `newest`, those before it, newest first.

        A page reads at most 20,000 events and holds about 4 MiB. It then ends early, and `next` says where to continue.
        Raises InputError for an unknown kind.
        """
        if unknown := set(kinds) - set(KINDS.values()):
            raise InputError(f"kind: got {', '.join(sorted(unknown))}; expected one of {', '.join(KINDS.values())}")
        end = self._log.end()
        at = min(after or end + 1, end + 1) if newest else after
        page: list[Event] = []
        size = 0
        for event in islice(self._walk(at, end, newest), _SCANNED):
            at = event.position
            if not kinds or KINDS[type(event.payload)] in kinds:
                page.append(event)
                size += len(msgspec.json.encode(event.payload))
            if len(page) == limit or size >= _BYTES:
                break
        return EventPage(page, end, at if (at > 1 if newest else at < end) else None)

    def _walk(self, at: int, end: int, newest: bool) -> Iterator[Event]:
        """Yield the events after position `at` up to `end`, or those before it, newest first; read a few at a time."""
        while newest and at > 1:
            start = max(0, at - 1 - _STEP)
            yield from reversed([event for event in self._log.read(start, at - 1 - start) if event.position < at])
            at = start + 1
        while not newest and at < end:
            batch = self._log.read(at, _STEP)
            yield from batch
            at = batch[-1].position if batch else end


def _decision_entry(event: Event, seal: str) -> DecisionEntry:
    """Return the record of a decision."""
    fields = msgspec.structs.asdict(event.payload)
    return DecisionEntry(position=event.position, time=event.time, **fields, seal=seal)


def _page(positions: array[int], after: int, limit: int, newest: bool) -> tuple[list[int], bool]:
    """Return the positions of a page, and True if there are more after it."""
    if newest:
        stop = bisect_left(positions, after) if after else len(positions)
        start = max(0, stop - limit)
        return list(reversed(positions[start:stop])), start > 0
    start = bisect_right(positions, after)
    stop = start + limit
    return list(positions[start:stop]), stop < len(positions)
