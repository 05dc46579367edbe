"""The row loops of the family: forecast rows, learn what came, and forecast ahead to learn from it later.

After each number the model forecasts all its horizons for itself, and keeps what each expert forecast until the number
comes. So weights and bounds of a horizon are learned from forecasts that were made that far ahead, even if no client
asks for them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.forecast import combining, experts, periods, regression, series
from everlearn.families.forecast.combining import HIGH, LOW, POINT
from everlearn.families.forecast.periods import FIRST, GAPS, KNOWN, LEARNED
from everlearn.families.forecast.series import COUNT, FREE, MINUTE, NEWEST, NOW, NUMBERS, USED
from everlearn.families.forecast.settings import EXPERTS
from everlearn.families.kernel_parts import first_fault, outlined
from everlearn.records import Floats, Ints, Singles

UNKNOWN = -(1 << 62)
LEVEL, SHARE, SEASON, REACH = 0, 1, 2, 3  # numbers that kernels take
MIDDLE, OFFSETS, PENDING = EXPERTS, EXPERTS + 1, EXPERTS + 4  # of a pending forecast
TRACE = 4  # numbers kept with a prediction: forecast, bounds, horizon
LARGEST = 3.4e38
State = tuple[Ints, Ints, Ints, Floats, NDArray[np.uint8], Floats, Floats, Floats, Floats, Floats, Floats, Ints]


@outlined
def group(ahead: int, horizons: Ints) -> int:
    """Return the place of the shortest horizon that is not shorter."""
    for g in range(len(horizons)):
        if horizons[g] >= ahead:
            return g
    return len(horizons) - 1


@outlined
def target(minute: int, slot: int, clock: Ints, stamps: Ints) -> int:
    """Return the period of a row: that of its time, else the one after the newest."""
    if minute == UNKNOWN:
        return int(stamps[slot, NEWEST] + 1)
    return periods.index(minute, clock)


@outlined
def one(slot: int, minute: int, state: State, found: Floats, answers: Floats, out: Floats) -> None:
    """Write forecast, bounds and horizon of one row to `out`, float64 (4,)."""
    clock, _, stamps, values, present, levels, smooth, shares, weights, offsets, _, horizons = state
    out[:] = 0.0
    out[3] = 1.0
    if slot < 0:
        return
    known = clock[KNOWN] >= GAPS and stamps[slot, COUNT] > 0
    if not known:
        out[0] = out[1] = out[2] = levels[slot, NOW]
        return
    period = target(minute, slot, clock, stamps)
    origin = min(stamps[slot, NEWEST], period - 1)
    g = group(period - origin, horizons)
    experts.forecast(
        values[slot], present[slot], stamps[slot], levels[slot], smooth[slot], weights[g], clock, origin, period, found,
        answers,
    )  # fmt: skip
    middle, unit = combining.combined(shares[g], answers), regression.scale_of(levels[slot])
    out[0] = middle + offsets[g, POINT] * unit
    out[1], out[2], out[3] = middle + offsets[g, LOW] * unit, middle + offsets[g, HIGH] * unit, period - origin


@outlined
def predict_rows(
    hashed: int, state: State, when: Ints, indptr: Ints, indices: NDArray[np.int32], entries: Singles, out: Singles
) -> int:
    """Write forecast, bounds and horizon of each row, float32 (n, 4). Return a fault, or 0."""
    fault = first_fault(hashed, indptr, indices, entries)
    if fault:
        return fault
    found, answers, row = np.empty(regression.INPUTS), np.empty(EXPERTS), np.empty(TRACE)
    for i in range(len(when)):
        slot = series.find(state[1], series.key(indices, indptr[i], indptr[i + 1]))
        one(slot, when[i], state, found, answers, row)
        for k in range(TRACE):
            out[i, k] = min(max(row[k], -LARGEST), LARGEST)
    return 0


@outlined
def learn_rows(
    hashed: int, settings: Floats, state: State, gaps: Ints, inverses: Floats, pending: Floats, due: Ints,
    served: Floats, losses: Floats, when: Ints, indptr: Ints, indices: NDArray[np.int32], entries: Singles, y: Floats,
    weight: Singles, trace: Singles, out: Singles,
) -> int:  # fmt: skip
    """Forecast each row, float32 (n, 4), and then learn it. Return a fault, or 0."""
    fault = first_fault(hashed, indptr, indices, entries)
    if fault:
        return fault
    clock, keys, stamps, values, present, levels, smooth, _, _, _, _, horizons = state
    found, answers, row = np.empty(regression.INPUTS), np.empty(EXPERTS), np.empty(TRACE)
    gains = np.empty(regression.INPUTS)
    for i in range(len(when)):
        name = series.key(indices, indptr[i], indptr[i + 1])
        slot = series.find(keys, name)
        one(slot, when[i], state, found, answers, row)
        for k in range(TRACE):
            out[i, k] = min(max(row[k], -LARGEST), LARGEST)
        if not (abs(y[i]) < 1e100 and weight[i] > 0.0 and weight[i] < math.inf):
            continue
        if len(trace) and abs(trace[i, 3]) < math.inf:
            g = group(int(trace[i, 3]), horizons)
            served[g, 0] += 1.0
            if trace[i, 1] <= y[i] <= trace[i, 2]:
                served[g, 1] += 1.0
        if slot < 0:
            slot, reused = series.claim(keys, stamps, name)
            if reused:
                present[slot] = 0
                levels[slot] = 0.0
                smooth[slot] = 0.0
                due[slot] = FREE
            stamps[slot, NEWEST], stamps[slot, COUNT], stamps[slot, MINUTE] = -1, 0, UNKNOWN
        clock[LEARNED] += 1
        stamps[slot, USED] = clock[LEARNED]
        if clock[KNOWN] < GAPS:
            gap = when[i] - stamps[slot, MINUTE]
            if (
                when[i] != UNKNOWN
                and stamps[slot, MINUTE] != UNKNOWN
                and gap > 0
                and periods.note_gap(gap, clock, gaps)
            ):
                periods.choose(clock, int(settings[SEASON]), values.shape[1])
            if when[i] != UNKNOWN:
                stamps[slot, MINUTE] = max(when[i], stamps[slot, MINUTE])
        if clock[KNOWN] >= GAPS:
            period = target(when[i], slot, clock, stamps)
            settle(slot, period, y[i], settings, state, losses, pending[slot], due[slot])
            observe(slot, period, y[i], state, inverses, pending[slot], due[slot], found, answers, gains)
        else:
            series.average(levels[slot], y[i])
    return 0


@outlined
def settle(
    slot: int, period: int, y: float, settings: Floats, state: State, losses: Floats, pending: Floats, due: Ints
) -> None:
    """Learn from the forecasts of a number that were made before it came: shares of experts, and bounds."""
    _, _, _, _, _, levels, _, shares, _, offsets, errors, horizons = state
    unit, first = regression.scale_of(levels[slot]), 0
    for g in range(len(horizons)):
        at = first + period % horizons[g]
        first += horizons[g]
        if due[at] != period:
            continue
        due[at] = FREE
        middle = pending[at, MIDDLE]
        away = min(max((y - middle) / unit, -1e6), 1e6)
        combining.weigh(shares[g], losses[g], pending[at], y, unit)
        given = pending[at, OFFSETS:PENDING]
        combining.track(
            offsets[g], errors[g], given, away, horizons[g], settings[LEVEL], settings[SHARE], settings[REACH]
        )


@outlined
def observe(
    slot: int, period: int, y: float, state: State, inverses: Floats, pending: Floats, due: Ints, found: Floats,
    answers: Floats, gains: Floats,
) -> None:  # fmt: skip
    """Let a series take a number: regression, smoothing and the numbers of the past; then forecast all horizons."""
    clock, _, stamps, values, present, levels, smooth, shares, weights, offsets, _, horizons = state
    mine, past, newest = stamps[slot], values[slot], stamps[slot, NEWEST]
    history = len(past)
    if mine[COUNT] and period <= newest:  # it came late, or again
        if period > newest - history:
            past[period % history], present[slot, period % history] = y, 1
        return
    if not mine[COUNT]:
        mine[NEWEST] = newest = period - 1
    for g in range(len(horizons)):
        if mine[COUNT] > min(horizons[g] + clock[FIRST], history // 2) and levels[slot, NUMBERS] > 4.0:
            origin = period - horizons[g]
            regression.inputs(past, present[slot], newest, min(origin, newest), period, levels[slot], clock, found)
            regression.learn(weights[g], inverses[g], found, y, levels[slot], gains)
    experts.follow(smooth[slot], mine, clock, period, y)
    series.write(past, present[slot], newest, period, y)
    series.average(levels[slot], y)
    mine[NEWEST] = period
    mine[COUNT] += 1
    first = 0
    for g in range(len(horizons)):
        ahead = period + horizons[g]
        at = first + ahead % horizons[g]
        first += horizons[g]
        experts.forecast(
            past, present[slot], mine, levels[slot], smooth[slot], weights[g], clock, period, ahead, found, answers
        )
        for k in range(EXPERTS):
            pending[at, k] = answers[k]
        pending[at, MIDDLE] = combining.combined(shares[g], answers)
        for k in range(PENDING - OFFSETS):
            pending[at, OFFSETS + k] = offsets[g, k]
        due[at] = ahead
