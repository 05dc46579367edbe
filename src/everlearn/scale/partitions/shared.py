"""Arrays in files that several processes map, and the folder for such files.

`SharedArrays` have the names, shapes and dtypes of one model: each process builds the same model, so each knows the
layout. `SharedColumns` describe themselves, and change shapes with each write. Nothing here waits: the board decides
when a process may write (see `board`).
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everlearn import _private
from everlearn.records import Arrays

MEMORY = Path("/dev/shm")  # where files stay in memory, if the system has it
_ALIGNED, _FRONT = 64, 16  # bytes; in front are the number, plus 1, and the length of the description
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)  # Linux maps all pages at once
_PREFIX, _LOCK = "everlearn-partitions-", "lock"


@contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """Make a folder for this user alone in `place`, by default that of temporary files, and remove it at the end.

    A process that is killed leaves its folder; the next call removes it, since the lock in it is free.
    """
    parent = Path(tempfile.gettempdir()) if place is None or not os.access(place, os.W_OK) else place
    for other in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), (other / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    folder = parent / hidden.name[1:]
    try:
        _private.touch(hidden / _LOCK)
        with (hidden / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            hidden.rename(folder)  # locked before another process can find it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class SharedArrays:
    """The mapped arrays. `views` are views into the file; a process that maps it sees what others wrote."""

    def __init__(self, path: Path, like: Arrays) -> None:
        """Map the file at `path`, and create it if there is none. `like` gives names, shapes and dtypes."""
        offsets, size = {}, 0
        for name, array in sorted(like.items()):  # restored arrays may come in another order
            offsets[name] = size
            size += -(-array.nbytes // _ALIGNED) * _ALIGNED
        if not path.exists():
            _private.touch(path)
            os.truncate(path, max(size, 1))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), max(size, 1))
        self.views: Arrays = {
            name: np.frombuffer(self._map, array.dtype, array.size, offsets[name]).reshape(array.shape)
            for name, array in like.items()
        }

    def write(self, arrays: Arrays) -> None:
        """Copy arrays of the same names into the file, but those that are its views."""
        for name, view in self.views.items():
            if arrays[name] is not view:
                np.copyto(view, arrays[name], casting="no")


class SharedColumns:
    """Arrays of any shape in a file that one process writes and others map, with a number and plain values.

    The file grows with its content. A reader must know that the writer has finished.
    """

    def __init__(self, path: Path) -> None:
        """Use the file at `path`, and create it if there is none."""
        self._path, self._size = path, 0
        if not path.exists():
            _private.write(path, bytes(_FRONT))

    @property
    def number(self) -> int:
        """The number of the last write that was finished, or -1 if there is none."""
        return int.from_bytes(self._mapped(_FRONT)[:8], "little") - 1

    def write(self, number: int, arrays: Arrays, header: Any = None) -> None:
        """Write arrays, and a header of plain values, as `number`. While this works, the number is -1."""
        front, end = _described(arrays, header)
        view = memoryview(self._mapped(end))
        view[:8] = bytes(8)
        view[8:_FRONT] = len(front).to_bytes(8, "little")
        view[_FRONT : _FRONT + len(front)] = front
        offset = -(-(_FRONT + len(front)) // _ALIGNED) * _ALIGNED
        for array in arrays.values():
            whole = np.ascontiguousarray(array)
            np.frombuffer(view, np.uint8, whole.nbytes, offset)[:] = whole.reshape(-1).view(np.uint8)
            offset += -(-whole.nbytes // _ALIGNED) * _ALIGNED
        view[:8] = (number + 1).to_bytes(8, "little")

    def read(self) -> tuple[Arrays, Any]:
        """Return views of the arrays, which the next write changes, and the header."""
        return _columns(self._mapped(self._path.stat().st_size))

    def _mapped(self, size: int) -> mmap.mmap:
        """Return the file in memory, at least `size` bytes of it; a file that is too short grows by half."""
        if self._size < size:
            with self._path.open("r+b") as file:
                length = os.fstat(file.fileno()).st_size
                if length < size:
                    length = max(size, length + length // 2)
                    os.truncate(file.fileno(), length)
                self._map, self._size = mmap.mmap(file.fileno(), length), length
        return self._map


def write_columns(path: Path, arrays: Arrays, header: Any = None) -> None:
    """Write arrays and a header of plain values to a new file."""
    SharedColumns(path).write(0, arrays, header)


def read_columns(path: Path) -> tuple[Arrays, Any]:
    """Return views of the arrays in a file, which must not be changed, and the header.

    The views are writable all the same: kernels are compiled once more for arrays that are not.
    """
    with path.open("r+b") as file:
        return _columns(mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | _POPULATE))


def _described(arrays: Arrays, header: Any) -> tuple[bytes, int]:
    """Return the text that describes arrays, and the length of a file with them."""
    known = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    text = msgspec.json.encode((known, header))
    end = -(-(_FRONT + len(text)) // _ALIGNED) * _ALIGNED
    return text, end + sum(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays.values())


def _columns(data: mmap.mmap) -> tuple[Arrays, Any]:
    """Return views of the arrays in a mapped file, and the header."""
    length = int.from_bytes(data[8:_FRONT], "little")
    known, header = msgspec.json.decode(data[_FRONT : _FRONT + length]) if length else ([], None)
    offset, found = -(-(_FRONT + length) // _ALIGNED) * _ALIGNED, {}
    for name, dtype, shape in known:
        kind, size = np.dtype(dtype), math.prod(shape)
        found[name] = np.frombuffer(data, kind, size, offset).reshape(shape) if size else np.zeros(shape, kind)
        offset += -(-size * kind.itemsize // _ALIGNED) * _ALIGNED
    return found, header
