"""What the desk's endpoints work with."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec
from starlette.requests import Request

from everlearn import config
from everlearn.app.admin.alerts import Alerts
from everlearn.app.admin.openapi import document
from everlearn.app.admin.queries import Archive
from everlearn.app.admin.traffic import Traffic
from everlearn.app.auth import CLIENT, Access
from everlearn.app.auth.sessions import Sessions
from everlearn.app.process import Setup
from everlearn.events import connect


class Parts:
    """The parts of one desk; a context manager that lets go of them at the end.

    Raises ConfigError for a webhook that may not be called, LogError for a log that cannot be read.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.spec = setup.spec
        home = Path(setup.home)
        with ExitStack() as undo:
            self.archive = Archive(home)
            undo.callback(self.archive.close)
            self.log = connect(str(home / "log.sqlite"), setup.spec.log.durability, tidy=False)
            undo.callback(self.log.close)
            self.access = Access(setup, Sessions(setup.secure))
            self.traffic = Traffic(setup, self.archive)
            self.alerts: Alerts | None = None
            if setup.spec.serve.webhook:
                self.alerts = Alerts(setup, self.archive, self.traffic.staleness, config.webhook_secret())
            self.comparing = threading.Lock()  # held by who holds the arrays of two versions
            self.document = msgspec.json.encode(document(setup.spec))
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def client(self, request: Request) -> str:
        """The address that a worker heard a request from."""
        return request.headers.get(CLIENT.decode(), "")
