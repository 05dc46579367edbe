"""The group of learners: it starts a process for each partition, merges at each barrier, and replaces a dead learner.

The next step begins as soon as the arrays are merged, so the learners work while the caller uses the results. A learner
whose process ends is started again at the last barrier, and learns the same rows into the same arrays.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn import _private
from everlearn.errors import ConfigError, EverlearnError, InputError, ModelError
from everlearn.merge import partitions
from everlearn.model import Model, copied, prefixed, within
from everlearn.records import Arrays, Batch, Examples, Rejected, Singles
from everlearn.scale.partitions.dealing import Dealing, checked
from everlearn.scale.partitions.messages import Done, Failed, PartitionSetup, Step, read_reply, send
from everlearn.scale.partitions.process import MERGED
from everlearn.scale.partitions.shared import MEMORY, SharedArrays, scratch
from everlearn.version.codec import dump, load

NO_ENTRIES = np.zeros(0, np.int32), np.zeros(0, np.float32)  # of a batch without hashed entries
TRIES = 3  # deaths of a learner at one step before the group gives up
KINDS = {kind.__name__: kind for kind in (ConfigError, InputError, ModelError)}  # that a learner reports
PATIENCE = 10.0  # seconds that a process may take to end after its input has closed


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


class StretchScores(NamedTuple):
    """The predictions of all partitions between two barriers, in the order of the stream.

    `examples` are the rows that were predicted, with those dense columns alone that come back. `scores`
    is float32 (n, outputs).
    """

    examples: Examples
    scores: Singles
    rejected: tuple[Rejected, ...]


class Reached(NamedTuple):
    """A barrier that was reached: its record, the merged arrays, those that stay in partitions, and the predictions.

    `arrays` are those from which all learners have begun again, `local` those of partition p under "p/".
    """

    barrier: Barrier
    arrays: Arrays
    local: Arrays
    scores: StretchScores


class Member:
    """The process of one partition, with its pipes and the CPU time of those before it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.seconds, self.earlier, self.deaths = 0.0, 0.0, 0

    def start(self, setup: PartitionSetup) -> None:
        """Start the process."""
        self.earlier += self.seconds
        self.seconds = 0.0
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
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

    `rows` names the function that opens the rows of a partition (see `messages.PartitionSetup`), with `source`. The
    group begins at `position` with the arrays of `model`, and the `local` arrays of the partitions. The dense columns
    `returned`, from the first to before the second, come back with the predictions.
    """

    def __init__(
        self,
        model: Model,
        dealing: Dealing,
        rows: str,
        source: Mapping[str, Any],
        position: Position | None = None,
        local: Arrays | None = None,
        returned: tuple[int, int] = (0, 0),
    ) -> None:
        self.dealing = checked(dealing)
        self._rules = partitions.rules(model.spec)
        self._rules.own(model, 0, 1)
        self._spec, self._base = dict(model.spec), copied(model.arrays)
        self._at, self._local = position or Position(), dict(local or {})
        self._members = [Member() for _ in range(dealing.count)]
        self._undo = ExitStack()
        folder = self._undo.enter_context(scratch(MEMORY))
        self._setup = PartitionSetup(
            spec=self._spec, dealing=dealing, partition=0, rows=rows, source=dict(source), folder=str(folder),
            path=sys.path, returned=returned,
        )  # fmt: skip
        self._merged = SharedArrays(folder / MERGED, self._base)
        self._parts = [SharedArrays(folder / f"part-{index}", self._base) for index in range(dealing.count)]
        self.merging, self.restarts = 0.0, 0  # CPU seconds of merging; learners that were started again

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

    @property
    def seconds(self) -> list[float]:
        """The CPU seconds of each partition so far."""
        return [member.earlier + member.seconds for member in self._members]

    def run(self) -> Iterator[Reached]:
        """Learn the stream from here to its end; yield each barrier after the next step has begun.

        Raises the errors of the learners, and `EverlearnError` where one dies again and again at the same step.
        """
        self._merged.write(self._base)
        for index in range(len(self._members)):
            self._start(index)
        step = self._begin(self._at)
        while True:
            done = self._collect(step)
            began = time.process_time()
            barrier = self._barrier(step, done)
            if barrier.at <= self._at.at:
                return  # there was no row left
            self._merge(barrier)
            more = any(one.more for one in done)
            following = self._begin(Position(barrier.number, barrier.at)) if more else None
            self.merging += time.process_time() - began
            yield Reached(barrier, self._base, self._local, _scores(done))
            if following is None:
                return
            step = following

    def _start(self, index: int) -> None:
        """Start the process of a partition at the last barrier."""
        own, path = within(self._local, f"{index}/"), ""
        if own:
            path = str(Path(self._setup.folder) / f"local-{index}")
            _private.write(Path(path), dump(own, {}))
        self._members[index].start(
            msgspec.structs.replace(self._setup, partition=index, after=self._at.at, local=path)
        )  # fmt: skip

    def _begin(self, position: Position) -> Step:
        """Send the next step to all learners."""
        self._at = position
        upto = self.dealing.next_barrier(position.at)
        step = Step(position.number + 1, upto, position.at < self.dealing.opening)
        for member in self._members:
            with suppress(BrokenPipeError):  # noticed at the answer
                send(member.input, step)
        return step

    def _collect(self, step: Step) -> list[Done]:
        """Wait until all partitions have learned a step; start each again whose process ends before."""
        done: dict[int, Done] = {}
        while len(done) < len(self._members):
            with selectors.DefaultSelector() as waiting:
                for index, member in enumerate(self._members):
                    if index not in done:
                        waiting.register(member.answers, selectors.EVENT_READ, index)
                ready = [key.data for key, _ in waiting.select()]
            for index in ready:
                member = self._members[index]
                line = member.answers.readline()
                if not line.endswith(b"\n"):
                    self._replace(index, step)
                    continue
                reply = read_reply(line)
                if isinstance(reply, Failed):
                    kind = KINDS.get(reply.kind, EverlearnError)
                    raise kind(reply.message)
                member.seconds, done[index] = reply.seconds, reply
        for member in self._members:
            self.restarts += member.deaths
            member.deaths = 0
        return [done[index] for index in range(len(self._members))]

    def _replace(self, index: int, step: Step) -> None:
        """Start a learner again whose process has ended, and send it the step."""
        member = self._members[index]
        code = cast("subprocess.Popen[bytes]", member.process).wait()
        member.deaths += 1
        if member.deaths >= TRIES:
            raise EverlearnError(
                f"partition {index}: its process ended {TRIES} times with status {code} while it learned the rows "
                f"after {self._at.at}; nothing of them was merged. Look at its output above, and at the memory of this "
                "machine, then run it again"
            )
        member.stop()
        self._start(index)
        with suppress(BrokenPipeError):
            send(member.input, step)

    def _barrier(self, step: Step, done: Sequence[Done]) -> Barrier:
        at = max(one.last for one in done)
        rows = tuple(one.rows for one in done)
        return Barrier(step.number, at, tuple(one.cursor for one in done), rows, step.opening)

    def _merge(self, barrier: Barrier) -> None:
        """Merge the arrays of all partitions, in order, and hand the result to all."""
        views = [part.views for part in self._parts]
        if barrier.opening:
            self._base = copied(views[0])
        else:
            self._base = partitions.merged(self._spec, self._base, views, barrier.rows)
        self._merged.write(self._base)
        self._local = {}
        for index, own in enumerate(views):
            staying = {name: array for name, array in own.items() if self._rules.local(self._spec, name)}
            self._local |= prefixed(f"{index}/", copied(staying))


def _scores(done: Sequence[Done]) -> StretchScores:
    """Return the predictions that the partitions wrote, in the order of the stream; their files are removed."""
    found: list[Arrays] = []
    rejected: list[Rejected] = []
    for one in done:
        if one.result:
            path = Path(one.result)
            arrays, header = load(path.read_bytes(), path)
            path.unlink()
            rejected += msgspec.convert(header["rejected"], list[Rejected])
            if len(arrays.get("y", ())):
                found.append(arrays)
    rejected.sort(key=lambda row: row.at)
    if not found:
        nothing = Batch(np.zeros((0, 0), np.float32), np.zeros(1, np.int64), *NO_ENTRIES)
        none = Examples(nothing, np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return StretchScores(none, np.zeros((0, 0), np.float32), tuple(rejected))
    whole = {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
    if (np.diff(whole["position"]) < 0).any():
        order = np.argsort(whole["position"], kind="stable")
        whole = {name: array[order] for name, array in whole.items()}
    batch = Batch(whole["dense"], np.zeros(len(whole["y"]) + 1, np.int64), *NO_ENTRIES)
    segment = bytes_of(whole["segment"]) if "segment" in whole else None
    examples = Examples(batch, whole["y"], whole["weight"], whole["position"], segment)
    return StretchScores(examples, whole["scores"], tuple(rejected))


def bytes_of(numbers: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return rows of bytes, uint8 (n, width), as n names.

    >>> bytes_of(np.array([[78, 76, 0]], np.uint8)).tolist()
    [b'NL']
    """
    whole = np.ascontiguousarray(numbers)
    return whole.view(f"S{whole.shape[1]}").reshape(len(whole))
