"""Matrices and data frames as batches: dense ones, sparse ones, and frames with text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import InputError
from everlearn.records import Batch
from everlearn.schema import Encoder, columnar, infer
from everlearn.spec import Schema

NO_INDICES, NO_VALUES = np.zeros(0, np.int32), np.zeros(0, np.float32)


def dense_batch(matrix: Any) -> Batch:
    """Return a matrix, (n, columns), as a batch of dense columns; NaN is a missing value.

    >>> dense_batch([[1.0, float("nan")]]).dense.tolist()
    [[1.0, nan]]
    """
    with np.errstate(over="ignore"):  # a number beyond float32 is infinite, which models take as missing
        dense = np.ascontiguousarray(matrix, np.float32)
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), NO_INDICES, NO_VALUES)


def sparse_batch(matrix: Any) -> Batch:
    """Return a sparse matrix of SciPy, (n, columns), as a batch of hashed columns, of the same numbers."""
    rows = matrix.tocsr()
    rows.sum_duplicates()
    with np.errstate(over="ignore"):
        values = rows.data.astype(np.float32)
    dense = np.zeros((rows.shape[0], 0), np.float32)
    return Batch(dense, rows.indptr.astype(np.int64), rows.indices.astype(np.int32), values)


def has_text(frame: Any) -> bool:
    """Return True for a data frame with a column that holds neither numbers nor truth values.

    >>> import polars
    >>> has_text(polars.DataFrame({"a": [1.0]})), has_text(polars.DataFrame({"a": ["x"]})), has_text([[1.0]])
    (False, True, False)
    """
    import narwhals as nw

    known = nw.from_native(frame, eager_only=True, pass_through=True)
    if not isinstance(known, nw.DataFrame):
        return False
    return any(not (kind.is_numeric() or kind == nw.Boolean) for kind in known.schema.dtypes())


def schema_of(frame: Any, labels: Any, classes: bool) -> Schema:
    """Infer the schema of a data frame, whose rows have these labels. Raises InputError as `schema.infer` does.

    A column of numbers is never left out, since the caller chose the columns: not even one that counts the rows.
    """
    columns = columnar.named(frame)
    label = "label"
    while label in columns:
        label += "_"
    values = [str(one) for one in labels] if classes else np.asarray(labels, np.float64)
    guessed = infer({**columns, label: values}, label, task=None if classes else "regression")
    numbers = {name: "numeric" for name in columns if name not in guessed.fields and _is_numeric(frame, name)}
    kinds = {**guessed.fields, **numbers}
    return msgspec.structs.replace(guessed, fields={name: kinds[name] for name in columns if name in kinds})


def _is_numeric(frame: Any, name: str) -> bool:
    import narwhals as nw

    return bool(nw.from_native(frame, eager_only=True).schema[name].is_numeric())


def encoded(schema: Schema, frame: Any) -> Batch:
    """Return a data frame as a batch. Raises InputError for a column that is missing, or a value out of place."""
    columns: Mapping[str, Any] = columnar.named(frame)
    if gone := [name for name in schema.fields if name not in columns]:
        raise InputError(f"the frame has no column {', '.join(map(repr, gone))}; it has {', '.join(columns)}")
    batch, problems = Encoder(schema).columns(columns, len(frame))
    if problems:
        one = problems[0]
        raise InputError(f"row {one.row}, column {one.field!r}: {one.reason}")
    return batch
