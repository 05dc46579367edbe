"""The losses of the linear family against numerical gradients and their defining properties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everlearn.families.linear import build, losses
from everlearn.families.linear.settings import ABSOLUTE, HUBER, LOGISTIC, QUANTILE, SOFTMAX, SQUARED
from tests.support.linear_rows import (
    PLAIN,
    REGRESSION,
    dense_batch,
    learn,
)

Array = NDArray[Any]


def written_out(loss: int, m: float, t: float, shape: float) -> float:
    """The losses as the textbooks write them, of a score m."""
    r = abs(m - t)
    return {
        LOGISTIC: math.log1p(math.exp(-m if t else m)),
        SQUARED: r * r / 2,
        ABSOLUTE: r,
        QUANTILE: (1 - shape) * r if m > t else shape * r,
        HUBER: r * r / 2 if r <= shape else shape * (r - shape / 2),
    }[loss]


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED, ABSOLUTE, QUANTILE, HUBER])
@pytest.mark.parametrize("m", [-3.1, -0.4, 0.3, 2.2])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slopes_are_the_derivatives_of_the_losses(loss: int, m: float, t: float) -> None:
    shape, step = 0.8, 1e-5  # no score here stands on one of the losses' kinks
    p = losses.sigmoid(m) if loss == LOGISTIC else m
    numerical = (written_out(loss, m + step, t, shape) - written_out(loss, m - step, t, shape)) / (2 * step)
    assert losses.slope(loss, p, t, shape) == pytest.approx(numerical, abs=1e-8)


def test_a_softmax_step_follows_the_numerical_gradient() -> None:
    model = build({"task": "multiclass", "classes": 3, "dense": 4, "rate": 0.1, **PLAIN})
    random = np.random.default_rng(1)
    start = random.normal(size=(3, 5))
    model.arrays["weights"][0] = start
    x = random.normal(size=4).astype(np.float32)

    def loss(weights: Array) -> float:
        m = weights @ np.append(x, 1.0)
        return float(np.log(np.exp(m).sum()) - m[2])

    gradient = np.zeros_like(start)
    for place in itertools.product(range(3), range(5)):
        nudge = np.zeros_like(start)
        nudge[place] = 1e-6
        gradient[place] = (loss(start + nudge) - loss(start - nudge)) / 2e-6
    learn(model, x[None], np.array([2.0]))
    np.testing.assert_allclose(model.arrays["weights"][0], start - 0.1 * gradient, atol=1e-9)


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED, ABSOLUTE, QUANTILE, HUBER])
@pytest.mark.parametrize("m", [-2.0, 0.2, 3.5])
@pytest.mark.parametrize("reach", [0.3, 4.0])
def test_an_invariant_step_is_many_small_ones(loss: int, m: float, reach: float) -> None:
    weight, shape, small = 2.5, 0.7, 20_000
    moved = m
    for _ in range(small):
        p = losses.sigmoid(moved) if loss == LOGISTIC else moved
        moved -= reach * weight / small * losses.slope(loss, p, 1.0, shape)
    p = losses.sigmoid(m) if loss == LOGISTIC else m
    step = losses.invariant_step(loss, p, 1.0, weight, reach, shape)
    assert m - reach * step == pytest.approx(moved, abs=1e-3)


@given(
    m=st.floats(-15, 15), reach=st.floats(1e-6, 1e6), one=st.floats(1e-3, 50), two=st.floats(1e-3, 50), t=st.booleans()
)
@settings(deadline=None)
def test_two_importances_add_up(m: float, reach: float, one: float, two: float, t: bool) -> None:
    """Karampatziakis & Langford's invariance: first `one`, then `two`, is `one + two` at once.

    Scores beyond 15 are left out: there 1 - p, which the step is computed from, has lost its digits.
    """
    for loss in (LOGISTIC, SQUARED, ABSOLUTE, QUANTILE, HUBER):

        def moved(m: float, weight: float, loss: int = loss) -> float:
            p = losses.sigmoid(m) if loss == LOGISTIC else m
            return m - reach * losses.invariant_step(loss, p, float(t), weight, reach, 0.7)

        assert moved(moved(m, one), two) == pytest.approx(moved(m, one + two), rel=1e-6, abs=1e-6)


@given(m=st.floats(-1e6, 1e6), t=st.floats(-1e6, 1e6), reach=st.floats(1e-9, 1e12), weight=st.floats(1e-6, 1e6))
@settings(deadline=None)
def test_a_cautious_step_never_passes_the_target(m: float, t: float, reach: float, weight: float) -> None:
    for loss in (SQUARED, ABSOLUTE, QUANTILE, HUBER):
        moved = m - reach * losses.cautious_step(loss, m, t, weight, reach, 0.7)
        slack = 1e-6 * (1 + abs(m) + abs(t))
        assert min(m, t) - slack <= moved <= max(m, t) + slack
    for loss in (LOGISTIC, SOFTMAX):
        assert abs(losses.cautious_step(loss, 0.25, 1.0, weight, reach, 0.0)) * reach <= 0.75 * 4 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"loss": "squared"}, np.mean),
        ({"loss": "absolute"}, np.median),
        ({"loss": "quantile", "loss_parameter": 0.9}, lambda y: np.quantile(y, 0.9)),
    ],
)
def test_without_inputs_a_regression_finds_the_losss_own_middle(
    spec: dict[str, Any], expected: Callable[[Array], float]
) -> None:
    y = 100 + 10 * np.random.default_rng(5).exponential(size=20_000)
    model = build({**REGRESSION, "dense": 0, "rate": 0.002, **spec})
    learn(model, np.zeros((len(y), 0)), y)
    assert model.predict(dense_batch(np.zeros((1, 0))))[0, 0] == pytest.approx(expected(y), abs=1.5)


def test_huber_forgives_outliers() -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(5000, 1))
    y = 2 * x[:, 0] + random.normal(0, 0.1, 5000)
    y[::20] += 500
    errors = {}
    for loss in ("squared", "huber"):
        model = build({**REGRESSION, "dense": 1, "loss": loss, "optimizer": "sgd", "rate": 0.01})
        said = learn(model, x, y)[2500:, 0]
        errors[loss] = np.median(np.abs(said - 2 * x[2500:, 0]))
    assert errors["huber"] < 0.3 < errors["squared"]
