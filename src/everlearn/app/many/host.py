"""Keep the loops of one process that are in use in memory, learn in turns, and let the others go.

The host of a process is the only one that opens its loops, so each has one learner, as a loop that is served alone has.
A loop becomes resident when a worker asks for it, has new events, or was resident when the process before this one
died. It is evicted, after a checkpoint, when others need its memory; it is then nothing but a folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty

import msgspec

from everlearn import _private
from everlearn.app.learner import LAST, EarlyUseFile, StatusFile, Tail, warm
from everlearn.app.many.folder import SUMMARY, LoopFolder, Summary, serving_of, setup_of
from everlearn.app.many.turns import Residents, Turns
from everlearn.app.many.wire import Caller, LoopCall, LoopCalls, LoopReply
from everlearn.app.process import Setup
from everlearn.errors import ConfigError, EverlearnError, InputError, InUse, ModelError
from everlearn.events import rests
from everlearn.events.file import place
from everlearn.loop.loop import Loop
from everlearn.serve.snapshot import Publisher
from everlearn.spec import Spec
from everlearn.version.codec import canonical

log = logging.getLogger("everlearn.many")

OVERHEAD = 200_000  # bytes that a resident loop is taken to hold beyond its arrays
OPEN_LOGS = 512  # logs that keep their connections while their loops have nothing to do: 80 kB each
REST = 10.0  # seconds without events after which a log is closed until the next one
SWEEP = 0.25  # seconds between two looks at resident loops without work
EVERY = 8  # a loop without work is looked at in each eighth sweep
SUMMARIZE = 20.0  # seconds between two summaries of a loop at work: one takes three milliseconds
WATCHED = 10.0  # seconds for which the status of a loop is written after it was last looked at
FAILED = 2.0  # seconds before a loop that failed is opened again
HOLD = 1.0  # seconds for which a loop with work stays resident, though another one needs its memory
DEFER = 10.0  # seconds that a call waits for room
AGAIN = 0.005  # seconds between two attempts to make room for a call that waits
LEAVING = 8  # loops that may be on their way out at one time


class HostedLoop:
    """One resident loop: what `app.learner` holds of a loop that is served alone. Raises as `Loop` does."""

    def __init__(self, setup: Setup, spec: Spec) -> None:
        self.setup = setup
        serving = Path(setup.serving)
        serving.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.publisher = Publisher(serving)
        try:
            self.loop = Loop(spec, Path(setup.home), behind=True)
            try:
                if rests(self.loop.log):
                    self.loop.log.economize()
                self._tail = Tail(self.loop, self.publisher)
            except BaseException:
                self.loop.home.close()
                raise
        except BaseException:
            self.publisher.close()
            raise
        self._status = StatusFile(setup, self.publisher)
        self._early = EarlyUseFile(setup)
        self.used = self.opened = time.monotonic()
        self.watched_until = 0.0
        self.resting: Future[None] | None = None
        self.summary = Summary()
        self._summarized, self._dirty = 0.0, False
        self._mark: object = None  # of the log when the loop last had nothing to do; see `unchanged`
        self.bytes = 0
        self.summarize()

    def step(self) -> bool:
        """Take one turn: fold a piece of the log, and publish if due. Return True if there is more to do."""
        mark, began = self._look(), time.monotonic()
        events = self._tail.step()
        self._status.count(events)
        self._early.write(self.loop)
        if self.watched_until > began:
            self.show()
        behind = events > 0 or self._tail.behind()
        self._mark = None if behind else mark
        self._dirty |= events > 0
        self._note(began)
        return behind

    def unchanged(self) -> bool:
        """Return True if no event came since the last turn; then all of them are in what serves, as of now."""
        now = time.monotonic()
        if self._mark is None or self._look() != self._mark:
            return False
        self.publisher.fresh(now)
        self._note(now)
        return True

    @property
    def awake(self) -> bool:
        """True while the log holds connections that it can give up."""
        return rests(self.loop.log) and not self.loop.log.resting

    def show(self) -> None:
        """Write the status for the admin process, a few times a second at most."""
        self._status.write(self.loop, self._tail.publish_seconds, self._tail.trouble)

    def rest(self) -> None:
        """Close the connections to the log until the next turn; this may take as long as the disk does."""
        if rests(self.loop.log):
            self.loop.log.rest()
            if self._mark is not None:
                self._mark = self._look()

    def summarize(self, behind: bool = False) -> None:
        """Note the numbers of the loop, in its home and here, and the bytes that it takes.

        `behind` is true where it is closed before it has learned all events.
        """
        fold = self.loop.fold
        monitor, arrays = fold.monitor, fold.state()[0]
        self.bytes = OVERHEAD + sum(array.nbytes for array in arrays.values())
        metric, champion = monitor.headline, self.loop.fold.roster.champion.version
        value = monitor.report().get("champion", {}).get(metric)
        self.summary = Summary(self.loop.position, time.time(), metric, value, champion, behind)
        self._summarized, self._dirty = time.monotonic(), False
        target = self.loop.home.folder / SUMMARY
        unfinished = target.with_name(f".{SUMMARY}.{os.getpid()}.unfinished")
        try:
            _private.write(unfinished, msgspec.json.encode(self.summary))
            unfinished.replace(target)
        except OSError as error:  # the list of loops then shows older numbers
            log.warning("the summary of a loop cannot be written: %s", error)

    def close(self) -> None:
        """Save what was learned, and free all that the loop holds, and what workers map of it.

        The lock of the home is released last, so that no other process has published anything by then.
        """
        try:
            self.summarize(behind=self.loop.log.end() > self.loop.position)
            self.publisher.close()
            shutil.rmtree(self.setup.serving, ignore_errors=True)
        finally:
            self.loop.close()

    def abandon(self) -> None:
        """Let a loop go that failed: nothing is saved, and what was published goes on serving."""
        self.loop.home.close()
        self.publisher.close()

    def _note(self, now: float) -> None:
        """Summarize the loop now and then, if it has learned something since."""
        if self._dirty and now - self._summarized > SUMMARIZE:
            self.summarize()

    def _look(self) -> object:
        """Return a mark of the log, without opening it, that changes with each commit, or if its file is gone."""
        log_of_loop = self.loop.log
        if not rests(log_of_loop):
            return log_of_loop.end()
        here = place(Path(self.setup.log))
        try:
            found = Path(f"{self.setup.log}-wal").stat()
        except FileNotFoundError:
            return (here,)
        return here, found.st_size, found.st_mtime_ns, found.st_ino


class LoopHost:
    """All loops that belong to one process. `run` is its work, in one thread."""

    def __init__(self, setup: Setup, folder: LoopFolder, calls: LoopCalls, most: int) -> None:
        assert setup.pool is not None
        self._setup, self._folder, self._calls = setup, folder, calls
        self._loops: dict[str, HostedLoop] = {}
        self._turns = Turns()
        self._residents = Residents(setup.pool.memory // setup.pool.processes, most)
        self._wanted = Turns()  # loops with events that are not resident
        self._deferred: list[tuple[float, Caller, LoopCall]] = []  # calls that wait for room, with their last moment
        self._tried = 0.0  # when room was last made for one of them
        self._failed: dict[str, tuple[float, str]] = {}  # until when a loop stays closed, and why
        self._leaving: dict[str, Future[None]] = {}
        self._aside = ThreadPoolExecutor(1, "everlearn-aside")  # for what waits for the disk
        self._warmed: set[str] = set()
        self._swept, self._sweeps = 0.0, 0

    def run(self, ended: Callable[[], bool], ready: Callable[[], None]) -> None:
        """Take calls and turns until `ended`, then learn the rest, as far as time allows, and save all loops."""
        self._adopt()
        if self._folder.template is not None:
            self._warm(self._folder.template)
        ready()
        while not ended():
            opened = self._take_calls() or self._take_deferred()
            if not opened and (name := self._wanted.next()) is not None:
                self._attempt(name)
            self._turn()
            self._sweep()
        until = time.monotonic() + LAST
        while self._turns and time.monotonic() < until:
            self._turn()
        for name in [*self._loops]:
            self._evict(name)
        self._aside.shutdown()

    # ---- calls -------------------------------------------------------------------------------------------------

    def _take_calls(self) -> bool:
        """Take the calls that wait, up to the first for which a loop was opened; then return True."""
        waits = 0.0 if self._turns or self._wanted or self._deferred else SWEEP / 5
        while True:
            try:
                caller, call = self._calls.queue.get(block=waits > 0, timeout=waits or None)
            except Empty:
                return False
            waits = 0.0
            if self._take(caller, call):
                return True

    def _take_deferred(self) -> bool:
        """Take the oldest call that waits for room, now and then."""
        now = time.monotonic()
        if not self._deferred or now - self._tried < AGAIN:
            return False
        self._tried = now
        until, caller, call = self._deferred.pop(0)
        return self._take(caller, call, until)

    def _take(self, caller: Caller, call: LoopCall, until: float = 0.0) -> bool:
        if call.what == "touch":
            for name in call.names:
                if name in self._loops:
                    self._use(name)
                    self._turns.add(name)
                else:
                    self._wanted.add(name)
            return False
        name, opened = call.names[0], False
        status, text = 200, ""
        try:
            if call.what == "create" and self._folder.create(name):
                status = 201
            if name not in self._loops:
                opened = True
                self._open(name)
            self._use(name)
            if call.what == "watch":
                hosted = self._loops[name]
                hosted.watched_until = time.monotonic() + WATCHED
                hosted.show()
        except (Full, InUse) as error:  # another process may be about to end
            until = until or time.monotonic() + DEFER
            if time.monotonic() < until:
                self._deferred.append((until, caller, call))
                return False
            status, text = 503, str(error)
        except Exception as error:
            status, text = _status(error)
            if status == 500:
                log.error("a loop cannot be opened", exc_info=error, extra={"fields": {"loop": name}})
        caller.reply(LoopReply(call.id, status, text))
        return opened

    # ---- turns -------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Let the next loop fold one piece of its log."""
        name = self._turns.next()
        hosted = self._loops.get(name) if name is not None else None
        if name is None or hosted is None:
            return
        if hosted.resting is not None:
            if not hosted.resting.done():
                self._turns.add(name)
                if len(self._turns) == 1:
                    time.sleep(0.001)
                return
            hosted.resting = None
        try:
            if hosted.step():
                self._turns.add(name)
        except Exception as error:
            self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        """Close a loop whose turn failed; the others go on, and this one is opened again after a while."""
        log.error("a loop failed: %s", error, exc_info=error, extra={"fields": {"loop": name}})
        self._failed[name] = time.monotonic() + FAILED, str(error)
        hosted = self._loops.pop(name)
        self._residents.drop(name)
        with suppress(Exception):
            hosted.abandon()

    def _use(self, name: str) -> None:
        hosted = self._loops[name]
        hosted.used = time.monotonic()
        self._residents.use(name, hosted.bytes)

    # ---- loops without work ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Look at the loops without work, an eighth of them each time: for events that no worker has reported."""
        now = time.monotonic()
        if now - self._swept < SWEEP:
            return
        self._swept, self._sweeps = now, self._sweeps + 1
        for name in [name for name, (until, _) in self._failed.items() if until < now]:
            del self._failed[name]
            self._wanted.add(name)
        unrested = []
        for number, (name, hosted) in enumerate(self._loops.items()):
            if name in self._turns:
                continue
            if hosted.resting is not None and hosted.resting.done():
                hosted.resting = None
            if hosted.watched_until > now or (
                hosted.resting is None and (number + self._sweeps) % EVERY == 0 and not hosted.unchanged()
            ):
                self._turns.add(name)
            elif hosted.resting is None and rests(hosted.loop.log) and not hosted.loop.log.resting:
                unrested.append((hosted.used, name))
        unrested.sort()
        for number, (used, name) in enumerate(unrested):
            if now - used > REST or number < len(unrested) - OPEN_LOGS:
                self._loops[name].resting = self._aside.submit(self._loops[name].rest)

    # ---- opening and evicting ----------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Want the loops that were resident, or have events that may not be learned, when a process was killed."""
        for name in self._folder.names():
            if self._folder.owner(name) != self._setup.index:
                continue
            with suppress(EverlearnError, OSError):
                wal = Path(f"{self._folder.home(name)}/log.sqlite-wal")
                left = serving_of(self._setup, name).exists() or (wal.exists() and wal.stat().st_size)
                if left or self._folder.summary(name).behind:
                    self._wanted.add(name)

    def _attempt(self, name: str) -> None:
        """Open a loop that has events; try again later if it fails."""
        if name in self._loops or name in self._failed:
            return
        try:
            self._open(name)
        except UnknownLoop:
            pass  # it was removed meanwhile
        except (Full, InUse) as error:
            self._failed[name] = time.monotonic() + SWEEP, str(error)
        except Exception as error:
            self._failed[name] = time.monotonic() + FAILED, str(error)
            log.warning("a loop with new events cannot be opened: %s", error, extra={"fields": {"loop": name}})

    def _open(self, name: str) -> None:
        """Make a loop resident. Raises Full where the memory is full of loops at work, and what opening raises."""
        if (failed := self._failed.get(name)) is not None and failed[0] > time.monotonic():
            raise Full(f"the loop {name} is opened again in a moment: {failed[1]}")
        if not self._folder.holds(name):
            raise UnknownLoop(f"there is no loop {name[:60]!r}; GET /loops lists them, POST /loops/NAME creates one")
        if (leaving := self._leaving.pop(name, None)) is not None:
            leaving.result()
        spec = self._folder.spec(name)
        self._make_room(OVERHEAD)
        self._warm(spec)
        setup = setup_of(self._setup, name, spec, self._folder.home(name))
        hosted = HostedLoop(setup, spec)
        self._failed.pop(name, None)
        self._loops[name] = hosted
        self._residents.use(name, hosted.bytes)
        self._turns.add(name)
        self._make_room(0, loops=0, but=name)

    def _make_room(self, more: int, loops: int = 1, but: str = "") -> None:
        """Evict loops, least recently used first. Raises Full if that does not make room.

        A loop without work goes first. One with work goes after a while, and is opened again when its time comes.
        """
        for name in self._residents.surplus(lambda name: name != but and name not in self._turns, more, loops):
            self._evict(name)
        before, loaded = time.monotonic() - HOLD, self._loops
        for name in self._residents.surplus(lambda name: name != but and loaded[name].opened < before, more, loops):
            self._evict(name)
            self._wanted.add(name)
        if loops and len(self._residents) and not self._residents.fits(more, loops):
            raise Full("the memory of this server is full of loops that are learning; try again in a second")

    def _evict(self, name: str) -> None:
        """Let a loop go: it is saved and closed aside, while other loops have their turns."""
        hosted = self._loops.pop(name)
        self._residents.drop(name)
        self._turns.drop(name)
        self._leaving = {name: future for name, future in self._leaving.items() if not future.done()}
        if len(self._leaving) >= LEAVING:
            next(iter(self._leaving.values())).result()
        self._calls.gone(name)
        self._leaving[name] = self._aside.submit(_closed, hosted, name)

    def _warm(self, spec: Spec) -> None:
        """Load or compile the kernels of a kind of model, once."""
        if (kind := kind_of(spec)) not in self._warmed:
            self._warmed.add(kind)
            own = Path(self._setup.serving) / f"learner-{self._setup.index}"
            own.mkdir(mode=0o700, exist_ok=True)
            warm(spec, str(own))


def kind_of(spec: Spec) -> str:
    """Return what loops with the same kernels have in common: the task, and the spec of the model."""
    return f"{spec.schema.task} {canonical(spec.model)!r}"


class Full(EverlearnError):
    """There is no room now."""


class UnknownLoop(EverlearnError):
    """There is no loop of this name."""


def _closed(hosted: HostedLoop, name: str) -> None:
    try:
        hosted.close()
    except Exception as error:  # all of it can be learned again from the log
        log.error("a loop could not be saved: %s", error, extra={"fields": {"loop": name}})


def _status(error: Exception) -> tuple[int, str]:
    """Return the status and the text with which a call that failed is refused."""
    match error:
        case UnknownLoop():
            return 404, str(error)
        case Full() | InUse():
            return 503, str(error)
        case ConfigError() | ModelError() | InputError():
            return 422, str(error)
        case EverlearnError() | OSError():
            return 503, str(error)
    return 500, "the loop cannot be opened; the log of the server says why"
