"""Store snapshots as files named by the hash of their content, in a folder or an object store."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import threading
import time
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from everlearn import _private
from everlearn.errors import BlobError, ConfigError
from everlearn.events.file import place
from everlearn.records import Arrays
from everlearn.spec import LogSpec
from everlearn.version.codec import FORMAT, PACKED, describe_damage, dump, dump_laid_out, laid_out, load
from everlearn.version.packing import pack, unpack

_HASH = re.compile("[0-9a-f]{64}")
_SUFFIX = ".safetensors"
_PACKED = "packed"  # the entry of a header for `unpack`
_BLOCK = 1 << 16  # bytes; a multiple of those of a page
_STALE = 3600.0  # seconds after which no process can still be writing an unfinished file


class Store(Protocol):
    """Named bytes that never change: put if absent, get, list, remove. Each raises `BlobError` if the place fails."""

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name, whole or not at all; a name that has them already stays as it is."""
        ...

    def get(self, name: str) -> bytes | None:
        """Return the bytes of a name; None if there are none."""
        ...

    def sizes(self) -> dict[str, int]:
        """Return the number of bytes of each name."""
        ...

    def remove(self, name: str) -> None:
        """Delete a name, if it exists."""
        ...

    def where(self, name: str) -> str:
        """Return the place of a name, for messages."""
        ...


