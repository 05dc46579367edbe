"""Log rows in messages: the coding, the limits of a message, and positions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError, LogError
from everlearn.events import Row, row
from everlearn.records import Example, Label
from everlearn.scale import broker

EMPTY = len('{"everlearn":1,"events":[]}')


def rows_of(count: int, text: str = "x") -> list[Row]:
    return [row(Example(f"e{number}", {"text": text}, True), float(number)) for number in range(count)]


@given(st.lists(st.tuples(st.floats(0, 1e10), st.text(max_size=5), st.text(max_size=40)), max_size=30))
def test_the_rows_of_a_message_come_back_unchanged(contents: list[tuple[float, str, str]]) -> None:
    rows = [row(Example(f"{number}{id}", {"text": text}, True), at) for number, (at, id, text) in enumerate(contents)]
    messages = broker.packed(rows, 400 + EMPTY)
    assert [one for message in messages for one in broker.unpacked(1, message.body, "here").rows] == rows
    assert all(len(message.body) <= 400 + EMPTY for message in messages)


def test_a_message_is_as_full_as_the_limits_allow() -> None:
    rows = rows_of(broker.MOST_ROWS + 1)
    assert [len(broker.unpacked(1, one.body, "").rows) for one in broker.packed(rows, 1 << 30)] == [broker.MOST_ROWS, 1]
    (alone,) = broker.packed(rows[:1], 1 << 30)
    (both,) = broker.packed(rows[:2], 1 << 30)
    assert len(broker.packed(rows[:2], len(both.body))) == 1
    assert len(broker.packed(rows[:2], len(both.body) - 1)) == 2
    assert broker.packed(rows[:1], len(alone.body)) == [alone]
    with pytest.raises(InputError, match=r"this example has \d+ bytes; expected at most"):
        broker.packed(rows[:1], len(alone.body) - 1)


def test_messages_with_equal_bodies_have_equal_ids() -> None:
    label, other = Label("a", True), Label("a", False)
    made = [
        broker.packed([row(one, at)], 1000)[0] for one, at in ((label, 1.0), (label, 1.0), (label, 2.0), (other, 1.0))
    ]
    assert made[0] == made[1]
    assert len({one.id for one in made}) == 3


def test_other_programs_can_read_a_message() -> None:
    (message,) = broker.packed([row(Label("é", True), 3.5)], 1000)
    (event,) = json.loads(message.body)["events"]
    assert event[:2] == [3.5, "label"]
    assert event[3] == {"kind": "label", "id": "é", "value": True}


def test_messages_of_other_programs_have_no_rows() -> None:
    for body in (b"", b"\xff\x00", b'{"temperature": 3}'):
        assert broker.unpacked(1, body, "here").rows == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"everlearn":2,"rows":[]}', "message 7 of the log here has format 2, this Everlearn reads format 1"),
        (b'{"everlearn":2,"events":[]}', "message 7 of the log here has format 2, this Everlearn reads format 1"),
        (b'{"everlearn":1,"events":[[1.0,"label"]]}', "message 7 of the log here cannot be read"),
        (b'{"everlearn":1,"eve', "message 7 of the log here cannot be read"),
    ],
)
def test_a_damaged_or_newer_message_raises(body: bytes, why: str) -> None:
    with pytest.raises(LogError, match=why):
        broker.unpacked(7, body, "here")


def test_a_message_carries_what_its_writer_counted() -> None:
    rows, counted = rows_of(3), broker.EventCount(7, 41)
    (message,) = broker.packed(rows, 10_000, counted)
    assert broker.unpacked(8, message.body, "here") == (rows, counted)
    each = broker.packed(rows, len(message.body) - 1, counted)
    assert [broker.unpacked(8, one.body, "here").counted for one in each] == [counted] * 2
