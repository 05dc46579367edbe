"""The protocol of a broker, which keeps messages in one order, and the form of log rows in a message.

A message holds the rows of one group. `brokered` makes a log of a broker: it counts the events of all messages in
order, and passes over an event whose key came before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from everlearn.errors import InputError, LogError
from everlearn.events import Row

MOST_ROWS = 4096  # of one message
FORMAT = 1
_MARK, _BODY = b'{"everlearn":', b'%s,"events":[%s]}'
_NEWER = "message {} of the log {} has format {}, this Everlearn reads format {}; upgrade Everlearn"


class Message(NamedTuple):
    """A digest of the body, and the body: a message that is sent again has the same id."""

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


class EventCount(NamedTuple):
    """The number of events in all messages up to a sequence, as the writer of a message has counted them."""

    sequence: int
    events: int


class Contents(NamedTuple):
    """The rows of a message, and the count that its writer noted, if it did."""

    rows: list[Row]
    counted: EventCount | None = None


def packed(rows: Sequence[Row], most_bytes: int, counted: EventCount | None = None) -> list[Message]:
    """Return messages that hold rows in order, as few as the longest body allows; each notes what was `counted`.

    Raises `InputError` for a row that is longer than a message may be.

    >>> from everlearn.events import row
    >>> from everlearn.records import Label
    >>> [message] = packed([row(Label("a", True), 3.5)], 1000)
    >>> message.body[:42], unpacked(1, message.body, "of docs").rows[0][:2]
    (b'{"everlearn":1,"events":[[3.5,"label","lab', (3.5, 'label'))
    """
    front = b"%s%d" % (_MARK, FORMAT)
    if counted is not None:
        front += b',"counted":[%d,%d]' % counted
    return [_message(front, group) for group in _groups(rows, most_bytes - len(front) - len(_BODY % (b"", b"")))]


def unpacked(sequence: int, body: bytes, place: str) -> Contents:
    """Return the contents of a message; no rows where the message is of another program.

    `place` names the broker in errors. Raises `LogError` for a message that is damaged, or of a newer format.
    """
    if not body.startswith(_MARK):
        return Contents([])
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
    rows = [(time, kind, key, bytes(payload).decode()) for time, kind, key, payload in found.events]
    return Contents(rows, found.counted)


class _Body(msgspec.Struct):
    everlearn: int
    events: list[tuple[float, str, str, msgspec.Raw]]
    counted: EventCount | None = None


class _Front(msgspec.Struct):
    everlearn: int


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def _format(body: bytes) -> int:
    try:
        return msgspec.json.decode(body, type=_Front).everlearn
    except msgspec.MsgspecError:
        return 0


def _message(front: bytes, group: Sequence[bytes]) -> Message:
    body = _BODY % (front, b",".join(group))
    return Message(hashlib.blake2b(body, digest_size=16).hexdigest(), body)


def _groups(rows: Sequence[Row], room: int) -> Iterator[list[bytes]]:
    """Yield encoded rows in groups that fit into the room of one message each."""
    group: list[bytes] = []
    length = 0
    for time, kind, key, text in rows:
        encoded = _encode((time, kind, key, msgspec.Raw(text.encode())))
        if len(encoded) > room:
            raise InputError(
                f"this {kind} has {len(encoded)} bytes; expected at most {room}, the longest message of the broker. "
                "Store its content in a file and the file name here, or raise the limit of the broker"
            )
        if group and (len(group) == MOST_ROWS or length + 1 + len(encoded) > room):
            yield group
            group, length = [], 0
        length += len(encoded) + bool(group)
        group.append(encoded)
    if group:
        yield group
