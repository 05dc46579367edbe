"""Copy the home of a loop while any process uses it: the log as of one moment, and the arrays that it names.

The copy is a home. Copied back, it opens as the loop was at that moment.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from everlearn import _private
from everlearn.errors import BlobError, ConfigError, LogError
from everlearn.events import BOOK, FILE, SqliteLog, scan
from everlearn.records import Checkpoint
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions

LOG, BLOBS, TOKENS = FILE, "blobs", "tokens.json"

_ATTEMPTS = 20  # the loop removes old checkpoints while they are copied
_PAUSE = 0.1  # seconds between two attempts


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A finished copy: the position of its last event, its versions with arrays, all versions, and its bytes."""

    folder: str
    position: int
    kept: int
    versions: int
    bytes: int


def backup(home: Path, to: Path) -> BackedUp:
    """Copy a home into the folder `to`, which must be empty or absent; only its owner may read the copy.

    The log is copied by SQLite in one transaction, so that writers do not wait. Then follow the arrays that it names,
    and the tokens. The last checkpoint is read back before this returns. Of a log at a broker the book is copied, if it
    is in the home, and no event. Raises ConfigError for a folder that holds something, LogError for a home without a
    log, and for a copy that cannot be written or read back.
    """
    kept = next((name for name in (LOG, BOOK) if (home / name).exists()), None)
    if kept is None:
        raise ConfigError(
            f"{home} holds no loop with its own log; give the home of a loop that was started. A log in a database is "
            "backed up with the tools of that database (docs/how-to/postgresql.md)"
        )
    try:
        to.mkdir(mode=_private.FOLDER_MODE, parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise ConfigError(f"{to}: expected an empty folder, or none; name another one")
        to.chmod(_private.FOLDER_MODE)
        for _ in range(_ATTEMPTS):
            copy_log(home / kept, to / kept)
            if (found := _copy_blobs(home, to, kept)) is not None:
                break
            time.sleep(_PAUSE)
        else:
            raise LogError(f"{home}: its last checkpoint was lost, or replaced {_ATTEMPTS} times during the copy")
        with suppress(FileNotFoundError):
            _copy(home / TOKENS, to / TOKENS)
        _sync(to)
    except (OSError, sqlite3.Error) as error:
        raise LogError(f"the copy of {home} in {to} failed: {error}; empty that folder, and do it again") from error
    return BackedUp(str(to), *found, sum(one.stat().st_size for one in to.rglob("*")))


def copy_log(log: Path, to: Path) -> None:
    """Copy the log as of one moment."""
    _private.touch(to)
    reading = sqlite3.connect(f"{log.absolute().as_uri()}?mode=ro", uri=True)
    with closing(reading) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file; the loop turns the write-ahead log on again


def _copy_blobs(home: Path, to: Path, name: str) -> tuple[int, int, int] | None:
    """Copy the arrays that the copied log names; None if the loop has removed those of its last checkpoint since."""
    source, copies = home / BLOBS, Blobs(to / BLOBS)
    with SqliteLog(to / name) as log:
        versions = Versions(copies)
        for event in scan(log, kinds=("version", "decision")):
            versions.note(event.payload)
        saved = [one.blob for one in _checkpoints(log)]
        listed = versions.list()
        position = log.end()
    for blob in {*saved, *(version.blob for version in listed)} - copies.hashes():
        with suppress(FileNotFoundError):  # pruned
            _copy(source / f"{blob}.safetensors", to / BLOBS / f"{blob}.safetensors")
    held = copies.hashes()
    if saved and not _complete(copies, saved[-1], held, {version.id: version.blob for version in listed}):
        return None
    for blob in held - {*saved, *(version.blob for version in listed)}:  # of an attempt before this one
        copies.remove(blob)
    return position, sum(version.blob in held for version in listed), len(listed)


def _checkpoints(log: SqliteLog) -> list[Checkpoint]:
    """Return the last two checkpoints, oldest first."""
    return [one.payload for one in scan(log, kinds=("checkpoint",)) if isinstance(one.payload, Checkpoint)][-2:]


def _complete(blobs: Blobs, checkpoint: str, held: set[str], versions: dict[str, str]) -> bool:
    """Return True if a checkpoint can be read, and every version that its models need is there."""
    try:
        _, header = blobs.get(checkpoint)
    except BlobError:
        return False
    needed = {entry["version"] for entry in header["fold"]["roster"]["contestants"]}
    return all(versions.get(id) in held for id in needed)


def _copy(source: Path, to: Path) -> None:
    with source.open("rb") as file, _private.create(to) as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.fsync(copy.fileno())


def _sync(folder: Path) -> None:
    """Write the names of the copied files to the disk."""
    for path in (folder / BLOBS, folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
