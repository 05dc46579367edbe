"""Drift detection: a stream of numbers in, a level out (0 stable, 1 warning, 2 drift), after every number.

Two layers. Below, one step of each published detector as a kernel over arrays, with the published dials:
`page_hinkley_step`, `adwin_step`, `ddm_step`, `kswin_step`. Given River's settings they answer as River does.
Above, `start`, `update` and `state`: a first stretch (the grace period) tells the stream's own centre, deviation
and autocorrelation, and the detectors then work on blocks in units of that deviation, so that one default fits
any loss. What was decided, and how often it errs: `docs/why/drift.md`.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError
from everlearn.records import Arrays, Floats, Ints
from everlearn.spec import DriftSpec

CODES = {"none": 0, "page_hinkley": 1, "adwin": 2, "ddm": 3, "kswin": 4}
PAGE_HINKLEY, ADWIN, DDM, KSWIN = 1, 2, 3, 4

ROWS, BUCKETS = 32, 5  # ADWIN keeps at most 5 buckets of each of 32 sizes: windows of up to 2**34 values
STRETCH = 4  # calibration lasts at most this many grace periods
BLOCKS = 20  # a block length is judged by this many blocks or more
CLIP = 10.0  # no single value counts for more than this many calibrated deviations
WARNING = 10.0  # a warning is a drift at ten times the sensitivity
PER = 100.0  # `sensitivity` is the chance of a false alarm in this many independent examples
LARGEST = 1e100  # larger values are taken for this, so that squares stay finite

# where each counter and each number of the calibrating layer stands in its array
FILLED, BLOCK, INSIDE, LEVEL, SEEN, SINCE, WARNINGS, DRIFTS, COUNTERS = range(9)
SUM, CENTRE, SCALE, INFLATION, DELTA, WARN_LIMIT, DRIFT_LIMIT, NUMBERS = range(8)


class Parts(NamedTuple):
    """The arrays by name, as the kernels take them.

    `kept` holds the calibration stretch and `ring` the window of KSWIN. `sums` belongs to whichever detector it is.
    """

    seed: Ints
    counts: Ints
    numbers: Floats
    kept: Floats
    buckets: Floats
    sizes: Ints
    sums: Floats
    ring: Floats


class Dials(NamedTuple):
    """What a spec says, as the kernels take it; the quantiles are those of DDM."""

    detector: int
    sensitivity: float
    grace: int
    rises_only: bool
    warn_quantile: float
    drift_quantile: float


# ── the published detectors, one value at a time ─────────────────────────────────────────────────────────────
# Each returns 0 (stable), 1 (warning) or 2 (drift), negative where the values fell. The caller empties the
# state after a drift. Arrays are handed on one by one: in a tuple they would cost 20 times the arithmetic.


@exact_kernel
def page_hinkley_reset(sums: Floats, lowest: float, highest: float) -> None:
    """Empty `sums` (float64 (6,)). The extremes before the first value are 0 and 0 for a CUSUM, inf and -1 in River."""
    sums[:] = 0.0
    sums[4] = lowest
    sums[5] = highest


@exact_kernel
def page_hinkley_step(
    sums: Floats, value: float, minimum: int, delta: float, warning: float, threshold: float, forgetting: float
) -> int:
    """Page-Hinkley, both sides (Page 1954): distance of the summed deviations from their extremes.

    `sums` holds count, mean, rising sum, falling sum, lowest rising sum, highest falling sum.
    """
    sums[0] += 1.0
    sums[1] += (1.0 / sums[0]) * (value - sums[1])
    deviation = value - sums[1]
    sums[2] = forgetting * sums[2] + deviation - delta
    sums[3] = forgetting * sums[3] + deviation + delta
    sums[4] = min(sums[4], sums[2])
    sums[5] = max(sums[5], sums[3])
    if sums[0] < minimum:
        return 0
    rise, fall = sums[2] - sums[4], sums[5] - sums[3]
    distance = max(rise, fall)
    level = 2 if distance > threshold else (1 if distance > warning else 0)
    return level if rise >= fall else -level


@exact_kernel
def ddm_reset(sums: Floats) -> None:
    """Empty `sums` (float64 (6,))."""
    sums[:] = 0.0
    sums[4] = np.inf


@exact_kernel
def ddm_step(sums: Floats, value: float, minimum: int, warning: float, drift: float, spread: float) -> int:
    """DDM (Gama et al. 2004): the running mean against its best so far, in standard errors; sees rises only.

    `spread` is the deviation of one value; a negative one asks for Bernoulli's, sqrt(p (1 - p)), as in the
    paper. `sums` holds count, mean, then mean, standard error and their sum at the best moment.
    """
    sums[0] += 1.0
    sums[1] += (1.0 / sums[0]) * (value - sums[1])
    count, mean = sums[0], sums[1]
    error = math.sqrt(mean * (1.0 - mean) / count) if spread < 0.0 else spread / math.sqrt(count)
    if count <= minimum:
        return 0
    if mean + error <= sums[4]:
        sums[2], sums[3], sums[4] = mean, error, mean + error
    if mean + error > sums[2] + drift * sums[3]:
        return 2
    return 1 if mean + error > sums[2] + warning * sums[3] else 0


@exact_kernel
def adwin_reset(buckets: Floats, sizes: Ints, sums: Floats) -> None:
    """Empty ADWIN's exponential histogram, in which a bucket of row r sums up 2**r values.

    `buckets` is float64 (rows, 2, most + 1): totals and squared deviations, oldest first. `sizes` is int64
    (rows + 1,): buckets in each row, then rows in use. `sums` is float64 (6,): width, total, squared deviations of
    the window, ticks, last level.
    """
    buckets[:] = 0.0
    sizes[:] = 0
    sizes[-1] = 1
    sums[:] = 0.0


@exact_kernel
def _shift(buckets: Floats, sizes: Ints, row: int, gone: int) -> None:
    """Drop the first `gone` buckets of a row."""
    left = sizes[row] - gone
    for part in range(2):
        for k in range(sizes[row]):
            buckets[row, part, k] = buckets[row, part, k + gone] if k < left else 0.0
    sizes[row] = left


@exact_kernel
def _adwin_forget(buckets: Floats, sizes: Ints, sums: Floats) -> None:
    """Take the oldest bucket out of the window."""
    row = sizes[-1] - 1
    count = float(1 << row)
    total, squares = buckets[row, 0, 0], buckets[row, 1, 0]
    sums[0] -= count
    sums[1] -= total
    apart = total / count - sums[1] / sums[0]
    sums[2] -= squares + count * sums[0] * apart * apart / (count + sums[0])
    _shift(buckets, sizes, row, 1)
    if sizes[row] == 0 and row > 0:
        sizes[-1] -= 1


@exact_kernel
def _adwin_insert(buckets: Floats, sizes: Ints, sums: Floats, value: float) -> None:
    """Add a bucket of one value; where a row is over-full, merge its two oldest buckets into the next row."""
    buckets[0, 0, sizes[0]] = value
    sizes[0] += 1
    sums[0] += 1.0
    if sums[0] > 1.0:
        apart = value - sums[1] / (sums[0] - 1.0)
        sums[2] += (sums[0] - 1.0) * apart * apart / sums[0]
    sums[1] += value
    row = 0
    while sizes[row] == buckets.shape[2]:
        if row + 1 == buckets.shape[0]:
            _adwin_forget(buckets, sizes, sums)
            break
        count, to = float(1 << row), sizes[row + 1]
        apart = buckets[row, 0, 0] / count - buckets[row, 0, 1] / count
        buckets[row + 1, 0, to] = buckets[row, 0, 0] + buckets[row, 0, 1]
        buckets[row + 1, 1, to] = buckets[row, 1, 0] + buckets[row, 1, 1] + count * 0.5 * apart * apart
        sizes[row + 1] += 1
        sizes[-1] = max(sizes[-1], row + 2)
        _shift(buckets, sizes, row, 2)
        row += 1


@exact_kernel
def _adwin_cut(
    buckets: Floats, sizes: Ints, sums: Floats, delta: float, warning: float, shortest: float, inflation: float
) -> int:
    """Compare the means on both sides of every border between buckets, oldest first; stop at the first drift."""
    before, after, total_before, total_after = 0.0, sums[0], 0.0, sums[1]
    noise = sums[2] / sums[0] * inflation
    strict = math.log(2.0 * math.log(sums[0]) / delta)
    loose = math.log(2.0 * math.log(sums[0]) / warning)
    found = 0
    for row in range(sizes[-1] - 1, -1, -1):
        count = float(1 << row)
        for k in range(sizes[row]):
            before += count
            after -= count
            total_before += buckets[row, 0, k]
            total_after -= buckets[row, 0, k]
            if before < shortest or after < shortest or (row == 0 and k == sizes[0] - 1):
                continue
            apart = total_before / before - total_after / after
            both = 1.0 / (before - shortest + 1.0) + 1.0 / (after - shortest + 1.0)
            sign = 1 if apart < 0.0 else -1
            if abs(apart) <= math.sqrt(2.0 * both * noise * loose) + 2.0 / 3.0 * loose * both:
                continue
            found = sign
            if abs(apart) > math.sqrt(2.0 * both * noise * strict) + 2.0 / 3.0 * strict * both:
                return 2 * sign
    return found


@exact_kernel
def adwin_step(
    buckets: Floats,
    sizes: Ints,
    sums: Floats,
    value: float,
    delta: float,
    warning: float,
    clock: int,
    shortest: float,
    grace: float,
    inflation: float,
) -> int:
    """ADWIN2 (Bifet and Gavaldà 2007, section 3.2): drop the oldest part of a window while two halves of it differ.

    `delta` is the confidence of a cut, `warning` (not below it) that of a warning; after every `clock` values all
    cuts are looked at whose sides have `shortest` values or more, once there are more than `grace`. `inflation` is
    the long-run variance of the values over their plain variance (1 where they are independent).
    """
    _adwin_insert(buckets, sizes, sums, value)
    sums[3] += 1.0
    if int(sums[3]) % clock != 0 or sums[0] <= grace:
        return int(sums[4])
    level = cut = _adwin_cut(buckets, sizes, sums, delta, warning, shortest, inflation)
    while abs(cut) == 2:
        _adwin_forget(buckets, sizes, sums)
        cut = _adwin_cut(buckets, sizes, sums, delta, warning, shortest, inflation)
    sums[4] = 0.0 if abs(level) == 2 else level
    return level


@exact_kernel
def _uniform(seed: int, count: int, draw: int) -> float:
    """A number in [0, 1) that belongs to (seed, count, draw): splitmix64 (Steele, Lea and Flood 2014)."""
    mixed = np.uint64(seed)
    for part in (count, draw):
        mixed = (mixed ^ np.uint64(part)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return float(mixed >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@exact_kernel
def ks_distance(one: Floats, other: Floats) -> int:
    """Largest gap between the counts below any point, of two samples of one size (which are sorted in place)."""
    one.sort()
    other.sort()
    size = one.shape[0]
    i = j = largest = 0
    while i < size and j < size:
        point = min(one[i], other[j])
        while i < size and one[i] == point:
            i += 1
        while j < size and other[j] == point:
            j += 1
        largest = max(largest, abs(i - j))
    return largest


@exact_kernel
def ks_probability(gap: int, size: int) -> float:
    """Chance of such a gap or a larger one in two samples of `size` values each (Gnedenko and Korolyuk 1951)."""
    if gap == 0:
        return 1.0
    whole, sign = 0.0, 1.0
    for step in range(gap, size + 1, gap):
        # C(2 size, size - step) / C(2 size, size), as a product of ratios below one
        ratio = 1.0
        for i in range(step):
            ratio *= (size - i) / (size + i + 1.0)
        whole += sign * ratio
        sign = -sign
    return min(1.0, 2.0 * whole)


@exact_kernel
def kswin_step(
    ring: Floats,
    sums: Floats,
    value: float,
    recent: int,
    first: int,
    every: int,
    warning: float,
    alpha: float,
    seed: int,
) -> int:
    """KSWIN (Raab et al. 2020): the `recent` values against as many, drawn at random, of those held before them.

    `sums` holds how many values came, and the last level. It looks every `every` values once `first` are held. As in
    River a distance of .1 or less never counts.
    """
    size = ring.shape[0]
    count = int(sums[0])
    ring[count % size] = value
    count += 1
    sums[0] = count
    held = min(count, size)
    if held < first or count % every != 0:
        return int(sums[1])
    new, old = np.empty(recent), np.empty(recent)
    for i in range(recent):
        new[i] = ring[(count - 1 - i) % size]
    taken = 0
    left = held - recent
    for i in range(left):  # selection sampling (Knuth, volume 2, algorithm 3.4.2 S)
        if _uniform(seed, count, i) * (left - i) < recent - taken:
            old[taken] = ring[(count - held + i) % size]
            taken += 1
    sign = 1 if new.mean() >= old.mean() else -1
    gap = ks_distance(old, new)
    chance = ks_probability(gap, recent)
    far = gap > 0.1 * recent
    level = 2 if far and chance <= alpha else (1 if far and chance <= warning else 0)
    sums[1] = 0.0 if level == 2 else sign * level
    return sign * level


# ── the calibrating layer ────────────────────────────────────────────────────────────────────────────────────


@exact_kernel
def _means(values: Floats, block: int) -> Floats:
    """Means of successive blocks of `block` values; an incomplete last block is left out."""
    means = np.zeros(values.shape[0] // block)
    for i in range(means.shape[0]):
        for k in range(block):
            means[i] += values[i * block + k]
        means[i] /= block
    return means


@exact_kernel
def _moments(values: Floats) -> tuple[float, float, float, float]:
    """Mean, variance, correlation of neighbours, and kurtosis."""
    many = values.shape[0]
    centre = second = pairs = fourth = 0.0
    for i in range(many):
        centre += (values[i] - centre) / (i + 1.0)
    for i in range(many):
        second += (values[i] - centre) ** 2
        if i > 0:
            pairs += (values[i] - centre) * (values[i - 1] - centre)
    if second <= 0.0:
        return centre, 0.0, 0.0, 3.0
    for i in range(many):
        fourth += ((values[i] - centre) ** 2 / (second / many)) ** 2
    return centre, second / many, pairs / second, fourth / many


@exact_kernel
def _block_length(values: Floats) -> tuple[int, bool]:
    """The power of two above every block length whose means follow each other, and whether it could be judged."""
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
    """The limit at which a two-sided CUSUM raises a false alarm once in `run` values (Siegmund 1985, eq. 2.56)."""
    reach = 10.0
    for _ in range(60):
        reach = math.log(1.0 + 2.0 * delta * reach + 4.0 * delta * delta * run) / (2.0 * delta)
    return max(1.0, reach - 1.166)


@exact_kernel
def _scaled(numbers: Floats, value: float) -> float:
    """A value in calibrated deviations from the calibrated centre."""
    return min(CLIP, max(-CLIP, float((value - numbers[CENTRE]) / numbers[SCALE])))


@exact_kernel
def _calibrate(parts: Parts, dials: Dials) -> None:
    """Learn block length, centre, scale and limits from the values kept so far, unless more are needed to tell."""
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
    many = means.shape[0]
    centre, variance, follow, kurtosis = _moments(means)
    follow = min(max(follow, 0.0), 0.9)
    # The deviation is itself uncertain: take a value that it exceeds one time in ten.
    unsure = 1.0 + 1.28 * math.sqrt((max(kurtosis, 3.0) - 1.0) / (4.0 * many))
    counts[BLOCK] = block
    numbers[CENTRE] = centre
    numbers[INFLATION] = (1.0 + follow) / (1.0 - follow)
    numbers[SCALE] = max(math.sqrt(variance * numbers[INFLATION]) * unsure, 1e-9 * abs(centre), 1e-150)
    numbers[DELTA] = max(0.1, 1.0 / math.sqrt(many))
    run = PER / dials.sensitivity / block
    numbers[WARN_LIMIT] = _cusum_limit(numbers[DELTA], run / WARNING)
    numbers[DRIFT_LIMIT] = _cusum_limit(numbers[DELTA], run)
    for i in range(many):  # the detector gets the stretch as its past
        scaled = _scaled(numbers, means[i])
        if dials.detector == PAGE_HINKLEY:
            parts.sums[0] += 1.0
            parts.sums[1] += (1.0 / parts.sums[0]) * (scaled - parts.sums[1])
        elif dials.detector == DDM:
            ddm_step(parts.sums, scaled, 30, np.inf, np.inf, 1.0)
        elif dials.detector == ADWIN:
            _adwin_insert(parts.buckets, parts.sizes, parts.sums, scaled / 4.0)
        else:
            parts.ring[int(parts.sums[0]) % parts.ring.shape[0]] = held[i * block + block - 1]
            parts.sums[0] += 1.0


@exact_kernel
def _restart(parts: Parts, detector: int) -> None:
    """Forget what was calibrated and detected; the totals of a lifetime stay."""
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
    """Hand one block's value to the detector; its level, negative where the values fell."""
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
def _keep(parts: Parts, dials: Dials, value: float) -> None:
    """One value of the calibration stretch; a quarter of a grace period after another, see if it is enough."""
    parts.kept[parts.counts[FILLED]] = value
    parts.counts[FILLED] += 1
    over = parts.counts[FILLED] - dials.grace
    if over >= 0 and over % max(1, dials.grace // 4) == 0:
        _calibrate(parts, dials)


@exact_kernel
def _run(parts: Parts, dials: Dials, values: Floats, levels: NDArray[np.int8]) -> None:
    """Take the values one at a time: calibrate, or gather a block and ask the detector; begin anew after a drift."""
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
        level = _detect(dials, numbers, buckets, sizes, sums, ring, counts[BLOCK], seed, whole)
        if level < 0 and dials.rises_only:
            if level == -2 and dials.detector != ADWIN:  # ADWIN has let go of the higher past by itself
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
    """All memory a detector will ever use, as named arrays (none at all for the detector "none").

    `seed` keys KSWIN's random choice. Raises `ConfigError` where sensitivity or grace_period make no sense.
    Size: 32 bytes for each example of `grace_period`, and for KSWIN 10 more; ADWIN adds 3 KiB.

    >>> arrays = start(DriftSpec(detector="adwin"))
    >>> sum(array.nbytes for array in arrays.values()) < 32 * 500 + 4096
    True
    """
    if spec.detector not in CODES:
        raise ConfigError(f"drift.detector is {spec.detector!r}; expected one of {', '.join(sorted(CODES))}")
    if not 0.0 < spec.sensitivity <= 0.05:
        raise ConfigError(
            f"drift.sensitivity is {spec.sensitivity}; expected a chance above 0 and at most 0.05 (0.002 is usual)"
        )
    if spec.grace_period < BLOCKS:
        raise ConfigError(
            f"drift.grace_period is {spec.grace_period}; expected at least {BLOCKS} examples to calibrate "
            "on (500 is usual)"
        )
    if spec.detector == "none":
        return {}
    detector = CODES[spec.detector]
    histogram = detector == ADWIN
    parts = Parts(
        seed=np.array([seed], np.int64),
        counts=np.zeros(COUNTERS, np.int64),
        numbers=np.zeros(NUMBERS),
        kept=np.zeros(STRETCH * spec.grace_period),
        buckets=np.zeros((ROWS, 2, BUCKETS + 1) if histogram else (0, 2, 0)),
        sizes=np.zeros(ROWS + 1 if histogram else 1, np.int64),
        sums=np.zeros(6),
        # KSWIN compares a quarter of a grace period with as many of a whole one before it
        ring=np.zeros(5 * max(10, spec.grace_period // 4) if detector == KSWIN else 0),
    )
    _restart(parts, detector)
    return parts._asdict()


def update(arrays: Arrays, spec: DriftSpec, values: Floats) -> NDArray[np.int8]:
    """The level after each of the values: 0 stable, 1 warning, 2 drift; `arrays` are changed in place.

    `values` is float64 (n,), in stream order, in any unit. Nothing is reported while the detector calibrates:
    for `grace_period` values, and up to four times as long where neighbours are much alike. A drift is
    reported once; then the detector calibrates anew. Values that are not finite are skipped. Of a watched
    "loss" only rises are reported. How the stream is cut into calls makes no difference.

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
    quantile = NormalDist().inv_cdf
    dials = Dials(
        detector=CODES[spec.detector],
        sensitivity=spec.sensitivity,
        grace=spec.grace_period,
        rises_only=spec.watch == "loss",
        warn_quantile=quantile(1.0 - WARNING * spec.sensitivity),
        drift_quantile=quantile(1.0 - spec.sensitivity),
    )
    _run(Parts(**arrays), dials, np.ascontiguousarray(values, np.float64), levels)
    return levels


def state(arrays: Arrays, spec: DriftSpec) -> dict[str, float]:
    """What a dashboard shows, all as floats.

    `level`, `calibrating` (1 or 0), `seen`, `since` (examples since the last restart), `warnings` and `drifts`
    (of a lifetime), `block` (examples a block; 0 while calibrating), `scale` (calibrated deviation of a block),
    `estimate` (present mean, in the values' own unit) and `window` (examples that the estimate rests on).

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
