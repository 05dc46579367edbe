"""A thread that keeps a registry of MLflow equal to a loop, and never holds the loop up.

It reads the log every few seconds and copies the news. A server that does not answer, or a package that is missing,
is logged as a warning and tried again, each time later; the loop learns on in the meantime.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

PAUSE = 2.0  # seconds between two looks at the log
LONGEST = 300.0  # seconds between two attempts after failures
PATIENCE = 10.0  # seconds that the end of a loop waits for the last copy

logger = logging.getLogger("everlearn.mlflow")


class Mirror:
    """Calls `push` every `pause` seconds in a thread, and once more at the end."""

    def __init__(self, push: Callable[[], Any], pause: float = PAUSE) -> None:
        self._push, self._pause = push, pause
        self.failures = 0  # in a row
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlearn-mlflow", daemon=True)
        self._thread.start()

    def close(self, patience: float = PATIENCE) -> None:
        """Copy the news, and end; a server that does not answer is left behind after `patience` seconds."""
        self._ended.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            logger.warning("mlflow: gave up the last copy after %g s; `everlearn mlflow push` makes it", patience)

    def _run(self) -> None:
        while not self._ended.wait(min(self._pause * 2**self.failures, LONGEST)):
            self._attempt()
        self._attempt()

    def _attempt(self) -> None:
        try:
            self._push()
            self.failures = 0
        except Exception as error:  # a library, a network and a server: whatever it is, the loop goes on
            self.failures = min(self.failures + 1, 20)
            logger.warning("mlflow: copying failed, attempt %d: %s: %s", self.failures, type(error).__name__, error)
