"""The one-coin likelihood against numerical derivatives, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.preference.dual_kernels import curve

F = np.linspace(-8, 8, 33)


@pytest.mark.parametrize("reliability", [1.0, 0.9, 0.6, 0.5, 0.2])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_slope_and_information_against_numerical_derivatives(reliability: float, label: float) -> None:
    n, weight = len(F), 1.7
    given = np.full(n, label), np.full(n, weight), np.full(n, reliability)
    p = reliability / (1 + np.exp(-F)) + (1 - reliability) / (1 + np.exp(F))
    value, slope, information, observed = curve(F, *given)
    np.testing.assert_allclose(value, weight * np.log(p if label else 1 - p), atol=1e-12)
    above, below = curve(F + 1e-5, *given)[0], curve(F - 1e-5, *given)[0]
    np.testing.assert_allclose(slope, (above - below) / 2e-5, atol=1e-6)
    higher, lower = curve(F + 1e-5, *given)[1], curve(F - 1e-5, *given)[1]
    np.testing.assert_allclose(observed, (lower - higher) / 2e-5, atol=1e-6)
    other = curve(F, 1 - given[0], *given[1:])[1]
    expected = weight * (p * (slope if label else other) ** 2 + (1 - p) * (other if label else slope) ** 2)
    np.testing.assert_allclose(information, expected / weight**2, atol=1e-12)


def test_extreme_logits_stay_finite() -> None:
    f, ones = np.array([-1e4, 1e4]), np.ones(2)
    for reliability in (1.0, 0.7, 0.0):
        assert all(np.isfinite(part).all() for part in curve(f, ones, ones, reliability * ones))


def test_a_coin_teaches_nothing() -> None:
    ones = np.ones(len(F))
    _, slope, information, _ = curve(F, ones, ones, 0.5 * ones)
    assert not slope.any()
    assert not information.any()
