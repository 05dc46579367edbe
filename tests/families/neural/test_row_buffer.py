"""Buffers of rows: gaps survive as bits, whole numbers in few bytes."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn._torch import torch
from everlearn.families.neural import row_buffer
from everlearn.families.neural.settings import read
from tests.support.neural_nets import one_thread  # noqa: F401

SETTINGS = read({"task": "binary", "dense": 2, "hashed": 8, "width": 3, "memory": {"dtype": "uint8"}})


@pytest.mark.parametrize("whole", [True, False])
def test_rows_come_back_from_the_places_they_were_put(whole: bool) -> None:
    tensors = row_buffer.start(SETTINGS, 4, whole)
    buffer = row_buffer.bound({f"here/{name}": held for name, held in tensors.items()}, "here/", whole)
    dense = np.array([[1, 2], [3, 250]], np.uint8) if whole else np.array([[1, np.nan], [3, 4]], np.float32)
    given = (
        dense if whole else dense.view(np.int32),
        np.array([[5, 0, 0], [1, 2, 0]], np.int32),
        np.array([[1.5, 0, 0], [1, 1, 0]], np.float32),
        np.array([0.0, 1.0]),
        np.array([1.0, 2.0], np.float32),
    )
    buffer.put(given, slice(1, 3), slice(0, 2))
    found, indices, values = buffer.part(slice(1, 3))
    np.testing.assert_array_equal(found.numpy(), dense)
    assert indices.tolist() == [[5, 0, 0], [1, 2, 0]]
    assert values.tolist() == [[1.5, 0.0, 0.0], [1.0, 1.0, 0.0]]
    assert buffer.labels.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert tensors["weight"].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert tensors["dense"].dtype == (torch.uint8 if whole else torch.int32)  # arrays hold no NaN
