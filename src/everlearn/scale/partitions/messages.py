"""What the group and its learners write to each other: one JSON object in a line."""

from __future__ import annotations

from typing import IO, Any

import msgspec
from msgspec import Struct

from everlearn.scale.partitions.dealing import Dealing


class PartitionSetup(Struct, frozen=True, kw_only=True):
    """What the process of one partition starts with.

    `rows` names the function "module:function" that opens its rows, with `source`; it takes the source, the dealing,
    the partition, and the position after which to begin. `scorer` names the function that makes its `learner.Scorer`;
    it takes `scoring`, the partition, and the number of partitions. `folder` holds the files of all processes. `path`
    is the list of folders in which modules are found.
    """

    spec: dict[str, Any]
    dealing: Dealing
    partition: int
    rows: str
    source: dict[str, Any]
    scorer: str
    scoring: dict[str, Any]
    folder: str
    path: list[str] = []


class Segment(Struct, frozen=True, kw_only=True, tag="segment"):
    """Learn from barrier `number`, at position `at`, to the first barrier at `until` or after it, or to the last row.

    With 0, `until` is the last row.
    """

    number: int
    at: int
    until: int


class Done(Struct, frozen=True, tag="done", kw_only=True):
    """A segment is learned up to barrier `number`, and its rows are scored; `ended` if there are no rows after it.

    `cpu` are the nanoseconds of processor time of the process so far, `at` those of the monotonic clock.
    """

    number: int
    ended: bool
    cpu: int
    at: int


class Failed(Struct, frozen=True, tag="failed"):
    """An error of ours, by the name of its class, that another try would meet again."""

    kind: str
    message: str


def send(file: IO[bytes], message: Struct) -> None:
    """Write a message. Raises BrokenPipeError if the other side is gone."""
    file.write(msgspec.json.encode(message) + b"\n")
    file.flush()


def read_reply(line: bytes) -> Done | Failed:
    """Read what a learner wrote."""
    return msgspec.json.decode(line, type=Done | Failed)
