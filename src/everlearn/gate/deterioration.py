"""The guard: detect that the champion became worse than the last good version.

The guard takes the champion's loss minus the good version's loss, in log order, and keeps fixed arrays. Its delay
depends on how much worse the champion became, not on how long it was good before: each statistic is a CUSUM, which
returns to 0 while the champion is as good (Page 1954; as an e-detector: Shin, Ramdas & Rinaldo, arXiv 2203.03532,
sec. 2). The caller creates the arrays with `start` when a version becomes good or is restored, calls `update` with each
group of labelled rows, and asks `alarm` or `verdict` afterwards. After a rollback it starts again.

The differences are averaged in blocks of 25, 50, ..., 800 rows. Each length has a statistic
S = max(0, S + min(z, 4) - 1), where z is a block mean in standard deviations. There is an alarm while any S > 12. If z
is sub-Gaussian with variance 1 and a mean of at most 0 given the past, exp(2 z - 2) is an e-value and exp(2 S) a CUSUM
e-detector: the false alarms of one length are then at least exp(24) blocks apart on average. That premise holds only
approximately, since blocks correlate and their standard deviation is estimated. `bench/guard.py` simulates the false
alarms; `docs/why/gate.md` shows the figures.

A rollback gives up all that was learned since the good version. So where the good version's losses are known, an alarm
also needs a difference that is, less two standard errors, at least `MATERIAL` of their slow mean. A smaller one is
reported, and changes nothing.

The standard deviation of a block mean comes from three estimates, which a sudden shift changes little:

- The variance of the rows within a block, as a slow mean. Half the variance within the newest block counts instead if
  that is larger, so that larger losses, or one disastrous row, are divided by their size. A negative mean is
  always divided by the slow mean: rare rows on which the champion is far better keep their weight. For such rows that
  have not come yet, the variance includes one row as large as the bound of the differences, if there is one.
- The near mean: half the mean squared difference of neighbouring block means, in these units. It is 1 for independent
  rows, and counts as at least 1; each term is capped.
- The correlation of neighbouring blocks, far / near - 1. The far mean is the same as near, of blocks two apart.

A length counts from its twelfth block on. Its first twelve blocks are judged together, by estimates without the largest
near term and the two largest far terms, which are those that a single shift causes. While there are few blocks, near
and far are shrunk towards those of a first-order autoregression, fitted to the first 300 rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, exact_kernel
from everlearn.errors import InputError
from everlearn.records import Arrays, Evidence, Floats, Singles, Verdict

Counts = NDArray[np.int64]

BLOCK = 25  # rows in a block of the shortest length
LEVELS = 6  # lengths 25, 50, ..., 800
FEWEST = 12  # blocks before a length counts
ALLOWANCE = 1.0  # standard deviations by which a block mean may be positive without raising the statistic
CLIP = 4.0  # a block mean counts as at most this many standard deviations
THRESHOLD = 12.0  # alarm above it
HIGHEST = 2 * THRESHOLD  # bound of the statistic, so that it can fall again

RATE = 0.01  # weight of the newest block in the slow means, once there are 100
WITHIN_RATE = 0.0025  # the same for the variance within blocks of 25 rows; double for each double length, up to RATE
CAP = 5.0  # a term of the near or far mean counts as at most this multiple of the mean
BURST = 100.0  # the same for the variance within a block
SHARE = 0.5  # part of the variance within the newest block that counts if it exceeds the slow mean
PRIOR = 20.0  # blocks that the fitted autoregression counts for
NEAR_TRIM, FAR_TRIM = 1.3758, 1.9119  # 1 / mean of the trimmed terms of FEWEST independent normal block means
CORRELATED = 0.97  # the largest correlation
PERSISTENT = 0.999  # the largest coefficient of the autoregression
FARTHEST = 1e6  # bound of a block mean in units of its noise, which may be 0

MATERIAL = 0.1  # the smallest difference that is an alarm, as a share of the good version's mean loss
ERRORS = 2.0  # standard errors by which the mean difference of a stretch must exceed that
LOSS_RATE = 0.001  # weight of the newest row in that mean, once there are 1,000

HEAVIEST = 10.0  # a weight counts as at most this multiple of the running mean weight
LARGEST = 1e100  # bound of a difference, so that squares stay finite

EXAMPLES, SKIPPED = range(2)  # columns of "guard_counts"
BOUND, WEIGHT, TOTAL, PREVIOUS, STEPS, PERSISTENCE, GOOD = range(7)  # columns of "guard_sums"; GOOD: the slow mean loss
# Columns of "guard_blocks": closed blocks; mean and squares of the open one; the slow means; the two last scores; the
# statistic, the blocks since it left 0 and the sum of their means; the standard deviation of a block mean; and the
# means and variances of the first FEWEST blocks.
COUNT, MEAN, SQUARES, WITHIN, NEAR, FAR, LAST, BEFORE, STATISTIC, RISING, GAIN, SPREAD, MEANS = range(13)
VARIANCES = MEANS + FEWEST


def start(bound: float = 0.0) -> Arrays:
    """Return the fixed-size arrays of a guard that has seen nothing.

    `bound` is the largest difference possible, in units of the loss: 1 for losses in [0, 1], the cap of a capped loss,
    0 if there is none. Raises `InputError` for a bound that is negative or not finite.

    >>> {name: array.shape for name, array in start(1.0).items()}
    {'guard_counts': (2,), 'guard_sums': (7,), 'guard_blocks': (6, 36)}
    """
    if not 0.0 <= bound < math.inf:
        raise InputError(f"guard: got bound {bound!r}; expected a finite number of 0 or more. Use 0 for no bound.")
    sums = np.zeros(7)
    sums[BOUND] = bound
    return {
        "guard_counts": np.zeros(2, np.int64),
        "guard_sums": sums,
        "guard_blocks": np.zeros((LEVELS, VARIANCES + FEWEST)),
    }


def update(arrays: Arrays, differences: Floats, weight: Singles | None = None, good: Floats | None = None) -> None:
    """Add n differences, float64 (n,), champion's loss minus good version's loss, in log order.

    `good`, float64 (n,), are the good version's losses; without them every difference matters.

    `weight`, float32 (n,), is 1 where it is None. A difference is multiplied by its weight over the mean weight of the
    rows before it, at most 10: the excess is clipped. A row of weight 0 changes nothing, and neither do rows before the
    first on which the losses differ. A difference that is not finite is skipped and counted. The result does not depend
    on how a stream is split into calls.

    Raises `InputError`, before anything is changed, for arrays of other shapes and for a weight that is negative or not
    finite.

    >>> rng = np.random.default_rng(0)
    >>> arrays = start()
    >>> update(arrays, rng.normal(0.0, 0.2, 30_000))
    >>> alarm(arrays)
    False
    >>> update(arrays, rng.normal(0.3, 0.2, 125))
    >>> alarm(arrays)
    True
    """
    differences = np.asarray(differences, np.float64)
    weights = np.ones(len(differences)) if weight is None else np.asarray(weight, np.float64)
    good = np.zeros(len(differences)) if good is None else np.asarray(good, np.float64)
    if differences.ndim != 1 or not weights.shape == good.shape == differences.shape:
        raise InputError(
            f"guard: got differences of shape {differences.shape}, weights of shape {weights.shape} and losses of "
            f"shape {good.shape}; expected (n,) for each. Give one weight and one loss for each difference."
        )
    wrong = np.flatnonzero(~((weights >= 0.0) & (weights < np.inf)))
    if len(wrong):
        raise InputError(
            f"guard: got weight {weights[wrong[0]]:g} at index {wrong[0]}; expected a finite number of 0 or more. "
            "Remove the row, or give it weight 0."
        )
    add(arrays, differences, weights, good)


def add(arrays: Arrays, differences: Floats, weight: Floats, good: Floats) -> None:
    """Add n differences as `update` does, with contiguous float64 (n,) arrays that are known to be right."""
    watch(differences, weight, good, arrays["guard_counts"], arrays["guard_sums"], arrays["guard_blocks"])


def alarm(arrays: Arrays) -> bool:
    """Return True while the champion is worse than the good version, by enough to matter; changes nothing."""
    return bool(_alarms(arrays).any())


def shown(arrays: Arrays) -> bool:
    """Return True while the champion is shown to be worse, by however little; changes nothing."""
    return bool((arrays["guard_blocks"][:, STATISTIC] > THRESHOLD).any())


def least(arrays: Arrays) -> float:
    """Return the smallest difference that matters, in units of the loss.

    >>> arrays = start()
    >>> update(arrays, np.full(400, 0.25), good=np.full(400, 0.5))
    >>> least(arrays)
    0.05
    """
    return MATERIAL * float(arrays["guard_sums"][GOOD])


def _alarms(arrays: Arrays) -> NDArray[np.bool_]:
    """Return which block lengths alarm, bool (LEVELS,)."""
    levels, needed = arrays["guard_blocks"], least(arrays)
    found: NDArray[np.bool_] = levels[:, STATISTIC] > THRESHOLD
    if needed > 0.0 and found.any():
        rising = np.maximum(levels[:, RISING], 1.0)
        found &= levels[:, GAIN] / rising - ERRORS * levels[:, SPREAD] / np.sqrt(rising) >= needed
    return found


def evidence(arrays: Arrays) -> Evidence:
    """Return the evidence of the block length with the largest statistic, of those that alarm if any; changes nothing.

    `examples` counts all rows of weight above 0 since `start`. `blocks` is the number of blocks since the statistic
    left 0, and `difference` the mean over these rows, in the gate's sign: negative while the champion is worse. `low`
    and `high` are two standard errors around it, a description without a stated level. `log_e_worse` is the log of the
    e-detector, 2 S, and `threshold` the value above which it is an alarm.

    >>> arrays = start()
    >>> update(arrays, np.full(400, 0.25))
    >>> found = evidence(arrays)
    >>> found.examples, found.block, found.blocks, found.difference
    (400, 25, 16, -0.25)
    """
    levels = arrays["guard_blocks"]
    level = int(np.argmax(levels[:, STATISTIC] + HIGHEST * _alarms(arrays)))
    row = levels[level]
    blocks = int(row[RISING])
    difference = -float(row[GAIN]) / blocks if blocks else 0.0
    half = ERRORS * float(row[SPREAD]) / math.sqrt(max(blocks, 1))
    return Evidence(
        examples=int(arrays["guard_counts"][EXAMPLES]),
        block=BLOCK << level,
        blocks=blocks,
        difference=difference,
        low=difference - half,
        high=difference + half,
        log_e_better=0.0,
        log_e_worse=2.0 * ALLOWANCE * float(row[STATISTIC]),
        threshold=2.0 * ALLOWANCE * THRESHOLD,
    )


def verdict(arrays: Arrays) -> Verdict:
    """Return reject while there is an alarm, else wait, with the reason and the evidence; changes nothing.

    >>> arrays = start()
    >>> update(arrays, np.full(400, 0.25))
    >>> verdict(arrays).reason
    'worse by 0.25 on the last 400 of 400 examples'
    """
    found = evidence(arrays)
    skipped = int(arrays["guard_counts"][SKIPPED])
    note = f", {skipped} skipped because a loss was not finite" if skipped else ""
    if not shown(arrays):
        reason = f"not shown to be worse on {found.examples} examples{note}"
        return Verdict("wait", f"{reason}: log e {found.log_e_worse:.1f}, needed {found.threshold:.1f}", found)
    reason = f"worse by {-found.difference:.4g} on the last {found.blocks * found.block} of {found.examples} examples"
    if alarm(arrays):
        return Verdict("reject", reason, found)
    needed = f"a rollback needs at least {least(arrays):.4g}, {MATERIAL:.0%} of the good version's loss"
    return Verdict("wait", f"{reason}{note}; {needed}", found)


# ---- arithmetic ----------------------------------------------------------------------------------------------------


@exact_kernel
def watch(differences: Floats, weights: Floats, good: Floats, counts: Counts, sums: Floats, blocks: Floats) -> None:
    """Add rows to the open block of 25, and each closed block to every length that it completes."""
    for i in range(len(differences)):
        if weights[i] == 0.0:
            continue
        if not math.isfinite(differences[i]):
            counts[SKIPPED] += 1
            continue
        n = counts[EXAMPLES]
        if n == 0 and differences[i] == 0.0:
            continue  # the models are still the same
        typical = sums[WEIGHT] / n if n > 0 else weights[i]
        share = min(weights[i] / typical, HEAVIEST)
        x = min(max(differences[i], -LARGEST), LARGEST) * share
        loss = min(good[i], LARGEST) * share
        if n >= BLOCK and sums[GOOD] > 0.0:
            loss = min(loss, BURST * sums[GOOD])  # one disaster must not silence the guard
        sums[GOOD] += max(1.0 / (n + 1), LOSS_RATE) * (loss - sums[GOOD])
        sums[WEIGHT] += weights[i]
        sums[TOTAL] += x
        if 0 < n < BLOCK * FEWEST:
            sums[STEPS] += 0.5 * (x - sums[PREVIOUS]) ** 2
        sums[PREVIOUS] = x
        counts[EXAMPLES] = n + 1
        away = x - blocks[0, MEAN]
        blocks[0, MEAN] += away / (n % BLOCK + 1)
        blocks[0, SQUARES] += away * (x - blocks[0, MEAN])
        if (n + 1) % BLOCK == 0:
            _close(n + 1, sums, blocks)


@bare
def _close(n: int, sums: Floats, blocks: Floats) -> None:
    """Close the open block of 25 rows after row n, and merge pairs of closed blocks into blocks of double length."""
    mean, squares = blocks[0, MEAN], blocks[0, SQUARES]
    blocks[0, MEAN] = blocks[0, SQUARES] = 0.0
    length = BLOCK
    for level in range(LEVELS):
        _judge(blocks[level], mean, squares / (length - 1), length, WITHIN_RATE * (1 << level), n, sums)
        if level + 1 == LEVELS:
            return
        if (n // length) % 2 == 1:
            blocks[level + 1, MEAN], blocks[level + 1, SQUARES] = mean, squares
            return
        apart = mean - blocks[level + 1, MEAN]
        squares += blocks[level + 1, SQUARES] + 0.5 * length * apart * apart
        mean = 0.5 * (mean + blocks[level + 1, MEAN])
        length *= 2


@bare
def _judge(row: Floats, mean: float, variance: float, length: int, rate: float, n: int, sums: Floats) -> None:
    """Add a closed block to one length: its mean and the variance of its rows."""
    row[COUNT] += 1.0
    count = int(row[COUNT])
    unseen = sums[BOUND] * sums[BOUND] / n
    if count <= FEWEST:
        row[MEANS + count - 1] = mean
        row[VARIANCES + count - 1] = variance
        if count == FEWEST:
            if length == BLOCK:
                _fit(row, n, sums)
            _judge_first(row, length, unseen, sums[PERSISTENCE])
        return
    score = _units(mean, max(SHARE * variance, row[WITHIN] + unseen), length)
    shrink = _shrink(row[NEAR], row[FAR], count - 1, length, sums[PERSISTENCE])
    _climb(row, mean, score, shrink, length)
    newest = max(1.0 / count, RATE)
    row[NEAR] += newest * (min(0.5 * (score - row[LAST]) ** 2, CAP * max(row[NEAR], 1.0)) - row[NEAR])
    row[FAR] += newest * (min(0.5 * (score - row[BEFORE]) ** 2, CAP * max(row[FAR], 1.0)) - row[FAR])
    if row[WITHIN] > 0.0:
        variance = min(variance, BURST * row[WITHIN])
    row[WITHIN] += max(1.0 / count, min(rate, RATE)) * (variance - row[WITHIN])
    row[BEFORE], row[LAST] = row[LAST], score


# Sums, ranks and steps of a dozen numbers: numba compiles `np.median` and `np.sort` for seconds.


@bare
def _mean(values: Floats, count: int) -> float:
    """Return the mean of the first `count` values."""
    total = 0.0
    for i in range(count):
        total += values[i]
    return total / count


@bare
def _ranked(values: Floats) -> Floats:
    """Return the values in ascending order, by insertion."""
    found = np.empty(len(values))
    for i in range(len(values)):
        at = i
        while at > 0 and found[at - 1] > values[i]:
            found[at] = found[at - 1]
            at -= 1
        found[at] = values[i]
    return found


@bare
def _steps(values: Floats, apart: int) -> Floats:
    """Return half the squared difference of each value and the one `apart` places before it."""
    found = np.empty(len(values) - apart)
    for i in range(len(found)):
        found[i] = 0.5 * (values[i + apart] - values[i]) ** 2
    return found


@bare
def _fit(row: Floats, n: int, sums: Floats) -> None:
    """Fit a first-order autoregression to the first n rows: 1 minus von Neumann's ratio, corrected for its bias."""
    mean, apart = _mean(row[MEANS : MEANS + FEWEST], FEWEST), 0.0
    for i in range(FEWEST):
        apart += (row[MEANS + i] - mean) ** 2
    variance = _mean(row[VARIANCES : VARIANCES + FEWEST], FEWEST) + apart / FEWEST
    phi = 1.0 - sums[STEPS] / (n - 1) / variance if variance > 0.0 else 0.0
    sums[PERSISTENCE] = min(max(phi + (1.0 + 3.0 * phi) / n, 0.0), PERSISTENT)


