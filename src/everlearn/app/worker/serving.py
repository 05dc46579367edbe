"""The models that a worker answers with, taken from the newest snapshot, and how stale they are."""

from __future__ import annotations

import time
from functools import partial

from everlearn.app.problems import Refused
from everlearn.errors import BlobError
from everlearn.learn import limits
from everlearn.predict import Serving
from everlearn.serve.snapshot import Reader, Snapshot
from everlearn.spec import Spec

KEPT = 0.005  # seconds: the least time for which a snapshot is used


class CurrentModels:
    """The models of the newest snapshot.

    A live loop may publish a thousand times a second, and taking a new snapshot costs as much as an answer does. So a
    snapshot that was just taken is kept for a moment.
    """

    def __init__(self, spec: Spec, reader: Reader) -> None:
        self._share = spec.serve.canary
        self._pairs = spec.schema.task == "preference"
        self._limits = spec.limits
        self._choice = spec.seed, spec.bandit.fallback
        self._reader = reader
        self._snapshot: Snapshot | None = None
        self._serving: Serving | None = None
        self._fresh = 0.0  # the models have learned all labels acknowledged before this moment
        self._due = 0.0  # when to look for a newer snapshot

    def get(self) -> tuple[Serving, float]:
        """Return the models that answer now and their staleness in seconds. Raises Refused (503) if there are none."""
        now = time.monotonic()
        if self._serving is None or now >= self._due:
            try:
                newest = self._reader.current()
            except BlobError as error:
                raise Refused(503, "", f"nothing serves: {error}", headers=[(b"retry-after", b"1")]) from error
            if newest is not self._snapshot:
                self._due = now + KEPT
                self._snapshot, self._serving = newest, self._of(newest)
            self._fresh = now - self._reader.staleness(now)
            assert self._serving is not None
        return self._serving, now - self._fresh

    def staleness(self) -> float:
        """Return the staleness in seconds. Raises as `get` does; a loop that learns preferences has no models here."""
        return self._reader.staleness(time.monotonic()) if self._pairs else self.get()[1]

    def _of(self, snapshot: Snapshot) -> Serving:
        clip = partial(limits.clip, snapshot.arrays, self._limits)
        return Serving(snapshot.champion, snapshot.canary, self._share, snapshot.position, clip, *self._choice)
