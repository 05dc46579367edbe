"""Remove rows from a replay memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn import replay
from everlearn.model import cut
from everlearn.records import Arrays, Batch, Examples
from everlearn.spec import ReplaySpec

Flags = NDArray[np.bool_]

_SPREAD = 7919  # a prime: replacements come from all over the memory


def forget(arrays: Arrays, spec: ReplaySpec, empty: Arrays, gone: Callable[[Examples], Flags]) -> int:
    """Remove the rows for which `gone` is true from a memory, in place; return their number.

    A window gets shorter. In a fair sample another row of the same class takes the place of each removed row. The
    sample stays fair, because that row's presence does not depend on the removed one. If a class has no other row, the
    memory starts again with the rows that are left. `empty` is a memory of the same kind and size without rows.
    """
    held = replay.contents(arrays, spec)
    lost = gone(held)
    if lost.any() and (spec.kind == "window" or not _replaced(arrays, gone)):
        for row in np.flatnonzero(~lost):
            replay.add(empty, spec, cut(held, int(row), int(row) + 1))
        for name, array in empty.items():
            arrays[name][...] = array
    return int(lost.sum())


def _replaced(arrays: Arrays, gone: Callable[[Examples], Flags]) -> bool:
    """Replace the rows to be removed with others of their class; return False if a class has no others."""
    memory = replay.ReplayArrays(**arrays)
    held = int(memory.counters[replay.HELD])
    slots = memory.order[:held].astype(np.int64) if len(memory.order) else np.arange(held)
    lost = gone(_rows(memory, slots))
    classes = memory.y[slots] if len(memory.class_seen) else np.zeros(held)
    if not all((~lost & (classes == kind)).any() for kind in np.unique(classes[lost])):
        return False
    rows: list[NDArray[Any]] = [memory.dense, memory.indices, memory.values, memory.y, memory.weight, memory.position]
    rows += [memory.entries] if len(memory.entries) else []
    for kind in np.unique(classes[lost]):
        kept = slots[(classes == kind) & ~lost]
        for number, slot in enumerate(slots[(classes == kind) & lost]):
            for array in rows:
                array[slot] = array[kept[(number * _SPREAD) % len(kept)]]
    return True


def _rows(memory: replay.ReplayArrays, slots: NDArray[np.int64]) -> Examples:
    width = memory.indices.shape[1]
    entries = memory.entries[slots] if width else np.zeros(len(slots), np.int32)
    real = np.arange(width) < entries[:, None]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(entries, dtype=np.int64)])
    batch = Batch(memory.dense[slots], indptr, memory.indices[slots][real], memory.values[slots][real])
    return Examples(batch, memory.y[slots], memory.weight[slots], memory.position[slots])
