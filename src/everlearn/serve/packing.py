"""Store arrays that are mostly zero without their empty blocks: pools of trees, and tables of hashed weights.

A family allocates its budget of bytes at birth, and a young forest uses a twentieth of it. To publish the rest would
cost most of the time of a snapshot. Finding empty blocks needs no help of the family, and takes 1 ms for 25 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    """Return the arrays that `pack` was given, with the same bits; those that were packed are copies, read-only.

    Empty blocks take no memory until they are written. Raises `BlobError` for arrays that do not fit their description.
    """
    arrays = {name: array for name, array in stored.items() if not name.startswith(PLACES) or not packed}
    for name, entry in packed.items():
        try:
            empty: np.ndarray[Any, Any] = np.zeros(entry["shape"], entry["dtype"])
            held = empty.reshape(-1).view(np.uint8)
            places, content = stored[f"{PLACES}{name}"], stored[name]
            whole = len(held) // BLOCK * BLOCK
            end = len(places) * BLOCK
            if len(content) - end != len(held) - whole:
                raise ValueError(f"got {len(content)} bytes, expected {end + len(held) - whole}")
            held[:whole].reshape(-1, BLOCK)[places] = content[:end].reshape(-1, BLOCK)
            held[whole:] = content[end:]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BlobError(f"the array {name!r} of a snapshot cannot be unpacked: {error}") from error
        empty.flags.writeable = False
        arrays[name] = empty
    return arrays
