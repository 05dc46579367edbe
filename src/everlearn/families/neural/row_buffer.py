"""Rows that are kept as they came: those that wait for their minibatch to be full, and the newest ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, tensor, torch
from everlearn.errors import InputError
from everlearn.families.neural import memory
from everlearn.families.neural.inputs import Raw, Reading
from everlearn.families.neural.settings import Memory, Settings
from everlearn.records import Ints

FIELDS = ("dense", "indices", "values", "y", "weight")
WHOLE = ("uint8", "int16", "int32")  # dtypes of the memory in which columns are whole numbers from the start


def start(chosen: Settings, rows: int, whole: bool) -> Tensors:
    """Room for so many rows: `dense` as the memory stores it, if `whole`, else float32 as the bits of int32.

    A missing value is NaN, and arrays hold numbers only; hence the bits.
    """
    width = chosen.width if chosen.hashed else 0
    dtype = memory.DTYPES[chosen.memory.dtype] if whole else torch.int32
    return {
        "dense": torch.zeros((rows, chosen.dense), dtype=dtype),
        "indices": torch.zeros((rows, width), dtype=torch.int32),
        "values": torch.zeros((rows, width)),
        "y": torch.zeros(rows, dtype=torch.float64),
        "weight": torch.zeros(rows),
    }


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows as tensors, and the same memory as arrays. `dense` are numbers; the first axis is the row."""

    dense: Tensor
    indices: Tensor
    values: Tensor
    y: Tensor
    weight: Tensor
    rows: tuple[NDArray[np.generic], ...]

    def put(self, kept: tuple[NDArray[np.generic], ...], to: slice | Ints, at: slice) -> None:
        """Copy rows `at` of `kept` to these places."""
        for own, given in zip(self.rows, kept, strict=True):
            if own.shape[-1]:
                own[to] = given[at]

    def part(self, at: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dense, indices and values of some rows."""
        return self.dense[at], self.indices[at], self.values[at]


def kept(tensors: Tensors, prefix: str, whole: bool) -> Kept:
    """The rows in the tensors with this prefix."""
    dense, indices, values, y, weight = own = tuple(tensors[prefix + name] for name in FIELDS)
    numbers = dense if whole else dense.view(torch.float32)
    return Kept(numbers, indices, values, y, weight, tuple(array(one) for one in own))


def stored(reading: Reading, spec: Memory, raw: Raw) -> NDArray[np.generic]:
    """Dense columns (n, dense) as they wait. Raises `InputError` for a row that the memory does not hold exactly."""
    if spec.dtype == "float32":
        return raw.dense
    held = memory.exact(tensor(raw.dense), spec)
    if held is None:
        dense = _read(reading, spec, raw)
        for row, why in memory.lost(dense, spec).items():
            raise InputError(f"row {row} of the batch: {why}")
        held = dense.to(memory.DTYPES[spec.dtype])
    return array(held) if spec.dtype in WHOLE else raw.dense


def refused(reading: Reading, spec: Memory, raw: Raw) -> dict[int, str]:
    """The rows that the memory does not hold exactly, and why."""
    if spec.dtype == "float32" or memory.exact(tensor(raw.dense), spec) is not None:
        return {}
    return memory.lost(_read(reading, spec, raw), spec)


def _read(reading: Reading, spec: Memory, raw: Raw) -> Tensor:
    """Dense columns as they would be stored: a missing value is the 0 that it is read as, but where columns are
    standardised, for there it is the mean of that moment."""
    dense = tensor(raw.dense)
    return reading.filled(dense) if spec.dtype in WHOLE and not reading.normalizes else dense
