"""The protocol of a broker, which keeps messages in one order, and the form of log rows in a message.

A broker carries the traffic of a loop: predictions, examples, feedback and orders. A message holds the rows of one
group. The position of an event is computed from the sequence of its message and its place there, so that it is known at
the acknowledgement and grows with the order of the log. Positions of a brokered log therefore have gaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from everlearn.errors import InputError, LogError
from everlearn.events import Row

PLACES = 12  # bits of a position that give the place of an event in its message
MOST_ROWS = 1 << PLACES
FORMAT = 1
_MARK = b'{"everlearn":'
_NEWER = "message {} of the log {} has format {}, this Everlearn reads format {}; upgrade Everlearn"


class Message(NamedTuple):
    """The body of a message, and an id that is equal for equal content."""

    id: str
    body: bytes


class Broker(Protocol):
    """Messages of one partition, in one order, with sequences that ascend from 1 and may have gaps.

    Any thread may call the methods. `place` names the broker in errors, without credentials; `most_bytes` is the
    longest body that it takes.
    """

    place: str
    most_bytes: int

    def publish(self, messages: Sequence[Message]) -> list[int]:
        """Write messages durably, many in flight, and return their sequences once all of them are durable.

        A broker that remembers ids returns the old sequence of a message that it has already. Messages of one call are
        in order, unless a server fails meanwhile. Publish one message for each call where the order must hold. Raises
        `LogError` if the broker does not acknowledge all messages in time: then some of them may be there.
        """
        ...

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return the sequence and body of up to `limit` messages after a sequence, in order; none at the end.

        An answer may have fewer than `limit` messages, but it is empty only at the end. Messages that the broker no
        longer has are passed over: compare with `first`. Raises `LogError` if the broker cannot be read.
        """
        ...

    def get(self, sequence: int) -> bytes | None:
        """Return the body of a message; None where the broker has none. Raises `LogError` if it cannot be read."""
        ...

    def first(self) -> int:
        """Return the sequence of the oldest message that is still there; that of the next one if there is none."""
        ...

    def end(self) -> int:
        """Return the sequence of the newest durable message that was ever written; 0 before the first.

        It covers each message that was acknowledged before this call, to any process.
        """
        ...

    def check(self, patience: float) -> None:
        """Raise `LogError` if a message could not be written durably within `patience` seconds."""
        ...

    def close(self) -> None:
        """Close the connection; closing twice is allowed."""
        ...


def position(sequence: int, place: int) -> int:
    """Return the position of the event at a place, from 0, in the message with a sequence.

    >>> position(1, 0), position(1, 1), position(2, 0)
    (4096, 4097, 8192)
    """
    return sequence << PLACES | place


def parts(position: int) -> tuple[int, int]:
    """Return the sequence of the message that holds the event at a position, and its place there.

    >>> parts(8193)
    (2, 1)
    """
    return position >> PLACES, position & MOST_ROWS - 1


def packed(rows: Sequence[Row], most_bytes: int) -> list[Message]:
    """Return messages that hold rows in order, as few as the longest body allows.

    The id of a message is a digest of its rows without their times. Raises `InputError` for a row that is longer than a
    message may be.

    >>> from everlearn.events import row
    >>> from everlearn.records import Label
    >>> [message] = packed([row(Label("a", True), 3.5)], 1000)
    >>> message.body[:42], unpacked(1, message.body, "of docs")[0][:2]
    (b'{"everlearn":1,"events":[[3.5,"label","lab', (3.5, 'label'))
    """
    return [_message(group) for group in _groups(rows, most_bytes)]


def unpacked(sequence: int, body: bytes, place: str) -> list[Row]:
    """Return the rows of a message; none where the message is of another program.

    `place` names the broker in errors. Raises `LogError` for a message that is damaged, or of a newer format.
    """
    if not body.startswith(_MARK):
        return []
    try:
        found = _decode(body)
    except msgspec.MsgspecError as error:
        if (newer := _format(body)) > FORMAT:
            raise LogError(_NEWER.format(sequence, place, newer, FORMAT)) from error
        raise LogError(
            f"message {sequence} of the log {place} cannot be read: {error}; got {body[:100]!r}; restore it from a "
            "copy of the stream, or start a new loop on a new stream"
        ) from error
    if found.everlearn != FORMAT:
        raise LogError(_NEWER.format(sequence, place, found.everlearn, FORMAT))
    return [(time, kind, key, bytes(payload).decode()) for time, kind, key, payload in found.events]


class _Body(msgspec.Struct):
    everlearn: int
    events: list[tuple[float, str, str, msgspec.Raw]]


class _Front(msgspec.Struct):
    everlearn: int


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def _format(body: bytes) -> int:
    try:
        return msgspec.json.decode(body, type=_Front).everlearn
    except msgspec.MsgspecError:
        return 0


def _message(parts: Sequence[tuple[Row, bytes]]) -> Message:
    digest = hashlib.blake2b(digest_size=16)
    for (_, kind, key, text), _ in parts:
        digest.update(_encode((kind, key, text)))
    body = b'%s%d,"events":[%s]}' % (_MARK, FORMAT, b",".join(encoded for _, encoded in parts))
    return Message(digest.hexdigest(), body)


def _groups(rows: Sequence[Row], most_bytes: int) -> Iterator[list[tuple[Row, bytes]]]:
    """Yield rows with their encoding, in groups that fit into one message each."""
    group: list[tuple[Row, bytes]] = []
    empty = len(_message([]).body)
    length = empty
    for row in rows:
        time, kind, key, text = row
        encoded = _encode((time, kind, key, msgspec.Raw(text.encode())))
        if empty + len(encoded) > most_bytes:
            raise InputError(
                f"this {kind} has {len(encoded)} bytes; expected at most {most_bytes - empty}, the longest message of "
                "the broker. Store its content in a file and the file name here, or raise the limit of the broker"
            )
        if group and (len(group) == MOST_ROWS or length + 1 + len(encoded) > most_bytes):
            yield group
            group, length = [], empty
        length += len(encoded) + bool(group)
        group.append((row, encoded))
    if group:
        yield group
