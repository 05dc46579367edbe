"""The group of learners: it starts a process for each partition, replaces a dead one, and says what was reached.

The processes learn, merge and score among themselves (see `process`). The group reads the board now and then, and takes
the merged arrays and the scores where it must keep them: at the end of a segment. A learner whose process ends is
started again at the last barrier, and learns the same rows into the same arrays.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, cast

import msgspec

from everlearn.errors import ConfigError, EverlearnError, InputError, ModelError
from everlearn.merge import partitions
from everlearn.model import Model, copied, prefixed, within
from everlearn.records import Arrays
from everlearn.scale.partitions.board import StepRecord
from everlearn.scale.partitions.dealing import Dealing, checked
from everlearn.scale.partitions.messages import Done, Failed, PartitionSetup, Segment, read_reply, send
from everlearn.scale.partitions.process import SharedState
from everlearn.scale.partitions.shared import MEMORY, scratch

TRIES = 3  # deaths of a learner at one step before the group gives up
KINDS = {kind.__name__: kind for kind in (ConfigError, InputError, ModelError)}  # that a learner reports
PATIENCE = 10.0  # seconds that a process may take to end after its input has closed
GLANCE = 0.02  # seconds between two looks at the board
NANO = 1e-9
MALLOC = {  # for glibc: keep freed memory, since the next step needs as much
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}


class Position(NamedTuple):
    """Where a group is: the barriers so far, and the position of the stream at the last one."""

    number: int = 0
    at: int = 0


class Barrier(NamedTuple):
    """A barrier: the position of the stream, how far each partition had taken its rows, and how many it had learned.

    `cursors` and `rows` are in the order of the partitions. Of the `opening` every partition has learned all rows.
    """

    number: int
    at: int
    cursors: tuple[int, ...]
    rows: tuple[int, ...]
    opening: bool


class SavedScores(NamedTuple):
    """The state of the metrics of all partitions together: arrays, and plain values."""

    arrays: Arrays
    header: Mapping[str, Any]


class Saved(NamedTuple):
    """The state at a barrier: the merged arrays, those that stay in partition p under "p/", and the scores."""

    position: Position
    arrays: Arrays
    local: Arrays
    scores: SavedScores


class Clock(NamedTuple):
    """The processor seconds of the process of each partition up to a moment, and the seconds of the clock then."""

    cpu: tuple[float, ...]
    at: float


class Member:
    """The process of one partition, with its pipes and the CPU time of those before it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.earlier, self.deaths, self.died_at = 0.0, 0, -1

    def start(self, setup: PartitionSetup) -> None:
        """Start the process."""
        environment = {**MALLOC, **os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, setup.path))
        command = [sys.executable, "-m", "everlearn.scale.partitions.process"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=False
        )
        with suppress(BrokenPipeError):  # noticed at the answer
            send(self.input, setup)

    @property
    def input(self) -> IO[bytes]:
        return cast(IO[bytes], cast(subprocess.Popen[bytes], self.process).stdin)

    @property
    def answers(self) -> IO[bytes]:
        return cast(IO[bytes], cast(subprocess.Popen[bytes], self.process).stdout)

    def stop(self) -> None:
        """Close the input, and end the process if it does not end by itself."""
        if self.process is None:
            return
        with suppress(BrokenPipeError):
            self.input.close()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()
        self.process = None


