"""Send alerts to a webhook: drift, promotion, rejection, rollback, paused learning, and too great a staleness.

The log is the queue. A small file in the home records the last decision that was reported, so no alert is lost if the
receiver is away or the server restarts; an alert may be delivered twice, with the same id. Decisions older than a day
are counted, not sent. Each alert carries the newest seal of the decisions, so that a receiver can verify the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from everlearn import _private
from everlearn.app.admin.queries import LogQueries
from everlearn.app.admin.webhook import Undelivered, Webhook
from everlearn.app.process import Setup
from everlearn.client.records import DecisionEntry
from everlearn.loop import details

log = logging.getLogger("everlearn.alerts")

Kind = Literal["drift", "promotion", "rejection", "rollback", "paused", "staleness"]

LOOK = 1.0  # seconds between two looks
CALM = 5.0  # seconds that the staleness must stay within its bound before an alert says so
OLD = 86_400.0  # seconds after which a decision is no longer reported
_LONGEST = 300.0  # seconds between two attempts
_REFUSALS = 5  # attempts to deliver an alert that the receiver refuses (4xx)
_WAITING = 100  # changes of the staleness that wait to be sent, at most
_PAGE = 100  # decisions read at a time
_TRANSIENT = frozenset({408, 425, 429})  # 4xx statuses of conditions that may pass
_KINDS: dict[str, Kind] = {
    "drift": "drift",
    "promote": "promotion",
    "reject": "rejection",
    "rollback": "rollback",
}


class StalenessChange(Struct, frozen=True):
    """A change of the staleness: beyond its bound ("broken") or within it again ("healed"); in seconds."""

    state: Literal["broken", "healed"]
    seconds: float
    bound: float
    time: float


class Alert(Struct, frozen=True, omit_defaults=True):
    """The body of an alert, with a `text` for people.

    `id` is the same if an alert is delivered twice. `head` is the newest seal of the decisions, and `missed` the number
    of alerts before this one that were too old to be sent. Times are seconds since 1970.
    """

    id: str
    alert: Kind
    text: str
    label: str
    time: float
    sent: float
    head: str
    decision: DecisionEntry | None = None
    staleness: StalenessChange | None = None
    missed: int = 0


class Reported(Struct):
    """The state stored in the home: decisions reported up to `position`, and if the staleness is beyond its bound."""

    position: int
    broken: bool = False
    waiting: list[StalenessChange] = []
    missed: int = 0


class Alerts:
    """The alerts of one loop to one webhook; `staleness` returns the current staleness in seconds, or None.

    Raises ConfigError for a webhook that must not be called.
    """

    def __init__(
        self,
        setup: Setup,
        queries: LogQueries,
        staleness: Callable[[], float | None],
        secret: str = "",
        pause: float = 1.0,
    ) -> None:
        serve = setup.spec.serve
        self._webhook = Webhook(serve.webhook, secret, serve.private)
        self._label = setup.spec.schema.label
        self._bound = serve.staleness
        self._queries = queries
        self._staleness = staleness
        self._pause = pause
        self._path = Path(setup.home) / "alerts.json"
        self._reported = self._read()
        self._within: float | None = None  # when the staleness came back within its bound

    async def watch(self) -> None:
        """Observe the staleness and send alerts until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._observe())
            group.create_task(self._send())

    def notice(self, seconds: float | None, now: float) -> None:
        """Record the staleness at `now`, in seconds of a monotonic clock, and queue an alert if its state changed."""
        if seconds is None:
            return
        if seconds > self._bound:
            self._within = None
            if not self._reported.broken:
                self._change("broken", seconds)
        elif self._reported.broken:
            self._within = now if self._within is None else self._within
            if now - self._within >= CALM:
                self._change("healed", seconds)

    def _change(self, state: Literal["broken", "healed"], seconds: float) -> None:
        self._reported.broken = state == "broken"
        self._within = None
        self._reported.waiting.append(StalenessChange(state, seconds, self._bound, time.time()))
        if len(self._reported.waiting) > _WAITING:
            del self._reported.waiting[0]
            self._reported.missed += 1
        self._write()

    async def _observe(self) -> None:
        while True:
            try:
                self.notice(self._staleness(), time.monotonic())
            except Exception:
                log.exception("the staleness cannot be read")
            await asyncio.sleep(LOOK)

    async def _send(self) -> None:
        while True:
            try:
                alert = await self._next()
            except Exception:
                log.exception("the decisions cannot be read for alerts")
                alert = None
            if alert is None:
                await asyncio.sleep(LOOK)
                continue
            await self._deliver(alert)
            if alert.decision is not None:
                self._reported.position = alert.decision.position
            else:
                self._reported.waiting = [change for change in self._reported.waiting if change is not alert.staleness]
            self._reported.missed -= alert.missed
            self._write()

    async def _next(self) -> Alert | None:
        """Return the next alert to send; skip decisions that raise no alert, and those that are too old."""
        head, oldest = await asyncio.to_thread(self._queries.head), time.time() - OLD
        if self._reported.waiting:
            return self._of_staleness(self._reported.waiting[0], head)
        while page := await asyncio.to_thread(self._queries.decisions, self._reported.position, _PAGE):
            for decision in page.decisions:
                if decision.action in _KINDS and decision.time >= oldest:
                    return self._of_decision(decision, head)
                self._reported.missed += decision.action in _KINDS
                self._reported.position = decision.position
            if page.next is None:
                break
        return None

    def _of_decision(self, decision: DecisionEntry, head: str) -> Alert:
        kind, missed = _kind(decision), self._reported.missed
        version = f" (version {decision.version})" if decision.version else ""
        text = f"Everlearn, {self._label}: {kind}{version}: {decision.reason}"
        id, now = f"decision-{decision.position}", time.time()
        return Alert(id, kind, text, self._label, decision.time, now, head, decision, None, missed)

    def _of_staleness(self, change: StalenessChange, head: str) -> Alert:
        state = "is beyond its bound" if change.state == "broken" else "is within its bound again"
        text = f"Everlearn, {self._label}: staleness {state}: {change.seconds:.1f} s; the bound is {change.bound:g} s"
        id, missed = f"staleness-{change.time:.6f}", self._reported.missed
        return Alert(id, "staleness", text, self._label, change.time, time.time(), head, None, change, missed)

    async def _deliver(self, alert: Alert) -> None:
        """Post an alert until it is accepted, or refused for good."""
        attempt = 0
        while True:
            sent = msgspec.structs.replace(alert, sent=time.time())
            fields = {"alert": alert.alert, "id": alert.id, "host": self._webhook.host, "attempt": attempt + 1}
            try:
                await self._webhook.post(msgspec.json.encode(sent))
            except Undelivered as error:
                refused = 400 <= error.status < 500 and error.status not in _TRANSIENT
                if refused and attempt + 1 >= _REFUSALS:
                    log.error(
                        "alert refused: it will not be sent again", extra={"fields": fields | {"why": str(error)}}
                    )
                    return
                log.warning("alert not delivered", extra={"fields": fields | {"why": str(error)}})
                wait = min(_LONGEST, max(error.wait, self._pause * 2.0 ** min(attempt, 20)))
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))
                attempt += 1
            else:
                log.info("alert sent", extra={"fields": fields})
                return

    def _read(self) -> Reported:
        """Read the stored state; without a readable file, start with the next decision."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Reported)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.error(
                "alerts start with the next decision: their file cannot be read", extra={"fields": {"why": str(error)}}
            )
        self._reported = Reported(self._queries.end())
        self._write()
        return self._reported

    def _write(self) -> None:
        beside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            _private.write(beside, msgspec.json.encode(self._reported))
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            log.error("alerts may be sent twice: their file cannot be written", extra={"fields": {"why": str(error)}})


def _kind(decision: DecisionEntry) -> Kind:
    """Return the kind of the alert on a decision; a rollback after which what serves stops learning is "paused"."""
    return "paused" if details.is_pause(decision.action, decision.detail) else _KINDS[decision.action]
