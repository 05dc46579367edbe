"""What goes on right now: the learner's status, what the workers count, and the last ten minutes of both.

Everything is looked at on one event loop: the status four times a second, the counters once. What is kept is bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import everlearn
from everlearn import model
from everlearn.app import counters
from everlearn.app.admin import rates
from everlearn.app.admin.processes import Process, running
from everlearn.app.admin.queries import Archive
from everlearn.app.admin.rates import Counts, Reading
from everlearn.app.admin.series import Series
from everlearn.app.process import Setup
from everlearn.serve.snapshot import Reader

log = logging.getLogger("everlearn.desk")

LOOKS = 4  # at the status, in a second
WINDOW = 10  # seconds over which rates and percentiles are taken
_CHECK_AFTER, _CHECK_AGAIN = 10.0, 600.0  # seconds after which new, and all, decisions are checked anew
_CHECK_SHARE = 50  # a check takes at most this part of the time


class Traffic:
    """Watches one server from the side; for one event loop."""

    def __init__(self, setup: Setup, archive: Archive) -> None:
        self.spec = setup.spec
        self.status: dict[str, Any] | None = None
        self._setup = setup
        self._archive = archive
        self._reader = Reader(Path(setup.serving), model.build)
        self._readings: deque[Reading] = deque(maxlen=WINDOW + 1)
        self._series = Series()
        self._processes: dict[str, Process] = {}
        self._lag: dict[str, Any] = {"events": 0, "seconds": 0.0}
        self._started = time.time()
        self._written = 0  # when the status was last written, in nanoseconds of the file system's clock
        self._seen = -math.inf  # when that was noticed, in seconds of time.monotonic()
        self._checked = (-math.inf, 0.0, "")  # when the seals were last checked, how long it took, and the head then
        self._document: tuple[bytes, str] | None = None

    # ---- watching ----------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        beat = 0
        while True:
            _tried(self.look)
            await asyncio.to_thread(_tried, self._measure)  # the log may be busy with a longer question
            if beat % LOOKS == 0:
                _tried(self.sample)
                await asyncio.to_thread(_tried, self._check)
            beat += 1
            await asyncio.sleep(1 / LOOKS)

    def look(self) -> None:
        """Read the learner's status, if it has written one since."""
        try:
            written = self._setup.status.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if written == self._written:
            return
        self.status = msgspec.json.decode(self._setup.status.read_bytes(), type=dict[str, Any])
        # What was written before this process began may be old: then only the file knows how old.
        age = max(0.0, time.time() - written / 1e9) if not self._written else 0.0
        self._written, self._seen = written, time.monotonic() - age
        self._document = None

    def sample(self) -> None:
        """Read what the workers have counted, and add one point to the series."""
        self._readings.append(Reading(time.monotonic(), self._read()))
        self._processes = running(os.getppid(), self._setup.serving)
        status = self.status or {}
        metric = status.get("metrics", {}).get("champion", {}).get(status.get("metric", ""))
        lately = rates.rates(self._readings, 1)
        point = {
            "requests": lately.requests_per_second,
            "p50": lately.p50,
            "p99": lately.p99,
            "lag": self._lag["seconds"] if self.status else None,
            "staleness": self.staleness(),
            "metric": metric,
        }
        asked = sorted(status.get("gate", ()), key=lambda one: (one["role"] != "candidate", -one["examples"]))
        self._series.add(time.time(), point, status.get("replay", {}).get("classes", {}), asked[0] if asked else None)
        self._document = None

    def _measure(self) -> None:
        self._lag = self.lag()

    def _check(self) -> None:
        """Check the seals of the decisions: soon after new ones, and now and then even so."""
        last, took, head = self._checked
        passed = time.monotonic() - last
        new = self._archive.head() != head
        if passed < max(_CHECK_AFTER if new else _CHECK_AGAIN, _CHECK_SHARE * took):
            return
        began = time.monotonic()
        chain = self._archive.check()
        self._checked = (began, time.monotonic() - began, chain.head)
        if not chain.ok:
            log.error("the decisions are not as they were sealed", extra={"fields": {"position": chain.broken}})

    # ---- what is known -----------------------------------------------------------------------------------------

    def folded(self) -> int:
        """The position up to which the learner has folded the log."""
        return self._reader.position()

    def lag(self) -> dict[str, Any]:
        """How many events the learner has not folded yet, and how long the oldest of them has waited, in seconds.

        Taken from the log and from how far the log was folded, so a learner that hangs cannot hide it.
        """
        return self._archive.behind_log(self.folded())

    def set_aside(self) -> frozenset[int]:
        """The positions of the labels that were quarantined last."""
        return frozenset((self.status or {}).get("set_aside", ()))

    def staleness(self) -> float | None:
        """What serves includes every label older than this, in seconds; None if nothing is known."""
        self._reader.position()
        known = self._reader.staleness(time.monotonic())
        return known if math.isfinite(known) else None

    def age(self) -> float | None:
        """Seconds since the learner last wrote its status; None if it never did."""
        age = time.monotonic() - self._seen
        return age if math.isfinite(age) else None

    def complaints(self, patience: float) -> list[str]:
        """Why the server is not well; the learner may be silent for `patience` seconds."""
        self.look()
        age, staleness, bound = self.age(), self.staleness(), self.spec.serve.staleness
        found = []
        if age is None:
            found.append("the learner has not written its status yet")
        elif age > patience:
            found.append(f"the learner has not written its status for {age:.1f} s; expected at most {patience:g} s")
        if staleness is None:
            found.append("nothing is being served yet")
        elif staleness > bound:
            found.append(f"what serves may lack labels of the last {staleness:.1f} s; the bound is {bound:g} s")
        return found

    def counts(self) -> Counts:
        """What all workers together have counted."""
        return rates.summed(self._read())

    def processes(self) -> dict[str, Process | None]:
        """The processes that there should be, and those of them that run; none where that cannot be told."""
        expected = ["learner", "admin", *(f"worker-{index}" for index in range(self.spec.serve.workers))]
        return {name: self._processes.get(name) for name in expected if self._processes}

    def document(self) -> tuple[bytes, str]:
        """The whole status as JSON, and its ETag; made anew only when something was written or sampled since."""
        if self._document is None:
            content = msgspec.json.encode(self._whole())
            self._document = content, f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        return self._document

    def _whole(self) -> dict[str, Any]:
        desk = self._processes.get("admin")
        memory = desk.memory if desk else None
        staleness, bound = self.staleness(), self.spec.serve.staleness
        return {
            **{name: value for name, value in (self.status or {}).items() if name != "set_aside"},
            # What the learner said of these last may be long ago.
            "lag": self._lag,
            "staleness": {"seconds": staleness, "bound": bound, "broken": staleness is None or staleness > bound},
            "age": round(self.age() or 0.0, 3),
            "traffic": rates.rates(self._readings, WINDOW),
            "workers": [self._worker(index) for index in range(self.spec.serve.workers)],
            "desk": {"pid": os.getpid(), "memory": memory},
            "series": self._series.shown(),
            "chain": self._archive.chain(),
            "server": {
                "version": everlearn.__version__,
                "started": self._started,
                "uptime": round(time.time() - self._started, 1),
            },
        }

    def _worker(self, index: int) -> dict[str, Any]:
        process = self._processes.get(f"worker-{index}")
        lately = rates.rates(self._readings, WINDOW, index)
        total = self._readings[-1].workers[index] if self._readings else rates.summed([])
        return {
            "index": index,
            "pid": process.pid if process else None,
            "alive": process is not None if self._processes else None,
            "memory": process.memory if process else None,
            "requests": rates.requests(total),
            "errors": rates.refused(total) + rates.faults(total),
            "refused": rates.refused(total),
            "faults": rates.faults(total),
            "requests_per_second": lately.requests_per_second,
            "p50": lately.p50,
            "p99": lately.p99,
        }

    def _read(self) -> list[Counts]:
        return [counters.read(self._setup.counters(index)) for index in range(self.spec.serve.workers)]


def _tried(look: Callable[[], None]) -> None:
    """A look that fails is told of, and is not the last."""
    try:
        look()
    except Exception as error:
        log.warning("cannot look", exc_info=error)
