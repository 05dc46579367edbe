"""The learner: the one process that tails the log, learns, decides, and publishes what serves.

Workers never wait for it, and it gives way to them: it runs at low priority, folds the log in pieces of a few
milliseconds, and spends a tenth of its time on publishing at most. Whatever it has learned since its last checkpoint
is learned again from the log when it is killed; so it may be, at any moment.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from everlearn.app import logs, tracing
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.app.tracing import Tracer
from everlearn.errors import BlobError, EverlearnError, InputError, LogError
from everlearn.events import Log
from everlearn.loop.home import held
from everlearn.loop.loop import Loop
from everlearn.loop.status import stale
from everlearn.serve.roster import Contestant
from everlearn.serve.snapshot import Answering, Publisher
from everlearn.spec import LogSpec, Spec

log = logging.getLogger("everlearn.learner")

PRIORITY = 10  # of `nice`: requests come first
PIECE = 0.004  # seconds that a piece of the log should take to fold
PIECES = (8, 4096)  # the fewest and the most events in one
SHARE = 0.1  # of the time may go into publishing
BUSY, IDLE = 0.001, 0.01  # seconds of sleep between two looks at the log
STATUS = 0.2  # seconds between two statuses
TIDY = 1.0  # seconds between two moves of the write-ahead log into the log
RETRY = (0.2, 5.0)  # seconds of pause when the disk refuses: at first, and at most
LAST = 20.0  # seconds to catch up in when the end is asked for
_WARMING = ".warming-"


@dataclass(slots=True)
class Pace:
    """How many events to fold at once, and when to publish: decided from the processor time that these took.

    Time in which others had the processor is not counted: smaller pieces and fewer snapshots would not shorten it.
    """

    limit: int = PIECES[0]
    due: float = 0.0  # when the next snapshot may be published

    def folded(self, events: int, seconds: float) -> None:
        """A piece took so long: make the next smaller, or larger if this one was full."""
        if seconds > PIECE:
            self.limit = max(PIECES[0], self.limit // 2)
        elif events == self.limit and seconds < PIECE / 2:
            self.limit = min(PIECES[1], self.limit * 2)

    def published(self, began: float, seconds: float) -> None:
        """A snapshot took so long: leave the rest of the time to learning."""
        self.due = began + seconds / SHARE


class Tail:
    """One open loop and the folder in which it serves.

    What serves never goes back: a loop that is opened again, from its last checkpoint, publishes nothing until it has
    learned again what the folder serves already.
    """

    def __init__(self, loop: Loop, publisher: Publisher) -> None:
        self._loop = loop
        self._publisher = publisher
        self._pace = Pace()
        self._serving: object = None  # what the newest snapshot was made of
        self._known = 0.0  # every event committed before this moment is folded
        self._tried = 0.0  # when to try again to publish, after the folder was full
        self._floor = publisher.position if self._continues() else 0
        self.publish_seconds = 0.0
        self.trouble = ""
        self._begin()

    def step(self) -> int:
        """Fold one piece of the log, publish if that is due, say how fresh it is; return how many events there were."""
        began, used, limit = time.monotonic(), time.thread_time(), self._pace.limit
        events = self._loop.catch_up(limit)
        now = time.monotonic()
        self._pace.folded(events, time.thread_time() - used)
        self._known = began if events < limit else max(self._known, self._moment(now))
        self._publisher.reached(self._loop.position)
        if self._loop.fold.started and self._loop.position >= self._floor:
            self._serve(now)
        return events

    def finish(self, seconds: float) -> None:
        """Fold what the log still holds, for so many seconds at most, and let it serve."""
        until = time.monotonic() + seconds
        while self.step() and time.monotonic() < until:
            pass
        self._pace.due = 0.0
        self.step()

    def pause(self, before: float) -> float:
        """How long to sleep when there was nothing to fold, given the last sleep: longer and longer, up to a bound."""
        wanted = min(IDLE, before * 1.5)
        return min(wanted, max(BUSY, self._pace.due - time.monotonic())) if self._behind() else wanted

    def _begin(self) -> None:
        """Let something serve before the log is caught up with; a new loop starts with its first event, or now."""
        while not self._loop.fold.started and self._loop.catch_up(PIECES[1]):
            pass
        self._loop.ready()
        self._known = self._moment(time.monotonic())
        self._publisher.reached(self._loop.position)
        if self._loop.position >= self._floor:
            self._serve(time.monotonic())

    def _continues(self) -> bool:
        """Whether the folder holds a snapshot of this very loop."""
        with suppress(InputError):
            self._loop.home.versions.find(self._publisher.version)
            return bool(self._publisher.version) and self._publisher.position <= self._loop.log.end()
        return False

    def _serve(self, now: float) -> None:
        serving = self._made_of()
        if serving != self._serving:
            if now < max(self._pace.due, self._tried):
                return
            used = time.thread_time()
            try:
                self._publish()
            except BlobError as error:  # no room: what was published before goes on serving, and gets stale
                self.trouble, self._tried = str(error), now + RETRY[1]
                return
            self._serving, self.trouble = serving, ""
            self.publish_seconds = time.monotonic() - now
            self._pace.published(now, time.thread_time() - used)
        self._publisher.fresh(self._known)

    def _publish(self) -> None:
        roster, canary = self._loop.fold.roster, self._canary()
        self._publisher.publish(
            _answering(roster.champion),
            _answering(canary) if canary else None,
            self._loop.position,
            self._loop.fold.bounds,
        )

    def _made_of(self) -> object:
        """Two moments at which this is equal serve the same."""
        fold = self._loop.fold
        champion, canary = fold.roster.champion, self._canary()
        learns = champion.learns or (canary is not None and canary.learns)
        extra = tuple((name, array.tobytes()) for name, array in fold.bounds.items())
        return champion.uid, champion.version, canary and canary.uid, fold.cursor["log"] if learns else 0, extra

    def _canary(self) -> Contestant | None:
        return self._loop.fold.canary if self._loop.spec.serve.canary else None

    def _behind(self) -> bool:
        return self._made_of() != self._serving

    def _moment(self, now: float) -> float:
        """A moment before which every committed event is folded: when the first one that is not was written.

        By the wall clock, as events are; used while the end of the log is not in sight.
        """
        ahead = self._loop.log.read(self._loop.position, 1)
        if not ahead:
            return now
        age = time.time() - ahead[0].time
        return now - age if age > 0 else 0.0


class Telling:
    """The status that the other processes read, written a few times a second."""

    def __init__(self, setup: Setup, publisher: Publisher) -> None:
        self._path = setup.status
        self._bound = setup.spec.serve.staleness
        self._publisher = publisher
        self._started = time.time()
        self._next = 0.0
        self._counted, self._since = 0, time.monotonic()
        self._rate = 0.0
        self._last: dict[str, Any] = {}
        self._trouble = ""

    def count(self, events: int) -> None:
        """So many events were folded."""
        self._counted += events

    def tell(self, loop: Loop | None, publish_seconds: float = 0.0, trouble: str = "") -> None:
        """Write the status if it is time; without a loop, the last one again, with what is wrong."""
        now = time.monotonic()
        if now < self._next and trouble == self._trouble:
            return
        if trouble and trouble != self._trouble:
            log.error(trouble)
        self._trouble, self._next = trouble, now + STATUS
        if now - self._since >= 1.0:
            self._rate, self._counted, self._since = self._counted / (now - self._since), 0, now
        if loop is not None:
            self._last = loop.status()
        learner = {
            "pid": os.getpid(),
            "started": self._started,
            "events_per_second": round(self._rate, 1),
            "published": self._publisher.sequence,
            "publish_seconds": publish_seconds,
            "memory": memory(),
            "trouble": trouble,
        }
        staleness = stale(self._publisher.staleness(now), self._bound)
        self._write(self._last | {"time": time.time(), "staleness": staleness, "learner": learner})

    def _write(self, told: dict[str, Any]) -> None:
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.unfinished")
        try:
            unfinished.write_bytes(msgspec.json.encode(told))
            unfinished.replace(self._path)
        except OSError as error:  # the learner is needed more than its status
            log.warning("the status cannot be written: %s", error)


class Tidying:
    """Moves the write-ahead log into the log now and then, beside the learning: writing to a disk takes its time."""

    def __init__(self, events: Log) -> None:
        self._events = events
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlearn-tidy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Tidying:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(TIDY):
            try:
                self._events.tidy()
            except LogError as error:
                log.warning("the write-ahead log stays as it is: %s", error)


@dataclass(slots=True)
class Learner:
    """What the process does until `stop` is set; `ready` is called once something serves."""

    setup: Setup
    stop: threading.Event
    ready: Callable[[], None]
    pause: float = field(default=RETRY[0])
    tracer: Tracer | None = None

    def run(self) -> None:
        """Tail the log; when the disk refuses, wait and go on from the last checkpoint.

        Raises what keeps a loop from being opened the first time.
        """
        with held(Path(self.setup.home)):
            pass  # where another learner is at work, nothing of its is touched
        warm(self.setup.spec, self.setup.serving)
        publisher = Publisher(Path(self.setup.serving))
        telling, opened = Telling(self.setup, publisher), False
        try:
            while not self.stop.is_set():
                try:
                    with Loop(self.setup.spec, Path(self.setup.home), behind=True) as loop, Tidying(loop.log):
                        tail = Tail(loop, publisher)
                        telling.tell(loop, tail.publish_seconds)
                        if not opened:
                            opened = True
                            self.ready()
                        self._follow(loop, tail, telling)
                except (LogError, BlobError, OSError) as error:
                    if not opened:
                        raise
                    self._wait(telling, str(error))
        finally:
            publisher.close()

    def _follow(self, loop: Loop, tail: Tail, telling: Telling) -> None:
        """Fold what comes until the end is asked for; then what is left."""
        sleep = BUSY
        while not self.stop.is_set():
            began = time.perf_counter()
            events = tail.step()
            if events and self.tracer is not None:
                spent, published = time.perf_counter() - began, tail.publish_seconds
                self.tracer.record("fold", spent, {"everlearn.events": events, "everlearn.publish_seconds": published})
            telling.count(events)
            telling.tell(loop, tail.publish_seconds, tail.trouble)
            if events:
                self.pause = RETRY[0]
            sleep = BUSY if events else tail.pause(sleep)
            if events < PIECES[0]:
                self.stop.wait(sleep)
        tail.finish(LAST)
        telling.tell(loop, tail.publish_seconds, tail.trouble)

    def _wait(self, telling: Telling, trouble: str) -> None:
        """Say what is wrong until it is time to try again."""
        until = time.monotonic() + self.pause
        self.pause = min(RETRY[1], 2 * self.pause)
        while time.monotonic() < until and not self.stop.is_set():
            telling.tell(None, trouble=trouble)
            self.stop.wait(STATUS)


def warm(spec: Spec, folder: str) -> None:
    """Load, or compile, the kernels that learning needs, on a loop that is thrown away: no label waits for them."""
    tried = msgspec.structs.replace(spec, warm_start=0.0, tick=1, log=LogSpec())
    label = spec.schema.classes[0] if spec.schema.classes else 0.0
    for left in Path(folder).glob(f"{_WARMING}*"):  # of one that was killed meanwhile
        shutil.rmtree(left, ignore_errors=True)
    try:
        with TemporaryDirectory(dir=folder, prefix=_WARMING) as home, Loop(tried, Path(home)) as loop:
            loop.learn({}, label)
            for _ in range(2):
                loop.feedback(loop.predict({}).id, label)
            loop.status()
    except Exception as error:  # what is wrong with the true loop will be said when that one is opened
        log.info("the kernels could not be loaded beforehand: %s", error)


def memory() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _answering(one: Contestant) -> Answering:
    return Answering(one.version, one.model)


def main() -> None:
    """Learn until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", "learner")
    with suppress(OSError):
        os.nice(PRIORITY)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    when_abandoned(stop.set)
    try:
        tracer = tracing.start(setup, "learner")
        Learner(setup, stop, tell_ready, tracer=tracer).run()
    except EverlearnError as error:
        log.critical("the learner cannot work: %s", error)
        raise SystemExit(1) from error
    if tracer is not None:
        tracer.stop()


if __name__ == "__main__":
    main()
