"""Rows reach other libraries with the values that they have, and their answers become scores."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.foreign.rows import RiverRows, SklearnRows
from everlearn.records import Batch


def row(dense: list[float], indices: list[int], values: list[float]) -> Batch:
    ends = np.array([0, len(indices)], np.int64)
    return Batch(np.array([dense], np.float32), ends, np.array(indices, np.int32), np.array(values, np.float32))


NOTHING = np.zeros((3, 0))


def test_river_gets_the_values_that_are_present():
    rows = RiverRows(2, 8, 2, {})
    assert rows.row(row([1.5, np.nan], [3, 3, 0], [1.0, 2.0, -1.0]), 0, NOTHING) == {0: 1.5, 5: 3.0, 2: -1.0}


def test_scikit_learn_gets_a_sparse_row_where_columns_are_hashed():
    rows = SklearnRows(2, 4, 2, {"standardize": False})
    found = rows.row(row([1.5, np.inf], [3], [2.0]), 0, NOTHING)
    assert found.toarray().tolist() == [[1.5, 0.0, 0.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("answer", [{}, {0: float("nan")}, {0: -1.0, 1: 0.0}])
def test_answers_that_are_no_probabilities_become_equal_shares(answer):
    class Odd:
        def predict_proba_one(self, x):
            return answer

    assert RiverRows(0, 0, 2, {}).score(Odd(), {}).tolist() == [0.5, 0.5]


def test_numbers_that_are_not_finite_become_zero():
    class Odd:
        def predict_one(self, x):
            return float("inf")

    assert RiverRows(0, 0, 0, {}).score(Odd(), {}).tolist() == [0.0]
