"""The current state of a server: the learner's status, the workers' counters, and the last ten minutes of both.

One event loop reads the status four times a second and the counters once a second. The history has a fixed size.
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
from everlearn.app.admin.queries import LogQueries
from everlearn.app.admin.rates import CounterSample, Counts
from everlearn.app.admin.series import Series
from everlearn.app.process import Setup
from everlearn.feedback.names import report
from everlearn.serve.snapshot import Reader

log = logging.getLogger("everlearn.admin")

LOOKS = 4  # reads of the status a second
WINDOW = 10  # seconds over which rates and percentiles are computed
_CHECK_AFTER, _CHECK_AGAIN = 10.0, 600.0  # seconds between checks of the seals: with new decisions, and without
_CHECK_SHARE = 50  # checks take at most 1/50 of the time


class LiveStatus:
    """The current state of one server, refreshed by `watch`; for one event loop."""

    def __init__(self, setup: Setup, queries: LogQueries) -> None:
        self.spec = setup.spec
        self.status: dict[str, Any] | None = None
        self._setup = setup
        self._queries = queries
        self._reader = Reader(Path(setup.serving), model.build)
        self._samples: deque[CounterSample] = deque(maxlen=WINDOW + 1)
        self._series = Series()
        self._processes: dict[str, Process] = {}
        self._lag: dict[str, Any] = {"events": 0, "seconds": 0.0}
        self._started = time.time()
        self._written = 0  # modification time of the status file, in nanoseconds
        self._seen = -math.inf  # when that change was read, in seconds of time.monotonic()
        self._checked = (-math.inf, 0.0, "")  # last check of the seals: its time, its duration, and the head
        self._document: tuple[bytes, str] | None = None

    # ---- watching ----------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Refresh the state until cancelled."""
        beat = 0
        while True:
            _attempt(self.look)
            await asyncio.to_thread(_attempt, self._measure)  # another query may hold the log
            if beat % LOOKS == 0:
                _attempt(self.sample)
                await asyncio.to_thread(_attempt, self._check)
            beat += 1
            await asyncio.sleep(1 / LOOKS)

    def look(self) -> None:
        """Read the learner's status if its file has changed."""
        try:
            written = self._setup.status.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if written == self._written:
            return
        self.status = msgspec.json.decode(self._setup.status.read_bytes(), type=dict[str, Any])
        # A status from before this process started may be old; its age is then that of the file.
        age = max(0.0, time.time() - written / 1e9) if not self._written else 0.0
        self._written, self._seen = written, time.monotonic() - age
        self._document = None

    def sample(self) -> None:
        """Read the workers' counters, and add one point to the series."""
        self._samples.append(CounterSample(time.monotonic(), self._read()))
        self._processes = running(os.getppid(), self._setup.serving)
        status = self.status or {}
        metric = status.get("metrics", {}).get("champion", {}).get(status.get("metric", ""))
        last = rates.rates(self._samples, 1)
        point = {
            "requests": last.requests_per_second,
            "p50": last.p50,
            "p99": last.p99,
            "lag": self._lag["seconds"] if self.status else None,
            "staleness": self.staleness(),
            "metric": metric,
        }
        gate = sorted(status.get("gate", ()), key=lambda one: (one["role"] != "candidate", -one["examples"]))
        self._series.add(time.time(), point, status.get("replay", {}).get("classes", {}), gate[0] if gate else None)
        self._document = None

    def _measure(self) -> None:
        self._lag = self.lag()

    def _check(self) -> None:
        """Check the seals of the decisions: soon after new decisions, and every ten minutes without any."""
        last, took, head = self._checked
        passed = time.monotonic() - last
        new = self._queries.head() != head
        if passed < max(_CHECK_AFTER if new else _CHECK_AGAIN, _CHECK_SHARE * took):
            return
        began = time.monotonic()
        chain = self._queries.check()
        self._checked = (began, time.monotonic() - began, chain.head)
        if not chain.ok:
            log.error("the seals do not match the decisions", extra={"fields": {"position": chain.broken}})

    # ---- the state ---------------------------------------------------------------------------------------------

    def folded(self) -> int:
        """Return the position up to which the learner has folded the log."""
        return self._reader.position()

    def lag(self) -> dict[str, Any]:
        """Return the number of events not folded yet, and the age of the oldest of them in seconds.

        Both come from the log and the published position, so they are right even if the learner hangs.
        """
        return self._queries.lag(self.folded())

    def set_aside(self) -> frozenset[int]:
        """Return the positions of the labels that were quarantined last."""
        return frozenset((self.status or {}).get("set_aside", ()))

    def staleness(self) -> float | None:
        """Return the staleness in seconds: every label older is in the serving weights. None if it is unknown."""
        self._reader.position()
        seconds = self._reader.staleness(time.monotonic())
        return seconds if math.isfinite(seconds) else None

    def age(self) -> float | None:
        """Return the seconds since the learner last wrote its status; None if it never did."""
        age = time.monotonic() - self._seen
        return age if math.isfinite(age) else None

    def complaints(self, patience: float) -> list[str]:
        """Return why the server is unhealthy; the learner may take `patience` seconds to write its status."""
        self.look()
        age, staleness, bound = self.age(), self.staleness(), self.spec.serve.staleness
        found = []
        if age is None:
            found.append("the learner has not written its status yet")
        elif age > patience:
            found.append(f"the learner has not written its status for {age:.1f} s; expected at most {patience:g} s")
        if staleness is None:
            found.append("no snapshot is published yet")
        elif staleness > bound:
            found.append(f"the serving weights may lack labels of the last {staleness:.1f} s; the bound is {bound:g} s")
        stopped = [name for name, process in self._processes.items() if process.stopped]
        if stopped:
            found.append(f"a signal has stopped {', '.join(stopped)}; the server replaces what does not go on")
        return found

    def counts(self) -> Counts:
        """Return the sums of the workers' counters."""
        return rates.summed(self._read())

    def processes(self) -> dict[str, Process | None]:
        """Return the expected processes, keyed by process name.

        A process that does not run is None. The result is empty if it is unknown which processes run.
        """
        generators = ["generator"] if self.spec.schema.task == "preference" else []
        expected = ["learner", "admin", *generators, *(f"worker-{index}" for index in range(self.spec.serve.workers))]
        return {name: self._processes.get(name) for name in expected if self._processes}

    def document(self) -> tuple[bytes, str]:
        """Return the status as JSON and its ETag, encoded again only after a change."""
        if self._document is None:
            content = msgspec.json.encode(self._whole())
            self._document = content, f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        return self._document

    def _whole(self) -> dict[str, Any]:
        admin = self._processes.get("admin")
        memory = admin.memory if admin else None
        staleness, bound = self.staleness(), self.spec.serve.staleness
        return {
            **{name: value for name, value in (self.status or {}).items() if name != "set_aside"},
            **self._preference(),
            # Measured now: the values in the learner's status may be old.
            "lag": self._lag,
            "staleness": {"seconds": staleness, "bound": bound, "broken": staleness is None or staleness > bound},
            "age": round(self.age() or 0.0, 3),
            "traffic": rates.rates(self._samples, WINDOW),
            "workers": [self._worker(index) for index in range(self.spec.serve.workers)],
            "desk": {"pid": os.getpid(), "memory": memory},
            "series": self._series.shown(),
            "fields": report(self.counts()["counts"], self.spec.schema.fields),
            "chain": self._queries.chain(),
            "server": {
                "version": everlearn.__version__,
                "started": self._started,
                "uptime": round(time.time() - self._started, 1),
            },
        }

    def asking(self) -> dict[str, Any] | None:
        """Return what the generator asks, from its file; None where there is none."""
        try:
            found: dict[str, Any] = msgspec.json.decode(self._setup.asking.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None
        return found

    def _preference(self) -> dict[str, Any]:
        """Return the learner's measures of preferences beside what the generator asks; empty for other tasks."""
        held, asking = (self.status or {}).get("preference"), self.asking()
        return {} if held is None else {"preference": held | ({"asking": asking} if asking else {})}

    def _worker(self, index: int) -> dict[str, Any]:
        process = self._processes.get(f"worker-{index}")
        recent = rates.rates(self._samples, WINDOW, index)
        total = self._samples[-1].workers[index] if self._samples else rates.summed([])
        return {
            "index": index,
            "pid": process.pid if process else None,
            "alive": process is not None and not process.stopped if self._processes else None,
            "memory": process.memory if process else None,
            "requests": rates.requests(total),
            "errors": rates.refused(total) + rates.faults(total),
            "refused": rates.refused(total),
            "faults": rates.faults(total),
            "requests_per_second": recent.requests_per_second,
            "p50": recent.p50,
            "p99": recent.p99,
        }

    def _read(self) -> list[Counts]:
        return [counters.read(self._setup.counters(index)) for index in range(self.spec.serve.workers)]


def _attempt(refresh: Callable[[], None]) -> None:
    """Call a function; log a failure instead of raising it, so that watching goes on."""
    try:
        refresh()
    except Exception as error:
        log.warning("cannot refresh the live status", exc_info=error)