@bare
def _judge_first(row: Floats, length: int, unseen: float, phi: float) -> None:
    """Judge the first FEWEST blocks of a length together, with the slow means that they give."""
    variances = row[VARIANCES : VARIANCES + FEWEST]
    ranked = _ranked(variances)
    typical = (ranked[FEWEST // 2 - 1] + ranked[FEWEST // 2]) / 2
    within = 0.0
    for i in range(FEWEST):
        within += min(variances[i], BURST * typical) if typical > 0.0 else variances[i]
    row[WITHIN] = within / FEWEST
    scores = np.empty(FEWEST)
    for i in range(FEWEST):
        scores[i] = _units(row[MEANS + i], max(SHARE * variances[i], row[WITHIN] + unseen), length)
    near, far = _ranked(_steps(scores, 1)), _ranked(_steps(scores, 2))
    row[NEAR], row[FAR] = NEAR_TRIM * _mean(near, len(near) - 1), FAR_TRIM * _mean(far, len(far) - 2)
    trimmed = _shrink(row[NEAR], row[FAR], FEWEST - 1, length, phi)
    whole = _mean(near, len(near)), _mean(far, len(far))
    shrink = min(trimmed, _shrink(whole[0], whole[1], FEWEST - 1, length, phi))
    for i in range(FEWEST):
        _climb(row, row[MEANS + i], scores[i], shrink, length)
    row[BEFORE], row[LAST] = scores[FEWEST - 2], scores[FEWEST - 1]


@bare
def _climb(row: Floats, mean: float, score: float, shrink: float, length: int) -> None:
    """Add one block to the statistic of a length."""
    if mean < 0.0:
        score = _units(mean, row[WITHIN], length)
    statistic = row[STATISTIC] + min(score * shrink, CLIP) - ALLOWANCE
    row[SPREAD] = math.sqrt(row[WITHIN] / length) / shrink
    if statistic > 0.0:
        row[STATISTIC] = min(statistic, HIGHEST)
        row[RISING] += 1.0
        row[GAIN] += mean
    else:
        row[STATISTIC] = row[RISING] = row[GAIN] = 0.0


@bare
def _units(mean: float, variance: float, length: int) -> float:
    """Return the mean of a block over the standard deviation of a mean of independent rows with this variance."""
    if mean == 0.0:
        return 0.0
    if variance <= 0.0:
        return math.copysign(FARTHEST, mean)
    return min(max(mean / math.sqrt(variance / length), -FARTHEST), FARTHEST)


@bare
def _shrink(near: float, far: float, count: int, length: int, phi: float) -> float:
    """Return the factor from units of independent rows to standard deviations of a block mean.

    In a first-order autoregression of block means with correlation r, near is V (1 - r) and the variance of a long mean
    is V (1 + r) / (1 - r), so the factor is (1 - r) / sqrt(near (1 + r)).
    """
    known, r = _autoregression(phi, length)
    part = PRIOR / (min(float(count), 1.0 / RATE) + PRIOR)
    near = max(near + part * (known - near), 1.0)
    far = max(far + part * (known * (1.0 + r) - far), 1.0)
    r = min(max(far / near - 1.0, 0.0), CORRELATED)
    return (1.0 - r) / math.sqrt(near * (1.0 + r))


@bare
def _autoregression(phi: float, length: int) -> tuple[float, float]:
    """Return near, and far / near - 1, of blocks of a first-order autoregression with coefficient phi in [0, 1)."""
    if phi <= 0.0:
        return 1.0, 0.0
    last, rest = phi**length, 1.0 - phi
    block = ((1.0 + phi) / rest - 2.0 * phi * (1.0 - last) / (rest * rest * length)) / length
    lagged = phi * (1.0 - last) ** 2 / (rest * rest * length * length)
    return length * (block - lagged) / (1.0 - block), (block - lagged * last) / (block - lagged) - 1.0
