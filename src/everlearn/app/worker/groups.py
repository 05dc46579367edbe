"""Group requests: those that wait when the event loop comes round are answered and committed together.

One group takes one encoding, one call of each model and one commit. No request is acknowledged before its rows are in
the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
from msgspec import Struct

from everlearn.app.counters import Counters
from everlearn.app.problems import Refused
from everlearn.app.tracing import Tracer
from everlearn.app.worker.commit import GroupCommit
from everlearn.app.worker.fast_path import Exchange
from everlearn.app.worker.feedback import AcceptedRows
from everlearn.app.worker.predict import Answered, BatchPredictor
from everlearn.app.worker.requests import DecodedRecords
from everlearn.errors import IdTaken, InputError, UnknownId
from everlearn.events import Log, Row

WAITING = 2048  # the most requests that wait for the log at one time

_UNBOUNDED = 1 << 62  # bytes
_FULL = "more requests wait than may; try again in a second"


class LookUp(NamedTuple):
    """Rows to check by looking into the log."""

    check: Callable[[], AcceptedRows]


Work = DecodedRecords | LookUp | Callable[[], AcceptedRows]  # records to predict, or rows to check
Reply = asyncio.Future[bytes] | Exchange  # settled once, with the body or an exception
Read = Callable[[bytes, bytes, str], Work]  # of a request's body, query and source


class Room(NamedTuple):
    """The most requests, and bytes of their bodies, that may wait; `status` is that of a refusal."""

    requests: int
    bytes: int = _UNBOUNDED
    status: int = 503


class PendingRequest(Struct, eq=False):
    """One request on its way through a group; `again` puts it into the next group."""

    work: Work
    reply: Reply
    again: Callable[[PendingRequest], None]
    done: Answered | AcceptedRows | None = None
    rows: Sequence[Row] = ()
    retried: bool = False
    size: int = 0  # bytes of the body

    def settle(self, outcome: Answered | AcceptedRows | Exception) -> None:
        """Note the rows to write, or reply with the error."""
        if isinstance(outcome, Exception):
            self.done = None
            self.failed(outcome)
        else:
            self.done, self.rows = outcome, outcome.rows

    def written(self, new: int) -> None:
        """Acknowledge the request: its rows are in the log."""
        if self.done is not None and not self.reply.done():
            self.reply.set_result(self.done.reply(new))

    def failed(self, error: Exception) -> None:
        """Reply with the error: the rows are not in the log.

        After a conflict over an id the request joins the next group, once, and finds in the log what the id names.
        """
        if self.reply.done():
            return
        conflict = isinstance(error, InputError) and not isinstance(error, UnknownId) and self.done is not None
        if conflict and not self.retried:
            self.retried = True
            if isinstance(self.work, DecodedRecords):
                self.work = msgspec.structs.replace(self.work, again=True)
            self.again(self)
        else:
            # The log's conflict message quotes stored data; do not return it to the caller.
            self.reply.set_exception(_id_taken() if conflict else error)


class Groups:
    """The requests that wait, and their way through models and log. Call `start` before `put`.

    `written` is called after each transaction.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        log: Log,
        counters: Counters,
        tracer: Tracer | None,
        room: Room | None = None,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        self._predictor = predictor
        self._counters = counters
        self._tracer = tracer
        self._room = room or Room(WAITING)
        self._written = written
        self._commit = GroupCommit(log, self._later, self._count, self._elsewhere)
        self._quick = log.quick
        self._writer = ThreadPoolExecutor(1, "log")  # of a log that takes longer than an event loop may wait
        self._reader = ThreadPoolExecutor(1, "look-up")
        self._waiting: list[PendingRequest] = []
        self._looked_up: dict[int, PendingRequest] = {}  # requests whose look-up is under way, by identity
        self._bytes = 0  # of request bodies since the last group

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this event loop."""
        self._loop = loop

    def put(self, read: Read, body: bytes, query: bytes, source: str, reply: Reply) -> None:
        """Read a request and let it wait for the next group, which settles `reply`.

        Raises what `read` raises, and Refused (503) while too many requests wait.
        """
        waiting = self._waiting
        room = self._room
        held = len(waiting) + len(self._looked_up) + len(self._commit.waiting)
        if held >= room.requests or (held and room.bytes < _UNBOUNDED and self._held() > room.bytes):
            raise self.full()
        request = PendingRequest(read(body, query, source), reply, self._join, size=len(body))
        if not waiting:
            self._loop.call_soon(self._handle)
        waiting.append(request)
        self._bytes += len(body)

    @property
    def busy(self) -> bool:
        """True while a request waits, or the log is used for one, here or in a thread."""
        return bool(self._waiting or self._looked_up or self._commit.busy)

    def full(self) -> Refused:
        """Count a request that is refused because too much waits, and return the refusal."""
        self._counters.add("full")
        close = [(b"connection", b"close")] if self._room.status == 503 else []
        return Refused(self._room.status, "", _FULL, headers=[(b"retry-after", b"1"), *close])

    def failing(self, seconds: float) -> bool:
        """Return True if the log refused the last group, at most `seconds` ago."""
        return self._commit.failing(seconds)

    def _held(self) -> int:
        """Return the bytes of the bodies of all requests that wait, or are looked up."""
        written = (entry.size for entry in self._commit.waiting if isinstance(entry, PendingRequest))
        return sum(one.size for one in (*self._waiting, *self._looked_up.values())) + sum(written)

    def _join(self, request: PendingRequest) -> None:
        """Wait for the group that is handled once the event loop has read all that has arrived."""
        if not self._waiting:
            self._loop.call_soon(self._handle)
        self._waiting.append(request)

    def _handle(self) -> None:
        """Answer the requests that wait, and write their rows."""
        group, self._waiting = self._waiting, []
        if not self._quick and (slow := [request for request in group if isinstance(request.work, LookUp)]):
            self._look_up(slow)
            group = [request for request in group if not isinstance(request.work, LookUp)]
        records = [request.work for request in group if isinstance(request.work, DecodedRecords)]
        outcomes = iter(self._predictor.answer(records) if records else ())
        for request in group:
            work = request.work
            request.settle(next(outcomes) if isinstance(work, DecodedRecords) else _checked(work))
        self._commit.put([request for request in group if request.done is not None])
        self._counters.add("bytes", self._bytes)
        self._bytes = 0

    def _look_up(self, requests: list[PendingRequest]) -> None:
        """Check requests in a thread, while the event loop goes on; then write their rows."""
        self._looked_up |= {id(request): request for request in requests}
        outcomes: list[AcceptedRows | Exception] = []

        def back(_: object) -> None:
            for request in requests:
                del self._looked_up[id(request)]
            for request, outcome in zip(requests, outcomes, strict=True):
                request.settle(outcome)
            self._commit.put([request for request in requests if request.done is not None])

        work = [request.work for request in requests]
        looking = self._loop.run_in_executor(self._reader, lambda: outcomes.extend(_checked(one) for one in work))
        looking.add_done_callback(back)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._loop.call_later(seconds, call)

    def _elsewhere(self, work: Callable[[], None], back: Callable[[], None]) -> None:
        self._loop.run_in_executor(self._writer, work).add_done_callback(lambda _: back())

    def _count(self, entries: int, rows: int, seconds: float) -> None:
        self._counters.add("commits")
        self._counters.add("commit_rows", rows)
        self._written()
        if self._tracer is not None:
            self._tracer.record("commit", seconds, {"everlearn.requests": entries, "everlearn.rows": rows})


def _id_taken() -> IdTaken:
    return IdTaken("an id of this request names something else, which was sent before; use another id")


def _checked(work: Work) -> AcceptedRows | Exception:
    """Return the rows that a request writes, or its error; a request to predict is not checked here."""
    assert not isinstance(work, DecodedRecords)
    try:
        return work.check() if isinstance(work, LookUp) else work()
    except Exception as error:
        return error
