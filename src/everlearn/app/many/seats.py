"""The loops that a worker can answer for now: opened on their first request, closed when their learner lets them go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec

from everlearn import model, schema
from everlearn.app.counters import Counters
from everlearn.app.many.folder import LoopFolder, check_known, link_of, setup_of
from everlearn.app.many.host import kind_of
from everlearn.app.many.wire import LoopLink
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.app.worker.groups import Room
from everlearn.app.worker.hot_path import HotPath
from everlearn.errors import BlobError
from everlearn.events import Log, log_of, rests
from everlearn.schema import Reading
from everlearn.serve.snapshot import Reader
from everlearn.spec import Spec

log = logging.getLogger("everlearn.many")

ROOM = Room(256, 4 << 20, 429)  # what may wait for one loop, so that it does not crowd out the others
OPEN_LOGS = 512  # logs that keep their connections between requests: 60 kB each
REST = 10.0  # seconds without a request after which a log is closed until the next one
LOOK = 0.5  # seconds between two looks for logs that may rest
TRIES = 5  # to open a loop that its learner lets go again before it can be read
SOON = 0.002  # seconds in which new events of several loops are reported together
WAITS = 1.0  # seconds for a snapshot; the learner publishes one before it replies
RETIRE = 5.0  # seconds that requests under way have to end, after their loop was evicted


class Seat:
    """One loop in a worker: its hot path, and what has to be closed with it."""

    def __init__(self, setup: Setup, index: int, reading: Reading, written: Callable[[], None]) -> None:
        with ExitStack() as undo:
            self.log: Log = log_of(setup.home, setup.spec.log, tidy=False)
            undo.callback(self.log.close)
            if rests(self.log):
                self.log.economize()
            reader = Reader(Path(setup.serving), model.build, patience=WAITS)
            reader.current()
            self.counters = Counters(setup.counters(index))
            undo.callback(self.counters.close)
            self.hot = HotPath(setup, self.log, reader, self.counters, None, reading, ROOM, written)
            undo.pop_all()
        self.used = time.monotonic()
        self.resting: asyncio.Future[None] | None = None

    @property
    def awake(self) -> bool:
        """True while the log holds connections that it can give up."""
        idle = self.resting is None and not self.hot.busy
        return idle and rests(self.log) and not self.log.resting

    def rest(self) -> None:
        """Close the connections to the log until the next request; this may take as long as the disk does."""
        if rests(self.log):
            self.log.rest()

    def close(self) -> None:
        """Close all that the seat holds."""
        self.log.close()
        self.counters.close()


class Seats:
    """The seats of one worker. `find` returns one that is ready, and `open` makes it ready."""

    def __init__(self, setup: Setup, folder: LoopFolder) -> None:
        self._setup, self._folder = setup, folder
        self._seats: dict[str, Seat] = {}
        self._opening: dict[str, asyncio.Task[Seat]] = {}
        self._readings: dict[bytes, Reading] = {}
        self._warmed: set[str] = set()
        self._evicted: set[str] = set()  # loops that were evicted since they were last opened
        self._touched: dict[str, None] = {}
        self._aside = ThreadPoolExecutor(1, "everlearn-aside")  # for what waits for the disk
        self._links: list[LoopLink] = []

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this event loop."""
        self._loop = loop
        self._links = [LoopLink(link_of(self._setup, i), self._gone) for i in range(self._folder.processes)]
        loop.call_later(LOOK, self._look)

    async def close(self) -> None:
        """Close the links to the learners."""
        for link in self._links:
            await link.close()

    def find(self, name: str) -> Seat | None:
        """Return the seat of a loop if it is ready now."""
        seat = self._seats.get(name)
        if seat is None or seat.resting is not None:
            return None
        seat.used = time.monotonic()
        return seat

    async def open(self, name: str) -> Seat:
        """Return the seat of a loop, once it is ready.

        Raises Refused: 404 without such a loop, 422 for wrong settings, 503 while there is no room for it; and
        InputError for a name that cannot be one.
        """
        seat = self._seats.get(name)
        if seat is not None:
            if seat.resting is not None:
                await asyncio.wait([seat.resting])
            return seat
        task = self._opening.get(name)
        if task is None:
            task = self._opening[name] = self._loop.create_task(self._opened(name))
            task.add_done_callback(lambda _: self._opening.pop(name, None))
        return await asyncio.shield(task)

    def waits(self) -> int:
        """Return the number of loops that are being opened."""
        return len(self._opening)

    async def _opened(self, name: str) -> Seat:
        assert self._setup.pool is not None
        self._folder.check_name(name)
        if not self._setup.pool.create:
            check_known(self._folder, name)
        lost: Exception | None = None
        for _ in range(TRIES):
            self._evicted.discard(name)
            link = self._links[self._folder.owner(name)]
            await link.ask("create" if self._setup.pool.create else "open", name)
            try:
                seat = await self._loop.run_in_executor(self._aside, self._made, name)
            except (FileNotFoundError, BlobError) as error:  # its learner has let it go, or died, before it was read
                lost = error
                continue
            if name not in self._evicted:
                seat.hot.start(self._loop)
                self._seats[name] = seat
                return seat
            seat.close()  # its learner has let it go in the meantime
        log.warning("the loop %s was opened %d times, and was gone each time (%s)", name, TRIES, lost or "evicted")
        detail = f"the loop {name[:60]} was evicted each time that it was opened; try again in a second"
        raise Refused(503, "", detail, headers=[(b"retry-after", b"1")])

    def _made(self, name: str) -> Seat:
        spec = self._folder.spec(name)
        setup = setup_of(self._setup, name, spec, self._folder.home(name))
        seat = Seat(setup, self._setup.index, self._reading(spec), lambda: self._written(name))
        if (kind := kind_of(spec)) not in self._warmed:
            self._warmed.add(kind)
            try:
                seat.hot.warm()
            except BaseException:
                seat.close()
                raise
        return seat

    def _reading(self, spec: Spec) -> Reading:
        """Return the encoder of a schema; loops with one schema share it."""
        key = msgspec.json.encode(spec.schema)
        if key not in self._readings:
            self._readings[key] = schema.reading(spec.schema)
        return self._readings[key]

    def _written(self, name: str) -> None:
        """Report soon that a loop has new events."""
        if not self._touched:
            self._loop.call_later(SOON, self._report)
        self._touched[name] = None

    def _report(self) -> None:
        names, self._touched = [*self._touched], {}
        for index, link in enumerate(self._links):
            if own := [name for name in names if self._folder.owner(name) == index]:
                link.touch(own)

    def _gone(self, name: str) -> None:
        """Forget a loop that its learner has evicted; requests under way still end."""
        self._evicted.add(name)
        seat = self._seats.pop(name, None)
        if seat is not None:
            self._loop.call_later(RETIRE, self._retire, seat)

    def _retire(self, seat: Seat) -> None:
        """Close a seat that no request uses. A log that is slow may take longer than others for those under way."""
        if seat.hot.busy:
            self._loop.call_later(LOOK, self._retire, seat)
        else:
            self._aside.submit(seat.close)

    def _look(self) -> None:
        """Let logs rest that had no request for a while, and those beyond the bound."""
        now = time.monotonic()
        awake = sorted((seat.used, name) for name, seat in self._seats.items() if seat.awake)
        for place, (used, name) in enumerate(awake):
            if now - used > REST or place < len(awake) - OPEN_LOGS:
                self._rest(self._seats[name])
        self._loop.call_later(LOOK, self._look)

    def _rest(self, seat: Seat) -> None:
        def rested(_: object) -> None:
            seat.resting = None

        seat.resting = self._loop.run_in_executor(self._aside, seat.rest)
        seat.resting.add_done_callback(rested)
