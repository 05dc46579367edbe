"""Seasonal naive forecasts, smoothing and the regression, against numpy and plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.families.forecast import regression
from everlearn.families.forecast.experts import DAMP, RATES
from everlearn.families.forecast.model import Forecast, build
from everlearn.model import cut
from everlearn.records import Batch, Examples, Floats, Ints, Singles
from tests.support.timed_rows import hours, timed


def forecaster(method: str, **settings: object) -> Forecast:
    spec = {"family": "forecast", "task": "regression", "dense": 5, "clock": 0, "method": method, "period": 60}
    return build({**spec, **settings})


def learn(model: Forecast, rows: Examples) -> Floats:
    return model.learn(rows.batch, rows.y, rows.weight)[:, 0].astype(np.float64)


def wave(count: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    return 50.0 + 10.0 * np.sin(np.arange(count) * 2 * np.pi / 24) + random.normal(size=count)


@pytest.mark.parametrize("ahead", [1, 5, 24, 25, 60])
def test_seasonal_naive_is_the_number_of_whole_seasons_ago(ahead: int) -> None:
    y, at = wave(400 + ahead), hours(400 + ahead)
    rows, model = timed(at, y), forecaster("seasonal_naive", season=7)
    learn(model, cut(rows, 0, 400))
    found = model.predict(cut(rows, 399 + ahead, 400 + ahead).batch)[0, 0]
    assert found == pytest.approx(y[399 + ahead - 7 * -(-ahead // 7)], rel=1e-6)


def test_seasonal_naive_goes_another_season_back_where_a_number_is_missing() -> None:
    y, at = wave(200), hours(201)
    model = forecaster("seasonal_naive", season=7)
    learn(model, timed(np.delete(at[:200], 193), np.delete(y, 193)))
    assert model.predict(timed(at[200:], np.zeros(1)).batch)[0, 0] == pytest.approx(y[186], rel=1e-6)


def smoothed(y: Floats, season: int, rates: tuple[float, float, float]) -> tuple[Floats, Floats]:
    """Forecasts one ahead, and 10 ahead of the end, by additive damped smoothing."""
    level, trend, waves, made = y[0], 0.0, np.zeros(season), [np.nan]
    for t in range(1, len(y)):
        made.append(level + DAMP * trend + waves[t % season])
        expected, wave_now = level + DAMP * trend, waves[t % season]
        level = expected + max(rates[0], 1.0 / (t + 1.0)) * (y[t] - wave_now - expected)
        if t >= season:
            trend = DAMP * trend + rates[1] * (level - expected)
        waves[t % season] = wave_now + max(rates[2], 1.0 / (t // season + 1.0)) * (y[t] - level - wave_now)
    ahead = np.arange(1, 11)
    trends = np.array([sum(DAMP**k for k in range(1, h + 1)) for h in ahead])
    return np.array(made), level + trends * trend + waves[(len(y) - 1 + ahead) % season]


def test_smoothing_is_that_of_the_reference() -> None:
    y = wave(300) + 0.05 * np.arange(300)
    model = build({"family": "forecast", "task": "regression", "dense": 0, "method": "holt_winters", "season": 12})
    rows = timed(hours(310), np.append(y, np.zeros(10)))
    plain = Examples(Batch(rows.batch.dense[:, :0], *_sparse(310)), rows.y, rows.weight, rows.position)
    learn(model, cut(plain, 0, 300))
    state = model.arrays["smooth"][0]
    for way, rates in enumerate(RATES):
        _, ahead = smoothed(y, 12, rates)
        trends = np.array([sum(DAMP**k for k in range(1, h + 1)) for h in range(1, 11)])
        found = state[way, 0] + trends * state[way, 1] + state[way, 2 + (299 + np.arange(1, 11)) % 12]
        np.testing.assert_allclose(found, ahead, rtol=1e-9)


def _sparse(count: int) -> tuple[Ints, NDArray[np.int32], Singles]:
    return np.zeros(count + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)


def test_the_regression_finds_the_weights_of_an_autoregression() -> None:
    """On y(t) = 0.6 y(t-1) - 0.3 y(t-2) + noise, forecasts one ahead are nearly as good as those of the truth."""
    random, y = np.random.default_rng(1), np.zeros(4000)
    noise = random.normal(size=4000)
    for t in range(2, 4000):
        y[t] = 0.6 * y[t - 1] - 0.3 * y[t - 2] + noise[t]
    made = learn(forecaster("autoregressive"), timed(hours(4000), y))
    truth = 0.6 * y[1999:-1] - 0.3 * y[1998:-2]
    assert np.sqrt(np.mean((made[2000:] - truth) ** 2)) < 0.2 < np.sqrt(np.mean(truth**2))


@exact_kernel
def _teach(weights: Floats, inverse: Floats, inputs: Floats, targets: Floats, levels: Floats) -> None:
    gains = np.empty(len(weights))
    for i in range(len(targets)):
        regression.learn(weights, inverse, inputs[i], targets[i], levels, gains)


def test_recursive_least_squares_are_least_squares() -> None:
    random = np.random.default_rng(2)
    inputs, weights = random.normal(size=(300, regression.INPUTS)), np.zeros(regression.INPUTS)
    truth = random.normal(size=regression.INPUTS)
    targets = inputs @ truth * 0.2 + random.normal(size=300) * 0.1
    inverse, levels = np.eye(regression.INPUTS), np.array([0.0, 1.0, 300.0, 0.0])
    _teach(weights, inverse, inputs, targets, levels)
    keep = regression.FORGET ** np.arange(299, -1, -1)
    gram = (inputs * keep[:, None]).T @ inputs + regression.FORGET**300 * np.eye(regression.INPUTS)
    np.testing.assert_allclose(weights, np.linalg.solve(gram, (inputs * keep[:, None]).T @ targets), atol=1e-6)
