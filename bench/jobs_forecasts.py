"""Forecasts beside River's: MASE by horizon against seasonal naive, coverage of intervals, and rows per CPU second.

    python bench/jobs_forecasts.py                     # our methods on five series; a minute
    python bench/jobs_forecasts.py --river             # and River's HoltWinters and SNARIMAX; an hour, less with --rows
    python bench/jobs_forecasts.py --fresh             # on series that no constant was chosen on

Each forecast is made from a rolling origin (`el.forecasts`): h periods before its number, from numbers up to then. The
series are real: half-hourly demand of New South Wales and of Victoria (elec2), flights that leave Houston in an hour,
and the two of River's package, monthly air passengers and hourly water flow. River's models forecast all horizons after
each number; it has no intervals. The files are read from $EVERLEARN_DATA, or from shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

import everlearn as el
from everlearn.evaluate.forecasting import HorizonScores, chains, scored

METHODS = ("auto", "seasonal_naive", "holt_winters", "autoregressive")


class Series(NamedTuple):
    """A real series: its times, its numbers, its season and the horizons, in periods."""

    name: str
    at: np.ndarray
    y: np.ndarray
    season: int
    horizons: tuple[int, ...]


def every(start: str, minutes: int, count: int) -> np.ndarray:
    """Return times, `minutes` apart."""
    return np.datetime64(start, "m") + np.arange(count) * np.timedelta64(minutes, "m")


def series() -> Iterator[Series]:
    """Yield the series."""
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / "elec2.parquet")
    at = every("1996-05-07T00:00", 30, len(table))
    yield Series("demand, NSW", at, table["nswdemand"].to_numpy(), 48, (1, 24, 48))
    varies = np.flatnonzero(np.diff(table["vicdemand"].to_numpy()) != 0)[0]  # constant before
    yield Series("demand, Victoria", at[varies:], table["vicdemand"].to_numpy()[varies:], 48, (1, 24, 48))
    flights = pq.read_table(folder / "hflights.parquet")
    dates = [
        f"2011-{m:02d}-{d:02d}" for m, d in zip(*(flights[c].to_pylist() for c in ("Month", "DayofMonth")), strict=True)
    ]
    days = (np.array(dates, "datetime64[D]") - np.datetime64("2011-01-01")).astype(int)
    counts = np.bincount(days * 24 + flights["SchedDepMin"].to_numpy() // 60, minlength=365 * 24)[: 365 * 24]
    yield Series("flights an hour", every("2011-01-01T00:00", 60, len(counts)), counts.astype(float), 24, (1, 24))
    from river import datasets

    rows = list(datasets.AirlinePassengers())
    months = np.array([str(x["month"])[:10] for x, _ in rows], "datetime64[m]")
    yield Series("air passengers", months, np.array([y for _, y in rows], float), 12, (1, 12))
    rows = list(datasets.WaterFlow())
    hours = np.array([x["Time"].replace(tzinfo=None) for x, _ in rows], "datetime64[m]")
    yield Series("water flow", hours, np.array([y for _, y in rows], float), 24, (1, 24))


def fresh() -> Iterator[Series]:
    """Yield series that played no part when constants were chosen."""
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / "elec2.parquet")
    at = every("1996-05-07T00:00", 30, len(table))
    yield Series("price, NSW", at, table["nswprice"].to_numpy(), 48, (1, 24, 48))
    flights = pq.read_table(folder / "hflights.parquet")
    columns = (flights[name].to_pylist() for name in ("Month", "DayofMonth", "Carrier"))
    days = [f"2011-{m:02d}-{d:02d}" for m, d, carrier in zip(*columns, strict=True) if carrier == "WN"]
    counts = np.unique(np.array(days, "datetime64[D]"), return_counts=True)
    yield Series("Southwest, a day", counts[0].astype("datetime64[m]"), counts[1].astype(float), 7, (1, 7))
    random, n = np.random.default_rng(11), 1500
    week = 20.0 * np.sin(2 * np.pi * np.arange(n) / 7) + np.cumsum(random.normal(size=n))
    yield Series("generated, days", every("2020-01-01", 1440, n), 200 + week + 5 * random.normal(size=n), 7, (1, 7))
    hours = 50.0 * (np.sin(2 * np.pi * np.arange(8000) / 24) + 0.5 * (np.arange(8000) // 24 % 7 < 5))
    hours[5000:] *= 1.5  # a step of the level and of the season
    noise = 5 * random.standard_t(4, size=8000)
    yield Series("generated, a step", every("2020-01-01", 60, 8000), 100 + hours + noise, 24, (1, 24))


def ours(one: Series, method: str) -> tuple[tuple[HorizonScores, ...], float]:
    """Return the scores of a method, and rows learned per second of CPU time, without forecasts for the scores."""
    stream = el.read({"at": one.at.astype(str), "y": one.y}, label="y", task="regression")
    found = el.forecasts(el.build({"family": "forecast", "method": method}), stream, one.horizons, one.season)
    model = el.build({"family": "forecast", "method": method}, el.schema.shape(stream.schema))
    rows = next(stream.chunks(size=len(one.y))).examples
    start = time.process_time()
    model.learn(rows.batch, rows.y, rows.weight)
    return found.scores, len(one.y) / (time.process_time() - start)


def rivers(one: Series, name: str) -> tuple[tuple[HorizonScores, ...], float]:
    """Return the scores of a forecaster of River, and rows per second of CPU time."""
    from river import linear_model, optim, preprocessing, time_series

    made = np.full((len(one.y), len(one.horizons)), np.nan)
    model: Any = time_series.HoltWinters(alpha=0.3, beta=0.01, gamma=0.3, seasonality=one.season)
    if name == "SNARIMAX":
        regressor = preprocessing.StandardScaler() | linear_model.LinearRegression(
            optimizer=optim.SGD(0.001), intercept_lr=0.1
        )
        model = time_series.SNARIMAX(p=4, d=0, q=1, m=one.season, sp=2, sq=1, regressor=regressor)
    start = time.process_time()
    for row, y in enumerate(one.y.tolist()):
        model.learn_one(y)
        if row < 2 * one.season + 1:
            continue
        try:
            ahead = model.forecast(max(one.horizons))
        except (ValueError, IndexError, AttributeError):  # it has not seen enough yet
            continue
        for k, h in enumerate(one.horizons):
            if row + h < len(one.y) and np.isfinite(ahead[h - 1]):
                made[row + h, k] = ahead[h - 1]
    rate = len(one.y) / (time.process_time() - start)
    stream = el.read({"at": one.at.astype(str), "y": one.y}, label="y", task="regression")
    rows = chains(next(stream.chunks(size=len(one.y))).examples.batch)
    none = np.full((len(one.y), 2), np.nan)
    after = max(2 * one.season, 16)
    scores = [scored(h, one.y, made[:, k], none, rows, one.season, after, 0.9) for k, h in enumerate(one.horizons)]
    return tuple(scores), rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=0, help="of each series at most; 0: all")
    parser.add_argument("--river", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="series that no constant was chosen on")
    arguments = parser.parse_args()
    print(
        f"{'series':18}{'forecaster':16}{'horizon':>8}{'rows':>8}{'MASE':>8}{'naive':>8}{'coverage':>10}{'rows/s':>10}"
    )
    for one in fresh() if arguments.fresh else series():
        if arguments.rows:
            one = one._replace(at=one.at[: arguments.rows], y=one.y[: arguments.rows])
        runs = [(method, lambda m=method, s=one: ours(s, m)) for method in METHODS]
        if arguments.river:
            runs += [(name, lambda m=name, s=one: rivers(s, m)) for name in ("HoltWinters", "SNARIMAX")]
        for name, run in runs:
            scores, rate = run()
            for at in scores:
                numbers = f"{at.horizon:8d}{at.rows:8,d}{at.mase:8.3f}{at.naive:8.3f}{at.coverage:10.3f}{rate:10,.0f}"
                print(f"{one.name:18}{name:16}{numbers}", flush=True)


if __name__ == "__main__":
    main()
