"""Room for early feedback: what is accepted is never dropped, and no source takes the room of the others."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import NoRoom
from everlearn.feedback.early_room import UNKNOWN, EarlyRoom, EarlyUse, FoldedUse, PublishedUse, publish, use
from everlearn.feedback.pending import EARLY_SHARE, Earlier, Early
from everlearn.records import Label
from everlearn.spec import FeedbackSpec

ONE = Earlier(0, 0.0, Label("id-000", 1, source="s0")).nbytes
SPEC = FeedbackSpec(early=1e9, bytes=40 * ONE * EARLY_SHARE)


def label(number: int, source: str) -> Label:
    return Label(f"id-{number:03}", 1, source=source)


def taken(room: EarlyRoom, source: str, first: int = 0) -> int:
    """Send as much as the room takes from one source; return how much that was."""
    for number in range(first, first + 1000):
        try:
            room.take(label(number, source))
        except NoRoom:
            return number - first
    raise AssertionError("there was no bound")


def test_n_senders_have_a_share_each_and_leave_room_for_another() -> None:
    room = EarlyRoom(SPEC, EarlyUse, clock=lambda: 0.0)
    assert taken(room, "s0") == 20  # half of 40
    assert taken(room, "s0/with/another/name") == 0
    assert taken(room, "s1") == 10  # half of the rest
    assert taken(room, "s2") == 5
    assert room.take(label(0, "s3"))


@pytest.mark.parametrize("processes", [1, 3])
def test_what_several_processes_accept_in_any_order_is_never_dropped(processes: int) -> None:
    """Processes see an old use, events come into the log late and in any order, and predictions come now and then."""
    draw, early, log = np.random.default_rng(processes), Early(SPEC), list[Label]()
    shown = [EarlyUse()]
    rooms = [EarlyRoom(SPEC, lambda: shown[0], processes, clock=lambda: 0.0) for _ in range(processes)]
    underway: list[tuple[Label, object]] = []
    folded = accepted = refused = 0
    for number in range(6000):
        room, given = rooms[draw.integers(processes)], label(number, f"s{draw.integers(4)}")
        try:
            underway.append((given, room.take(given)))
            accepted += 1
        except NoRoom:
            refused += 1
        while underway and draw.random() < 0.6:
            given, ticket = underway.pop(int(draw.integers(len(underway))))
            log.append(given)
            ticket.until = len(log)  # type: ignore[attr-defined]
        for _ in range(int(draw.integers(3))):
            if folded < len(log):
                folded += 1
                early.put(Earlier(folded, 0.0, log[folded - 1]))
                assert early.dropped == 0
        if draw.random() < 0.5 and (waiting := list(early._kept)):
            early.take(waiting[int(draw.integers(len(waiting)))])
        if draw.random() < 0.2:
            shown[0] = use(early, folded)
    assert accepted > 1000
    assert refused > 100
    held = sum(piece.nbytes for pieces in early._kept.values() for piece in pieces)
    assert (early.nbytes, sum(early.by_source.values())) == (held, held)


def test_what_was_never_written_is_forgotten() -> None:
    now = [0.0]
    room = EarlyRoom(SPEC, EarlyUse, clock=lambda: now[0])
    assert taken(room, "s0") == 20
    now[0] = 61.0
    assert taken(room, "s0") == 20


def test_the_use_goes_to_other_processes(tmp_path) -> None:
    seen = PublishedUse(tmp_path)
    assert seen() == EarlyUse()
    publish(tmp_path, EarlyUse(7, 100, {"a": 100}))
    assert seen() == EarlyUse(7, 100, {"a": 100})
    publish(tmp_path, EarlyUse(8, 50, {"a": 50}))
    assert seen().position == 8


def test_a_process_that_begins_leaves_room_for_what_was_accepted_before() -> None:
    """The log goes to position 1,000; up to there each position may hold early feedback that the use lacks."""
    shown = [EarlyUse(6)]
    room = EarlyRoom(SPEC, lambda: shown[0], clock=lambda: 0.0, begin=1000)
    with pytest.raises(NoRoom, match="read the log up to 6; expected 1000. Send it again in a moment"):
        room.take(label(0, "s0"))
    shown[0] = EarlyUse(1000 - 30 * ONE // UNKNOWN)  # room for 10 of 40 beside what is unknown
    assert 5 <= taken(room, "s0") <= 11
    shown[0] = EarlyUse(1000)
    assert taken(room, "s1", 100) > 5


def test_released_tickets_count_no_more() -> None:
    room = EarlyRoom(SPEC, EarlyUse, clock=lambda: 0.0)
    tickets = [room.take(label(number, f"s{number % 2}")) for number in range(10)]
    room.release(tickets[:5])
    assert taken(room, "s2") == 18  # half of the 35 that are left
    room.release([*tickets[:5], tickets[0]])
    assert taken(room, "s2") == 0


def test_the_time_of_a_ticket_does_not_grow_with_their_number() -> None:
    """Tickets are looked through once for each use, not once for each ticket."""
    room = EarlyRoom(FeedbackSpec(early=1e9, bytes=1 << 40), lambda: shown[0], clock=lambda: 0.0)
    shown, sweeps = [EarlyUse(1)], []
    sweep, EarlyRoom._sweep = EarlyRoom._sweep, lambda room, *at: (sweeps.append(at), sweep(room, *at))[0]
    try:
        tickets = [room.take(label(number, "s0")) for number in range(1000)]
        for ticket in tickets:
            ticket.until = 2
        shown[0] = EarlyUse(2)
        room.take(label(0, "s0"))
    finally:
        EarlyRoom._sweep = sweep
    assert len(sweeps) == 2
    assert room._total == tickets[0].size


def test_the_use_of_a_fold_follows_its_position() -> None:
    early, position = Early(SPEC), [1]
    folded = FoldedUse(lambda: (early, position[0]))
    assert folded() == EarlyUse(1)
    assert folded() is folded()
    early.put(Earlier(2, 0.0, label(0, "s0")))
    position[0] = 2
    assert folded() == EarlyUse(2, ONE, {"s0": ONE})
