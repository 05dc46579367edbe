"""The optimisers against scikit-learn, River and their published objectives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everlearn.families.linear import build, updates
from tests.support.linear_rows import (
    BINARY,
    PLAIN,
    REGRESSION,
    coefficients,
    example_rows,
    hashed_batch,
    learn,
)

Array = NDArray[Any]


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [("squared", "squared_error"), ("huber", "huber"), ("absolute", "epsilon_insensitive")],
)
def test_regression_is_scikit_learns_step_by_step(loss: str, theirs: str) -> None:
    from sklearn.linear_model import SGDRegressor

    x, _ = example_rows()
    y = x @ np.array([1.0, -2.0, 0.5]) + 3
    parameter = {"loss_parameter": 0.5} if loss == "huber" else {}
    ours = build({**REGRESSION, "dense": 3, "loss": loss, **parameter, "rate": 0.03, "l2": 0.01, **PLAIN})
    peer = SGDRegressor(
        loss=theirs, epsilon=0.0 if loss == "absolute" else 0.5, alpha=0.01, learning_rate="constant", eta0=0.03
    )
    for row, target in zip(x, y, strict=True):
        learn(ours, row[None], [target])
        peer.partial_fit(row[None].astype(np.float64), [target])
    np.testing.assert_allclose(coefficients(ours)[:3], peer.coef_, atol=1e-9)
    np.testing.assert_allclose(coefficients(ours)[3], peer.intercept_[0], atol=1e-9)


def test_logistic_is_scikit_learns_step_by_step_with_weights() -> None:
    from sklearn.linear_model import SGDClassifier

    x, y = example_rows()
    weight = np.random.default_rng(2).uniform(0.1, 3.0, len(y)).astype(np.float32)
    ours = build({**BINARY, "dense": 3, "rate": 0.05, "l2": 0.02, **PLAIN})
    peer = SGDClassifier(loss="log_loss", alpha=0.02, learning_rate="constant", eta0=0.05)
    learn(ours, x, y, weight)
    for row, label, w in zip(x, y, weight, strict=True):
        peer.partial_fit(row[None].astype(np.float64), [label], classes=[0.0, 1.0], sample_weight=[float(w)])
    np.testing.assert_allclose(coefficients(ours), np.append(peer.coef_[0], peer.intercept_), atol=1e-9)


def river_optimizer(name: str) -> Any:
    from river import optim

    return {
        "sgd": optim.SGD(0.05),
        "adagrad": optim.AdaGrad(0.1),
        "adam": optim.Adam(0.01),
    }[name]


@pytest.mark.parametrize(
    ("task", "name"), [("binary", "sgd"), ("binary", "adagrad"), ("binary", "adam"), ("regression", "sgd")]
)
def test_optimizers_are_rivers_step_by_step(task: str, name: str) -> None:
    """River is given the intercept as a column, since its own intercept knows only plain descent.

    Its squared loss is (m - t)^2 and ours half of that, so plain descent at twice the rate is the same step.
    """
    from river import linear_model

    x, y = example_rows()
    maker = linear_model.LogisticRegression if task == "binary" else linear_model.LinearRegression
    peer = maker(optimizer=river_optimizer(name), l2=0.0, intercept_lr=0.0)
    rate = {"rate": 0.1} if task == "regression" else {}
    ours = build({"task": task, "dense": 3, "optimizer": name, "standardize": False, **rate})
    said = learn(ours, x, y)[:, -1]
    for row, label, mine in zip(x, y, said, strict=True):
        features = {**{str(j): float(v) for j, v in enumerate(row)}, "intercept": 1.0}
        theirs = peer.predict_proba_one(features)[True] if task == "binary" else peer.predict_one(features)
        assert mine == pytest.approx(theirs, abs=1e-6)
        peer.learn_one(features, bool(label) if task == "binary" else float(label))
    mine = coefficients(ours)
    np.testing.assert_allclose(mine, [peer.weights[key] for key in ("0", "1", "2", "intercept")], atol=1e-7)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.floats(0, 0.5), st.floats(0, 0.5))
@settings(deadline=None)
def test_ftrl_minimises_what_it_says(gradients: list[float], l1: float, l2: float) -> None:
    """McMahan et al. (2013), equation 1: the weight minimises g.w + sum(sigma (w - w_s)^2)/2 + l1|w| + l2 w^2/2.

    Their algorithm's beta adds beta / rate to the quadratic term; River's implementation shows the weight one step
    late, so it is no oracle for single steps.
    """
    w, z, total, rate = 0.0, 0.0, 0.0, 0.3
    history = []
    for g in gradients:
        sigma = (math.sqrt(total + g * g) - math.sqrt(total)) / rate
        history.append((g, sigma, w))
        w, z, total = updates.ftrl(w, z, total, g, rate, l1, l2)

        def objective(v: Array) -> Array:
            value = l1 * np.abs(v) + (l2 + updates.BETA / rate) * v * v / 2
            for g, sigma, centre in history:
                value = value + g * v + sigma * (v - centre) ** 2 / 2
            return value

    around = w + np.linspace(-1, 1, 4001)
    assert objective(np.array(w)) <= objective(around).min() + 1e-9


def test_ftrl_leaves_useless_weights_at_zero() -> None:
    random = np.random.default_rng(3)
    rows = [{int(i): 1.0 for i in random.choice(np.arange(1, 400), 5, replace=False)} for _ in range(3000)]
    y = (random.random(3000) < 0.5).astype(float)
    for row, label in zip(rows, y, strict=True):
        if label:
            row[0] = 1.0  # the one entry that tells
    model = build({**BINARY, "dense": 0, "hashed": 400, "optimizer": "ftrl", "l1": 9.0})
    model.learn(hashed_batch(rows), y, np.ones(3000, np.float32))
    weights = model.arrays["hashed"][:, 0, 0]
    assert weights[0] > 1.0
    assert np.count_nonzero(weights[1:]) < 0.05 * 399
