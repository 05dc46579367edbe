"""Matrices and frames become the rows that they hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_matrix, random_array

from everlearn.bridges import rows
from everlearn.errors import InputError


def test_sparse_rows_hold_the_numbers_of_the_matrix():
    matrix = random_array((7, 12), density=0.3, rng=np.random.default_rng(1))
    batch = rows.sparse_batch(matrix)
    again = np.zeros((7, 12), np.float32)
    for i in range(7):
        part = slice(batch.indptr[i], batch.indptr[i + 1])
        again[i, batch.indices[part]] = batch.values[part]
    assert np.array_equal(again, matrix.toarray().astype(np.float32))


def test_entries_of_one_cell_are_added():
    batch = rows.sparse_batch(coo_matrix(([1.0, 2.0], ([0, 0], [3, 3])), shape=(1, 4)))
    assert batch.values.tolist() == [3.0]


def test_numbers_beyond_float32_are_infinite_and_raise_no_warning():
    assert np.isinf(rows.dense_batch([[1e300]]).dense).all()


def test_frames_are_encoded_as_their_schema_says():
    frame = pd.DataFrame({"town": ["a", "b"] * 30, "n": np.arange(60.0)})
    schema = rows.schema_of(frame, ["x", "y"] * 30, True)
    assert schema.label not in frame.columns
    batch = rows.encoded(schema, frame)
    assert batch.dense[:, 0].tolist() == frame["n"].tolist()
    assert np.diff(batch.indptr).tolist() == [1] * 60
    with pytest.raises(InputError, match="no column 'town'; it has n"):
        rows.encoded(schema, frame[["n"]])


def test_a_label_column_gets_a_name_that_the_frame_lacks():
    frame = pd.DataFrame({"label": ["a", "b"] * 30})
    schema = rows.schema_of(frame, np.arange(60.0), False)
    assert (schema.label, schema.task, list(schema.fields)) == ("label_", "regression", ["label"])
