"""Store arrays that are mostly zero without their empty blocks: pools of trees, and tables of hashed weights.

A family allocates its budget of bytes at birth, and a young forest uses a twentieth of it. To write the rest would
cost most of the time of a version, a checkpoint, or a snapshot for workers. Finding empty blocks needs no help of the
family, and takes 1 ms for 25 MB.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BlobError
from everlearn.records import Arrays
from everlearn.version.codec import octets

BLOCK = 4096  # bytes
LEAST = 1 << 18  # bytes of an array that is worth a search
PLACES = "places/"  # prefix of the names of the arrays that hold the places of blocks


def pack(arrays: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Return arrays to store, and what `unpack` needs, as JSON values; any dtype and shape, contiguous.

    An array of at least 256 KiB of which half is zero is stored as uint8 (k * 4096 + rest,): its k blocks of 4096 bytes
    with a bit that is not 0, and the bytes behind the last whole block. The places of the blocks, int32 (k,), are
    stored beside it. Other arrays are not copied.

    >>> table = np.zeros((300, 300))
    >>> table[150, 7] = 1.5
    >>> stored, packed = pack({"table": table, "bias": np.ones(1)})
    >>> {name: array.shape for name, array in stored.items()}
    {'table': (7296,), 'places/table': (1,), 'bias': (1,)}
    >>> bool((unpack(stored, packed)["table"] == table).all())
    True
    """
    stored: Arrays = {}
    packed: dict[str, Any] = {}
    for name, array in arrays.items():
        stored[name] = array
        if array.nbytes < LEAST:
            continue
        held = np.frombuffer(octets(array), np.uint8)
        whole = len(held) // BLOCK * BLOCK
        blocks = held[:whole].reshape(-1, BLOCK)
        places = np.flatnonzero(blocks.view(np.uint64).max(axis=1))
        if 2 * len(places) <= len(blocks):
            stored[name] = np.concatenate([blocks[places].reshape(-1), held[whole:]])
            stored[f"{PLACES}{name}"] = places.astype(np.int32)
            packed[name] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    return stored, packed


def unpack(stored: Arrays, packed: Mapping[str, Any]) -> Arrays:
    """Return the arrays that `pack` was given, with the same bits; those that were packed are copies.

    Empty blocks take no memory until they are written. Raises `BlobError` for arrays that do not fit their description.
    """
    arrays = {name: array for name, array in stored.items() if not name.startswith(PLACES) or not packed}
    for name, entry in packed.items():
        try:
            kind, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
            held = _zeros(math.prod(shape) * kind.itemsize)
            places, content = stored[f"{PLACES}{name}"], stored[name]
            whole = len(held) // BLOCK * BLOCK
            end = len(places) * BLOCK
            if len(content) - end != len(held) - whole:
                raise ValueError(f"got {len(content)} bytes, expected {end + len(held) - whole}")
            held[:whole].reshape(-1, BLOCK)[places] = content[:end].reshape(-1, BLOCK)
            held[whole:] = content[end:]
            array: np.ndarray[Any, Any] = held.view(kind).reshape(shape)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise BlobError(f"the array {name!r} of a snapshot cannot be unpacked: {error}") from error
        arrays[name] = array
    return arrays


def _zeros(size: int) -> NDArray[np.uint8]:
    """Return zeros, uint8 (size,), that take memory by small pages: one huge page would fill all around a block."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if (small := getattr(mmap, "MADV_NOHUGEPAGE", None)) is not None:  # Linux
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(small)
    return np.frombuffer(memory, np.uint8)
