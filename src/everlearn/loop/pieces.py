"""Cut labelled rows where decisions fall, and pass over erased events in the replay of a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from everlearn import model
from everlearn.learn.monitor import Monitor
from everlearn.loop.stretch import Cursor
from everlearn.loop.transitions import Transitions
from everlearn.records import Examples, Payload
from everlearn.serve.contestant import Progress
from everlearn.serve.isolation import FailureLog
from everlearn.serve.roster import Roster

_LABELS = ("example", "label", "reward", "preference")


def pieces(
    examples: Examples,
    cursor: Cursor,
    monitor: Monitor,
    roster: Roster,
    faults: FailureLog,
    transitions: Transitions,
    came: Mapping[Cursor, int],
) -> Iterator[Examples]:
    """Yield rows in pieces that are folded together: up to a decision, or one by one where a model may fail.

    `came` maps both cursors to where they are before the first row.
    """
    live_judge = monitor.limiter.judges and roster.serves_learner  # which must judge a row first
    for piece in monitor.pieces(examples, 1 if live_judge else len(examples.y)):
        at = piece.position
        if faults.within(cursor, int(at[0]), int(at[-1])):
            yield from (model.cut(piece, row, row + 1) for row in range(len(at)))
            continue
        start = 0
        if transitions.counts_erased:
            for row in range(len(at) - 1):
                if transitions.due(int(at[row]), cursor, came):
                    yield model.cut(piece, start, row + 1)
                    start = row + 1
        yield model.cut(piece, start, len(at)) if start else piece


def pass_over(was: str, monitor: Monitor, started: bool, transitions: Transitions, now: Progress) -> list[Payload]:
    """Count an erased event as the loop has counted it, in the replay of its log; return what was decided after it.

    An erased label counts as one that was scored, or learned in the warm start.
    """
    if not started:
        monitor.warmed += was == "example"
        return []
    counted = was in _LABELS
    monitor.clock["scored"] += counted
    if (counted and monitor.due()) or transitions.due(now.log, "log", {"log": now.log, "row": now.row}):
        return transitions.decide(now.log, now)
    return []
