"""Store snapshots as files named by the hash of their content."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from everlearn import _private
from everlearn.errors import BlobError, ConfigError
from everlearn.events.file import place
from everlearn.records import Arrays
from everlearn.version.codec import FORMAT, PACKED, describe_damage, dump, laid_out, load
from everlearn.version.packing import pack, unpack

_HASH = re.compile("[0-9a-f]{64}")
_SUFFIX = ".safetensors"
_PACKED = "packed"  # the entry of a header for `unpack`
_BLOCK = 1 << 16  # bytes; a multiple of those of a page
_STALE = 3600.0  # seconds after which no process can still be writing an unfinished file


class Blobs:
    """A folder of immutable safetensors files, each named by the sha256 of its bytes.

    A file appears under its name complete or not at all, whatever kills the process. With `durability` "power" it is
    also on the disk before its hash is returned.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     blobs = Blobs(Path(home))
    ...     blob = blobs.put({"w": [0.0, 1.0, 2.0]}, {"spec": {"family": "linear"}})
    ...     arrays, header = blobs.get(blob)
    >>> blob[:12], arrays["w"], header
    ('dfb9145805dd', array([0., 1., 2.]), {'spec': {'family': 'linear'}})
    """

    def __init__(self, folder: str | os.PathLike[str], durability: str = "process") -> None:
        if durability not in ("process", "power"):
            raise ConfigError(f"durability: got {durability!r}; expected 'process' or 'power'")
        self.folder = Path(folder)
        self._synced = durability == "power"
        self._sizes: dict[str, int] = {}  # of the files that were there at the last look; a file never changes
        try:
            self.folder.mkdir(mode=_private.FOLDER_MODE, parents=True, exist_ok=True)
            for unfinished in self.folder.glob(".*.unfinished"):
                if time.time() - unfinished.stat().st_mtime > _STALE:
                    unfinished.unlink(missing_ok=True)
            self._place = place(self.folder)
        except OSError as error:
            raise BlobError(
                f"snapshots cannot be kept in {self.folder}: {error}; give a folder you can write"
            ) from error

    def put(self, arrays: Mapping[str, Any], header: Mapping[str, Any], packed: bool = False) -> str:
        """Store arrays and a header of JSON values, and return their hash; equal content has equal bytes.

        Any shape; dtypes bool, int8 to uint64, float16 to float64. A file that exists already is not written again.
        With `packed`, large arrays that are mostly zero are stored without their empty blocks, as the entry "packed" of
        the header says. Raises `ModelError` for content that cannot be stored, `BlobError` if the disk cannot be
        written.
        """
        stored, entries = pack(laid_out(arrays)) if packed else (arrays, {})
        data = dump(stored, {**header, _PACKED: entries}, PACKED) if entries else dump(arrays, header, FORMAT)
        return self._store(data)

    def _store(self, data: bytes) -> str:
        """Write the bytes of a file, unless it exists already; return its name."""
        if place(self.folder) != self._place:
            raise BlobError(
                f"{self.folder} was deleted or replaced while it was in use, so nothing more is written there; put it "
                "back, or open its home again"
            )
        blob = hashlib.sha256(data).hexdigest()
        path = self._path(blob)
        unfinished = self.folder / f".{blob}.{os.getpid()}.{threading.get_ident()}.unfinished"
        try:
            if path.exists() and path.read_bytes() == data:
                return blob
            with _private.create(unfinished) as file:
                _write(file, data)
                if self._synced:
                    file.flush()
                    os.fsync(file.fileno())
            unfinished.replace(path)
            if self._synced:
                _sync_folder(self.folder)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise BlobError(f"a snapshot of {len(data)} bytes cannot be written to {path}: {error}") from error
        return blob

    def get(self, blob: str) -> tuple[Arrays, dict[str, Any]]:
        """Return the arrays (the caller may change them) and the header of a blob.

        Raises `BlobError` if the blob is missing, if its bytes are not those that were stored, or if another program or
        a newer Everlearn wrote it.
        """
        arrays, header = load(self._read(blob), self._path(blob))
        return unpack(arrays, header.pop(_PACKED, {})), header

    def _read(self, blob: str) -> bytes:
        """Return the bytes of a file. Raises `BlobError` if they are missing, or not those that were stored."""
        path = self._path(blob)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise BlobError(
                f"snapshot {blob[:12]} is not in {self.folder}: it was pruned, or the file was lost"
            ) from None
        except OSError as error:
            raise BlobError(f"snapshot {path} cannot be read: {error}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != blob:
            raise BlobError(
                f"snapshot {path} is {describe_damage(data)}: its {len(data)} bytes have the hash {found[:12]}, "
                f"expected {blob[:12]}; put back the file from a copy, or go back to another version"
            )
        return data

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the file of each blob."""
        known = self._sizes
        self._sizes = {blob: known[blob] if blob in known else self._size(blob) for blob in self.hashes()}
        return self._sizes

    def _size(self, blob: str) -> int:
        try:
            return self._path(blob).stat().st_size
        except FileNotFoundError:
            return 0

    def take(self, other: Blobs, blob: str) -> None:
        """Store a blob of another folder, with the same bytes. Raises `BlobError` as `get` and `put` do."""
        self._store(other._read(blob))

    def remove(self, blob: str) -> None:
        """Delete a blob, if it exists. Raises `BlobError` if the disk cannot be written."""
        try:
            self._path(blob).unlink(missing_ok=True)
        except OSError as error:
            raise BlobError(f"snapshot {self._path(blob)} cannot be removed: {error}") from error

    def hashes(self) -> set[str]:
        """Return the hashes of all blobs."""
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name.removesuffix(_SUFFIX) for entry in entries if entry.name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return set()
        return {name for name in names if _HASH.fullmatch(name)}

    def _path(self, blob: str) -> Path:
        if not _HASH.fullmatch(blob):
            raise BlobError(f"{blob!r} is not the name of a snapshot; expected the 64 hex digits of a sha256")
        return self.folder / f"{blob}{_SUFFIX}"


def _sync_folder(folder: Path) -> None:
    """Write the folder's new entry to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: BinaryIO, data: bytes) -> None:
    """Write data; leave a hole, which reads as zeros and takes no disk, where a whole block is zero."""
    whole = len(data) // _BLOCK
    held = memoryview(data)
    blocks = np.frombuffer(data, np.uint8, whole * _BLOCK).view(np.uint64).reshape(whole, _BLOCK // 8)
    start = 0
    for full, run in groupby((blocks.max(axis=1) != 0).tolist()):
        end = start + sum(1 for _ in run) * _BLOCK
        if full:
            file.write(held[start:end])
        else:
            file.seek(end)
        start = end
    file.write(held[start:])
    file.truncate(len(data))
