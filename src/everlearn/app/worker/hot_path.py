"""The hot path of one loop: what a worker needs to answer /predict, /feedback and /learn for it.

A worker of one loop has one of these, and a worker of many loops has one for each loop that is in memory.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import msgspec

from everlearn import schema
from everlearn.app.counters import Counters
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.app.tracing import Tracer
from everlearn.app.worker import requests
from everlearn.app.worker.feedback import FeedbackIntake
from everlearn.app.worker.groups import Groups, LookUp, Read, Reply, Room, Work
from everlearn.app.worker.predict import BatchPredictor
from everlearn.app.worker.serving import CurrentModels
from everlearn.errors import InputError
from everlearn.events import Log
from everlearn.feedback.admission import Admission
from everlearn.feedback.early_room import EarlyRoom, PublishedUse
from everlearn.feedback.names import FieldNames
from everlearn.schema import Reading
from everlearn.serve.snapshot import Reader
from everlearn.spec import MOST_ROWS

UNWELL = 5.0  # seconds for which a loop is reported unwell after its log failed, unless it was written since


class HotPath:
    """Answers the hot routes of one loop; call `start` before `put`. It closes nothing that it is given.

    `reading` is that of the schema, where the caller has it. `written` is called after each group that is in the log.
    """

    def __init__(
        self,
        setup: Setup,
        log: Log,
        reader: Reader,
        counters: Counters,
        tracer: Tracer | None = None,
        reading: Reading | None = None,
        room: Room | None = None,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        spec = setup.spec
        use, begin = PublishedUse(Path(setup.serving)), log.end() if spec.feedback.early else 0
        early = EarlyRoom(spec.feedback, use, spec.serve.workers, begin=begin)
        names = FieldNames(spec, counters.add, counters.names)
        admission = Admission(spec, reading or schema.reading(spec.schema), log, None, names, early)
        self.pairs = admission.encoder.late
        self.current = CurrentModels(spec, reader)
        self._predictor = BatchPredictor(admission, self.current)
        self._intake = FeedbackIntake(admission, reader)
        self._groups = Groups(self._predictor, log, counters, tracer, room, written)
        self._reads: dict[str, Read] = {
            "predict": self._predict,
            "feedback": self._feedback,
            "learn": self._examples,
        }

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this event loop."""
        self._groups.start(loop)

    def warm(self) -> None:
        """Load the kernels that predict, before the first request. Raises the error that keeps the loop from answering.

        The kernels that explain are loaded as well, where the family has any. A failure there is not raised, because
        predictions do not need them. Where the loop learns preferences, nothing is predicted here.
        """
        if self.pairs:
            return
        empty = dict.fromkeys(self._predictor.fields)  # all fields are there, without values
        for rows in (1, 2):
            (outcome,) = self._predictor.answer([requests.DecodedRecords([empty] * rows, [None] * rows, False, False)])
            if isinstance(outcome, Exception):
                raise outcome
        self._predictor.answer([requests.DecodedRecords([empty], [None], True, True)])

    def put(self, route: str, body: bytes, query: bytes, source: str, reply: Reply) -> None:
        """Read a request of the route "predict", "feedback" or "learn", and answer it with the next group.

        Raises the errors of `requests`, and Refused while too much waits.
        """
        self._groups.put(self._reads[route], body, query, source, reply)

    @property
    def busy(self) -> bool:
        """True while a request waits, or the log is used for one."""
        return self._groups.busy

    def full(self) -> Refused:
        """Count a request that is refused because too much waits, and return the refusal."""
        return self._groups.full()

    def health(self) -> bytes:
        """Return the status and the staleness of the answers. Raises Refused if the loop cannot answer."""
        staleness = self.current.staleness()
        if self._groups.failing(UNWELL):
            raise Refused(503, "", "the log did not take what was last sent", headers=[(b"retry-after", b"1")])
        return msgspec.json.encode({"status": "ok", "staleness": staleness if math.isfinite(staleness) else None})

    # ---- reading requests --------------------------------------------------------------------------------------

    def _predict(self, body: bytes, query: bytes, source: str) -> Work:
        if self.pairs:
            raise InputError(
                "this loop learns preferences: its rows are pairs of answers, not records of fields. Ask for an answer "
                "with POST /v1/chat/completions, or for a pair with GET /label/next"
            )
        return requests.predict_records(body, bool(query) and _explains(query), MOST_ROWS)

    def _feedback(self, body: bytes, query: bytes, source: str) -> Work:
        rows = requests.feedback_rows(body, MOST_ROWS)
        return LookUp(lambda: self._intake.feedback(rows, source))

    def _examples(self, body: bytes, query: bytes, source: str) -> Work:
        rows = requests.learn_rows(body, MOST_ROWS)
        return lambda: self._intake.examples(rows, source)


def _explains(query: bytes) -> bool:
    """Return True if a query string asks for contributions."""
    value = parse_qs(query.decode("latin-1")).get("explain", [""])[-1]
    return value.lower() in ("1", "true", "yes")
