"""The board: how far the learner of each partition has come, in files that all processes read.

Every learner posts a record when it has learned the rows of a step, and waits until all have posted theirs. No other
process is needed between two barriers. A record is written once; only its own learner writes it.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from everlearn import _private

_RECORD, _COUNT = struct.Struct("<6q"), struct.Struct("<q")
_SPINS, _SHORTEST, _LONGEST = 30, 2e-5, 1e-3  # looks without sleep; seconds of the first sleep and of the last
_PARENT = 100  # sleeps after which a learner looks for its group


class StepRecord(NamedTuple):
    """A step that one partition has learned.

    `rows` were learned, `cursor` is the position of the last of them (0 for none), `last` the position of the stream
    that was reached, `more` is 1 if rows may be left. `cpu` are the nanoseconds of processor time of the process so
    far, `at` those of the monotonic clock.
    """

    rows: int
    cursor: int
    last: int
    more: int
    cpu: int
    at: int


class Board:
    """The records of all partitions in a folder. Use `close` at the end."""

    def __init__(self, folder: Path, count: int) -> None:
        """Open the files, and create those that are missing."""
        self._files = []
        for name in ("reached", *(f"steps-{partition}" for partition in range(count))):
            _private.touch(folder / name)
            self._files.append(os.open(folder / name, os.O_RDWR))
        self._count = count

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def begin(self, number: int) -> None:
        """Let all partitions have reached a step."""
        os.pwrite(self._files[0], _COUNT.pack(number) * self._count, 0)

    def post(self, partition: int, number: int, record: StepRecord) -> None:
        """Write the record of a step, and then that it is reached."""
        os.pwrite(self._files[1 + partition], _RECORD.pack(*record), number * _RECORD.size)
        os.pwrite(self._files[0], _COUNT.pack(number), partition * _COUNT.size)

    def reached(self) -> tuple[int, ...]:
        """Return the last step of each partition."""
        size = _COUNT.size * self._count
        return struct.unpack(f"<{self._count}q", os.pread(self._files[0], size, 0))

    def record(self, partition: int, number: int) -> StepRecord:
        """Return the record of a step that a partition has reached."""
        return StepRecord(*_RECORD.unpack(os.pread(self._files[1 + partition], _RECORD.size, number * _RECORD.size)))

    def records(self, number: int) -> list[StepRecord]:
        """Return the records of a step that all partitions have reached."""
        return [self.record(partition, number) for partition in range(self._count)]

    def wait(self, number: int) -> None:
        """Wait until all partitions have reached a step. Raises SystemExit where the group has ended."""
        parent, looks, pause = os.getppid(), 0, _SHORTEST
        while min(self.reached()) < number:
            looks += 1
            if looks > _SPINS:
                time.sleep(pause)
                pause = min(pause * 1.2, _LONGEST)
                if looks % _PARENT == 0 and os.getppid() != parent:
                    raise SystemExit(1)
