"""The distance between the arrays of two versions."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.app.admin import compare


def test_arrays_that_cannot_be_compared():
    changes = compare.arrays(
        {"gone": np.zeros(2), "reshaped": np.zeros(2), "zero": np.zeros(2), "big": np.array([1e308, 1e308])},
        {"new": np.zeros(3), "reshaped": np.zeros(3), "zero": np.ones(2), "big": np.array([-1e308, 1e308])},
    )
    found = {one.name: (one.norm, one.moved, one.relative) for one in changes}
    assert found["gone"] == found["new"] == found["reshaped"] == (None, None, None)
    assert found["zero"] == (0.0, pytest.approx(2**0.5), None)
    assert found["big"][2] is None or np.isfinite(found["big"][2])
