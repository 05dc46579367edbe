"""Fixed room for rows in the form in which they came: rows of an unfinished minibatch, and the newest rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, tensor, torch
from everlearn.errors import InputError
from everlearn.families.neural import memory
from everlearn.families.neural.inputs import InputReader, RawRows
from everlearn.families.neural.settings import Memory, Settings
from everlearn.records import Floats, Ints

FIELDS = ("dense", "indices", "values", "y", "weight")
WHOLE = ("uint8", "int16", "int32")  # dtypes of the memory that are whole numbers: rows wait in them, too

RowColumns = tuple[NDArray[np.generic], ...]  # one array for each of FIELDS


def start(settings: Settings, rows: int, whole: bool) -> Tensors:
    """Allocate room for so many rows: `dense` in the memory's dtype if `whole`, else float32 as the bits of int32.

    A missing value is NaN, and arrays hold finite numbers only; hence the bits.
    """
    width = settings.width if settings.hashed else 0
    dtype = memory.DTYPES[settings.memory.dtype] if whole else torch.int32
    return {
        "dense": torch.zeros((rows, settings.dense), dtype=dtype),
        "indices": torch.zeros((rows, width), dtype=torch.int32),
        "values": torch.zeros((rows, width)),
        "y": torch.zeros(rows, dtype=torch.float64),
        "weight": torch.zeros(rows),
    }


@dataclass(frozen=True, slots=True)
class RowBuffer:
    """Rows as tensors, and the same memory as arrays (`columns`). `dense` are numbers; the first axis is the row."""

    dense: Tensor
    indices: Tensor
    values: Tensor
    y: Tensor
    weight: Tensor
    columns: RowColumns

    @property
    def labels(self) -> Floats:
        """Labels as an array, float64 (rows,)."""
        return array(self.y)

    def put(self, given: RowColumns, to: slice | Ints, at: slice) -> None:
        """Copy rows `at` of `given` to these places."""
        for own, column in zip(self.columns, given, strict=True):
            if own.shape[-1]:
                own[to] = column[at]

    def part(self, at: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return dense, indices and values of some rows."""
        return self.dense[at], self.indices[at], self.values[at]


def bound(tensors: Tensors, prefix: str, whole: bool) -> RowBuffer:
    """Return the row buffer around the tensors with this prefix."""
    dense, indices, values, y, weight = own = tuple(tensors[prefix + name] for name in FIELDS)
    numbers = dense if whole else dense.view(torch.float32)
    return RowBuffer(numbers, indices, values, y, weight, tuple(array(column) for column in own))


def stored(reader: InputReader, spec: Memory, raw: RawRows) -> NDArray[np.generic]:
    """Return dense columns (n, dense) in the dtype of the buffer.

    Raises `InputError` for a row that the memory does not hold exactly.
    """
    if spec.dtype == "float32":
        return raw.dense
    held = memory.exact(tensor(raw.dense), spec)
    if held is None:
        dense = _without_gaps(reader, spec, raw)
        for row, reason in memory.lost(dense, spec).items():
            raise InputError(f"row {row} of the batch: {reason}")
        held = dense.to(memory.DTYPES[spec.dtype])
    return array(held) if spec.dtype in WHOLE else raw.dense


def refused(reader: InputReader, spec: Memory, raw: RawRows) -> dict[int, str]:
    """Return the rows that the memory does not hold exactly, each with the reason."""
    if spec.dtype == "float32" or memory.exact(tensor(raw.dense), spec) is not None:
        return {}
    return memory.lost(_without_gaps(reader, spec, raw), spec)


def _without_gaps(reader: InputReader, spec: Memory, raw: RawRows) -> Tensor:
    """Return dense columns as they would be stored. A missing value is stored as the 0 that the network would read.

    Standardised columns are the exception: there the network reads the mean of that moment, so the gap stays.
    """
    dense = tensor(raw.dense)
    return reader.filled(dense) if spec.dtype in WHOLE and not reader.layout.normalizes else dense
