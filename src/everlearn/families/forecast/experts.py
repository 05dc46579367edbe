"""The experts: the last number, seasonal naive of two seasons, three exponential smoothings, and the regression.

Exponential smoothing is that of Holt (1957) and Winters (1960), additive, with a damped trend (Gardner and McKenzie
1985), by three sets of rates side by side. While a level or a season has few numbers, its rate is one over their count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families.forecast import regression
from everlearn.families.forecast.periods import FIRST, SECOND, SMOOTHED
from everlearn.families.forecast.series import COUNT, NEWEST, NOW, look
from everlearn.families.forecast.settings import DAILY, LAST, REGRESSION, SMOOTH, WEEKLY
from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats, Ints

RATES = ((0.1, 0.01, 0.05), (0.3, 0.02, 0.15), (0.8, 0.02, 0.3))  # of level, trend and season
DAMP = 0.98
LEVEL, TREND, SEASON = 0, 1, 2  # of `smooth`, for each set; then the season
SEASONS_BACK = 3


@outlined
def seasonal(
    values: Floats, present: NDArray[np.uint8], newest: int, origin: int, period: int, season: int, otherwise: float
) -> float:
    """Return the number of whole seasons ago, the nearest that is not after `origin` and known."""
    at = period - season * ((period - origin + season - 1) // season)
    history = len(values)
    for _ in range(SEASONS_BACK):
        if newest - history < at <= newest and present[at % history]:
            return float(values[at % history])
        at -= season
    return otherwise


@outlined
def trend_sum(ahead: int) -> float:
    """Return how many times the trend is added over some periods ahead."""
    return float(DAMP * (1.0 - DAMP**ahead) / (1.0 - DAMP))


@outlined
def forecast(
    values: Floats, present: NDArray[np.uint8], stamps: Ints, levels: Floats, smooth: Floats, weights: Floats,
    clock: Ints, origin: int, period: int, found: Floats, answers: Floats,
) -> None:  # fmt: skip
    """Write what each expert forecasts for a period, to `answers`, float64 (7,); `found` float64 (20,) is overwritten.

    Numbers after `origin` are not read; smoothing knows all numbers, so that it is right for the newest origin alone.
    """
    newest = stamps[NEWEST]
    answers[LAST] = look(values, present, newest, origin, levels[NOW])
    answers[DAILY] = seasonal(values, present, newest, origin, period, clock[FIRST], answers[LAST])
    answers[WEEKLY] = seasonal(values, present, newest, origin, period, clock[SECOND], answers[DAILY])
    phase, ahead = period % clock[SMOOTHED], max(period - newest, 1)
    for way in range(3):
        answers[SMOOTH + way] = smooth[way, LEVEL] + trend_sum(ahead) * smooth[way, TREND] + smooth[way, SEASON + phase]
    regression.inputs(values, present, newest, origin, period, levels, clock, found)
    answers[REGRESSION] = regression.answer(weights, found, levels)


@outlined
def follow(smooth: Floats, stamps: Ints, clock: Ints, period: int, y: float) -> None:
    """Let exponential smoothing learn the number of a period after the newest one."""
    season = clock[SMOOTHED]
    phase, ahead, count = period % season, period - stamps[NEWEST], stamps[COUNT]
    for way in range(3):
        level_rate, trend_rate, season_rate = RATES[way]
        state = smooth[way]
        if not count:
            state[LEVEL] = y
            continue
        expected = state[LEVEL] + trend_sum(ahead) * state[TREND]
        wave = state[SEASON + phase] if season > 1 else 0.0
        level = expected + max(level_rate, 1.0 / (count + 1.0)) * (y - wave - expected)
        if count >= season:
            state[TREND] = DAMP**ahead * state[TREND] + trend_rate * (level - expected) / ahead
        if season > 1:
            state[SEASON + phase] = wave + max(season_rate, 1.0 / (count // season + 1.0)) * (y - level - wave)
        state[LEVEL] = level
