"""Calibrated drift detection: a stream of numbers in, a level after every number out (0 stable, 1 warning, 2 drift).

The published detectors, with the published settings, are in `everlearn.drift.detectors`. This module adds calibration:
a first stretch (the grace period) gives the centre, deviation and autocorrelation of the stream. The detectors then
work on blocks in units of that deviation, so that one default fits any loss. `docs/why/drift.md` has the decisions and
the error rates.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn.drift.detectors import adwin_reset, ddm_reset
from everlearn.drift.kernels import (
    ADWIN,
    BLOCK,
    BLOCKS,
    BUCKETS,
    CENTRE,
    CHANGED,
    COUNTERS,
    DDM,
    DRIFTS,
    FILLED,
    KSWIN,
    LEVEL,
    MARKS,
    NUMBERS,
    ROWS,
    RUNS,
    SCALE,
    SEEN,
    SINCE,
    STRETCH,
    WARNING,
    WARNINGS,
    DetectorState,
    Dials,
)  # fmt: skip
from everlearn.errors import ConfigError, did_you_mean
from everlearn.records import Arrays, Floats
from everlearn.spec import DriftSpec

CODES = {"none": 0, "page_hinkley": 1, "adwin": 2, "ddm": 3, "kswin": 4}


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
    if detector == DDM:
        ddm_reset(parts.sums)
    elif detector == ADWIN:
        adwin_reset(parts.buckets, parts.sizes, parts.sums)
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
    RUNS[CODES[spec.detector]](DetectorState(**held), _dials(spec), np.ascontiguousarray(values, np.float64), levels)
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
