"""The published detectors as kernels over arrays, one value at a time and with the published settings.

With River's settings each gives River's result, value by value. Each step returns 0 (stable), 1 (warning) or 2 (drift),
negative where the values fell; the caller resets the state after a drift. Arrays are passed as separate arguments: in a
tuple they would cost 20 times the arithmetic.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import exact_kernel, outlined
from everlearn._random import uniform
from everlearn.records import Floats, Ints


@exact_kernel
def page_hinkley_reset(sums: Floats, lowest: float, highest: float) -> None:
    """Reset `sums`, float64 (6,). The extremes before the first value are 0 and 0 for a CUSUM, inf and -1 in River."""
    sums[:] = 0.0
    sums[4] = lowest
    sums[5] = highest


@outlined
def page_hinkley_step(
    sums: Floats, value: float, minimum: int, delta: float, warning: float, threshold: float, forgetting: float
) -> int:
    """Run one step of two-sided Page-Hinkley (Page 1954): the distance of the summed deviations from their extremes.

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
    """Reset `sums`, float64 (6,)."""
    sums[:] = 0.0
    sums[4] = np.inf


@outlined
def ddm_step(sums: Floats, value: float, minimum: int, warning: float, drift: float, spread: float) -> int:
    """Run one step of DDM (Gama et al. 2004), for rises: the running mean against its best, in standard errors.

    `spread` is the deviation of one value; a negative one asks for Bernoulli's, sqrt(p (1 - p)), as in the paper.
    `sums` holds count, mean, then mean, standard error and their sum at the best moment.
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
    """Reset ADWIN's exponential histogram, in which a bucket of row r sums up 2**r values.

    `buckets` is float64 (rows, 2, most + 1): totals and squared deviations, oldest first. `sizes` is int64 (rows + 1,):
    buckets in each row, then rows in use. `sums` is float64 (6,): width, total and squared deviations of the window,
    ticks, last level, and after a drift the values since the change.
    """
    buckets[:] = 0.0
    sizes[:] = 0
    sizes[-1] = 1
    sums[:] = 0.0


@outlined
def _shift(buckets: Floats, sizes: Ints, row: int, dropped: int) -> None:
    """Drop the first `dropped` buckets of a row."""
    left = sizes[row] - dropped
    for part in range(2):
        for k in range(sizes[row]):
            buckets[row, part, k] = buckets[row, part, k + dropped] if k < left else 0.0
    sizes[row] = left


@outlined
def _adwin_forget(buckets: Floats, sizes: Ints, sums: Floats) -> None:
    """Remove the oldest bucket from the window."""
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


@outlined
def adwin_insert(buckets: Floats, sizes: Ints, sums: Floats, value: float) -> None:
    """Add a bucket of one value; merge the two oldest buckets of a full row into the next row."""
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


@outlined
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


@outlined
def _adwin_newer(buckets: Floats, sizes: Ints, sums: Floats) -> float:
    """Return how many values are newer than the likeliest change of the mean.

    It is at the border between buckets with the largest n0 n1 (mean0 - mean1)^2, the maximum of the likelihood for
    normal values (Hinkley 1970, "Inference about the change-point in a sequence of random variables").
    """
    before, after, total_before, total_after = 0.0, sums[0], 0.0, sums[1]
    newer, largest = sums[0], 0.0
    for row in range(sizes[-1] - 1, -1, -1):
        count = float(1 << row)
        for k in range(sizes[row]):
            before += count
            after -= count
            total_before += buckets[row, 0, k]
            total_after -= buckets[row, 0, k]
            if after <= 0.0:
                continue
            apart = total_before / before - total_after / after
            if before * after * apart * apart > largest:
                newer, largest = after, before * after * apart * apart
    return float(newer)


@outlined
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
    """Run one step of ADWIN2: drop the oldest values while two parts of the window differ.

    Bifet and Gavaldà 2007, section 3.2. `delta` is the confidence of a cut, and `warning` (not below it) that of a
    warning. After every `clock` values, once there are more than `grace`, all cuts with at least `shortest` values on
    both sides are tested. `inflation` is the long-run variance of the values over their plain variance (1 where they
    are independent).
    """
    adwin_insert(buckets, sizes, sums, value)
    sums[3] += 1.0
    if int(sums[3]) % clock != 0 or sums[0] <= grace:
        return int(sums[4])
    level = cut = _adwin_cut(buckets, sizes, sums, delta, warning, shortest, inflation)
    if abs(level) == 2:
        sums[5] = _adwin_newer(buckets, sizes, sums)
    while abs(cut) == 2:
        _adwin_forget(buckets, sizes, sums)
        cut = _adwin_cut(buckets, sizes, sums, delta, warning, shortest, inflation)
    sums[4] = 0.0 if abs(level) == 2 else level
    return level


@outlined
def ks_distance(first: Floats, second: Floats) -> int:
    """Return the largest gap between the counts below any point of two samples of equal size; sorts both."""
    first.sort()
    second.sort()
    size = first.shape[0]
    i = j = largest = 0
    while i < size and j < size:
        point = min(first[i], second[j])
        while i < size and first[i] == point:
            i += 1
        while j < size and second[j] == point:
            j += 1
        largest = max(largest, abs(i - j))
    return largest


@outlined
def ks_probability(gap: int, size: int) -> float:
    """Return the probability of this gap or a larger one in two samples (Gnedenko and Korolyuk 1951)."""
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


@outlined
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
    """Run one step of KSWIN (Raab et al. 2020): the `recent` values against as many random earlier ones.

    `sums` holds the number of values and the last level. The test runs every `every` values once `first` are held. As
    in River, a distance of .1 or less never counts.
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
        if uniform(seed, count, i) * (left - i) < recent - taken:
            old[taken] = ring[(count - held + i) % size]
            taken += 1
    sign = 1 if new.mean() >= old.mean() else -1
    gap = ks_distance(old, new)
    chance = ks_probability(gap, recent)
    far = gap > 0.1 * recent
    level = 2 if far and chance <= alpha else (1 if far and chance <= warning else 0)
    sums[1] = 0.0 if level == 2 else sign * level
    return sign * level
