"""Parts that kernels of several families share: how parts are compiled, checks of rows, and the rows of a block.

LLVM optimises a function again in each function that calls it, so that a chain of ten is compiled ten times. Functions
that one place calls are therefore merged into it; the others are parts (see `everlearn._jit`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import Kernel, part
from everlearn.families.batches import BAD_INDEX, BAD_LABEL, BAD_ROWS, FAULT_KINDS
from everlearn.records import Floats, Ints, Singles

BLOCK_ROWS, BLOCK_VALUES = 64, 16384  # rows of a block, fewer where they are wide


def outlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels, to be called; Python cannot call it."""
    return part(function, bare=True, _nrt=True)


def inlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels, inlined by LLVM; Python cannot call it."""
    return part(function, bare=True, forceinline=True)


def uncounted(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels, to be called, without counting references to arrays.

    It must make no arrays, nor may functions that are merged into it; `outlined` ones may. A reference is counted by an
    atomic operation when an array gets another name: almost half of the time of a forest.
    """
    return part(function, bare=True, _nrt=False)


@outlined
def first_fault(hashed: int, indptr: Ints, indices: NDArray[np.int32], values: Singles) -> int:
    """Return the fault of the first row that points outside its entries or the hash space; 0 if there is none."""
    n = len(indptr) - 1
    if n < 0 or indptr[0] < 0 or indptr[n] > min(len(indices), len(values)):
        return BAD_ROWS
    for i in range(n):
        if indptr[i + 1] < indptr[i] or indptr[i + 1] > indptr[n]:
            return i * FAULT_KINDS + BAD_ROWS
        for e in range(indptr[i], indptr[i + 1]):
            if indices[e] < 0 or indices[e] >= hashed:
                return i * FAULT_KINDS + BAD_INDEX
    return 0


@outlined
def mislabelled(y: Floats, classes: int) -> int:
    """Return the fault of the first row with a finite label that is not a class; 0 if there is none."""
    for i in range(len(y)):
        if abs(y[i]) < math.inf and not (y[i] >= 0.0 and y[i] < classes and y[i] == math.floor(y[i])):
            return i * FAULT_KINDS + BAD_LABEL
    return 0


@inlined
def block_rows(columns: int) -> int:
    """Return the rows of a block."""
    return max(min(BLOCK_ROWS, BLOCK_VALUES // max(columns, 1)), 1)


def source_hash(folder: Path, left_out: Collection[str]) -> str:
    """Return a hash of this file and of a family's source files, without some of them.

    Numba's cache compares the file of a kernel and the values that the kernel encloses. Kernels enclose this hash, so
    that a change in a part in another file compiles them again.
    """
    paths = [path for path in sorted(folder.glob("*.py")) if path.name not in left_out]
    return hashlib.sha256(b"".join(path.read_bytes() for path in [Path(__file__), *paths])).hexdigest()


def compiled(kernel: Any, signature: str) -> Callable[..., int]:
    """Compile a kernel once, for writable and read-only arrays (served snapshots are read-only).

    A signature has a word for each argument: "int", or dtype, number of axes, and "!" if the kernel writes it.
    """
    from numba import types

    def argument(word: str) -> Any:
        if word == "int":
            return types.int64
        kind, axes = word.rstrip("!").split(":")
        return types.Array(getattr(types, kind), int(axes), "C", readonly=not word.endswith("!"))

    kernel.compile(types.int64(*(argument(word) for word in signature.split())))
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]
