"""Find out whether an answer could be made durable now: by a write to the log that changes nothing."""

from __future__ import annotations

import threading
import time

from everlearn.app.process import Setup
from everlearn.errors import LogError
from everlearn.events import log_of
from everlearn.events.file import is_busy

PATIENCE = 1.0  # seconds for which another process may hold the log
_FRESH = 0.1  # seconds for which an outcome is used again


class WriteProbe:
    """A connection to the log that only tries whether it can be written; any thread may use it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._log = log_of(setup.home, setup.spec.log, tidy=False)
        self._trying = threading.Lock()
        self._tried, self._outcome = 0.0, ""

    def close(self) -> None:
        """Close the connection."""
        self._log.close()

    def complaint(self) -> str:
        """Return why no answer can be made durable now, without paths; "" if one can. It may take a second."""
        with self._trying:
            if time.monotonic() - self._tried > _FRESH:
                self._outcome = self._try()
                self._tried = time.monotonic()
            return self._outcome

    def _try(self) -> str:
        try:
            self._setup.check_place()
            self._log.check_place()
        except LogError:
            return "the home was deleted or replaced while the server runs; put it back, or restart the server"
        try:
            self._log.check_writable(PATIENCE)
        except LogError as error:
            if is_busy(error.__cause__):
                return f"another process holds the log for more than {PATIENCE:g} s, so no answer can be made durable"
            return "the log cannot be written (is the disk full?), so no answer can be made durable"
        return ""