class Folder:
    """A folder as a `Store`: a file appears under its name complete or not at all, whatever kills the process."""

    def __init__(self, folder: Path, synced: bool) -> None:
        self.path = folder
        self._synced = synced
        self._sizes: dict[str, int] = {}  # of the files that were there at the last look; a file never changes
        try:
            folder.mkdir(mode=_private.FOLDER_MODE, parents=True, exist_ok=True)
            for unfinished in folder.glob(".*.unfinished"):
                if time.time() - unfinished.stat().st_mtime > _STALE:
                    unfinished.unlink(missing_ok=True)
            self._place = place(folder)
        except OSError as error:
            raise BlobError(f"snapshots cannot be kept in {folder}: {error}; give a folder you can write") from error

    def put(self, name: str, data: bytes) -> None:
        if place(self.path) != self._place:
            raise BlobError(
                f"{self.path} was deleted or replaced while it was in use, so nothing more is written there; put it "
                "back, or open its home again"
            )
        path = self.path / name
        unfinished = self.path / f".{path.stem}.{os.getpid()}.{threading.get_ident()}.unfinished"
        try:
            if path.exists() and path.read_bytes() == data:
                return
            with _private.create(unfinished) as file:
                _write(file, data)
                if self._synced:
                    file.flush()
                    os.fsync(file.fileno())
            unfinished.replace(path)
            if self._synced:
                _sync_folder(self.path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise BlobError(f"a snapshot of {len(data)} bytes cannot be written to {path}: {error}") from error

    def get(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BlobError(f"snapshot {self.path / name} cannot be read: {error}") from error

    def sizes(self) -> dict[str, int]:
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return {}
        known = self._sizes
        self._sizes = {name: known[name] if name in known else self._size(name) for name in names}
        return self._sizes

    def remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise BlobError(f"snapshot {self.path / name} cannot be removed: {error}") from error

    def where(self, name: str) -> str:
        return str(self.path / name)

    def _size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return 0


class Blobs:
    """Immutable safetensors files in a folder or an object store, each named by the sha256 of its bytes.

    `place` is a folder, or a URL such as s3://BUCKET/PREFIX (see `everlearn.scale.objects`). A file appears under its
    name complete or not at all, whatever kills the process. With `durability` "power" it is also on the disk before its
    hash is returned.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     blobs = Blobs(Path(home))
    ...     blob = blobs.put({"w": [0.0, 1.0, 2.0]}, {"spec": {"family": "linear"}})
    ...     arrays, header = blobs.get(blob)
    >>> blob[:12], arrays["w"], header
    ('dfb9145805dd', array([0., 1., 2.]), {'spec': {'family': 'linear'}})
    """

    def __init__(self, place: str | os.PathLike[str], durability: str = "process") -> None:
        if durability not in ("process", "power"):
            raise ConfigError(f"durability: got {durability!r}; expected 'process' or 'power'")
        self.place = place
        self._store: Store
        if "://" in os.fspath(place):
            connect = importlib.import_module("everlearn.scale.objects").connect
            self._store = cast(Store, connect(os.fspath(place)))
        else:
            self._store = Folder(Path(place), durability == "power")

    def put(self, arrays: Mapping[str, Any], header: Mapping[str, Any], packed: bool = False) -> str:
        """Store arrays and a header of JSON values, and return their hash; equal content has equal bytes.

        Any shape; dtypes bool, int8 to uint64, float16 to float64. A file that exists already is not written again.
        With `packed`, large arrays that are mostly zero are stored without their empty blocks, as the entry "packed" of
        the header says. Raises `ModelError` for content that cannot be stored, `BlobError` if the place cannot be
        written.
        """
        laid = laid_out(arrays)
        stored, entries = pack(laid) if packed else (laid, {})
        data = dump(stored, {**header, _PACKED: entries}, PACKED) if entries else dump_laid_out(laid, header, FORMAT)
        return self._put(data)

    def _put(self, data: bytes) -> str:
        """Write the bytes of a file, unless it exists already; return its name."""
        blob = hashlib.sha256(data).hexdigest()
        self._store.put(_name(blob), data)
        return blob

    def get(self, blob: str) -> tuple[Arrays, dict[str, Any]]:
        """Return the arrays (the caller may change them) and the header of a blob.

        Raises `BlobError` if the blob is missing, if its bytes are not those that were stored, or if another program or
        a newer Everlearn wrote it.
        """
        arrays, header = load(self._read(blob), Path(self._store.where(_name(blob))))
        return unpack(arrays, header.pop(_PACKED, {})), header

    def _read(self, blob: str) -> bytes:
        """Return the bytes of a file. Raises `BlobError` if they are missing, or not those that were stored."""
        data = self._store.get(_name(blob))
        if data is None:
            raise BlobError(f"snapshot {blob[:12]} is not in {self.place}: it was pruned, or the file was lost")
        found = hashlib.sha256(data).hexdigest()
        if found != blob:
            raise BlobError(
                f"snapshot {self._store.where(_name(blob))} is {describe_damage(data)}: its {len(data)} bytes have the "
                f"hash {found[:12]}, expected {blob[:12]}; put back the file from a copy, or go back to another version"
            )
        return data

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the file of each blob."""
        found = {name.removesuffix(_SUFFIX): size for name, size in self._store.sizes().items()}
        return {blob: size for blob, size in found.items() if _HASH.fullmatch(blob)}

    def take(self, other: Blobs, blob: str) -> None:
        """Store a blob of another place, with the same bytes. Raises `BlobError` as `get` and `put` do."""
        self._put(other._read(blob))

    def remove(self, blob: str) -> None:
        """Delete a blob, if it exists. Raises `BlobError` if the place cannot be written."""
        self._store.remove(_name(blob))

    def hashes(self) -> set[str]:
        """Return the hashes of all blobs."""
        return set(self.sizes())


class SharedFiles(Protocol):
    """Named bytes that may be replaced, for what servers of several machines share; see `everlearn.scale.objects`."""

    def get(self, name: str, tag: str = "") -> tuple[bytes, str] | None:
        """Return the bytes of a name and their tag; None if there are none, or if they still have the tag given."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name."""
        ...

    def replace(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Store bytes if the name still has the tag (None: if there is none) and return the new tag; else None."""
        ...

    def remove(self, name: str) -> None:
        """Delete a name, if it exists."""
        ...


def shared_files(home: str | Path, log: LogSpec) -> SharedFiles:
    """Return the files that servers of a loop share. Raises `ConfigError` for a loop without an object store."""
    if not log.blobs:
        raise ConfigError("log.blobs: got none; expected an object store, such as s3://BUCKET/PREFIX")
    connect = importlib.import_module("everlearn.scale.objects").shared
    return cast(SharedFiles, connect(f"{log.blobs.rstrip('/')}/{Path(home).resolve().name}/serving"))


def blobs_of(home: str | Path, log: LogSpec) -> Blobs:
    """Return the blobs of a loop: in its folder, or at the URL of its settings.

    A loop has its own part of the URL, named like its folder, so that several loops may share a bucket.
    """
    place = f"{log.blobs.rstrip('/')}/{Path(home).resolve().name}" if log.blobs else Path(home) / "blobs"
    return Blobs(place, log.durability)


def _name(blob: str) -> str:
    """Return the name of a blob's file. Raises `BlobError` for a name that is no hash."""
    if not _HASH.fullmatch(blob):
        raise BlobError(f"{blob!r} is not the name of a snapshot; expected the 64 hex digits of a sha256")
    return blob + _SUFFIX


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
