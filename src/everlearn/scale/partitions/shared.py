"""Arrays in a file that several processes map: names, shapes and dtypes are those of one model.

Each process builds the same model, so each knows the layout. Nothing here waits or locks: who may write when is decided
by messages (see `group`).
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from everlearn import _private
from everlearn.records import Arrays

_ALIGNED = 64  # bytes


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
