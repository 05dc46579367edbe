"""Arrays in a file that several processes map, and the folder for such files.

Names, shapes and dtypes are those of one model. Each process builds the same model, so each knows the layout. Nothing
here waits: messages decide when a process may write (see `group`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from everlearn import _private
from everlearn.records import Arrays

MEMORY = Path("/dev/shm")  # where files stay in memory, if the system has it
_ALIGNED = 64  # bytes
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
        """Copy arrays of the same names into the file."""
        for name, view in self.views.items():
            np.copyto(view, arrays[name], casting="no")
