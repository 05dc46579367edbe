"""Calibrated drift detection: a stream of numbers in, a level after every number out (0 stable, 1 warning, 2 drift).

The published detectors, with the published settings, are in `everlearn.drift.detectors`. This module adds calibration:
a first stretch (the grace period) gives the centre, deviation and autocorrelation of the stream. The detectors then
work on blocks in units of that deviation, so that one default fits any loss. `docs/why/drift.md` has the decisions and
the error rates.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
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
from everlearn.errors import ConfigError, did_you_mean
from everlearn.records import Arrays, Floats, Ints
from everlearn.spec import DriftSpec

CODES = {"none": 0, "page_hinkley": 1, "adwin": 2, "ddm": 3, "kswin": 4}
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


@exact_kernel
def _means(values: Floats, block: int) -> Floats:
    """Return the means of successive blocks of `block` values; an incomplete last block is left out."""
    means = np.zeros(values.shape[0] // block)
    for i in range(means.shape[0]):
        for k in range(block):
            means[i] += values[i * block + k]
        means[i] /= block
    return means


@exact_kernel
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


@exact_kernel
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


@exact_kernel
def _cusum_limit(delta: float, run: float) -> float:
    """Return the limit at which a two-sided CUSUM has one false alarm in `run` values (Siegmund 1985, eq. 2.56)."""
    reach = 10.0
    for _ in range(60):
        reach = math.log(1.0 + 2.0 * delta * reach + 4.0 * delta * delta * run) / (2.0 * delta)
    return max(1.0, reach - 1.166)


@exact_kernel
def _scaled(numbers: Floats, value: float) -> float:
    """Return a value in calibrated deviations from the calibrated centre."""
    return min(CLIP, max(-CLIP, float((value - numbers[CENTRE]) / numbers[SCALE])))


@exact_kernel
def _calibrate(parts: DetectorState, dials: Dials) -> None:
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
        if dials.detector == PAGE_HINKLEY:
            parts.sums[0] += 1.0
            parts.sums[1] += (1.0 / parts.sums[0]) * (scaled - parts.sums[1])
        elif dials.detector == DDM:
            ddm_step(parts.sums, scaled, 30, np.inf, np.inf, 1.0)
        elif dials.detector == ADWIN:
            adwin_insert(parts.buckets, parts.sizes, parts.sums, scaled / 4.0)
        else:
            parts.ring[int(parts.sums[0]) % parts.ring.shape[0]] = held[i * block + block - 1]
            parts.sums[0] += 1.0


@exact_kernel
def _restart(parts: DetectorState, detector: int) -> None:
    """Reset calibration and detector; keep the lifetime totals."""
    for i in (FILLED, BLOCK, INSIDE, LEVEL, SINCE):
        parts.counts[i] = 0
    parts.numbers[:] = 0.0
    if detector == PAGE_HINKLEY:
        page_hinkley_reset(parts.sums, 0.0, 0.0)
    elif detector == DDM:
        ddm_reset(parts.sums)
    elif detector == ADWIN:
        adwin_reset(parts.buckets, parts.sizes, parts.sums)
    else:
        parts.sums[:] = 0.0
    parts.change[RISING] = parts.change[FALLING] = parts.counts[SEEN]


@exact_kernel
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


@exact_kernel
def _detect(
    dials: Dials,
    numbers: Floats,
    buckets: Floats,
    sizes: Ints,
    sums: Floats,
    ring: Floats,
    block: int,
    seed: int,
    value: float,
) -> int:
    """Pass the value of one block to the detector and return its level, negative where the values fell."""
    if dials.detector == KSWIN:
        recent = ring.shape[0] // 5
        every = max(1, recent // 8)
        alpha = min(1.0, every * block / PER) * dials.sensitivity
        return kswin_step(ring, sums, value, recent, 2 * recent, every, WARNING * alpha, alpha, seed)
    scaled = _scaled(numbers, value)
    if dials.detector == PAGE_HINKLEY:
        return page_hinkley_step(sums, scaled, 1, numbers[DELTA], numbers[WARN_LIMIT], numbers[DRIFT_LIMIT], 1.0)
    if dials.detector == DDM:
        return ddm_step(sums, scaled, 30, dials.warn_quantile, dials.drift_quantile, 1.0)
    # ADWIN's bound is for values in an interval of length one: it is given four deviations
    loose, clock, inflation = WARNING * dials.sensitivity, max(1, 32 // block), numbers[INFLATION]
    return adwin_step(buckets, sizes, sums, scaled / 4.0, dials.sensitivity, loose, clock, 5.0, 10.0, inflation)


@exact_kernel
def _keep(parts: DetectorState, dials: Dials, value: float) -> None:
    """Keep one value of the calibration stretch, and try to calibrate.

    It tries after each quarter of a grace period beyond the first one, and when there is no room for more values.
    """
    parts.kept[parts.counts[FILLED]] = value
    parts.counts[FILLED] += 1
    over = parts.counts[FILLED] - dials.grace
    full = parts.counts[FILLED] == parts.kept.shape[0]
    if over >= 0 and (over % max(1, dials.grace // 4) == 0 or full):
        _calibrate(parts, dials)


@exact_kernel
def _run(parts: DetectorState, dials: Dials, values: Floats, levels: NDArray[np.int8]) -> None:
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
            _keep(parts, dials, value)
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
        level = _detect(dials, numbers, buckets, sizes, sums, ring, counts[BLOCK], seed, whole)
        _mark(parts, dials.detector, level)
        if level < 0 and dials.rises_only:
            parts.change[CHANGED] = before
            if level == -2 and dials.detector != ADWIN:  # ADWIN has dropped the higher past itself
                _restart(parts, dials.detector)
            level = 0
        level = abs(level)
        if level == 1 and counts[LEVEL] == 0:
            counts[WARNINGS] += 1
        counts[LEVEL] = level
        levels[i] = level
        if level == 2:
            counts[DRIFTS] += 1
            _restart(parts, dials.detector)


def start(spec: DriftSpec, seed: int = 0) -> Arrays:
    """Allocate all memory of a detector as named arrays (empty for the detector "none").

    `seed` keys KSWIN's random choice. Raises `ConfigError` for an unknown detector, or a sensitivity or grace_period
    out of range. Size: 32 bytes for each example of `grace_period`, and for KSWIN 10 more; ADWIN adds 3 KiB.

    >>> arrays = start(DriftSpec(detector="adwin"))
    >>> sum(array.nbytes for array in arrays.values()) < 32 * 500 + 4096
    True
    """
    if spec.detector not in CODES:
        near = did_you_mean(spec.detector, CODES)
        raise ConfigError(f"drift.detector: got {spec.detector!r}; expected one of {', '.join(sorted(CODES))}{near}")
    if not 0.0 < spec.sensitivity <= 0.05:
        raise ConfigError(
            f"drift.sensitivity: got {spec.sensitivity}; expected a chance above 0 and at most 0.05 (0.002 is usual)"
        )
    if spec.grace_period < BLOCKS:
        raise ConfigError(
            f"drift.grace_period: got {spec.grace_period}; expected at least {BLOCKS} examples to calibrate "
            "on (500 is usual)"
        )
    if spec.detector == "none":
        return {}
    detector = CODES[spec.detector]
    histogram = detector == ADWIN
    parts = DetectorState(
        seed=np.array([seed], np.int64),
        counts=np.zeros(COUNTERS, np.int64),
        numbers=np.zeros(NUMBERS),
        kept=np.zeros(STRETCH * spec.grace_period),
        buckets=np.zeros((ROWS, 2, BUCKETS + 1) if histogram else (0, 2, 0)),
        sizes=np.zeros(ROWS + 1 if histogram else 1, np.int64),
        sums=np.zeros(6),
        # KSWIN compares a quarter of a grace period with as many of a whole one before it
        ring=np.zeros(5 * max(10, spec.grace_period // 4) if detector == KSWIN else 0),
        change=np.array([-1, 0, 0], np.int64),
    )
    _restart(parts, detector)
    return parts._asdict()


def update(arrays: Arrays, spec: DriftSpec, values: Floats) -> NDArray[np.int8]:
    """Return the level after each of the values: 0 stable, 1 warning, 2 drift, int8 (n,).

    `arrays` are changed in place.

    `values` is float64 (n,), in stream order, in any unit. Nothing is reported while the detector calibrates: for
    `grace_period` values, and up to four times as long where neighbours are correlated. A drift is reported once; then
    the detector calibrates again. Values that are not finite are skipped. If `watch` is "loss", only rises are
    reported. The result does not depend on how the stream is split into calls.

    >>> spec = DriftSpec(detector="page_hinkley", grace_period=100)
    >>> stable = np.sin(np.arange(400.0) ** 2)
    >>> arrays = start(spec)
    >>> levels = update(arrays, spec, np.concatenate([stable, stable + 2.0]))
    >>> int(np.flatnonzero(levels == 2)[0]) - 400 < 40
    True
    """
    levels = np.zeros(len(values), np.int8)
    if spec.detector == "none" or len(values) == 0:
        return levels
    held: Arrays = arrays if "change" in arrays else {**arrays, "change": np.zeros(MARKS, np.int64)}
    _run(DetectorState(**held), _dials(spec), np.ascontiguousarray(values, np.float64), levels)
    return levels


@lru_cache
def _dials(spec: DriftSpec) -> Dials:
    """Return the settings as the kernels take them."""
    quantile = NormalDist().inv_cdf
    return Dials(
        detector=CODES[spec.detector],
        sensitivity=spec.sensitivity,
        grace=spec.grace_period,
        rises_only=spec.watch == "loss",
        warn_quantile=quantile(1.0 - WARNING * spec.sensitivity),
        drift_quantile=quantile(1.0 - spec.sensitivity),
    )


def divided(spec: DriftSpec, detectors: int) -> DriftSpec:
    """Return the settings for each of `detectors` detectors that share the rate of false alarms of one.

    Each gets an equal part of the sensitivity (Bonferroni), so that together they raise at most as many as one.

    >>> divided(DriftSpec(sensitivity=0.002), 16).sensitivity
    0.000125
    """
    return msgspec.structs.replace(spec, sensitivity=spec.sensitivity / max(1, detectors))


def since(arrays: Arrays, spec: DriftSpec) -> int | None:
    """Return how many finite values came since the change behind the last drift; None if there was none yet.

    The change is an estimate. ADWIN: the likeliest change of the mean in its window at the cut (the window that is left
    reaches further back). Page-Hinkley: the last extreme of the summed deviations. DDM: the start of the warning (Gama
    et al. 2004). KSWIN: the recent sample that was tested. None also for the arrays of older homes, which lack it.

    >>> spec = DriftSpec(detector="adwin", grace_period=100)
    >>> stable = np.sin(np.arange(400.0) ** 2)
    >>> arrays = start(spec)
    >>> levels = update(arrays, spec, np.concatenate([stable, stable[:100] + 2.0]))
    >>> since(arrays, spec)
    100
    """
    if spec.detector == "none" or "change" not in arrays or arrays["change"][CHANGED] < 0:
        return None
    return int(arrays["counts"][SEEN] - arrays["change"][CHANGED])


def state(arrays: Arrays, spec: DriftSpec) -> dict[str, float]:
    """Return the state of a detector for display, all values as floats.

    `level`, `calibrating` (1 or 0), `seen`, `since` (examples since the last restart), `warnings` and `drifts`
    (lifetime totals), `block` (examples a block; 0 while calibrating), `scale` (calibrated deviation of a block),
    `estimate` (present mean, in the unit of the values) and `window` (examples behind the estimate). Empty for the
    detector "none".

    >>> spec = DriftSpec(grace_period=100)
    >>> arrays = start(spec)
    >>> levels = update(arrays, spec, np.arange(1000.0) % 7)
    >>> now = state(arrays, spec)
    >>> round(now["estimate"], 1), now["drifts"], now["seen"]
    (3.0, 0.0, 1000.0)
    """
    if spec.detector == "none":
        return {}
    counts, numbers, sums = arrays["counts"], arrays["numbers"], arrays["sums"]
    block = int(counts[BLOCK])
    if block == 0:
        window = int(counts[FILLED])
        estimate = float(np.mean(arrays["kept"][:window])) if window else 0.0
    elif spec.detector == "kswin":
        held = min(int(sums[0]), len(arrays["ring"]))
        window = held * block
        estimate = float(np.mean(arrays["ring"][:held]))
    else:
        window = int(sums[0]) * block
        mean = 4.0 * sums[1] / max(1.0, sums[0]) if spec.detector == "adwin" else sums[1]
        estimate = float(numbers[CENTRE] + mean * numbers[SCALE])
    return {
        "level": float(counts[LEVEL]),
        "calibrating": float(block == 0),
        "seen": float(counts[SEEN]),
        "since": float(counts[SINCE]),
        "warnings": float(counts[WARNINGS]),
        "drifts": float(counts[DRIFTS]),
        "block": float(block),
        "scale": float(numbers[SCALE]),
        "estimate": estimate,
        "window": float(window),
    }
