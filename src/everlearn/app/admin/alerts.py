"""Tells a webhook what somebody should know: drift, promotion, rejection, rollback, and weights staler than promised.

The log is the queue: a small file in the home says up to which decision was told, so a receiver that is away, or a
server that restarts, loses no alert; one may come twice, and has the same id then. What is older than a day is only
counted. Each alert carries the head of the chain of decisions, so that whoever keeps alerts can prove the log.
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

from everlearn.app.admin.queries import Archive
from everlearn.app.admin.responses import DecisionEntry
from everlearn.app.admin.webhook import Undelivered, Webhook
from everlearn.app.process import Setup

log = logging.getLogger("everlearn.alerts")

Kind = Literal["drift", "promotion", "rejection", "rollback", "staleness"]

LOOK = 1.0  # seconds between two looks
CALM = 5.0  # seconds that the staleness must be within its bound before that is told
OLD = 86_400.0  # seconds after which an alert is of no use
_LONGEST = 300.0  # seconds between two attempts
_REFUSALS = 5  # attempts at what the receiver says is wrong (4xx)
_WAITING = 100  # changes of the staleness that wait, at most
_PAGE = 100  # decisions read at a time
_PERHAPS = frozenset({408, 425, 429})  # 4xx that may be another a moment later
_KINDS: dict[str, Kind] = {
    "drift": "drift",
    "promote": "promotion",
    "reject": "rejection",
    "rollback": "rollback",
}


class Staleness(Struct, frozen=True):
    """The weights became staler than their bound, or came back within it; seconds."""

    state: Literal["broken", "healed"]
    seconds: float
    bound: float
    time: float


class Alert(Struct, frozen=True, omit_defaults=True):
    """What is posted: `text` for people, an `id` that is the same when an alert comes twice, the newest seal of the
    decisions (`head`), how many alerts before this one were too old to be sent (`missed`). Times are as of 1970."""

    id: str
    alert: Kind
    text: str
    label: str
    time: float
    sent: float
    head: str
    decision: DecisionEntry | None = None
    staleness: Staleness | None = None
    missed: int = 0


class Told(Struct):
    """What was told, as it is kept in the home: decisions up to `position`, and whether the staleness is broken."""

    position: int
    broken: bool = False
    waiting: list[Staleness] = []
    missed: int = 0


class Alerts:
    """Watches one loop for one webhook; `staleness` gives the seconds, or None where nothing is known.

    Raises ConfigError for a webhook that may not be called.
    """

    def __init__(
        self,
        setup: Setup,
        archive: Archive,
        staleness: Callable[[], float | None],
        secret: str = "",
        pause: float = 1.0,
    ) -> None:
        serve = setup.spec.serve
        self._webhook = Webhook(serve.webhook, secret, serve.private)
        self._label = setup.spec.schema.label
        self._bound = serve.staleness
        self._archive = archive
        self._staleness = staleness
        self._pause = pause
        self._path = Path(setup.home) / "alerts.json"
        self._told = self._read()
        self._well: float | None = None  # since when the staleness is within its bound again

    async def watch(self) -> None:
        """Look and send until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._observe())
            group.create_task(self._send())

    def notice(self, seconds: float | None, now: float) -> None:
        """Take note of the staleness at `now` (of a clock that only goes forward); each change waits to be told."""
        if seconds is None:
            return
        if seconds > self._bound:
            self._well = None
            if not self._told.broken:
                self._change("broken", seconds)
        elif self._told.broken:
            self._well = now if self._well is None else self._well
            if now - self._well >= CALM:
                self._change("healed", seconds)

    def _change(self, state: Literal["broken", "healed"], seconds: float) -> None:
        self._told.broken = state == "broken"
        self._well = None
        self._told.waiting.append(Staleness(state, seconds, self._bound, time.time()))
        if len(self._told.waiting) > _WAITING:
            del self._told.waiting[0]
            self._told.missed += 1
        self._write()

    async def _observe(self) -> None:
        while True:
            try:
                self.notice(self._staleness(), time.monotonic())
            except Exception:
                log.exception("the staleness cannot be looked at")
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
                self._told.position = alert.decision.position
            else:
                self._told.waiting = [one for one in self._told.waiting if one is not alert.staleness]
            self._told.missed -= alert.missed
            self._write()

    async def _next(self) -> Alert | None:
        """The next alert to send; passes over decisions that nobody need know, and what is too old."""
        head, oldest = await asyncio.to_thread(self._archive.head), time.time() - OLD
        if self._told.waiting:
            return self._of_staleness(self._told.waiting[0], head)
        while page := await asyncio.to_thread(self._archive.decisions, self._told.position, _PAGE):
            for decision in page.decisions:
                if decision.action in _KINDS and decision.time >= oldest:
                    return self._of_decision(decision, head)
                self._told.missed += decision.action in _KINDS
                self._told.position = decision.position
            if page.next is None:
                break
        return None

    def _of_decision(self, decision: DecisionEntry, head: str) -> Alert:
        kind, missed = _KINDS[decision.action], self._told.missed
        version = f" (version {decision.version})" if decision.version else ""
        text = f"Everlearn, {self._label}: {kind}{version}: {decision.reason}"
        id, now = f"decision-{decision.position}", time.time()
        return Alert(id, kind, text, self._label, decision.time, now, head, decision, None, missed)

    def _of_staleness(self, change: Staleness, head: str) -> Alert:
        what = "may lack labels of the last" if change.state == "broken" else "is fresh again: it may lack labels of"
        text = f"Everlearn, {self._label}: what serves {what} {change.seconds:.1f} s; the bound is {change.bound:g} s"
        id, missed = f"staleness-{change.time:.6f}", self._told.missed
        return Alert(id, "staleness", text, self._label, change.time, time.time(), head, None, change, missed)

    async def _deliver(self, alert: Alert) -> None:
        """Post an alert until it is taken, or refused for good."""
        attempt = 0
        while True:
            sent = msgspec.structs.replace(alert, sent=time.time())
            fields = {"alert": alert.alert, "id": alert.id, "host": self._webhook.host, "attempt": attempt + 1}
            try:
                await self._webhook.post(msgspec.json.encode(sent))
            except Undelivered as error:
                refused = 400 <= error.status < 500 and error.status not in _PERHAPS
                if refused and attempt + 1 >= _REFUSALS:
                    log.error("alert refused: it is not sent again", extra={"fields": fields | {"why": str(error)}})
                    return
                log.warning("alert not delivered", extra={"fields": fields | {"why": str(error)}})
                wait = min(_LONGEST, max(error.wait, self._pause * 2.0 ** min(attempt, 20)))
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))
                attempt += 1
            else:
                log.info("alert sent", extra={"fields": fields})
                return

    def _read(self) -> Told:
        """What was told before; where there is no knowing, telling begins with what happens from now on."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Told)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.error("alerts begin anew: their file cannot be read", extra={"fields": {"why": str(error)}})
        self._told = Told(self._archive.end())
        self._write()
        return self._told

    def _write(self) -> None:
        beside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            beside.write_bytes(msgspec.json.encode(self._told))
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            log.error("alerts may come twice: their file cannot be written", extra={"fields": {"why": str(error)}})
