"""Normalised updates by hand, and against Vowpal Wabbit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everlearn.families.linear import build
from tests.support.linear_rows import (
    BINARY,
    REGRESSION,
    coefficients,
    example_rows,
    hashed_batch,
    learn,
)

Array = NDArray[Any]


def test_normalized_by_hand() -> None:
    """Two rows of one hashed entry, squared loss, Ross et al. (2013) algorithm 2 with the step of its section on
    importance; the intercept is a second input, always 1."""
    model = build({**REGRESSION, "dense": 0, "hashed": 1, "optimizer": "normalized", "rate": 0.5})
    model.learn(hashed_batch([{0: 2.0}]), np.array([1.0]), np.ones(1, np.float32))
    # Scales 2 and 1; two inputs at full scale, so the common pace is 0.5 * sqrt(1 / 2). Slope -1, so the sums of
    # squared gradients are 4 and 1, the rates pace / (2 * 2) and pace / (1 * 1), and the reach is 2 * pace.
    pace = 0.5 * math.sqrt(1 / 2)
    step = -(1 - math.exp(-2 * pace)) / (2 * pace)
    entry, intercept = -pace / 4 * step * 2, -pace * step
    assert model.arrays["hashed"][0, 0, 0] == pytest.approx(entry, rel=1e-6)
    assert coefficients(model)[0] == pytest.approx(intercept, rel=1e-12)

    said = model.learn(hashed_batch([{0: 4.0}]), np.array([0.0]), np.ones(1, np.float32))
    # The input doubles its scale, so its weight halves before it is used.
    entry /= 2
    p = entry * 4 + intercept
    assert said[0, 0] == pytest.approx(p, rel=1e-6)
    pace = 0.5 * math.sqrt(2 / 4)
    sums = 4 + (4 * p) ** 2, 1 + p**2
    rates = pace / (4 * math.sqrt(sums[0])), pace / math.sqrt(sums[1])
    reach = rates[0] * 16 + rates[1]
    step = p * (1 - math.exp(-reach)) / reach
    assert model.arrays["hashed"][0, 0, 0] == pytest.approx(entry - rates[0] * step * 4, rel=1e-6)
    assert coefficients(model)[0] == pytest.approx(intercept - rates[1] * step, rel=1e-6)


@given(st.lists(st.sampled_from([1e-6, 1e-3, 1.0, 1e5]), min_size=3, max_size=3))
@settings(deadline=None, max_examples=20)
def test_normalized_does_not_care_about_units(units: list[float]) -> None:
    x, y = example_rows()
    spec = {**BINARY, "dense": 3, "optimizer": "normalized", "standardize": False}
    plain, other = learn(build(spec), x, y), learn(build(spec), x * np.array(units, np.float32), y)
    np.testing.assert_allclose(plain, other, atol=1e-4)


def test_normalized_predicts_as_vowpal_wabbit_does() -> None:
    """The same algorithm with small differences in the order of its sums: log loss within 3 per cent."""
    pyvw = pytest.importorskip("vowpalwabbit")
    x, y = example_rows(3000)
    x = x * np.array([1.0, 1000.0, 0.01], np.float32)
    spec = {**BINARY, "dense": 3, "optimizer": "normalized", "standardize": False}
    ours = learn(build(spec), x, y)[:, 1]
    peer = pyvw.Workspace("--quiet --loss_function logistic --link logistic")
    theirs = []
    for row, label in zip(x, y, strict=True):
        example = peer.parse(f"{1 if label else -1} | a:{row[0]} b:{row[1]} c:{row[2]}")
        theirs.append(peer.predict(example))
        peer.learn(example)
        peer.finish_example(example)

    def log_loss(p: Array) -> float:
        return float(-np.log(np.where(y == 1, p, 1 - p)).mean())

    assert log_loss(ours) == pytest.approx(log_loss(np.array(theirs)), rel=0.03)
