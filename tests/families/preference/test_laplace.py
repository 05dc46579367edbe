"""The exact fit against scikit-learn, SciPy and closed forms; draws against the Laplace posterior."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from everlearn.errors import ModelError
from everlearn.families.preference import laplace, reward
from everlearn.records import Floats

WIDTH = 5


def judged(n: int, seed: int = 0, groups: int = 1) -> reward.Pairs:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, n, WIDTH)).astype(np.float32)
    label = random.random(n) < 1 / (1 + np.exp(-(first - second) @ random.normal(size=WIDTH)))
    return reward.pairs(first, second, label, random.integers(groups, size=n))


def posterior(pairs: reward.Pairs, reliability: Floats | None = None, groups: int = 1) -> tuple[Floats, Floats]:
    """Return mode and Laplace covariance of stacked weights by SciPy, and by inverting the precision."""
    n = len(pairs.label)
    x = np.zeros((n, 1 + groups, WIDTH))
    x[:, 0] = x[np.arange(n), 1 + pairs.group] = pairs.first - pairs.second
    x, sign = x.reshape(n, -1), 2 * pairs.label - 1
    variance = reward.VARIANCE * np.repeat([reward.SHARED, 1 - reward.SHARED], [WIDTH, groups * WIDTH])
    q = np.ones(n) if reliability is None else reliability

    def loss(w: Floats) -> tuple[float, Floats]:
        s = 1 / (1 + np.exp(-sign * (x @ w)))
        likelihood = q * s + (1 - q) * (1 - s)
        slope = (2 * q - 1) * s * (1 - s) / likelihood * sign
        value = 0.5 * np.sum(w * w / variance) - pairs.weight @ np.log(likelihood)
        return float(value), w / variance - (pairs.weight * slope) @ x

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    s = 1 / (1 + np.exp(-(x @ found.x)))
    first = q * s + (1 - q) * (1 - s)
    information = pairs.weight * ((2 * q - 1) * s * (1 - s)) ** 2 / (first * (1 - first))
    return found.x, np.linalg.inv((x.T * information) @ x + np.diag(1 / variance))


def fitted(pairs: reward.Pairs, groups: int = 1, draws: int = 8) -> reward.Arrays:
    head = reward.start(WIDTH, groups=groups, draws=draws)
    reward.append(head, pairs)
    assert laplace.fit(head) < 1e-5
    return head


def test_the_mode_is_that_of_logistic_regression_on_differences() -> None:
    pairs = judged(200)
    oracle = LogisticRegression(C=reward.VARIANCE, fit_intercept=False, tol=1e-10, max_iter=10_000)
    oracle.fit((pairs.first - pairs.second).astype(np.float64), pairs.label)
    np.testing.assert_allclose(fitted(pairs)["weights"].sum(0), oracle.coef_[0], atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_mode_with_groups_and_weights_against_scipy(groups: int) -> None:
    pairs = judged(150, 1, groups)
    pairs = pairs._replace(weight=np.random.default_rng(1).uniform(0.2, 3.0, 150))
    mode, _ = posterior(pairs, groups=groups)
    np.testing.assert_allclose(fitted(pairs, groups)["weights"].ravel(), mode, atol=1e-4)


def test_mode_under_annotators_of_known_reliability_against_scipy() -> None:
    pairs = judged(400, 2)
    who = np.random.default_rng(2).integers(3, size=400)
    table = np.array([1.0, 0.8, 0.2])
    head = reward.start(WIDTH)
    reward.append(head, pairs._replace(who=who), table)
    assert laplace.fit(head, table) < 1e-5
    mode, _ = posterior(pairs, table[who])
    np.testing.assert_allclose(head["weights"].ravel(), mode, atol=1e-4)


def test_one_label_has_the_closed_form() -> None:
    """In one dimension: w = v g, g = 1 - s(w), variance = 1 / (1 / v + s (1 - s)); the parts share it by v_i."""
    pair = reward.pairs(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), np.ones(1))
    head = reward.start(1, draws=20_000)
    reward.append(head, pair)
    laplace.fit(head)
    w = float(head["weights"].sum())
    s = 1 / (1 + np.exp(-w))
    assert w == pytest.approx(reward.VARIANCE * (1 - s), abs=1e-4)
    assert head["weights"][0, 0] == pytest.approx(reward.SHARED * w, abs=1e-4)
    total = head["deviations"].sum(1)[:, 0]
    assert total.var() == pytest.approx(1 / (1 / reward.VARIANCE + s * (1 - s)), rel=0.04)
    assert total.mean() == pytest.approx(0, abs=0.05)


def test_draws_have_mean_and_covariance_of_the_laplace_posterior() -> None:
    pairs = judged(60, 3, 2)
    head = fitted(pairs, 2, draws=20_000)
    mode, covariance = posterior(pairs, groups=2)
    draws = head["deviations"].reshape(20_000, -1).astype(np.float64)
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(0) / deviation, 0, atol=0.04)
    scale = np.outer(deviation, deviation)
    np.testing.assert_allclose(np.cov(draws.T) / scale, covariance / scale, atol=0.05)
    np.testing.assert_allclose(head["weights"].ravel(), mode, atol=1e-4)


def test_newton_converges_on_separable_labels_and_large_features() -> None:
    """Undamped Newton steps from 0 diverge on such data."""
    random = np.random.default_rng(4)
    for scale in (1.0, 30.0, 300.0):
        x = (scale * random.normal(size=(300, WIDTH))).astype(np.float32)
        head = reward.start(WIDTH)
        reward.append(head, reward.pairs(x, np.zeros_like(x), x[:, 0] > 0))
        assert laplace.fit(head) < 1e-5
        assert np.isfinite(head["deviations"]).all()


def test_a_warm_start_takes_fewer_steps_and_finds_the_same() -> None:
    pairs = judged(300, 5)
    head = fitted(reward.taken(pairs, slice(0, 290)))
    cold = int(head["learn/counts"][laplace.NEWTON])
    reward.append(head, reward.taken(pairs, slice(290, 300)))
    laplace.fit(head)
    assert int(head["learn/counts"][laplace.NEWTON]) < cold
    np.testing.assert_allclose(head["weights"], fitted(pairs)["weights"], atol=1e-4)


def test_steps_that_do_not_converge_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laplace, "STEPS", 1)
    head = reward.start(WIDTH)
    pairs = judged(100, 6)
    reward.append(head, pairs._replace(first=100 * pairs.first))
    with pytest.raises(ModelError, match="reward: Newton stopped at a residual of .* after 1 steps"):
        laplace.fit(head)


def test_a_fit_of_doubted_labels_goes_on_where_the_last_one_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The posterior of doubted labels has saddles: of 413 labels in SlotWorld, a quarter flipped, 84 steps left one."""
    pairs = judged(100, 6)
    random = np.random.default_rng(7)
    flipped = np.where(random.random(100) < 0.3, 1 - pairs.label, pairs.label)
    pairs, doubt = pairs._replace(first=20 * pairs.first, second=20 * pairs.second, label=flipped), np.full(1, 0.8)
    monkeypatch.setattr(laplace, "STEPS", 2)
    head = reward.start(WIDTH)
    reward.append(head, pairs, doubt)
    residuals = [laplace.fit(head, doubt) for _ in range(100)]
    assert residuals[0] > laplace.FARTHEST
    assert residuals[-1] < laplace.TOLERANCE
    x = np.asarray(pairs.first - pairs.second, np.float64)
    slope = laplace.curve(x @ head["weights"].sum(0), pairs.label, pairs.weight, np.full(100, 0.8))[1]
    np.testing.assert_allclose(head["learn/dual"][:100], slope, atol=1e-4)


def test_all_columns_of_a_label_leave_the_window_with_it() -> None:
    window = 130
    head = reward.start(WIDTH, groups=3, window=window)
    columns = {name for name, array in head.items() if name.startswith("learn/") and array.shape[:1] == (window,)}
    assert columns == {f"learn/{name}" for name in laplace.COLUMNS}
    arms = np.arange(window) % 2
    reward.append(head, judged(window, groups=3)._replace(arm=arms))
    reward.append(head, judged(1))  # the oldest 64 go into the prior
    assert head["learn/arm"][: window - reward.CHUNK].tolist() == arms[reward.CHUNK :].tolist()
    groups = head["learn/group"][: window - reward.CHUNK].copy()
    reward.forget(head, 1, 0)
    left = int(head["learn/counts"][laplace.COUNT])
    assert head["learn/arm"][: left - 1].tolist() == arms[reward.CHUNK :][groups != 1].tolist()
    assert not head["learn/arm"][left:].any()
