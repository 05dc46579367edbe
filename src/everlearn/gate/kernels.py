"""The gate's arithmetic: sums of differences, updated one example at a time, and the evidence in them.

A bet on every example. Capital starts at 1, and a fixed share of it is staked on each example; several shares are tried
in parallel. If the candidate is not better, the capital reaches 1 / alpha with probability at most alpha (Ville's
inequality). This is exact for bounded losses of any shape, if the past does not predict the next difference:
Waudby-Smith & Ramdas, arXiv 2010.09686, sec. 4; for differences of losses Choe & Ramdas, arXiv 2110.00115.

A t-test on blocks, valid at every moment. The differences are summed in blocks of 1, 2, 4, 8, ... examples. At each
length an e-process tests whether the mean of the blocks is above a tolerance, given the variance of the blocks: Wang &
Ramdas, arXiv 2310.03722, sec. 4 (a Gaussian mixture of t likelihood ratios, after Lai 1976). Lengths are tested from
the longest down to one at which neighbouring blocks are still correlated; the remaining correlation reduces the
effective number of blocks. The length with the weakest evidence decides.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, exact_kernel, outlined
from everlearn.gate.weights import SHARES, share
from everlearn.records import Floats, Singles

Counts = NDArray[np.int64]

CALIBRATION = 100  # pairs that give an unbounded loss its first scale; they are not evidence
CLIP = 10.0  # the first scale in typical losses
CAP = 6.0  # a later scale in root mean squares of the losses
REACH = 40.0 / CAP  # of these, a loss counts as at most this many scales

STAKES = 0.8 * 2.0 ** -np.arange(8.0)  # shares of the capital staked on each example
LEVELS = 24  # block lengths 1, 2, 4, ..., 2**23; one more row holds blocks of one whole cycle
FEWEST = 12  # blocks needed to use a length: fewer cannot show their correlation
FEWEST_CYCLES = 4  # the same for whole cycles, which the user declares comparable
CORRELATED = 0.5  # correlation of neighbouring blocks from which they are no evidence
PRIOR = 0.0075  # expected squared mean in variances: the t-test is sharpest some 1 / PRIOR examples from the start
UNBOUNDED = 2.0  # half the width of an interval that too few blocks cannot bound
FIRST_WINDOW = 500  # a window starts here, and again whenever it is half as long as the stream before it

LOSS, WINDOW, GUARDS = range(3)  # rows of all arrays; the last two hold the first two as of the last whole cycle
COMPARED, SKIPPED, CALIBRATED, RESTARTS = range(4)  # columns of "seen"
ROOTS, SCALE, DIFFERENCE, NET, PEAK, TROUGH, FALL, RISE = range(8)  # columns of "totals"
RECENT_SQUARES, RECENT_SHARES, HIGHEST_SCALE = range(3)  # of "recent": the losses since the scale last changed
# Columns of "blocks": sums over closed blocks, the open block, and the sum of number times block, where it is kept.
COUNT, SUM, SQUARES, LAGGED, FIRST, LAST, OPEN, RANKED = range(8)
BETTER, WORSE = range(2)  # directions of "capital"


@exact_kernel
def first_outside(losses: Floats, most: float) -> int:
    """Return the index of the first finite loss outside [0, most]; -1 if there is none."""
    for i in range(len(losses)):
        if math.isfinite(losses[i]) and not -1e-6 <= losses[i] <= most + 1e-6:  # float32 losses may round past 1
            return i
    return -1


@exact_kernel
def is_plain(reference: Floats, candidate: Floats, weight: Singles, most: float) -> bool:
    """Return True if every weight is 1 and no finite loss is outside [0, most]."""
    found = True
    for i in range(len(reference)):
        found &= weight[i] == np.float32(1.0)
        for loss in (reference[i], candidate[i]):
            found &= (not math.isfinite(loss)) or (-1e-6 <= loss <= most + 1e-6)
    return found


@exact_kernel
def compare(
    reference: Floats,
    candidate: Floats,
    weight: Floats,
    row: int,
    better: float,
    worse: float,
    cycle: int,
    seen: Counts,
    totals: Floats,
    capital: Floats,
    blocks: Floats,
    weights: Floats,
    recent: Floats,
) -> None:
    """Add pairs of losses to one row of the arrays, and to the window if the row is the loss.

    Each difference is multiplied by the share of its weight, above 0. Without rows in `weights` all shares are 1. With
    numbers in `recent`, the scale changes as the stream goes on.
    """
    weighted, capped = len(weights) > 0, row == LOSS and len(recent) > 0
    for i in range(len(reference)):
        if not (math.isfinite(reference[i]) and math.isfinite(candidate[i])):
            seen[row, SKIPPED] += 1
            continue
        part = 1.0
        if weighted:
            part = share(weights[row], weight[i])
        a, b = max(reference[i], 0.0), max(candidate[i], 0.0)
        scale = totals[row, SCALE]
        if scale == 0.0:
            _calibrate(a, b, row, seen, totals)
            continue
        d = part * (min(a, scale) - min(b, scale)) / scale
        whole = part * (min(a, 1e150) - min(b, 1e150))
        least, most = part * (better / scale), part * (worse / scale)
        if row == LOSS:
            _restart(seen, totals, capital, blocks, weights, cycle)
            _count(WINDOW, d, whole, least, most, cycle, seen, totals, capital, blocks)
        _count(row, d, whole, least, most, cycle, seen, totals, capital, blocks)
        if weighted:
            weights[row, SHARES] += part
            if row == LOSS:
                weights[WINDOW, SHARES] += part
        if cycle > 0 and seen[row, COMPARED] % cycle == 0:
            _keep(seen, totals, capital, blocks, weights)
        if capped:
            recent[RECENT_SQUARES] += part * (min(a, REACH * scale) ** 2 + min(b, REACH * scale) ** 2)
            recent[RECENT_SHARES] += 2.0 * part
            _adapt(seen, totals, blocks, recent)


@bare
def _calibrate(a: float, b: float, row: int, seen: Counts, totals: Floats) -> None:
    """Count one pair of losses for the first scale.

    It is that of the mean of square roots, so that one extreme loss among the first does not decide.
    """
    seen[row, CALIBRATED] += 1
    totals[row, ROOTS] += math.sqrt(a) + math.sqrt(b)
    if seen[row, CALIBRATED] >= CALIBRATION:
        scale = CLIP * (totals[row, ROOTS] / (2 * seen[row, CALIBRATED])) ** 2
        totals[LOSS, SCALE] = totals[WINDOW, SCALE] = scale


@bare
def _adapt(seen: Counts, totals: Floats, blocks: Floats, recent: Floats) -> None:
    """After 100, 200, 400, ... pairs, set the scale to `CAP` root mean squares of the losses since the last change.

    Each counts as at most `REACH` scales, so a few extreme losses do not decide. If more than 1 in (CAP * REACH)^2 =
    1,600 losses is beyond that, the scale grows, each time, until they are within it. `HIGHEST_SCALE` bounds it, unless
    that is 0. All sums are put in units of the new scale.
    """
    times = (seen[LOSS, COMPARED] + seen[LOSS, CALIBRATED]) // CALIBRATION
    if (seen[LOSS, COMPARED] + seen[LOSS, CALIBRATED]) % CALIBRATION != 0 or times & (times - 1) != 0:
        return
    scale = CAP * math.sqrt(recent[RECENT_SQUARES] / recent[RECENT_SHARES])
    recent[:HIGHEST_SCALE] = 0.0
    if recent[HIGHEST_SCALE] > 0.0:
        scale = min(scale, recent[HIGHEST_SCALE])
    if not scale > 0.0:
        return
    unit = totals[LOSS, SCALE] / scale
    for row in (LOSS, WINDOW):
        totals[row, SCALE] = scale
        for column in range(NET, totals.shape[1]):
            totals[row, column] *= unit
        for level in range(blocks.shape[1]):
            for column in range(SUM, blocks.shape[2]):
                blocks[row, level, column] *= unit * unit if column in (SQUARES, LAGGED) else unit


@bare
def _keep(seen: Counts, totals: Floats, capital: Floats, blocks: Floats, weights: Floats) -> None:
    """Copy the rows of the loss and the window to the rows that are read."""
    for row in (LOSS, WINDOW):
        for column in range(seen.shape[1]):
            seen[row - 2, column] = seen[row, column]
        _copy_row(totals, row)
        _copy_row(weights, row)
        for level in range(blocks.shape[1]):
            for column in range(blocks.shape[2]):
                blocks[row - 2, level, column] = blocks[row, level, column]
        for direction in range(capital.shape[1]):
            for part in range(capital.shape[2]):
                for stake in range(capital.shape[3]):
                    capital[row - 2, direction, part, stake] = capital[row, direction, part, stake]


@bare
def _copy_row(values: Floats, row: int) -> None:
    """Copy a row two rows up, unless there are none. Numba compiles the assignment of a slice for a second."""
    for column in range(values.shape[1] if len(values) else 0):
        values[row - 2, column] = values[row, column]


@bare
def _restart(seen: Counts, totals: Floats, capital: Floats, blocks: Floats, weights: Floats, cycle: int) -> None:
    """Start a new window once the old one is half as long as the stream before it, at the end of a whole cycle."""
    n, window = seen[LOSS, COMPARED], seen[WINDOW, COMPARED]
    if n < FIRST_WINDOW or 2 * window < n - window or (cycle > 0 and n % cycle != 0):
        return
    seen[WINDOW, COMPARED] = 0
    seen[WINDOW, RESTARTS] += 1
    totals[WINDOW, DIFFERENCE:] = 0.0
    capital[WINDOW, :, 0] = 1.0
    capital[WINDOW, :, 1] = 0.0
    blocks[WINDOW] = 0.0
    if len(weights) > 0:
        weights[WINDOW, SHARES] = 0.0


@bare
def _count(
    row: int,
    d: float,
    whole: float,
    better: float,
    worse: float,
    cycle: int,
    seen: Counts,
    totals: Floats,
    capital: Floats,
    blocks: Floats,
) -> None:
    """Add one difference, scaled to [-1, 1], to one row."""
    seen[row, COMPARED] += 1
    totals[row, DIFFERENCE] += whole
    net = totals[row, NET] + d
    totals[row, NET] = net
    totals[row, PEAK] = max(totals[row, PEAK], net)
    totals[row, TROUGH] = min(totals[row, TROUGH], net)
    totals[row, FALL] = max(totals[row, FALL], totals[row, PEAK] - net)
    totals[row, RISE] = max(totals[row, RISE], net - totals[row, TROUGH])
    _bet(capital, row, BETTER, d - better, 1.0 + max(better, 0.0))
    _bet(capital, row, WORSE, worse - d, 1.0 + max(-worse, 0.0))
    _add(blocks, row, seen[row, COMPARED], d)
    if cycle > 0:
        blocks[row, LEVELS, OPEN] += d
        if seen[row, COMPARED] % cycle == 0:
            _close(blocks, row, LEVELS)


@bare
def _bet(capital: Floats, row: int, direction: int, gain: float, most: float) -> None:
    """Multiply each capital by 1 + stake * gain / most; move it to the logarithm before it overflows."""
    part, inside = gain / most, True
    factors = capital[row, direction, 0]
    for k in range(len(STAKES)):  # without a branch, so that a compiler takes several stakes at once
        factors[k] *= 1.0 + STAKES[k] * part
        inside &= (factors[k] > 1e-100) & (factors[k] < 1e100)
    if inside:
        return
    for k in range(len(STAKES)):
        if not 1e-100 < factors[k] < 1e100:
            capital[row, direction, 1, k] += math.log(factors[k])
            factors[k] = 1.0


@outlined
def log_capital(capital: Floats) -> float:
    """Return the log of the mean capital over all stakes."""
    most = -np.inf
    for k in range(len(STAKES)):
        most = max(most, math.log(capital[0, k]) + capital[1, k])
    total = 0.0
    for k in range(len(STAKES)):
        total += math.exp(math.log(capital[0, k]) + capital[1, k] - most)
    return most + math.log(total / len(STAKES))


@bare
def _add(blocks: Floats, row: int, n: int, d: float) -> None:
    """Add the n-th difference to the blocks of every length; a full block is added to the next longer one."""
    total = d
    for level in range(LEVELS):
        blocks[row, level, OPEN] += total
        if n % (1 << level) != 0:
            return
        total = blocks[row, level, OPEN]
        _close(blocks, row, level)


@bare
def _close(blocks: Floats, row: int, level: int) -> None:
    x = blocks[row, level, OPEN]
    if blocks[row, level, COUNT] == 0.0:
        blocks[row, level, FIRST] = x
    blocks[row, level, LAGGED] += blocks[row, level, LAST] * x
    blocks[row, level, COUNT] += 1.0
    if blocks.shape[2] > RANKED:
        blocks[row, level, RANKED] += blocks[row, level, COUNT] * x
    blocks[row, level, SUM] += x
    blocks[row, level, SQUARES] += x * x
    blocks[row, level, LAST] = x
    blocks[row, level, OPEN] = 0.0


@outlined
def resemblance(sums: Floats) -> float:
    """Return the lag-1 autocorrelation of the blocks, plus a quarter of a standard error.

    It is corrected for the bias of short series (Marriott & Pope 1954).
    """
    m = sums[COUNT]
    mean = sums[SUM] / m
    spread = sums[SQUARES] - m * mean * mean
    if spread <= 1e-12 * sums[SQUARES]:
        return 0.0
    lagged = sums[LAGGED] - mean * (2.0 * sums[SUM] - sums[FIRST] - sums[LAST]) + (m - 1.0) * mean * mean
    r = lagged / spread
    return float(r + (1.0 + 4.0 * r) / m + 0.25 / math.sqrt(m))


@outlined
def _slope(sums: Floats) -> float:
    """Return the slope of a straight line through the blocks, for each block; 0 without the sum that it needs."""
    m = sums[COUNT]
    if len(sums) <= RANKED or m < 3.0:
        return 0.0
    return float(12.0 * (sums[RANKED] - 0.5 * (m + 1.0) * sums[SUM]) / (m * (m * m - 1.0)))


@outlined
def trend_resemblance(sums: Floats, slope: float) -> float:
    """Return `resemblance` of the blocks around a line of this slope, with the bias of a fitted line."""
    m = sums[COUNT]
    mean = sums[SUM] / m
    spread = sums[SQUARES] - m * mean * mean - slope * slope * m * (m * m - 1.0) / 12.0
    if spread <= 1e-12 * sums[SQUARES]:
        return 0.0
    start = mean - 0.5 * slope * (m + 1.0)  # the line is start + slope * k
    lagged = sums[LAGGED]
    lagged -= (start - slope) * (sums[SUM] - sums[FIRST]) + slope * (sums[RANKED] - sums[FIRST])
    lagged -= (start + slope) * (sums[SUM] - sums[LAST]) + slope * (sums[RANKED] - m * sums[LAST])
    k, squares = 0.5 * m * (m - 1.0), (m - 1.0) * m * (2.0 * m - 1.0) / 6.0  # sums of k and k^2 below m
    lagged += (m - 1.0) * start * (start + slope) + slope * (2.0 * start + slope) * k + slope * slope * squares
    r = lagged / spread
    return float(r + (2.0 + 4.0 * r) / m + 1.25 / math.sqrt(m))


@outlined
def _describe(sums: Floats, length: float, slope: float) -> tuple[float, float, float]:
    """Return the mean difference, the variance of the block means, and the effective number of blocks.

    With a slope, variance and number are those of the rest around a line.
    """
    m = sums[COUNT]
    mean = sums[SUM] / (m * length)
    variance = max(sums[SQUARES] / (m * length * length) - mean * mean, 0.0)
    if slope != 0.0:
        variance -= slope * slope * (m * m - 1.0) / (12.0 * length * length)
        variance = max(variance, 0.0) * m / (m - 1.0)
    r = max(trend_resemblance(sums, slope) if slope != 0.0 else resemblance(sums), 0.0)
    return mean, variance, m * (1.0 - r) / (1.0 + r)


@outlined
def _log_e(away: float, variance: float, blocks: float, examples: float) -> float:
    """Return the log e-value that a mean is positive if it was measured as `away`.

    The mixture over effects N(0, PRIOR * examples / blocks) is (1 + p)^-1/2 * (1 - u p / (1 + p))^(-blocks / 2) with p
    = PRIOR * examples and u = away^2 / (away^2 + variance), for the variance of the block means. Keeping only positive
    effects doubles it and multiplies it by their posterior probability, here that of a t distribution in its normal
    approximation.
    """
    prior = PRIOR * examples
    shrink = prior / (1.0 + prior)
    u = away * away / (away * away + variance) if away != 0.0 else 0.0
    squared = shrink * blocks * u / max(1.0 - u, 1e-12)
    z = math.copysign(math.sqrt(squared / (1.0 + 0.5 * squared / blocks)), away)
    positive = max(math.erfc(-z * math.sqrt(0.5)), 1e-300)  # twice the probability
    return -0.5 * math.log1p(prior) - 0.5 * blocks * math.log1p(-u * shrink) + math.log(positive)


@exact_kernel
def half_width(variance: float, blocks: float, examples: float, threshold: float) -> float:
    """Return the distance from the measured mean at which the two-sided mixture reaches the threshold."""
    prior = PRIOR * examples
    u = -math.expm1(-(2.0 * threshold + math.log1p(prior)) / blocks) * (1.0 + prior) / prior
    return math.sqrt(variance * u / (1.0 - u)) if u < 1.0 else UNBOUNDED


@bare
def weigh_blocks(
    blocks: Floats, better: float, worse: float, cycle: int, threshold: float
) -> tuple[float, float, float, float, float, float]:
    """Return log e better, log e worse, low, high, and the length and number of the blocks that decided on better.

    Whole cycles are a second test beside the doubling lengths: the mean of the two e-values is an e-value.
    """
    if cycle > 0:
        threshold += math.log(2.0)
    first, second, low, high, length, count = _doubling(blocks, better, worse, threshold)
    if cycle == 0:
        return first, second, low, high, length, count
    first -= math.log(2.0)
    second -= math.log(2.0)
    sums = blocks[LEVELS]
    if sums[COUNT] >= FEWEST_CYCLES and resemblance(sums) <= CORRELATED:
        mean, variance, independent = _describe(sums, cycle, 0.0)
        examples = sums[COUNT] * cycle
        above = _log_e(mean - better, variance, independent, examples) - math.log(2.0)
        if above > first:
            length, count = float(cycle), sums[COUNT]
        first = np.logaddexp(first, above)
        second = np.logaddexp(second, _log_e(worse - mean, variance, independent, examples) - math.log(2.0))
        half = half_width(variance, independent, examples, threshold)
        low, high = max(low, mean - half), min(high, mean + half)
    return first, second, low, high, length, count


@exact_kernel
def weigh_row(
    seen: Counts,
    totals: Floats,
    capital: Floats,
    blocks: Floats,
    weights: Floats,
    at: int,
    better: float,
    worse: float,
    cycle: int,
    threshold: float,
) -> tuple[int, float, float, float, float, float, float, int, int]:
    """Return the evidence in one row of the arrays.

    That is the number of examples, the mean difference with and without clipping, its bounds, log e better, log e
    worse, and the length and number of the blocks that decided.
    """
    examples, scale = seen[at, COMPARED], totals[at, SCALE]
    if examples == 0:
        return 0, 0.0, 0.0, -scale, scale, 0.0, 0.0, 1, 0
    shares = weights[at, SHARES] if len(weights) > 0 else np.float64(examples)
    mean = shares / examples  # of the shares: differences in the blocks are so much smaller
    first, second, low, high, length, count = weigh_blocks(
        blocks[at], better / scale * mean, worse / scale * mean, cycle, threshold
    )
    first = min(first, log_capital(capital[at, BETTER]))
    second = min(second, log_capital(capital[at, WORSE]))
    low, high = max(scale * low / mean, -scale), min(scale * high / mean, scale)
    difference, whole = scale * totals[at, NET] / shares, totals[at, DIFFERENCE] / shares
    return examples, difference, whole, low, high, first, second, int(length), int(count)


@bare
def _doubling(
    blocks: Floats, better: float, worse: float, threshold: float
) -> tuple[float, float, float, float, float, float]:
    level = LEVELS - 1
    while level > 0 and blocks[level, COUNT] < FEWEST:
        level -= 1
    longest = level
    first, decided = _weakest(blocks, longest, better, 1.0)
    second, _ = _weakest(blocks, longest, worse, -1.0)
    low, high = 1.0, -1.0
    while level >= 0 and blocks[level, COUNT] >= FEWEST and abs(resemblance(blocks[level])) <= CORRELATED:
        length = float(1 << level)
        examples = blocks[level, COUNT] * length
        mean, variance, independent = _describe(blocks[level], length, 0.0)
        half = half_width(variance, independent, examples, threshold)
        low, high = min(low, mean - half), max(high, mean + half)
        level -= 1
    if level == longest:  # no length qualified
        low, high = -1.0, 1.0
    return first, second, max(low, -1.0), min(high, 1.0), float(1 << decided), blocks[decided, COUNT]


@bare
def _weakest(blocks: Floats, longest: int, bound: float, sign: float) -> tuple[float, int]:
    """Return the weakest log e-value over the lengths that qualify, and its level; 0 where none does.

    `sign` is 1 for the question if the mean is above the bound, -1 for below. A line through the blocks that rises in
    that direction is not noise.
    """
    weakest, decided, level = np.inf, longest, longest
    while level >= 0 and blocks[level, COUNT] >= FEWEST:
        length, examples, found = float(1 << level), blocks[level, COUNT] * (1 << level), -np.inf
        if abs(resemblance(blocks[level])) <= CORRELATED:
            mean, variance, independent = _describe(blocks[level], length, 0.0)
            found = _log_e(sign * (mean - bound), variance, independent, examples)
        slope = _slope(blocks[level])
        if slope * sign > 0.0 and abs(trend_resemblance(blocks[level], slope)) <= CORRELATED:
            mean, variance, independent = _describe(blocks[level], length, slope)
            found = max(found, _log_e(sign * (mean - bound), variance, independent, examples))
        if found == -np.inf:
            break
        if found < weakest:
            weakest, decided = found, level
        level -= 1
    return (weakest, decided) if level < longest else (0.0, longest)
