"""Find the order in which a loop folded the events of its log and the rows of files that are themselves the log.

Rows leave no events. A checkpoint, and each decision beside it, names a position: of an event, of a row, or the sum of
both cursors. A loop writes one before it appends events after rows. So the row that was last before each event follows
from the numbers. Where two readings of a number fit, both orders are returned, and the replay of the log decides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from everlearn.errors import LogError
from everlearn.events import Log, scan
from everlearn.loop import details
from everlearn.loop.stretch import Cursor
from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Erased,
    Example,
    Label,
    Payload,
    Prediction,
    Preference,
    Reward,
)
from everlearn.serve.contestant import Progress

MOST = 32  # orders that are tried

_OUTSIDE = (Prediction, Example, Label, Reward, Preference)
_UNBOUNDED = 1 << 62


class Events(NamedTuple):
    """Fold the events of the log up to a position."""

    upto: int


class Rows(NamedTuple):
    """Fold the rows of files up to a row, counted over all files."""

    upto: int


class Start(NamedTuple):
    """Store the first version, unless an event or a row has done so; `cursor` is that of its position `at`."""

    at: int
    cursor: Cursor


class Unlearn(NamedTuple):
    """Do what the erasure at a position of the log did to the state."""

    position: int


Step = Events | Rows | Start | Unlearn


@dataclass(frozen=True, slots=True)
class Order:
    """A possible order: its steps, the rows of files in it, and the positions of what was written while rows came.

    `unfolded` are the stretches (first, last) of positions that no fold had reached when they were erased from.
    """

    steps: tuple[Step, ...]
    rows: int
    of_rows: frozenset[int]
    unfolded: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class _Block:
    """What one commit wrote: the position that it names, and what stands beside the checkpoint."""

    at: int
    written: list[int] = field(default_factory=list)  # positions of versions and decisions
    learned: Progress | None = None  # of a decision that says how far everything had come
    start: Decision | None = None
    erasure: int = 0  # its position; 0 if there is none


@dataclass(slots=True)
class _Gap:
    """The commits between events: those behind the event at `last`, the last one that was there then."""

    last: int
    blocks: list[_Block] = field(default_factory=list)


class _Reading(NamedTuple):
    """One reading of the commits of a gap: the row after each, and the cursor that each names."""

    rows: tuple[int, ...]
    cursors: tuple[Cursor, ...]


class Timeline:
    """The events and commits of a log, and the orders that fit them. Reads the whole log once."""

    def __init__(self, log: Log) -> None:
        self.erased = False
        self._starts: list[int] = []  # of runs of events that move the cursor
        self._ends: list[int] = []
        self._gaps = [_Gap(0)]
        self._end = 0
        written: list[tuple[int, Born | Decision]] = []
        for event in scan(log):
            self._end = event.position
            payload = event.payload
            if moves(payload):
                self._event(event.position)
                written = []
            elif isinstance(payload, Checkpoint):
                self._gaps[-1].blocks.append(_block(payload, written))
                written = []
            elif isinstance(payload, Born | Decision):
                written.append((event.position, payload))

    def _event(self, position: int) -> None:
        if self._ends and self._ends[-1] == position - 1:
            self._ends[-1] = position
        else:
            self._starts.append(position)
            self._ends.append(position)
        if self._gaps[-1].blocks:
            self._gaps.append(_Gap(position))
        self._gaps[-1].last = position

    def is_event(self, position: int) -> bool:
        """Return True for the position of an event that a fold takes."""
        run = bisect_right(self._starts, position) - 1
        return run >= 0 and position <= self._ends[run]

    def orders(self, rows: int | None = None, most: int = _UNBOUNDED) -> Iterator[Order]:
        """Yield the orders that fit, likely ones first, at most `MOST`.

        `rows` is the number of rows at the end, if it is known, and `most` the number that the files have; an order
        with more rows comes only where no other fits. Raises LogError for a log that no order fits.
        """
        seen: set[Order] = set()
        for limit, strict in ((most, True), (most, False), (_UNBOUNDED, True)):
            if limit != most and seen:
                return
            for path in islice(self._paths(rows, limit, strict), MOST):
                order = self._order(path)
                if order not in seen and len(seen) < MOST:
                    seen.add(order)
                    yield order
        if not seen:
            raise LogError(
                "the order of rows and events: got checkpoints that contradict each other"
                f"{f' and the {rows} rows of the last one' if rows is not None else ''}; expected one order. Put back "
                "the snapshots from a backup"
            )

    # ---- readings of the numbers -------------------------------------------------------------------------------

    def _paths(self, rows: int | None, most: int, strict: bool) -> Iterator[list[_Reading]]:
        """Yield one reading of each gap, so that they follow on one another."""
        layers: list[dict[int, list[tuple[int, _Reading]]]] = []
        reached = [0]
        for number, gap in enumerate(self._gaps):
            layer: dict[int, list[tuple[int, _Reading]]] = {}
            before = self._gaps[number - 1].last if number else 0
            for row in reached:
                for reading in self._readings(gap, before, row, most, strict):
                    layer.setdefault(reading.rows[-1] if reading.rows else row, []).append((row, reading))
            layers.append(layer)
            reached = list(layer)
        for row in reached:
            if rows is None or row == rows:
                yield from _back(layers, len(layers), row)

    def _readings(self, gap: _Gap, before: int, row: int, most: int, strict: bool) -> list[_Reading]:
        """Return the readings of the commits of a gap that begins after `row`; `before` is the last event before it."""
        found = [_Reading((), ())]
        for block in gap.blocks:
            longer: dict[tuple[int, tuple[Cursor, ...]], _Reading] = {}
            for reading in found:
                now = reading.rows[-1] if reading.rows else row
                for cursor, after in self._meanings(block, gap.last, before, now, strict):
                    if after <= most:
                        kept = cursor if block.written else "log"  # what a bare checkpoint names changes nothing
                        made = _Reading((*reading.rows, after), (*reading.cursors, kept))
                        longer.setdefault((after, made.cursors), made)
            found = list(longer.values())[:MOST]
        return found

    def _meanings(self, block: _Block, last: int, before: int, row: int, strict: bool) -> list[tuple[Cursor, int]]:
        """Return what the position of a commit can mean: the cursor that it is of, and the row after the commit."""
        at, learned = block.at, block.learned
        if learned is not None:
            fits = learned.row >= row and learned.log <= last
            cursor: Cursor = "row" if learned.row > row or (at == learned.row and at != learned.log) else "log"
            return [(cursor, learned.row)] if fits else []
        bare = not block.written or bool(block.start) or bool(block.erasure)
        event = at <= last and self.is_event(at)
        total = bare and (at == row or (row <= at <= row + last and self.is_event(at - row)))
        same: list[tuple[Cursor, int]] = [("log", row)] if event or total or block.erasure else []
        more: list[tuple[Cursor, int]] = [("log", at - last)] if bare and at - last > row else []
        more += [("row", at)] if at >= row else []
        if strict and same and ((event and at > before) or (total and at - row > before) or block.erasure):
            return same
        return [*more, *same] if strict and event and at <= before else [*same, *more]

    # ---- steps -------------------------------------------------------------------------------------------------

    def _order(self, path: list[_Reading]) -> Order:
        steps: list[Step] = []
        of_rows, unfolded = set[int](), list[tuple[int, int]]()
        row = came = folded = 0  # the row, the last event folded, and the one that the last checkpoint holds
        for number, (gap, reading) in enumerate(zip(self._gaps, path, strict=True)):
            before = self._gaps[number - 1].last if number else 0
            for block, after, cursor in zip(gap.blocks, reading.rows, reading.cursors, strict=True):
                if block.erasure:
                    steps += [*_ahead(came, folded), Unlearn(block.erasure)]
                    came = max(came, folded)
                    unfolded.append((came + 1, block.erasure))
                    continue
                folded = self._folded(block, gap.last, before, row, after)
                upto = min(gap.last, block.learned.log) if block.start and block.learned else folded
                steps += _ahead(came, upto)
                came = max(came, upto)
                if after > row:
                    steps += [*_ahead(came, gap.last), Rows(after)]
                    came, row = gap.last, after
                if block.start is not None:
                    steps.append(Start(block.start.at, cursor))
                if cursor == "row":
                    of_rows.update(block.written)
        steps += _ahead(came, self._end)
        return Order(tuple(_joined(steps)), row, frozenset(of_rows), tuple(unfolded))

    def _folded(self, block: _Block, last: int, before: int, row: int, after: int) -> int:
        """Return the last event that the state of a checkpoint holds; rows come when all events are folded."""
        at = block.at
        if after > row:
            return last
        if self.is_event(at) and at <= last and (at > before or not self.is_event(at - row)):
            return at
        return at - row if 0 <= at - row <= last else last


def moves(payload: Payload) -> bool:
    """Return True for an event that moves the cursor of a fold: one from outside, an order, or other settings."""
    match payload:
        case Erased(was=was):
            return was != "rejected"
        case Decision(action="order"):
            return True
        case Decision(action="config", detail=detail):
            return "spec" in detail or "warm_rows" in detail
        case Decision(by="user", alias="champion", detail=detail):
            return "order" not in detail
    return isinstance(payload, _OUTSIDE)


def _block(made: Checkpoint, written: list[tuple[int, Born | Decision]]) -> _Block:
    block = _Block(made.at, [position for position, _ in written])
    for position, payload in written:
        if not isinstance(payload, Decision):
            continue
        if payload.action == "erase":
            block.erasure = position
        if payload.action == "start":
            block.start = block.start or payload
        if payload.action in ("start", "challenger") and "merge" not in payload.detail:
            block.learned = details.progress(payload).get(payload.version, block.learned)
    return block


def _back(layers: list[dict[int, list[tuple[int, _Reading]]]], upto: int, row: int) -> Iterator[list[_Reading]]:
    """Yield the paths through the first layers to a row."""
    stack: list[tuple[int, int, list[_Reading]]] = [(upto, row, [])]
    while stack:
        number, at, later = stack.pop()
        if not number:
            yield later[::-1]
            continue
        stack += [(number - 1, earlier, [*later, reading]) for earlier, reading in reversed(layers[number - 1][at])]


def _ahead(came: int, upto: int) -> list[Step]:
    return [Events(upto)] if upto > came else []


def _joined(steps: list[Step]) -> Iterator[Step]:
    """Join steps with the next one, where that is of the same kind."""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if not (isinstance(step, Events | Rows) and type(following) is type(step)):
            yield step
