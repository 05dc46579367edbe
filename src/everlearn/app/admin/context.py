"""The objects that the endpoints of the admin process share."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

import msgspec
from starlette.requests import Request

from everlearn import config, schema
from everlearn.app.admin.alerts import Alerts
from everlearn.app.admin.lifecycle import Circumstances
from everlearn.app.admin.live_status import LiveStatus
from everlearn.app.admin.openapi import document
from everlearn.app.admin.queries import LogQueries
from everlearn.app.admin.write_probe import WriteProbe
from everlearn.app.auth import CLIENT, Access
from everlearn.app.auth.sessions import Sessions
from everlearn.app.process import Setup
from everlearn.errors import InputError
from everlearn.events import log_of
from everlearn.feedback import pending
from everlearn.records import Label, Payload, Preference, Reward


class PageContext(Protocol):
    """What the endpoints of sessions need."""

    access: Access

    def client(self, request: Request) -> str:
        """Return the address of the client."""
        ...


class AdminContext:
    """The state of one admin process, or of one loop of many; a context manager that closes the log on exit.

    `access` is that of a server of many loops; by default the loop has its own.
    Raises ConfigError for a webhook that must not be called, and LogError for a log that cannot be read.
    """

    def __init__(self, setup: Setup, access: Access | None = None) -> None:
        self.setup = setup
        self.spec = setup.spec
        home = Path(setup.home)
        with ExitStack() as undo:
            self.queries = LogQueries(home, setup.spec.log)
            undo.callback(self.queries.close)
            self.log = log_of(setup.home, setup.spec.log, tidy=False)
            undo.callback(self.log.close)
            self.probe = WriteProbe(setup)
            undo.callback(self.probe.close)
            self.access = access or Access(setup, Sessions(setup.secure))
            self.live = LiveStatus(setup, self.queries)
            self.alerts: Alerts | None = None
            if setup.spec.serve.webhook:
                self.alerts = Alerts(setup, self.queries, self.live.staleness, config.webhook_secret())
            self.comparing = threading.Lock()  # held while the arrays of two versions are in memory
            self._reading = schema.reading(setup.spec.schema)
            self._capacity = setup.spec.feedback.bytes // pending.charge(setup.spec, self._reading.shape)
            self.document = msgspec.json.encode(document(setup.spec))
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what the context holds."""
        self._undo.close()

    def circumstances(self, seen: float) -> Circumstances:
        """Return what concerns the state of an id; `seen` is the time of the newest folded event that counts for it."""
        status = self.live.status or {}
        evicted = status.get("evicted", 0)
        return Circumstances(
            quarantined=self.live.set_aside(),
            seen=seen,
            pauses=self.queries.pauses(),
            left_out=self.queries.is_left_out,
            unusable=self._unusable,
            waiting_from=status.get("waiting_from", 0) if evicted else 0,
            capacity=self._capacity if evicted else None,
        )

    def _unusable(self, payload: Payload) -> str:
        """Return why no model can use a label; "" for one that models can use."""
        if isinstance(payload, Label | Reward | Preference):
            try:
                self._reading.judge(payload)
            except InputError as error:
                return str(error)
        return ""

    def client(self, request: Request) -> str:
        """Return the address of the client, as the worker that passed the request on recorded it."""
        return request.headers.get(CLIENT.decode(), "")
