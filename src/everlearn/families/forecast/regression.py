"""A linear autoregression for each horizon: lags, numbers of one and two seasons ago, and the calendar.

The weights are those of recursive least squares with forgetting (Haykin, "Adaptive filter theory", chapter 10), in
units of the deviation of the series, so that all series share them. Each horizon has its weights and reads only
numbers up to the origin: a direct forecast (Hyndman and Athanasopoulos, "Forecasting: principles and practice", 13.8).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.forecast.periods import DAY, FIRST, MONTHS, PERIOD, SECOND, WEEK
from everlearn.families.forecast.series import MEAN, SPREAD, look
from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats, Ints

INPUTS = 20
LAGS = 4
SEASONAL = 5  # the input that is the number one season ago, with which the weights begin
FORGET = 0.9995
LARGEST = 1e5  # trace of the inverse up to which old rows are forgotten
FAR = 20.0  # deviations beyond which numbers are cut
DAYS_OF_YEAR = 365.25


@outlined
def scale_of(levels: Floats) -> float:
    """Return the unit of a series: its deviation."""
    return float(math.sqrt(levels[SPREAD]) + 1e-9 * abs(levels[MEAN]) + 1e-12)


@outlined
def inputs(
    values: Floats, present: NDArray[np.uint8], newest: int, origin: int, period: int, levels: Floats, clock: Ints,
    found: Floats,
) -> None:  # fmt: skip
    """Write the inputs for a period, of numbers up to `origin` alone, to `found`, float64 (20,)."""
    mean, unit = levels[MEAN], scale_of(levels)
    ahead, first, second = period - origin, clock[FIRST], clock[SECOND]
    one = period - first * ((ahead + first - 1) // first)
    two = period - second * ((ahead + second - 1) // second)
    found[0] = 1.0
    for lag in range(LAGS):
        found[1 + lag] = look(values, present, newest, origin - lag, mean)
    found[5] = look(values, present, newest, one, found[1])
    found[6] = look(values, present, newest, one - first, found[5])
    found[7] = look(values, present, newest, two, found[5])
    found[8] = look(values, present, newest, two - second, found[7])
    found[9] = look(values, present, newest, origin - first, found[1])
    found[10] = look(values, present, newest, origin - second, found[9])
    for i in range(1, 11):
        found[i] = min(max((found[i] - mean) / unit, -FAR), FAR)
    minute, day, week = float(period) * clock[PERIOD], 0.0, 0.0
    year = (minute / DAY) / DAYS_OF_YEAR
    if clock[MONTHS]:
        year = period * clock[MONTHS] / 12.0
    elif clock[PERIOD] <= WEEK:
        week = minute / WEEK
        day = minute / DAY
    for place, turn in ((11, day), (13, 2.0 * day), (15, week), (17, year)):
        angle = 2.0 * math.pi * (turn - math.floor(turn))
        found[place], found[place + 1] = math.sin(angle), math.cos(angle)
    part = week - math.floor(week)  # 1 January 1970 was a Thursday, so Saturday begins after 2 / 7
    found[19] = 1.0 if clock[PERIOD] <= DAY and 2.0 / 7.0 <= part < 4.0 / 7.0 else 0.0


@outlined
def answer(weights: Floats, found: Floats, levels: Floats) -> float:
    """Return the forecast for inputs."""
    total = 0.0
    for i in range(INPUTS):
        total += weights[i] * found[i]
    return float(min(max(total, -FAR), FAR) * scale_of(levels) + levels[MEAN])


@outlined
def learn(weights: Floats, inverse: Floats, found: Floats, y: float, levels: Floats, gains: Floats) -> None:
    """Learn the number that followed some inputs. `inverse` float64 (20, 20), `gains` float64 (20,) is overwritten."""
    target = min(max((y - levels[MEAN]) / scale_of(levels), -FAR), FAR)
    trace, power, error = 0.0, 0.0, target
    for i in range(INPUTS):
        gains[i] = 0.0
        for j in range(INPUTS):
            gains[i] += inverse[i, j] * found[j]
        power += gains[i] * found[i]
        trace += inverse[i, i]
        error -= weights[i] * found[i]
    keep = FORGET if trace < LARGEST else 1.0
    for i in range(INPUTS):
        weights[i] += gains[i] / (keep + power) * error
        for j in range(i + 1):
            entry = (inverse[i, j] - gains[i] * gains[j] / (keep + power)) / keep
            inverse[i, j] = entry
            inverse[j, i] = entry
