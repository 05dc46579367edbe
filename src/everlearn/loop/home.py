"""The folder of one loop: its lock, its log and its blobs. Decisions become durable together with their state.

home/
  lock            held by the one process that has the loop open
  log.sqlite      every event, unless `log.url` names another place
  book.sqlite     decisions, versions and checkpoints, if `log.url` is a broker and `log.book` names no other place
  index.sqlite    the number and place of each event, if `log.url` is a broker; made again if it is deleted
  blobs/          snapshots by hash: versions, and the last two checkpoints, unless `log.blobs` names another place
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from everlearn import _private, events
from everlearn.errors import BlobError, InUse, LogError
from everlearn.events.file import place
from everlearn.records import Arrays, Born, Checkpoint, Decision, Payload
from everlearn.spec import LogSpec
from everlearn.version.blobs import blobs_of
from everlearn.version.registry import Versions

UNFINISHED = ".rebuild-"  # begins the name of a folder in a home, in which a rebuild keeps its arrays

_FORMAT = 3  # of the state in a checkpoint
# 1 had no early feedback, no limits, and contestants of one family; 2 had the arrays of every model that learns
_READ_AS_WELL = (1, 2)


class Home:
    """An open home; `saves` counts its checkpoints. Opening raises InUse if another process has it open."""

    def __init__(self, folder: Path, spec: LogSpec) -> None:
        self.folder = folder
        self.saves = 0
        self._checkpoints: list[str] = []  # the blobs of the last two
        with ExitStack() as undo:
            self._lock = undo.enter_context(held(folder))  # first, since it makes the folder for this user alone
            self.blobs = blobs_of(folder, spec)
            self.versions = Versions(self.blobs)
            self.log = events.log_of(folder, spec)
            undo.callback(self.log.close)
            self.epoch = self.log.acquire()
            self.reread()
            undo.pop_all()

    def reread(self) -> None:
        """Read the versions from the log again, and forget those that are not in it."""
        self.versions = Versions(self.blobs)
        for payload in self.read("version", "decision"):
            self.versions.note(payload)

    def check_place(self) -> None:
        """Raise LogError if another folder, or none, is at the path of this home now.

        A process that was stopped for a while must not write into the home of its successor.
        """
        held = os.fstat(self._lock.fileno())
        if place(self.folder / "lock") != (held.st_dev, held.st_ino):
            raise LogError(
                f"{self.folder} was deleted or replaced while it was open, so nothing more is written there; put it "
                "back, or close the loop (restart the server) and open it again"
            )
        self.log.check_place()

    @property
    def closed(self) -> bool:
        return self._lock.closed

    def close(self) -> None:
        self.log.close()
        self._lock.close()

    def read(self, *kinds: str) -> Iterator[Payload]:
        """Return all payloads of these kinds, in log order."""
        return (event.payload for event in events.scan(self.log, kinds=kinds))

    def save(
        self, payloads: Sequence[Payload], at: int, arrays: Arrays, header: dict[str, Any], needed: Set[str], keep: int,
        most: int = 0,
    ) -> list[int]:  # fmt: skip
        """Append decisions and the checkpoint of the state after them in one transaction; return their positions.

        `needed` holds the ids of the versions that the state refers to. Of the others, the `keep` newest keep their
        arrays, as many as have `most` bytes together (0: all).
        """
        self.check_place()
        blob = self.blobs.put(arrays, header | {"format": _FORMAT}, packed=True)
        positions = self.log.save([*payloads, Checkpoint(at, blob)], self.epoch)
        self.saves += 1
        for payload in payloads:
            if isinstance(payload, Born | Decision):
                self.versions.note(payload)
        self._checkpoints = [*[known for known in self._checkpoints if known != blob][-1:], blob]
        self._tidy(needed, keep, most)
        return positions

    def last(self) -> tuple[int, Arrays, dict[str, Any]] | None:
        """Return position, arrays and header of the last checkpoint; None if there is none yet.

        Raises LogError for one that a newer release wrote.
        """
        saved = [payload for payload in self.read("checkpoint") if isinstance(payload, Checkpoint)][-2:]
        if not saved:
            return None
        checkpoint, arrays, header = self._newest(saved)
        if (number := header["format"]) not in (_FORMAT, *_READ_AS_WELL):
            raise LogError(
                f"{self.folder} is of a newer release: state format: got {number}; expected at most {_FORMAT}. Upgrade "
                "Everlearn"
            )
        self._checkpoints = [checkpoint.blob]
        return checkpoint.at, arrays, header

    def _newest(self, saved: list[Checkpoint]) -> tuple[Checkpoint, Arrays, dict[str, Any]]:
        """Return the last readable checkpoint; after a power failure the newest file may not have reached the disk."""
        for checkpoint in reversed(saved[1:]):
            with suppress(BlobError):
                return checkpoint, *self.blobs.get(checkpoint.blob)
        return saved[0], *self.blobs.get(saved[0].blob)

    def _tidy(self, needed: Set[str], keep: int, most: int) -> None:
        """Remove all checkpoints but the last two, and the arrays of versions that are not kept."""
        blobs, sizes = {version.id: version.blob for version in self.versions.list()}, self.blobs.sizes()
        self.versions.prune(keep, {blobs[id] for id in needed} | set(self._checkpoints), most, sizes)
        for blob in sizes.keys() - {*blobs.values(), *self._checkpoints}:
            self.blobs.remove(blob)


def held(folder: Path) -> IO[bytes]:
    """Lock the folder until the returned file is closed; the lock ends with the process, however that ends.

    Raises InUse while another process holds the lock, LogError for a folder that cannot be used.
    """
    try:
        folder.mkdir(mode=_private.FOLDER_MODE, parents=True, exist_ok=True)  # it may hold personal data
        _private.touch(folder / "lock")
        lock = (folder / "lock").open("ab")
    except OSError as error:
        raise LogError(
            f"{folder} cannot be used as a home: {error}; make it a folder that this user may write to, or name another"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InUse(f"{folder} is open in another process; close that one first, or name another home") from error
    return lock