class Group:
    """The learners of all partitions. Use it as a context: at its end no process is left.

    `rows` names the function that opens the rows of a partition (see `messages.PartitionSetup`), with `source`, and
    `scorer` the one that makes what scores, with `scoring`. The group begins with the arrays of `model`, or at a state
    that was `saved`. It keeps the state each `keep` rows, at the first barrier there; with 0, at the end alone.
    """

    def __init__(
        self,
        model: Model,
        dealing: Dealing,
        rows: tuple[str, Mapping[str, Any]],
        scorer: tuple[str, Mapping[str, Any]],
        saved: Saved | None = None,
        keep: int = 0,
    ) -> None:
        self.dealing, self._keep = checked(dealing), keep
        self._rules = partitions.rules(model.spec)
        self._rules.own(model, 0, 1)
        self._spec = dict(model.spec)
        self._position = Position() if saved is None else saved.position
        self._seen, self._seen_at = self._position.number, self._position.at  # the last barrier that was yielded
        self._members = [Member() for _ in range(dealing.count)]
        self._undo = ExitStack()
        folder = self._undo.enter_context(scratch(MEMORY))
        self._setup = PartitionSetup(
            spec=self._spec, dealing=dealing, partition=0, rows=rows[0], source=dict(rows[1]), scorer=scorer[0],
            scoring=dict(scorer[1]), folder=str(folder), path=sys.path,
        )  # fmt: skip
        self._shared = SharedState(folder, model.arrays, dealing.count)
        self._undo.callback(self._shared.board.close)
        self._fill(model.arrays, saved)
        self.restarts = 0  # learners that were started again
        self.opened, self.ended = Clock((0.0,) * dealing.count, 0.0), Clock((0.0,) * dealing.count, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, and remove the shared files."""
        for member in self._members:
            member.stop()
        self._undo.close()

    @property
    def pids(self) -> list[int]:
        """The processes of the partitions, in order."""
        return [member.process.pid for member in self._members if member.process is not None]

    def run(self) -> Iterator[Barrier | Saved]:
        """Learn the stream from here to its end; yield each barrier, and the state where it is kept.

        A barrier comes some time after it was reached; the state at a barrier comes after that and before the next.
        `opened` and `ended` are the costs at the first barrier and at the end. Raises the errors of the learners, and
        `EverlearnError` where one dies again and again at the same step.
        """
        for index in range(len(self._members)):
            self._start(index)
        segment = self._begin()
        while True:
            done: dict[int, Done] = {}
            while len(done) < len(self._members):
                self._collect(segment, done)
                yield from self._barriers()
            last = done[0]
            cpu = tuple(self._members[index].earlier + done[index].cpu * NANO for index in sorted(done))
            self.ended = Clock(cpu, max(one.at for one in done.values()) * NANO)
            if last.number == segment.number:
                return  # there was no row left
            saved = self._saved(Position(last.number, self._seen_at))
            self._position = saved.position
            if not last.ended:
                segment = self._begin()
            yield saved
            if last.ended:
                return

    def _fill(self, arrays: Arrays, saved: Saved | None) -> None:
        """Write the state from which the processes begin."""
        shared, number = self._shared, self._position.number
        shared.board.begin(number)
        shared.merged(number).write(arrays)
        for index in range(len(self._members)):
            own = {} if saved is None else within(saved.local, f"{index}/")
            for name, view in shared.part(index, number).views.items():
                if self._rules.local(self._spec, name):
                    view[...] = own.get(name, arrays[name])
            scores = SavedScores({}, {}) if saved is None else saved.scores
            shared.scores[index][0].write(number, scores.arrays, scores.header or None)

    def _start(self, index: int) -> None:
        self._members[index].start(msgspec.structs.replace(self._setup, partition=index))

    def _begin(self) -> Segment:
        """Send the next segment to all learners."""
        number, at = self._position
        segment = Segment(number=number, at=at, until=at + self._keep if self._keep else 0)
        for member in self._members:
            with suppress(BrokenPipeError):  # noticed at the answer
                send(member.input, segment)
        return segment

    def _collect(self, segment: Segment, done: dict[int, Done]) -> None:
        """Wait a moment for answers to a segment; start each learner again whose process has ended."""
        with selectors.DefaultSelector() as waiting:
            for index, member in enumerate(self._members):
                if index not in done:
                    waiting.register(member.answers, selectors.EVENT_READ, index)
            ready = [key.data for key, _ in waiting.select(GLANCE)]
        for index in ready:
            line = self._members[index].answers.readline()
            if not line.endswith(b"\n"):
                self._replace(index, segment)
                continue
            reply = read_reply(line)
            if isinstance(reply, Failed):
                kind = KINDS.get(reply.kind, EverlearnError)
                raise kind(reply.message)
            done[index] = reply

    def _barriers(self) -> Iterator[Barrier]:
        """Yield the barriers that all partitions have reached and that were not yielded."""
        while min(self._shared.board.reached()) > self._seen:
            records = self._shared.board.records(self._seen + 1)
            at, before = max(one.last for one in records), self._seen_at
            if at <= before:
                return  # there was no row left
            self._seen, self._seen_at = self._seen + 1, at
            if not self.opened.at:
                self.opened = self._clock(records)
            cursors, rows = tuple(one.cursor for one in records), tuple(one.rows for one in records)
            yield Barrier(self._seen, at, cursors, rows, before < self.dealing.opening)

    def _clock(self, records: Sequence[StepRecord]) -> Clock:
        cpu = tuple(own.earlier + one.cpu * NANO for own, one in zip(self._members, records, strict=True))
        return Clock(cpu, max(one.at for one in records) * NANO)

    def _saved(self, position: Position) -> Saved:
        """Return a copy of the state at a barrier, while all learners wait there."""
        shared, local, arrays, header = self._shared, dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for index in range(len(self._members)):
            own = shared.part(index, position.number).views
            staying = {name: array for name, array in own.items() if self._rules.local(self._spec, name)}
            local |= prefixed(f"{index}/", copied(staying))
            scored, values = shared.scored(index).read()
            arrays |= copied(scored)
            header |= values or {}
        return Saved(position, copied(shared.merged(position.number).views), local, SavedScores(arrays, header))

    def _replace(self, index: int, segment: Segment) -> None:
        """Start a learner again whose process has ended, and send it the segment."""
        member, reached = self._members[index], self._shared.board.reached()[index]
        code = cast("subprocess.Popen[bytes]", member.process).wait()
        self.restarts += 1
        member.deaths = member.deaths + 1 if member.died_at == reached else 1
        member.died_at = reached
        if member.deaths >= TRIES:
            raise EverlearnError(
                f"partition {index}: its process ended {TRIES} times with status {code} while it learned the rows "
                f"after {self._seen_at}; nothing of them was merged. Look at its output above, and at the memory of "
                "this machine, then run it again"
            )
        if reached > self._position.number:
            member.earlier += self._shared.board.record(index, reached).cpu * NANO
        member.stop()
        self._start(index)
        with suppress(BrokenPipeError):
            send(member.input, segment)
