"""Forecasters: what they never read, series apart, late and missing numbers, and the coverage of their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import model as models
from everlearn.families.forecast.model import Forecast, build
from everlearn.model import cut
from everlearn.records import Examples, Floats
from tests.support.timed_rows import hours, timed

SPEC: dict[str, Any] = {"family": "forecast", "task": "regression", "dense": 5, "clock": 0, "period": 60}


def learn(model: Forecast, rows: Examples) -> Floats:
    return model.learn(rows.batch, rows.y, rows.weight)[:, 0].astype(np.float64)


def wave(count: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    return 50.0 + 10.0 * np.sin(np.arange(count) * 2 * np.pi / 24) + random.normal(size=count)


@pytest.mark.parametrize("method", ["auto", "seasonal_naive", "holt_winters", "autoregressive"])
def test_a_forecast_reads_nothing_after_its_origin(method: str) -> None:
    """Models that learned the same numbers up to hour 500 forecast the same, whatever is later."""
    rows, other = timed(hours(560), wave(560)), timed(hours(560), np.append(wave(500), np.full(60, 1e6)))
    one, two = build({**SPEC, "method": method}), build({**SPEC, "method": method})
    for model, given in ((one, rows), (two, other)):
        learn(model, cut(given, 0, 500))
    later = cut(rows, 500, 560).batch
    assert one.predict(later).tobytes() == two.predict(later).tobytes()
    assert one.interval(later).tobytes() == two.interval(later).tobytes()


def test_series_are_told_apart_by_their_keys() -> None:
    count, at = 600, hours(600)
    keys = np.tile(np.array([3, 9], np.int32), count)
    y = np.stack([wave(count), 1000.0 - 5.0 * wave(count, 1)], 1).ravel()
    both = timed(np.repeat(at, 2), y, keys)
    made = learn(build({**SPEC, "hashed": 16}), both)
    errors = np.abs(made - y)[800:]
    assert errors[::2].mean() < 2.0
    assert errors[1::2].mean() < 10.0


def test_the_longest_unused_series_gives_way() -> None:
    model = build({**SPEC, "hashed": 64, "series": 2})
    for key in (1, 2, 1, 3):
        learn(model, timed(hours(30), np.full(30, 10.0 * key), np.full(30, key, np.int32)))
    at = hours(31)[30:]
    found = [float(model.predict(timed(at, np.zeros(1), np.array([key], np.int32)).batch)[0, 0]) for key in (1, 2, 3)]
    assert found == [pytest.approx(10.0), 0.0, pytest.approx(30.0)]


def test_missing_and_late_numbers_do_no_harm() -> None:
    y, at = wave(1500), hours(1500)
    random = np.random.default_rng(3)
    kept = np.flatnonzero(random.random(1500) > 0.2)
    order = kept.copy()
    order[300:302] = order[301], order[300]  # two numbers in the wrong order
    model = build(SPEC)
    made = learn(model, timed(at[order], y[order]))
    assert np.abs(made - y[order])[600:].mean() < 1.6  # the noise alone has 0.8
    assert model.arrays["stamps"][0, 1] == (at[-1] - np.datetime64("1970-01-01")) // np.timedelta64(60, "m")


@pytest.mark.parametrize("ahead", [1, 8, 24])
def test_intervals_cover_their_share_of_the_numbers(ahead: int) -> None:
    """Noise whose spread doubles half way: the bounds follow."""
    random = np.random.default_rng(4)
    noise = random.standard_t(4, 6000) * np.where(np.arange(6000) < 3000, 1.0, 2.0)
    rows = timed(hours(6000), 50.0 + 10.0 * np.sin(np.arange(6000) * 2 * np.pi / 24) + noise)
    model, inside = build(SPEC), []
    for row in range(6000 - ahead):
        part = cut(rows, row, row + 1)
        model.learn(part.batch, part.y, part.weight)
        if row >= 1000:  # the first intervals are wide
            low, high = model.interval(cut(rows, row + ahead, row + ahead + 1).batch)[0]
            inside.append(low <= rows.y[row + ahead] <= high)
    assert abs(np.mean(inside) - 0.9) < 0.02


def test_late_numbers_count_for_the_interval_that_was_given() -> None:
    rows, model = timed(hours(900), wave(900)), build(SPEC)
    learn(model, cut(rows, 0, 800))
    part = cut(rows, 823, 824)  # 24 ahead
    scores, trace = model.predict_traced(part.batch)
    assert trace[0].tolist() == [scores[0, 0], *model.interval(part.batch)[0], 24.0]
    learn(model, cut(rows, 800, 823))
    model.learn(part.batch, np.array([1e4]), part.weight, trace)
    found = {int(horizon): (given, inside) for horizon, given, inside in model.coverage()}
    assert found[24] == (1.0, 0.0)
    assert sum(given for given, _ in found.values()) == 1.0


def test_a_quantile_is_forecast_where_it_is_asked_for() -> None:
    rows = timed(hours(4000), wave(4000))
    model = build({**SPEC, "loss": "quantile", "loss_parameter": 0.8})
    made = learn(model, rows)
    assert abs((rows.y <= made)[1000:].mean() - 0.8) < 0.03
    assert models.own_loss(model) == ("pinball", 0.8)


def test_a_forecast_without_times_is_one_row_ahead() -> None:
    rows = timed(hours(600), wave(600))
    plain = Examples(models.stack([rows.batch]), rows.y, rows.weight, rows.position)
    model = build({**SPEC, "clock": -1, "period": 0, "season": 24})
    assert np.abs(learn(model, plain) - rows.y)[300:].mean() < 1.3
