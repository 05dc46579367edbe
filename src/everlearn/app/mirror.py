"""Carry what the learner publishes to servers on other machines, through the object store of the loop.

    upload     beside the learner: each new snapshot becomes an object named by its hash; then the head names it
    follow     on another machine, in the place of the learner: take the head, and publish its snapshot to the workers

The head is one small object: the epoch of the learner, the snapshot, the position and moment that it includes, and the
status. It is written by compare-and-set, and never by an older epoch, so a learner that was declared dead and lives on
changes nothing. Moments are wall-clock times here: the clocks of the machines must agree to a fraction of
`serve.staleness`.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections import deque
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from everlearn import _private
from everlearn.app import logs
from everlearn.app.process import Setup, received, tell_ready, when_abandoned
from everlearn.errors import BlobError, EverlearnError
from everlearn.serve import snapshot
from everlearn.version.blobs import SharedFiles, shared_files

UPLOAD, FOLLOW = 0.1, 0.1  # seconds between two looks
BEAT = 1.0  # seconds after which the head is written again although nothing changed
KEPT = 3  # snapshots: a follower that has just read the head still finds the one that it names
HEAD = "head.json"

log = logging.getLogger("everlearn")


class Head(Struct, frozen=True):
    """What a follower needs to know; `fresh` is in seconds since 1970, 0 while unknown.

    `recent` names the snapshots in the store, for the uploader after this one to remove.
    """

    epoch: int
    snapshot: str
    sequence: int
    position: int
    fresh: float
    status: Raw
    recent: tuple[str, ...] = ()


class Upload:
    """The one writer of a loop's shared files. `step` uploads what changed, and raises `BlobError` if it may not."""

    def __init__(self, setup: Setup, store: SharedFiles) -> None:
        self._folder, self._setup, self._store = Path(setup.serving), setup, store
        self._tag: str | None = None
        self._recent: deque[str] = deque()  # snapshots in the store, oldest first; each has its own number, and so name
        self._name, self._sequence = "", -1
        self._last, self._written = Head(0, "", 0, 0, 0.0, Raw(b"null")), 0.0
        self.superseded = False

    def step(self) -> bool:
        """Upload the newest snapshot and the head, where they changed; return True if the head was written."""
        try:
            epoch = int((self._folder / snapshot.EPOCH).read_text())
            status = Raw(self._setup.status.read_bytes())
        except (OSError, ValueError):
            return False  # the learner has not begun
        sequence, position, fresh = snapshot.words(self._folder)
        if sequence != self._sequence and (data := snapshot.published(self._folder)) is not None:
            self._name, self._sequence = hashlib.sha256(data).hexdigest(), sequence
            self._store.put(self._name, data)
            if self._name not in self._recent:
                self._recent.append(self._name)
        if not self._name:
            return False
        moment = time.time() - (time.monotonic() - fresh) if fresh else 0.0
        head = Head(epoch, self._name, self._sequence, position, moment, status, tuple(self._recent))
        due = time.monotonic() - self._written > BEAT
        if not due and (head.snapshot, head.position) == (self._last.snapshot, self._last.position):
            return False
        self._put(head)
        while len(self._recent) > KEPT:
            self._store.remove(self._recent.popleft())
        return True

    def _put(self, head: Head) -> None:
        """Write the head, unless a later epoch has written it."""
        if self._tag is None:
            found = self._store.get(HEAD)
            if found is not None:
                before, self._tag = msgspec.json.decode(found[0], type=Head), found[1]
                if before.epoch > head.epoch:
                    self.superseded = True
                    raise BlobError(f"the learner of epoch {before.epoch} publishes now, and this one has {head.epoch}")
                older = [name for name in before.recent if name not in self._recent]
                self._recent.extendleft(reversed(older))  # of the uploader before this one, to be removed in turn
        tag = self._store.replace(HEAD, msgspec.json.encode(head), self._tag)
        if tag is None:  # another one wrote it: look whose epoch is later
            self._tag = None
            raise BlobError("another learner has written the head")
        self._tag, self._last, self._written = tag, head, time.monotonic()


class Follow:
    """The publisher of a server without a learner. `step` takes over what changed, and returns True if it did."""

    def __init__(self, setup: Setup, store: SharedFiles) -> None:
        self._setup, self._store = setup, store
        self._publisher = snapshot.Publisher(Path(setup.serving))
        self._tag, self._name = "", ""

    def step(self) -> bool:
        """Publish the snapshot that the head names now."""
        found = self._store.get(HEAD, self._tag)
        if found is None:
            return False
        head = msgspec.json.decode(found[0], type=Head)
        if head.snapshot != self._name:
            data = self._store.get(head.snapshot)
            if data is None:
                return False  # a newer head names another one
            if hashlib.sha256(data[0]).hexdigest() != head.snapshot:
                raise BlobError(f"snapshot {head.snapshot[:12]} is damaged in the object store")
            self._publisher.adopt(data[0], head.sequence, head.position)
            self._name = head.snapshot
        self._publisher.reached(head.position)
        if head.fresh:
            self._publisher.fresh(time.monotonic() - max(0.0, time.time() - head.fresh))
        unfinished = self._setup.status.with_suffix(".unfinished")
        _private.write(unfinished, bytes(head.status))
        unfinished.replace(self._setup.status)
        self._tag = found[1]
        return True

    @property
    def begun(self) -> bool:
        """True once there is something to serve."""
        return bool(self._name)


def main() -> None:
    """Upload or follow until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", "follower" if setup.follows else "uploader")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    when_abandoned(stop.set)
    store = shared_files(setup.home, setup.spec.log)
    try:
        one: Upload | Follow = Follow(setup, store) if setup.follows else Upload(setup, store)
    except EverlearnError as error:
        log.critical("%s", error)
        raise SystemExit(1) from error
    announced = trouble = False
    if isinstance(one, Upload):
        tell_ready()
        announced = True
    while not stop.wait(FOLLOW if setup.follows else UPLOAD):
        try:
            one.step()
            trouble = False
        except (BlobError, OSError, msgspec.DecodeError) as error:
            if not trouble:
                log.error("%s", error)
            trouble = True
            if isinstance(one, Upload) and one.superseded:
                stop.wait()  # the learner itself is refused by the log, and ends
        if not announced and isinstance(one, Follow) and one.begun:
            tell_ready()
            announced = True


if __name__ == "__main__":
    main()
