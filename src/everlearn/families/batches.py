"""Batches as compiled families take them: contiguous arrays of fixed dtypes, checked, with one wording of errors.

Kernels refuse a row by a number, its fault: row * `FAULT_KINDS` + reason, 0 for none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Batch, Floats, Ints, Singles

Rows = tuple[Singles, Ints, NDArray[np.int32], Singles]
Labels = tuple[Floats, Singles]  # labels and weights

BAD_INDEX, BAD_LABEL, BAD_ROWS = 1, 2, 3  # reasons to refuse a row
FAULT_KINDS = 4


def rows(batch: Batch, columns: int) -> Rows:
    """Return a batch as the arrays that kernels take: dense, indptr, indices, values.

    Raises `InputError` for another number of dense columns, or of rows.
    """
    dense = np.ascontiguousarray(batch.dense, np.float32)
    indptr = np.ascontiguousarray(batch.indptr, np.int64)
    if dense.shape != (len(indptr) - 1, columns):
        raise InputError(
            f"dense features: got shape {dense.shape}; expected ({len(indptr) - 1}, {columns}), the rows of "
            "indptr and the columns of the model"
        )
    indices = np.ascontiguousarray(batch.indices, np.int32)
    return dense, indptr, indices, np.ascontiguousarray(batch.values, np.float32)


def check_rows(batch: Batch, columns: int, hashed: int) -> None:
    """Raise `InputError` for rows that do not fit `columns` dense columns, or point outside the hash space."""
    _, indptr, indices, values = rows(batch, columns)
    ends = np.concatenate([indptr, [min(len(indices), len(values))]])
    falls = np.flatnonzero((np.diff(ends) < 0) | (ends[:-1] < 0))
    if len(falls):
        raise refusal(min(int(falls[0]), len(indptr) - 2) * FAULT_KINDS + BAD_ROWS, indices, None, 0, hashed)
    outside = (indices[: indptr[-1]] < 0) | (indices[: indptr[-1]] >= hashed)
    outside[: indptr[0]] = False
    if outside.any():
        row = int(np.searchsorted(indptr, int(np.argmax(outside)), side="right")) - 1
        raise refusal(row * FAULT_KINDS + BAD_INDEX, indices, None, 0, hashed)


def labels(y: Floats, weight: Singles, n: int) -> tuple[Floats, Singles]:
    """Return labels, float64 (n,), and weights, float32 (n,), of n rows. Raises `InputError` for other shapes."""
    y, weight = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
    if y.shape != (n,) or weight.shape != (n,):
        raise InputError(f"y and weight: got shapes {y.shape} and {weight.shape} for {n} rows; expected ({n},)")
    return y, weight


def check_classes(y: Floats, classes: int) -> None:
    """Raise `InputError` for a finite label, of float64 (n,), that is no class."""
    if len(y) == 1 and 0.0 <= (label := y.item()) < classes and label.is_integer():
        return  # rows that come one at a time, without the cost of six operations on arrays
    foreign = np.isfinite(y) & ~((y >= 0) & (y < classes) & (y == np.floor(y)))
    if foreign.any():
        raise _no_class(int(np.argmax(foreign)), y, classes)


def refusal(fault: int, indices: NDArray[np.int32], y: Floats | None, classes: int, hashed: int) -> InputError:
    """Return the error for the fault of a row; `y` are the labels where the rows have some."""
    row, reason = divmod(fault, FAULT_KINDS)
    if reason == BAD_LABEL and y is not None:
        return _no_class(row, y, classes)
    if reason == BAD_ROWS:
        return InputError(
            f"indptr is wrong at row {row} of the batch; expected numbers that do not decrease, "
            f"from 0 to the {len(indices)} entries"
        )
    return InputError(
        f"row {row} of the batch has a hashed index outside the hash space; expected 0 to {hashed - 1}. "
        "Encode with the number of bits that the model was built with"
    )


def _no_class(row: int, y: Floats, classes: int) -> InputError:
    return InputError(
        f"row {row} of the batch: got label {float(y[row])!r}; expected a class, a whole number from 0 to {classes - 1}"
    )


def predicted(rows: Rows, outputs: int, hashed: int, kernel: Callable[[Rows, Singles], int]) -> Singles:
    """Return what a kernel writes about n rows, float32 (n, outputs). Raises `InputError` for the fault it returns."""
    out = np.empty((len(rows[1]) - 1, outputs), np.float32)
    if fault := kernel(rows, out):
        raise refusal(fault, rows[2], None, outputs, hashed)
    return out


def learned(
    rows: Rows, y: Floats, weight: Singles, outputs: int, hashed: int, kernel: Callable[[Rows, Labels, Singles], int]
) -> Singles:
    """Return what a kernel writes about n rows, float32 (n, outputs), before it learns each.

    Raises `InputError` for labels or weights of other shapes, and for the fault that the kernel returns.
    """
    n = len(rows[1]) - 1
    given, out = labels(y, weight, n), np.empty((n, outputs), np.float32)
    if fault := kernel(rows, given, out):
        raise refusal(fault, rows[2], given[0], outputs, hashed)
    return out
