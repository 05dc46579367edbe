"""A replay memory without some of its rows."""

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

_SPREAD = 7919  # a prime: the rows that stand in for removed ones are taken from all over the memory


def forget(arrays: Arrays, spec: ReplaySpec, empty: Arrays, gone: Callable[[Examples], Flags]) -> int:
    """Remove the rows for which `gone` is true from a memory, in place; return how many there were.

    A window gets shorter. In a fair sample each removed row is replaced by another one that is held, of the same
    class: whether that one is there does not depend on what it replaces, so the sample stays fair. Where a class has
    no other row, the memory begins anew with what is left. `empty` is a memory of the same make without any rows.
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
    """Put other rows of the same class in the place of those to be removed; False if a class has no other."""
    memory = replay.ReplayArrays(**arrays)
    held = int(memory.counters[replay.HELD])
    slots = memory.order[:held].astype(np.int64) if len(memory.order) else np.arange(held)
    lost = gone(_rows(memory, slots))
    classes = memory.y[slots] if len(memory.class_seen) else np.zeros(held)
    if not all((~lost & (classes == one)).any() for one in np.unique(classes[lost])):
        return False
    rows: list[NDArray[Any]] = [memory.dense, memory.indices, memory.values, memory.y, memory.weight, memory.position]
    rows += [memory.entries] if len(memory.entries) else []
    for one in np.unique(classes[lost]):
        kept = slots[(classes == one) & ~lost]
        for number, slot in enumerate(slots[(classes == one) & lost]):
            for array in rows:
                array[slot] = array[kept[(number * _SPREAD) % len(kept)]]
    return True


def _rows(memory: replay.ReplayArrays, slots: NDArray[np.int64]) -> Examples:
    width = memory.indices.shape[1]
    many = memory.entries[slots] if width else np.zeros(len(slots), np.int32)
    real = np.arange(width) < many[:, None]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(many, dtype=np.int64)])
    batch = Batch(memory.dense[slots], indptr, memory.indices[slots][real], memory.values[slots][real])
    return Examples(batch, memory.y[slots], memory.weight[slots], memory.position[slots])
