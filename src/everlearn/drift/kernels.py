"""The kernels that calibrate a detector and run it, one for each detector, so that only the one in use is compiled.

A stretch of values is kept until it shows block length, centre and deviation. Then each block of values becomes one
value in calibrated deviations, which the detector takes. See `everlearn.drift.detection`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, exact_kernel, merged
from everlearn.drift.detectors import (
    adwin_insert,
    adwin_reset,
    adwin_step,
    ddm_reset,
    ddm_step,
    kswin_step,
    page_hinkley_reset,
    page_hinkley_step,
)
from everlearn.records import Floats, Ints

PAGE_HINKLEY, ADWIN, DDM, KSWIN = 1, 2, 3, 4

ROWS, BUCKETS = 32, 5  # ADWIN keeps at most 5 buckets of each of 32 sizes: windows of up to 2**34 values
STRETCH = 4  # calibration lasts at most this many grace periods
BLOCKS = 20  # blocks needed to judge a block length
CLIP = 10.0  # calibrated deviations at which a single value is cut off
WARNING = 10.0  # a warning is a drift at this many times the sensitivity
PER = 100.0  # `sensitivity` is the chance of a false alarm in this many independent examples
LARGEST = 1e100  # larger values are cut off here, so that squares stay finite

# indices into the arrays `counts` and `numbers`
FILLED, BLOCK, INSIDE, LEVEL, SEEN, SINCE, WARNINGS, DRIFTS, COUNTERS = range(9)
CHANGED, RISING, FALLING, MARKS = range(4)  # in `change`: values of SEEN
SUM, CENTRE, SCALE, INFLATION, DELTA, WARN_LIMIT, DRIFT_LIMIT, NUMBERS = range(8)


class DetectorState(NamedTuple):
    """The arrays of a detector, as the kernels take them.

    `kept` holds the calibration stretch and `ring` the window of KSWIN. `sums` has the sums of the chosen detector.
    `change` holds the values seen before the change behind the last drift (-1: none), and before a rise and a fall that
    may be under way. Detectors of older homes have no `change`.
    """

    seed: Ints
    counts: Ints
    numbers: Floats
    kept: Floats
    buckets: Floats
    sizes: Ints
    sums: Floats
    ring: Floats
    change: Ints


class Dials(NamedTuple):
    """The settings of a spec, as the kernels take them; the quantiles are those of DDM."""

    detector: int
    sensitivity: float
    grace: int
    rises_only: bool
    warn_quantile: float
    drift_quantile: float


Reset = Callable[[Floats, Ints, Floats], None]
Past = Callable[[Floats, Ints, Floats, Floats, float, float], None]
Level = Callable[[Dials, Floats, Floats, Ints, Floats, Floats, int, int, float], int]


@bare
def _means(values: Floats, block: int) -> Floats:
    """Return the means of successive blocks of `block` values; an incomplete last block is left out."""
    means = np.zeros(values.shape[0] // block)
    for i in range(means.shape[0]):
        for k in range(block):
            means[i] += values[i * block + k]
        means[i] /= block
    return means


@bare
def _moments(values: Floats) -> tuple[float, float, float, float]:
    """Return the mean, variance, lag-1 autocorrelation and kurtosis."""
    count = values.shape[0]
    centre = second = products = fourth = 0.0
    for i in range(count):
        centre += (values[i] - centre) / (i + 1.0)
    for i in range(count):
        second += (values[i] - centre) ** 2
        if i > 0:
            products += (values[i] - centre) * (values[i - 1] - centre)
    if second <= 0.0:
        return centre, 0.0, 0.0, 3.0
    for i in range(count):
        fourth += ((values[i] - centre) ** 2 / (second / count)) ** 2
    return centre, second / count, products / second, fourth / count


@bare
def _block_length(values: Floats) -> tuple[int, bool]:
    """Return the power of two above every autocorrelated block length, and False if it could not be judged."""
    block, length, settled = 1, 1, True
    while values.shape[0] // length >= BLOCKS:
        follow = _moments(_means(values, length))[2]
        settled = follow <= 0.1 + 1.0 / math.sqrt(values.shape[0] // length)
        if not settled:
            block = 2 * length
        length *= 2
    return (block, True) if settled else (block // 2, False)


@bare
def _cusum_limit(delta: float, run: float) -> float:
    """Return the limit at which a two-sided CUSUM has one false alarm in `run` values (Siegmund 1985, eq. 2.56)."""
    reach = 10.0
    for _ in range(60):
        reach = math.log(1.0 + 2.0 * delta * reach + 4.0 * delta * delta * run) / (2.0 * delta)
    return max(1.0, reach - 1.166)


@bare
def _scaled(numbers: Floats, value: float) -> float:
    """Return a value in calibrated deviations from the calibrated centre."""
    return min(CLIP, max(-CLIP, float((value - numbers[CENTRE]) / numbers[SCALE])))


@merged
def _calibrate(parts: DetectorState, dials: Dials, past: Past) -> None:
    """Compute block length, centre, scale and limits from the values kept, or wait for more values."""
    counts, numbers = parts.counts, parts.numbers
    held = parts.kept[: counts[FILLED]]
    block, settled = _block_length(held)
    if not settled and counts[FILLED] < parts.kept.shape[0]:
        return
    if not settled:  # the stream may have changed in between: its newer half may be stable
        newer = held[held.shape[0] // 2 :]
        length, settled = _block_length(newer)
        if settled:
            held, block = newer, length
    means = _means(held, block)
    count = means.shape[0]
    centre, variance, follow, kurtosis = _moments(means)
    follow = min(max(follow, 0.0), 0.9)
    # The deviation is itself an estimate: use a value that the true one exceeds in one of ten cases.
    unsure = 1.0 + 1.28 * math.sqrt((max(kurtosis, 3.0) - 1.0) / (4.0 * count))
    counts[BLOCK] = block
    numbers[CENTRE] = centre
    numbers[INFLATION] = (1.0 + follow) / (1.0 - follow)
    numbers[SCALE] = max(math.sqrt(variance * numbers[INFLATION]) * unsure, 1e-9 * abs(centre), 1e-150)
    numbers[DELTA] = max(0.1, 1.0 / math.sqrt(count))
    run = PER / dials.sensitivity / block
    numbers[WARN_LIMIT] = _cusum_limit(numbers[DELTA], run / WARNING)
    numbers[DRIFT_LIMIT] = _cusum_limit(numbers[DELTA], run)
    for i in range(count):  # the detector gets the stretch as its past
        scaled = _scaled(numbers, means[i])
        past(parts.buckets, parts.sizes, parts.sums, parts.ring, scaled, held[i * block + block - 1])


@merged
def _restart(parts: DetectorState, reset: Reset) -> None:
    """Reset calibration and detector; keep the lifetime totals."""
    for i in (FILLED, BLOCK, INSIDE, LEVEL, SINCE):
        parts.counts[i] = 0
    parts.numbers[:] = 0.0
    reset(parts.buckets, parts.sizes, parts.sums)
    parts.change[RISING] = parts.change[FALLING] = parts.counts[SEEN]


@bare
def _mark(parts: DetectorState, detector: int, level: int) -> None:
    """After a block with this level (signed), note where a rise or a fall may have begun; at a drift, where it did."""
    counts, sums, change = parts.counts, parts.sums, parts.change
    if detector == PAGE_HINKLEY:
        if sums[2] <= sums[4]:
            change[RISING] = counts[SEEN]
        if sums[3] >= sums[5]:
            change[FALLING] = counts[SEEN]
    elif detector == DDM and level == 0:
        change[RISING] = counts[SEEN]
    if abs(level) != 2:
        return
    if detector == ADWIN:
        change[CHANGED] = counts[SEEN] - int(sums[5]) * counts[BLOCK]
        sums[5] = 0.0
    elif detector == KSWIN:
        change[CHANGED] = counts[SEEN] - parts.ring.shape[0] // 5 * counts[BLOCK]
    else:
        change[CHANGED] = change[FALLING] if level < 0 else change[RISING]


@merged
def _keep(parts: DetectorState, dials: Dials, value: float, past: Past) -> None:
    """Keep one value of the calibration stretch, and try to calibrate.

    It tries after each quarter of a grace period beyond the first one, and when there is no room for more values.
    """
    parts.kept[parts.counts[FILLED]] = value
    parts.counts[FILLED] += 1
    over = parts.counts[FILLED] - dials.grace
    full = parts.counts[FILLED] == parts.kept.shape[0]
    if over >= 0 and (over % max(1, dials.grace // 4) == 0 or full):
        _calibrate(parts, dials, past)


@merged
def _run(
    parts: DetectorState,
    dials: Dials,
    values: Floats,
    levels: NDArray[np.int8],
    reset: Reset,
    past: Past,
    level_of: Level,
) -> None:
    """Process the values in order: calibrate, or fill a block and run the detector; calibrate again after a drift."""
    counts, numbers, seed = parts.counts, parts.numbers, parts.seed[0]
    buckets, sizes, sums, ring = parts.buckets, parts.sizes, parts.sums, parts.ring
    for i in range(values.shape[0]):
        levels[i] = counts[LEVEL]
        if not np.isfinite(values[i]):
            continue
        value = min(LARGEST, max(-LARGEST, values[i]))
        counts[SEEN] += 1
        counts[SINCE] += 1
        if counts[BLOCK] == 0:
            _keep(parts, dials, value, past)
            continue
        numbers[SUM] += value
        counts[INSIDE] += 1
        if counts[INSIDE] < counts[BLOCK]:
            continue
        # one value of each block has the distribution that KSWIN compares; the mean is sharper for the others
        whole = value if dials.detector == KSWIN else numbers[SUM] / counts[BLOCK]
        numbers[SUM] = 0.0
        counts[INSIDE] = 0
        before = parts.change[CHANGED]
        level = level_of(dials, numbers, buckets, sizes, sums, ring, counts[BLOCK], seed, whole)
        _mark(parts, dials.detector, level)
        if level < 0 and dials.rises_only:
            parts.change[CHANGED] = before
            if level == -2 and dials.detector != ADWIN:  # ADWIN has dropped the higher past itself
                _restart(parts, reset)
            level = 0
        level = abs(level)
        if level == 1 and counts[LEVEL] == 0:
            counts[WARNINGS] += 1
        counts[LEVEL] = level
        levels[i] = level
        if level == 2:
            counts[DRIFTS] += 1
            _restart(parts, reset)


# ---- the detectors, with one signature each for reset, past and level -----------------------------------------------
#
# `reset` begins again, `past` takes the mean of a block of the calibration stretch, in calibrated deviations, and its
# last value, and `level` passes the value of one block to the detector and returns its level, negative where the values
# fell.


@bare
def _page_hinkley_reset(buckets: Floats, sizes: Ints, sums: Floats) -> None:
    page_hinkley_reset(sums, 0.0, 0.0)


@bare
def _page_hinkley_past(buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, scaled: float, newest: float) -> None:
    sums[0] += 1.0
    sums[1] += (1.0 / sums[0]) * (scaled - sums[1])


@bare
def _page_hinkley_level(
    dials: Dials, numbers: Floats, buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, block: int, seed: int,
    value: float,
) -> int:  # fmt: skip
    scaled = _scaled(numbers, value)
    return page_hinkley_step(sums, scaled, 1, numbers[DELTA], numbers[WARN_LIMIT], numbers[DRIFT_LIMIT], 1.0)


@exact_kernel
def _run_page_hinkley(parts: DetectorState, dials: Dials, values: Floats, levels: NDArray[np.int8]) -> None:
    _run(parts, dials, values, levels, _page_hinkley_reset, _page_hinkley_past, _page_hinkley_level)


@bare
def _ddm_reset(buckets: Floats, sizes: Ints, sums: Floats) -> None:
    ddm_reset(sums)


@bare
def _ddm_past(buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, scaled: float, newest: float) -> None:
    ddm_step(sums, scaled, 30, np.inf, np.inf, 1.0)


@bare
def _ddm_level(
    dials: Dials, numbers: Floats, buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, block: int, seed: int,
    value: float,
) -> int:  # fmt: skip
    return ddm_step(sums, _scaled(numbers, value), 30, dials.warn_quantile, dials.drift_quantile, 1.0)


@exact_kernel
def _run_ddm(parts: DetectorState, dials: Dials, values: Floats, levels: NDArray[np.int8]) -> None:
    _run(parts, dials, values, levels, _ddm_reset, _ddm_past, _ddm_level)


@bare
def _adwin_past(buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, scaled: float, newest: float) -> None:
    adwin_insert(buckets, sizes, sums, scaled / 4.0)


@bare
def _adwin_level(
    dials: Dials, numbers: Floats, buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, block: int, seed: int,
    value: float,
) -> int:  # fmt: skip
    # ADWIN's bound is for values in an interval of length one: it is given four deviations
    scaled, loose, clock = _scaled(numbers, value) / 4.0, WARNING * dials.sensitivity, max(1, 32 // block)
    return adwin_step(buckets, sizes, sums, scaled, dials.sensitivity, loose, clock, 5.0, 10.0, numbers[INFLATION])


@exact_kernel
def _run_adwin(parts: DetectorState, dials: Dials, values: Floats, levels: NDArray[np.int8]) -> None:
    _run(parts, dials, values, levels, adwin_reset, _adwin_past, _adwin_level)


@bare
def _kswin_reset(buckets: Floats, sizes: Ints, sums: Floats) -> None:
    sums[:] = 0.0


@bare
def _kswin_past(buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, scaled: float, newest: float) -> None:
    ring[int(sums[0]) % ring.shape[0]] = newest
    sums[0] += 1.0


@bare
def _kswin_level(
    dials: Dials, numbers: Floats, buckets: Floats, sizes: Ints, sums: Floats, ring: Floats, block: int, seed: int,
    value: float,
) -> int:  # fmt: skip
    recent = ring.shape[0] // 5
    every = max(1, recent // 8)
    alpha = min(1.0, every * block / PER) * dials.sensitivity
    return kswin_step(ring, sums, value, recent, 2 * recent, every, WARNING * alpha, alpha, seed)


@exact_kernel
def _run_kswin(parts: DetectorState, dials: Dials, values: Floats, levels: NDArray[np.int8]) -> None:
    _run(parts, dials, values, levels, _kswin_reset, _kswin_past, _kswin_level)


RUNS = {PAGE_HINKLEY: _run_page_hinkley, ADWIN: _run_adwin, DDM: _run_ddm, KSWIN: _run_kswin}
