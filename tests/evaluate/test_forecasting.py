"""Scores by horizon, against numpy, and forecasts that are made as far ahead as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.evaluate.forecasting import chains, forecasts, scored
from everlearn.model import Model
from everlearn.records import Arrays, Batch, Floats, Singles
from tests.support.timed_rows import hours, timed


class Newest:
    """A model that forecasts the number it learned last, and an interval of 1 on either side."""

    def __init__(self) -> None:
        self.spec = {"level": 0.8}
        self.arrays: Arrays = {"number": np.zeros(1)}

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 1), self.arrays["number"][0], np.float32)

    def interval(self, batch: Batch) -> Singles:
        return self.predict(batch) + np.array([-1.0, 1.0], np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        before = self.predict(batch)
        self.arrays["number"][0] = y[-1]
        return before


def test_a_forecast_is_made_as_many_rows_ahead_as_its_horizon() -> None:
    y = np.arange(100.0)
    model: Model = Newest()
    found = forecasts(model, timed(hours(100), y), horizons=(1, 7), season=3)
    assert (found.y[:, None] - found.forecasts)[7:].tolist() == [[1.0, 7.0]] * 93
    one, seven = found.scores
    assert (one.rows, seven.rows) == (100 - 16 - 1, 100 - 16 - 7)
    assert (one.mase, seven.mase) == (pytest.approx(1 / 3), pytest.approx(7 / 3))
    assert (one.naive, seven.naive) == (1.0, 3.0)  # 3 and 9 rows ago, in units of 3
    assert (one.coverage, seven.coverage) == (1.0, 0.0)
    assert one.pinball == pytest.approx(0.5 * (0.1 * 2.0 + 0.9 * 0.0 + 0.1 * 0.0) / 3)


def test_series_are_followed_apart() -> None:
    keys = np.tile(np.array([4, 8], np.int32), 60)
    rows = timed(np.repeat(hours(60), 2), np.arange(120.0), keys)
    found = chains(rows.batch)
    assert [part.tolist() for part in found.series] == [list(range(0, 120, 2)), list(range(1, 120, 2))]
    assert (found.later(3, 2), found.later(119, 1), found.later(0, -1)) == (7, -1, -1)


def test_scores_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    y, made = random.normal(10.0, 1.0, 200), random.normal(10.0, 1.0, 200)
    bounds = np.stack([made - 1.0, made + 1.5], 1)
    found = scored(5, y, made, bounds, chains(timed(hours(200), y).batch), 4, 20, 0.9)
    used, unit = slice(25, None), np.abs(y[4:] - y[:-4]).mean()
    assert found.mase == pytest.approx(np.abs(y - made)[used].mean() / unit)
    assert found.naive == pytest.approx(np.abs(y[25:] - y[17:-8]).mean() / unit)
    assert found.smape == pytest.approx((200 * np.abs(y - made) / (np.abs(y) + np.abs(made)))[used].mean())
    pytest.importorskip("sklearn")
    from sklearn.metrics import mean_pinball_loss

    losses = [mean_pinball_loss(y[used], bounds[used, k], alpha=a) for k, a in ((0, 0.05), (1, 0.95))]
    assert found.pinball == pytest.approx(sum(losses) / 2 / unit)
    assert found.width == pytest.approx(2.5 / unit)


def test_a_horizon_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="expected whole numbers from 1"):
        el.forecasts(Newest(), timed(hours(10), np.arange(10.0)), horizons=(0,))


def series(rows: int) -> el.Stream:
    at = [str(np.datetime64("2026-01-01T00:00") + np.timedelta64(hour, "h")) for hour in range(rows)]
    return el.read({"at": at, "load": np.sin(np.arange(rows) / 4.0)}, label="load", task="regression")


@pytest.mark.parametrize("model", ["forecast", {"family": "forecast", "seed": 0}])
def test_a_family_or_a_spec_is_scored_as_the_model_it_builds(model: Any) -> None:
    stream = series(200)
    expected = forecasts(el.build({"family": "forecast"}), stream, horizons=(24,), season=24)
    found = forecasts(model, stream, horizons=24, season=24)
    assert found.scores == expected.scores
    assert found.scores[0].rows > 100


@pytest.mark.parametrize("wrong", [{"horizons": (1.5,)}, {"horizons": ()}, {"season": 0}, {"season": 2.0}])
def test_horizons_and_seasons_are_whole_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected whole numbers from 1"):
        forecasts("forecast", series(30), **wrong)


def test_a_season_longer_than_the_series_scores_nothing_and_warns_of_nothing() -> None:
    found = forecasts("forecast", series(30), horizons=(1,), season=500)
    assert found.scores[0].rows == 0
    assert "no row to score" in found.table()
