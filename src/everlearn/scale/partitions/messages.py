"""What the group and its learners write to each other: one JSON object in a line."""

from __future__ import annotations

from typing import IO, Any

import msgspec
from msgspec import Struct

from everlearn.scale.partitions.dealing import Dealing


class PartitionSetup(Struct, frozen=True, kw_only=True):
    """What the process of one partition starts with.

    `rows` names the function "module:function" that opens its rows, with `source`; it takes the source, the dealing,
    the partition, and the position after which to begin. `folder` holds the arrays that are exchanged. `path` is the
    list of folders in which modules are found. After a restart the process takes its local arrays from `local`. The
    dense columns `returned`, from the first to before the second, come back with the predictions.
    """

    spec: dict[str, Any]
    dealing: Dealing
    partition: int
    rows: str
    source: dict[str, Any]
    folder: str
    after: int = 0
    path: list[str] = []
    local: str = ""
    returned: tuple[int, int] = (0, 0)


class Step(Struct, frozen=True, tag="step"):
    """Take the merged arrays, then learn the rows up to a position; `number` counts the barriers from 1."""

    number: int
    upto: int
    opening: bool


class Done(Struct, frozen=True, tag="done", kw_only=True):
    """The rows of a step are learned, and the arrays are in the shared file.

    `cursor` is the position of the partition's last row, and `last` the position of the stream that was reached. `more`
    is False if there are no rows after it. `result` names the file of the predictions, `seconds` is the CPU time of the
    process so far.
    """

    number: int
    rows: int
    cursor: int
    last: int
    more: bool
    result: str
    seconds: float


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
