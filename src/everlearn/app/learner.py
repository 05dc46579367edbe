"""The learner: the one process that follows the log, learns, decides, and publishes snapshots.

Workers never wait for the learner, and it yields to them: once it has published it runs at low priority. It folds the
log in pieces of a few milliseconds, and spends at most a tenth of its time on publishing. It may be killed at any
moment: after a restart it learns again from the log what it had learned since its last checkpoint, which is a few
seconds of work.
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

from everlearn import _private
from everlearn.app import logs, tracing
from everlearn.app.process import Setup, ready_after_requests, received, when_abandoned
from everlearn.app.tracing import Tracer
from everlearn.errors import BlobError, EverlearnError, InputError, LogError
from everlearn.events import Log, evict, exists
from everlearn.events.file import place
from everlearn.feedback import early_room
from everlearn.gate import comparison
from everlearn.loop.home import held
from everlearn.loop.loop import Loop
from everlearn.loop.status import stale
from everlearn.records import Scalar
from everlearn.schema.actions import UNIFORM
from everlearn.schema.question import Asked, SampledAnswer, pack_ids, pack_logp
from everlearn.serve.contestant import Contestant
from everlearn.serve.duels import rival
from everlearn.serve.snapshot import Answering, Publisher
from everlearn.spec import LogSpec, Schema, Spec

log = logging.getLogger("everlearn.learner")

PIECE = 0.004  # seconds that a piece of the log should take to fold
PIECES = (8, 4096)  # the fewest and the most events in a piece
SHARE = 0.1  # the most of the time that goes into publishing, and into checkpoints
WORK = 5.0  # seconds of learning after which a checkpoint is due
BUSY, IDLE = 0.001, 0.01  # seconds of sleep between two reads of the log
STATUS = 0.2  # seconds between two writes of the status
LOOK = 0.05  # seconds between two looks whether the home is still in its place
EARLY = 0.05  # seconds between two publications of the early feedback that is held
TIDY = 1.0  # seconds between two moves of the write-ahead log into the log
RETRY = (0.2, 5.0)  # seconds of pause after a failed write: the first, and the longest
LAST = 20.0  # seconds to catch up before the process ends
_WARMING = ".warming-"


@dataclass(slots=True)
class Pace:
    """The size of the next piece and the time of the next snapshot, chosen from the processor time of the last ones.

    Time in which other processes had the processor does not count: smaller pieces would not shorten it.
    """

    limit: int = PIECES[0]
    due: float = 0.0  # when the next snapshot may be published

    def folded(self, events: int, seconds: float) -> None:
        """Note the seconds of a piece: make the next one smaller, or larger if this one was full."""
        if seconds > PIECE:
            self.limit = max(PIECES[0], self.limit // 2)
        elif events == self.limit and seconds < PIECE / 2:
            self.limit = min(PIECES[1], self.limit * 2)

    def published(self, began: float, seconds: float) -> None:
        """Note the seconds of a snapshot that began at `began`: leave the rest of the time to learning."""
        self.due = began + seconds / SHARE


class Tail:
    """One open loop and the folder to which it publishes.

    The served models never go back: a loop that is opened again from its last checkpoint publishes nothing until it has
    learned again up to the position of the snapshot in the folder.
    """

    def __init__(self, loop: Loop, publisher: Publisher) -> None:
        self._loop = loop
        self._publisher = publisher
        self._pace = Pace()
        self._published: object = None  # the source of the newest snapshot, see `_source`
        self._folded = 0.0  # every event committed before this moment is folded
        self._look = 0.0  # when to look at the place of the home again
        self._retry = 0.0  # when to publish again, after the folder was full
        self._floor = publisher.position if self._continues() else 0
        self._work = self._save_seconds = 0.0  # of learning since the last checkpoint, and of writing one
        self._saves = loop.home.saves
        self.publish_seconds = 0.0
        self.trouble = ""
        self._begin()

    def step(self) -> int:
        """Fold one piece of the log, publish if due, and note the freshness; return the number of events."""
        began, used, limit = time.monotonic(), time.thread_time(), self._pace.limit
        events = self._loop.catch_up(limit)
        now = time.monotonic()
        used = time.thread_time() - used
        self._pace.folded(events, used)
        self._save(used)
        self._folded = began if events < limit else max(self._folded, self._moment(now))
        if now >= self._look:
            self._loop.home.check_place()  # another learner may be at work in its place
            self._look = now + LOOK
        self._publisher.reached(self._loop.position)
        if self._loop.fold.started and self._loop.position >= self._floor:
            self._serve(now)
        return events

    def finish(self, seconds: float) -> None:
        """Fold the rest of the log, for at most so many seconds, and publish the result."""
        until = time.monotonic() + seconds
        while self.step() and time.monotonic() < until:
            pass
        self._pace.due = 0.0
        self.step()

    def pause(self, before: float) -> float:
        """Return the seconds to sleep after a read without events, given the last sleep: ever longer, up to a bound."""
        wanted = min(IDLE, before * 1.5)
        return min(wanted, max(BUSY, self._pace.due - time.monotonic())) if self.behind() else wanted

    def _begin(self) -> None:
        """Publish before the log is caught up with; a new loop starts with its first event, or now."""
        while not self._loop.fold.started and self._loop.catch_up(PIECES[1]):
            pass
        self._loop.ready()
        self._folded = self._moment(time.monotonic())
        self._publisher.reached(self._loop.position)
        if self._loop.position >= self._floor:
            self._serve(time.monotonic())

    def _save(self, seconds: float) -> None:
        """Note the seconds of a piece; save once a restart would repeat seconds of work.

        `checkpoint` counts labels, of which one may take seconds where it completes a round of a language model.
        """
        if self._loop.home.saves != self._saves:  # the loop made a checkpoint: a decision, or enough labels
            self._work, self._saves = 0.0, self._loop.home.saves
        self._work += seconds
        if self._work > max(WORK, self._save_seconds / SHARE):
            began = time.thread_time()
            self._loop.save()
            self._save_seconds = time.thread_time() - began
            self._work, self._saves = 0.0, self._loop.home.saves

    def _continues(self) -> bool:
        """Return True if the folder holds a snapshot of this loop."""
        with suppress(InputError):
            self._loop.home.versions.find(self._publisher.version)
            return bool(self._publisher.version) and self._publisher.position <= self._loop.log.end()
        return False

    def _serve(self, now: float) -> None:
        source = self._source()
        if source != self._published:
            if now < max(self._pace.due, self._retry):
                return
            used = time.thread_time()
            try:
                self._publish()
            except BlobError as error:  # no room: the last snapshot stays in use, and gets stale
                self.trouble, self._retry = str(error), now + RETRY[1]
                return
            self._published, self.trouble = source, ""
            self.publish_seconds = time.monotonic() - now
            self._pace.published(now, time.thread_time() - used)
        self._publisher.fresh(self._folded)

    def _publish(self) -> None:
        roster, canary = self._loop.fold.roster, self._canary()
        self._publisher.publish(
            self._answering(roster.champion),
            self._answering(canary) if canary else None,
            self._loop.position,
            self._loop.fold.bounds,
            self._answering(other) if (other := self._rival()) is not None else None,
        )

    def _source(self) -> object:
        """Return a value that changes whenever a snapshot would."""
        fold = self._loop.fold
        champion, canary = fold.roster.champion, self._canary()
        other = self._rival()
        learns = any(one is not None and one.learns for one in (champion, canary, other))
        extra = tuple((name, array.tobytes()) for name, array in fold.bounds.items())
        rules = [fold.monitor.rules.rule(arm) for arm in (champion, canary) if arm is not None]
        extra += tuple(("rule", rule.tobytes()) for rule in rules if rule is not None)
        uids = [one and one.uid for one in (canary, other)]
        return champion.uid, champion.version, *uids, fold.cursor["log"] if learns else 0, extra

    def _answering(self, contestant: Contestant) -> Answering:
        rule = self._loop.fold.monitor.rules.rule(contestant)
        uid = contestant.uid if self._loop.fold.encoder.late else 0  # only answers of duels are attributed by it
        return Answering(contestant.version, contestant.model, rule, uid)

    def _canary(self) -> Contestant | None:
        return self._loop.fold.canary if self._loop.spec.serve.canary else None

    def _rival(self) -> Contestant | None:
        return rival(self._loop.fold.roster) if self._loop.fold.encoder.late else None

    def behind(self) -> bool:
        """Return True until all that was folded is published."""
        return self._source() != self._published

    def _moment(self, now: float) -> float:
        """Return a moment before which every committed event is folded: when the first unfolded event was written.

        The wall clock dates events, so this is used only while the end of the log is not reached.
        """
        ahead = self._loop.log.read(self._loop.position, 1)
        if not ahead:
            return now
        age = time.time() - ahead[0].time
        return now - age if age > 0 else 0.0


class StatusFile:
    """The status that other processes read, written a few times a second."""

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
        """Count folded events."""
        self._counted += events

    def write(self, loop: Loop | None, publish_seconds: float = 0.0, trouble: str = "") -> None:
        """Write the status if it is due; without a loop, write the last one again, with the trouble."""
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
        self._replace(self._last | {"time": time.time(), "staleness": staleness, "learner": learner})

    def _replace(self, status: dict[str, Any]) -> None:
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.unfinished")
        try:
            _private.write(unfinished, msgspec.json.encode(status))
            unfinished.replace(self._path)
        except OSError as error:  # learning goes on without a status
            log.warning("the status cannot be written: %s", error)


class EarlyUseFile:
    """The bytes of early feedback that the loop holds, published for workers (see `feedback.early_room`).

    The published position never goes back: a worker counts its own feedback no more once the use holds it. A loop that
    is opened again from its last checkpoint publishes its use once it has learned again up to that position.
    """

    def __init__(self, setup: Setup) -> None:
        self._folder = Path(setup.serving)
        self._wanted = setup.spec.feedback.early > 0.0
        self._next, self._position = 0.0, early_room.PublishedUse(self._folder)().position

    def write(self, loop: Loop) -> None:
        """Publish the use if it may have changed, and it is time."""
        now = time.monotonic()
        if not self._wanted or now < self._next or loop.position == self._position:
            return
        if loop.position < self._position <= loop.log.end():  # beyond the end it is of another loop
            return
        try:
            early_room.publish(self._folder, early_room.use(loop.fold.early, loop.position))
        except OSError as error:  # workers then count more than is there, and refuse early feedback sooner
            log.warning("the use of early feedback cannot be published: %s", error)
            self._next = now + RETRY[1]
        else:
            self._next, self._position = now + EARLY, loop.position


class LogUpkeep:
    """A thread that moves the write-ahead log into the log now and then, because writing to a disk takes long."""

    def __init__(self, events: Log) -> None:
        self._events = events
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlearn-tidy", daemon=True)
        self._thread.start()

    def __enter__(self) -> LogUpkeep:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(TIDY):
            try:
                self._events.tidy()
            except LogError as error:
                log.warning("the write-ahead log was not moved into the log: %s", error)


@dataclass(slots=True)
class Learner:
    """The work of the process until `stop` is set; `ready` is called once a snapshot is published."""

    setup: Setup
    stop: threading.Event
    ready: Callable[[], None]
    pause: float = field(default=RETRY[0])
    tracer: Tracer | None = None
    warming: bool = False  # kernels are loaded or compiled, and nothing is open

    def run(self) -> None:
        """Follow the log; when a write fails, wait and go on from the last checkpoint.

        Raises the error that keeps the loop from being opened the first time.
        """
        self.setup.check_place()
        with held(Path(self.setup.home)):
            pass  # fails while another learner is at work, before any of its files is touched
        self.warming = True
        warm(_spec_of_home(self.setup.spec, Path(self.setup.home)), self.setup.serving)
        self.warming = False
        publisher = Publisher(Path(self.setup.serving))
        status, early, opened = StatusFile(self.setup, publisher), EarlyUseFile(self.setup), False
        try:
            while not self.stop.is_set():
                try:
                    self.setup.check_place()
                    if self.setup.evicts and not opened:
                        evict(self.setup.log)
                    with Loop(self.setup.spec, Path(self.setup.home), behind=True) as loop, LogUpkeep(loop.log):
                        if self.setup.spec.log.blobs:  # servers of other machines follow
                            publisher.begin(loop.home.epoch)
                        tail = Tail(loop, publisher)
                        status.write(loop, tail.publish_seconds)
                        early.write(loop)
                        if not opened:
                            opened = True
                            self.setup = msgspec.structs.replace(self.setup, place=place(Path(self.setup.log)))
                            self.ready()
                        self._follow(loop, tail, status, early)
                except (LogError, BlobError, OSError) as error:
                    if not opened:
                        raise
                    self._wait(status, str(error))
        finally:
            publisher.close()

    def _follow(self, loop: Loop, tail: Tail, status: StatusFile, early: EarlyUseFile) -> None:
        """Fold events as they arrive until `stop` is set; then fold the rest of the log."""
        sleep = BUSY
        while not self.stop.is_set():
            began = time.perf_counter()
            events = tail.step()
            if events and self.tracer is not None:
                spent, published = time.perf_counter() - began, tail.publish_seconds
                self.tracer.record("fold", spent, {"everlearn.events": events, "everlearn.publish_seconds": published})
            status.count(events)
            status.write(loop, tail.publish_seconds, tail.trouble)
            early.write(loop)
            if events:
                self.pause = RETRY[0]
            sleep = BUSY if events else tail.pause(sleep)
            if events < PIECES[0]:
                self.stop.wait(sleep)
        tail.finish(LAST)
        status.write(loop, tail.publish_seconds, tail.trouble)

    def _wait(self, status: StatusFile, trouble: str) -> None:
        """Report the trouble until it is time to try again."""
        until = time.monotonic() + self.pause
        self.pause = min(RETRY[1], 2 * self.pause)
        while time.monotonic() < until and not self.stop.is_set():
            status.write(None, trouble=trouble)
            self.stop.wait(STATUS)


def _spec_of_home(spec: Spec, home: Path) -> Spec:
    """Return the spec with the model of an existing home, where the spec leaves it out."""
    if spec.model or not exists(home):
        return spec
    with suppress(EverlearnError), Loop(spec, home, behind=True) as loop:  # the real loop will raise it again
        return msgspec.structs.replace(spec, model=loop.spec.model)
    return spec


def warm(spec: Spec, folder: str) -> None:
    """Load or compile the kernels that learning needs, in a temporary loop, so that no label waits for them."""
    short = msgspec.structs.replace(spec, warm_start=0.0, tick=1, log=LogSpec())
    label, logged = _example(spec.schema)
    _remove_warming(folder)  # left by a learner that was killed
    try:
        with TemporaryDirectory(dir=folder, prefix=_WARMING) as home, Loop(short, Path(home)) as loop:
            if spec.schema.task == "preference":
                one = SampledAnswer(ids=pack_ids([0]), logp=pack_logp([0.0]), finish="stop")
                pair = Asked(prompt=pack_ids([0]), answers=(one, one), pair=(0, 1), arm="random")
                loop.judge(loop.record(pair, {}).id, 0)
            else:
                loop.learn(logged, label)
                for _ in range(2):
                    loop.feedback(loop.predict({}).id, label)
            comparison.load_kernels(loop.fold.gate)
            loop.status()
    except Exception as error:  # the real loop will raise it again when it is opened
        log.info("the kernels could not be loaded beforehand: %s", error)


def _example(schema: Schema) -> tuple[Scalar, dict[str, Scalar]]:
    """Return a label that a schema takes, and the features without which a labelled row is refused."""
    if schema.task != "bandit":
        return (schema.classes[0] if schema.classes else 0.0), {}
    logged: dict[str, Scalar] = {schema.action: schema.actions[0]} if schema.action else {}
    if schema.action and schema.propensity != UNIFORM:
        logged[schema.propensity] = 1.0
    return schema.rewards[0], logged


def memory() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not report them."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _remove_warming(folder: str) -> None:
    """Remove the temporary loops in which kernels were loaded."""
    for stale_home in Path(folder).glob(f"{_WARMING}*"):
        shutil.rmtree(stale_home, ignore_errors=True)


def main() -> None:
    """Learn until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", "learner")
    stop = threading.Event()
    learner = Learner(setup, stop, ready_after_requests)

    def end(*_: object) -> None:
        stop.set()
        if learner.warming:  # compiling takes seconds, and there is nothing to save
            _remove_warming(setup.serving)
            os._exit(0)  # an exception would be lost in a callback of the compiler

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    when_abandoned(stop.set)
    try:
        tracer = learner.tracer = tracing.start(setup, "learner")
        learner.run()
    except EverlearnError as error:
        log.critical("the learner cannot work: %s", error)
        raise SystemExit(1) from error
    if tracer is not None:
        tracer.stop()


if __name__ == "__main__":
    main()
