"""Evidence in, verdict out: is the candidate's loss lower than the reference's?

The gate is fed paired losses in log order and keeps sums of their differences in fixed arrays. It may be asked after
every example: looking often costs nothing in false alarms. A verdict needs two kinds of evidence to agree.

1. A bet on every example. Capital starts at 1 and is staked on "the candidate is better". If it is not, the capital
   ever reaches 1 / alpha with probability at most alpha (Ville's inequality). This is exact for bounded losses of any
   shape, as long as the past does not predict the next difference: Waudby-Smith & Ramdas, arXiv 2010.09686, sec. 4
   (fixed stakes side by side), for differences of losses Choe & Ramdas, arXiv 2110.00115.
2. A t-test on blocks that is valid at every moment. On real streams the past does predict the next difference: good
   and bad stretches take turns, and a bet on single examples takes one good stretch for proof. So the differences are
   also summed in blocks of 1, 2, 4, 8, ... examples. At each length an e-process asks whether the blocks' mean is above
   the tolerance, given how much the blocks vary: Wang & Ramdas, arXiv 2310.03722, sec. 4 (Gaussian mixture of t
   likelihood ratios, after Lai 1976). Lengths are heard from the longest down, until one at which neighbours still
   resemble each other; what resemblance remains makes the blocks count for fewer. The least convinced length decides.

`docs/why/gate.md` shows why both are needed, and what no rule can tell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError, InputError
from everlearn.records import Arrays, Evidence, Floats, Verdict
from everlearn.spec import GateSpec

UNBOUNDED = ("log_loss", "absolute", "squared")  # the other losses lie in [0, 1]
CALIBRATION = 100  # pairs that fix the scale of an unbounded loss; they are not evidence
CLIP = 10.0  # an unbounded loss counts as at most this many typical ones

STAKES = 0.8 * 2.0 ** -np.arange(8.0)  # shares of the capital put on each example
LEVELS = 24  # block lengths 1, 2, 4, ..., 2**23; one more row holds blocks of one whole cycle
FEWEST = 12  # blocks that a length needs before it is heard: fewer cannot show their own correlation
FEWEST_CYCLES = 4  # the same for whole cycles: that they are comparable is the user's word
CORRELATED = 0.5  # neighbouring blocks more alike (or more opposed) than this prove nothing
PRIOR = 0.005  # expected squared mean in variances: the t-test is sharpest some 1 / PRIOR examples from the start

COMPARED, SKIPPED, CALIBRATED = range(3)  # columns of "seen"
ROOTS, SCALE, DIFFERENCE = range(3)  # columns of "totals"
COUNT, SUM, SQUARES, LAGGED, FIRST, LAST, OPEN = range(7)  # columns of "blocks": of closed blocks, and the open one
BETTER, WORSE = range(2)  # directions of "capital"


class _Row(NamedTuple):
    """One metric's part of the arrays, and what is asked of it; a candidate is worse if its mean is below `worse`."""

    number: int
    better: float
    worse: float
    bounded: bool
    cycle: int


def start(spec: GateSpec) -> Arrays:
    """Make the fixed-size arrays of one question.

    Row 0 of each array belongs to the loss, the next ones to the guards in alphabetical order, and the last is row 0
    as it stood after the last whole cycle. Raises `ConfigError` if a setting cannot be used.

    >>> arrays = start(GateSpec(guards={"recall:yes": 0.02}))
    >>> sum(array.nbytes for array in arrays.values())
    5112
    """
    _check(spec)
    rows = 2 + len(spec.guards)
    totals = np.zeros((rows, 3))
    totals[:, SCALE] = 1.0
    if spec.loss in UNBOUNDED:
        totals[[0, -1], SCALE] = 0.0
    capital = np.zeros((rows, 2, 2, len(STAKES)))  # direction; factor and logarithm, which multiply to the capital
    capital[:, :, 0] = 1.0
    return {
        "seen": np.zeros((rows, 3), np.int64),
        "totals": totals,
        "capital": capital,
        "blocks": np.zeros((rows, LEVELS + 1, 7)),
    }


def update(arrays: Arrays, spec: GateSpec, reference: Floats, candidate: Floats) -> None:
    """Add n pairs of losses, float64 (n,), in log order.

    The result does not depend on how a stream is cut into calls. A pair with a loss that is not finite is skipped and
    counted. Raises `InputError`, before anything is changed, if a loss is negative, or above 1 where it cannot be.

    >>> spec = GateSpec()
    >>> arrays = start(spec)
    >>> rng = np.random.default_rng(0)
    >>> champion, challenger = rng.random(1000), 0.9 * rng.random(1000)
    >>> update(arrays, spec, champion, challenger)
    >>> evidence(arrays, spec).examples
    1000
    """
    _feed(arrays, _row(spec), reference, candidate, f"loss {spec.loss!r}")


def update_guard(arrays: Arrays, spec: GateSpec, name: str, reference: Floats, candidate: Floats) -> None:
    """Add n pairs of a guard's losses in [0, 1], float64 (n,), for instance 0/1 errors on the rows of one class.

    Raises `ConfigError` if `spec` has no such guard, `InputError` as `update` does.
    """
    if name not in spec.guards:
        known = ", ".join(sorted(spec.guards)) or "none"
        raise ConfigError(f"unknown guard {name!r}; the guards in this spec are: {known}")
    _feed(arrays, _row(spec, name), reference, candidate, f"guard {name!r}")


def evidence(arrays: Arrays, spec: GateSpec, share: float = 1.0) -> Evidence:
    """Weigh what is known about the loss; changes nothing.

    `share` in (0, 1] is this question's part of alpha when several challengers are compared at the same time.
    """
    return _weigh(arrays, _row(spec), _threshold(spec, share))


def verdict(arrays: Arrays, spec: GateSpec, share: float = 1.0) -> Verdict:
    """Say promote, reject or wait, and why; changes nothing.

    promote: the candidate is better by more than `tolerance`, and every guard is shown to cost no more than it may.
    reject: the candidate is worse, or costs a guard more than it may. A candidate that is neither keeps waiting.
    Each of the two is false with probability at most alpha * share, however often one asks.

    >>> spec = GateSpec()
    >>> arrays = start(spec)
    >>> rng = np.random.default_rng(0)
    >>> update(arrays, spec, 0.3 + 0.2 * rng.random(2000), 0.25 + 0.2 * rng.random(2000))
    >>> verdict(arrays, spec).action
    'promote'
    """
    log_alpha = _threshold(spec, share)
    found = _weigh(arrays, _row(spec), log_alpha)
    guards = {name: _weigh(arrays, _row(spec, name), log_alpha) for name in sorted(spec.guards)}
    if found.examples < max(spec.minimum, 1):
        skipped = int(arrays["seen"][0, SKIPPED])
        note = f", {skipped} skipped because a loss was not finite" if skipped else ""
        return Verdict("wait", f"{found.examples} of at least {spec.minimum} examples compared{note}", found)
    against = _objection(arrays, spec, found, guards)
    if against:
        return Verdict("reject", against, found)
    missing = _missing(arrays, spec, found, guards)
    if missing:
        return Verdict("wait", missing, found)
    return Verdict("promote", f"better by {found.difference:.4g} on {found.examples} examples", found)


def _objection(arrays: Arrays, spec: GateSpec, found: Evidence, guards: dict[str, Evidence]) -> str:
    """What speaks for a rejection, if anything does: one metric is enough, so the metrics share alpha."""
    needed = found.threshold + math.log(1 + len(guards))
    if found.log_e_worse >= needed and _whole_difference(arrays, spec) < 0.0:
        return f"worse by {-found.difference:.4g} on {found.examples} examples"
    for name, guard in guards.items():
        if guard.log_e_worse >= needed:
            return f"{name} is worse by {-guard.difference:.4g} on {guard.examples} rows, {spec.guards[name]:g} allowed"
    return ""


def _missing(arrays: Arrays, spec: GateSpec, found: Evidence, guards: dict[str, Evidence]) -> str:
    """What a promotion still lacks, if anything: it needs every metric, so each may use all of alpha."""
    if found.log_e_better < found.threshold:
        return (
            f"difference {found.difference:.4g} over {found.examples} examples in blocks of {found.block}: "
            f"log e {found.log_e_better:.1f}, needed {found.threshold:.1f}"
        )
    if _whole_difference(arrays, spec) <= spec.tolerance:
        return "better only as long as very large losses are clipped"
    for name, guard in guards.items():
        if guard.log_e_better < guard.threshold:
            needed = f"log e {guard.log_e_better:.1f} on {guard.examples} rows, needed {guard.threshold:.1f}"
            return f"better, but {name} is not yet shown to keep within {spec.guards[name]:g}: {needed}"
    return ""


def _threshold(spec: GateSpec, share: float) -> float:
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"share of alpha is {share!r}; expected a number above 0 and at most 1")
    return math.log(1.0 / (spec.alpha * share))


def _whole_difference(arrays: Arrays, spec: GateSpec) -> float:
    """Mean difference of the losses as they came, not clipped."""
    at = _at(_row(spec))
    return float(arrays["totals"][at, DIFFERENCE]) / int(arrays["seen"][at, COMPARED])


def _check(spec: GateSpec) -> None:
    def refuse(setting: str, got: object, expected: str) -> None:
        raise ConfigError(f"gate.{setting} is {got!r}; expected {expected}")

    if not 0.0 < spec.alpha < 1.0:
        refuse("alpha", spec.alpha, "a probability above 0 and below 1, such as 0.05")
    if not 0.0 <= spec.tolerance < math.inf:
        refuse("tolerance", spec.tolerance, "a loss of 0 or more")
    if spec.minimum < 0:
        refuse("minimum", spec.minimum, "a number of examples, 0 or more")
    if spec.cycle < 0:
        refuse("cycle", spec.cycle, "a number of examples, or 0 for no cycle")
    for name, allowed in spec.guards.items():
        if not 0.0 <= allowed < 1.0:
            refuse(f"guards[{name!r}]", allowed, "how much may be lost, from 0 to below 1")


def _row(spec: GateSpec, guard: str = "") -> _Row:
    if not guard:
        return _Row(0, spec.tolerance, 0.0, spec.loss not in UNBOUNDED, spec.cycle)
    allowed = -spec.guards[guard]
    return _Row(1 + sorted(spec.guards).index(guard), allowed, allowed, True, 0)


def _at(row: _Row) -> int:
    """Where the evidence is read: with a cycle, from the copy that was made after the last whole one."""
    return -1 if row.cycle else row.number


def _feed(arrays: Arrays, row: _Row, reference: Floats, candidate: Floats, what: str) -> None:
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if reference.shape != candidate.shape or reference.ndim != 1:
        raise InputError(f"{what}: got losses of shapes {reference.shape} and {candidate.shape}; expected (n,) twice")
    for name, losses in (("reference", reference), ("candidate", candidate)):
        i = _first_outside(losses, 1.0 if row.bounded else np.inf)
        if i >= 0:
            expected = "between 0 and 1" if row.bounded else "0 or more"
            raise InputError(f"{what}: {name} loss {losses[i]:g} at index {i}; expected {expected}")
    _compare(
        reference, candidate, row.number, row.better, row.worse, row.cycle,
        arrays["seen"], arrays["totals"], arrays["capital"], arrays["blocks"],
    )  # fmt: skip


def _weigh(arrays: Arrays, row: _Row, log_alpha: float) -> Evidence:
    at = _at(row)
    seen, totals = arrays["seen"][at], arrays["totals"][at]
    scale = float(totals[SCALE])
    if scale == 0.0:
        return Evidence(0, 1, 0, 0.0, 0.0, 0.0, 0.0, 0.0, log_alpha)
    blocks = arrays["blocks"][at]
    better, worse, low, high, block, count = _weigh_blocks(
        blocks, row.better / scale, row.worse / scale, row.cycle, log_alpha
    )
    return Evidence(
        examples=int(seen[COMPARED]),
        block=int(block),
        blocks=int(count),
        difference=scale * float(blocks[0, SUM]) / max(int(seen[COMPARED]), 1),
        low=scale * low,
        high=scale * high,
        log_e_better=min(better, _log_capital(arrays["capital"][at, BETTER])),
        log_e_worse=min(worse, _log_capital(arrays["capital"][at, WORSE])),
        threshold=log_alpha,
    )


def _log_capital(capital: Floats) -> float:
    """Log of the mean capital of all stakes, float64 (2, stakes) of factors and logarithms."""
    logs = np.log(capital[0]) + capital[1]
    most = float(logs.max())
    return most + math.log(float(np.mean(np.exp(logs - most))))


@exact_kernel
def _first_outside(losses: Floats, most: float) -> int:
    for i in range(len(losses)):
        if math.isfinite(losses[i]) and not -1e-6 <= losses[i] <= most + 1e-6:  # float32 losses may round past 1
            return i
    return -1


@exact_kernel
def _compare(
    reference: Floats,
    candidate: Floats,
    row: int,
    better: float,
    worse: float,
    cycle: int,
    seen: NDArray[np.int64],
    totals: Floats,
    capital: Floats,
    blocks: Floats,
) -> None:
    for i in range(len(reference)):
        if not (math.isfinite(reference[i]) and math.isfinite(candidate[i])):
            seen[row, SKIPPED] += 1
            continue
        a, b = max(reference[i], 0.0), max(candidate[i], 0.0)
        scale = totals[row, SCALE]
        if scale == 0.0:
            # Roots, so that one enormous loss among the first does not decide the scale for ever.
            seen[row, CALIBRATED] += 1
            totals[row, ROOTS] += math.sqrt(a) + math.sqrt(b)
            if seen[row, CALIBRATED] >= CALIBRATION:
                totals[row, SCALE] = CLIP * (totals[row, ROOTS] / (2 * seen[row, CALIBRATED])) ** 2
            continue
        seen[row, COMPARED] += 1
        totals[row, DIFFERENCE] += min(a, 1e150) - min(b, 1e150)
        d = (min(a, scale) - min(b, scale)) / scale
        _bet(capital[row, BETTER], d - better / scale, 1.0 + max(better / scale, 0.0))
        _bet(capital[row, WORSE], worse / scale - d, 1.0 + max(-worse / scale, 0.0))
        _add(blocks[row], seen[row, COMPARED], d)
        if cycle > 0:
            blocks[row, LEVELS, OPEN] += d
            if seen[row, COMPARED] % cycle == 0:
                _close(blocks[row, LEVELS])
                seen[-1], totals[-1], capital[-1], blocks[-1] = seen[row], totals[row], capital[row], blocks[row]


@exact_kernel
def _bet(capital: Floats, gain: float, most: float) -> None:
    """Multiply each capital by 1 + stake * gain, where a loss is at most `most`; fold it before it overflows."""
    for k in range(len(STAKES)):
        capital[0, k] *= 1.0 + STAKES[k] / most * gain
        if not 1e-100 < capital[0, k] < 1e100:
            capital[1, k] += math.log(capital[0, k])
            capital[0, k] = 1.0


@exact_kernel
def _add(blocks: Floats, n: int, d: float) -> None:
    """Put the n-th difference into the blocks of every length; a block that is full goes into the next longer one."""
    total = d
    for level in range(LEVELS):
        blocks[level, OPEN] += total
        if n % (1 << level) != 0:
            return
        total = blocks[level, OPEN]
        _close(blocks[level])


@exact_kernel
def _close(sums: Floats) -> None:
    x = sums[OPEN]
    if sums[COUNT] == 0.0:
        sums[FIRST] = x
    sums[LAGGED] += sums[LAST] * x
    sums[COUNT] += 1.0
    sums[SUM] += x
    sums[SQUARES] += x * x
    sums[LAST] = x
    sums[OPEN] = 0.0


@exact_kernel
def _resemblance(sums: Floats) -> float:
    """Lag-1 autocorrelation of the blocks: corrected for its bias in short series (Marriott & Pope 1954), plus half
    a standard error."""
    m = sums[COUNT]
    mean = sums[SUM] / m
    spread = sums[SQUARES] - m * mean * mean
    if spread <= 1e-12 * sums[SQUARES]:
        return 0.0
    lagged = sums[LAGGED] - mean * (2.0 * sums[SUM] - sums[FIRST] - sums[LAST]) + (m - 1.0) * mean * mean
    r = lagged / spread
    return float(r + (1.0 + 4.0 * r) / m + 0.5 / math.sqrt(m))


@exact_kernel
def _describe(sums: Floats, length: float) -> tuple[float, float, float]:
    """Mean of the differences, variance of the blocks' means, and how many independent blocks these are worth."""
    m = sums[COUNT]
    mean = sums[SUM] / (m * length)
    variance = max(sums[SQUARES] / (m * length * length) - mean * mean, 0.0)
    r = max(_resemblance(sums), 0.0)
    return mean, variance, m * (1.0 - r) / (1.0 + r)


@exact_kernel
def _log_e(away: float, variance: float, blocks: float, examples: float) -> float:
    """Log e-value that a mean is positive when it was found to be `away`, given the variance of the blocks' means.

    The mixture over effects N(0, PRIOR * examples / blocks) is (1 + p)^-1/2 * (1 - u p / (1 + p))^(-blocks / 2) with
    p = PRIOR * examples and u = away^2 / (away^2 + variance); keeping only positive effects doubles it and multiplies
    it by their posterior probability, here its normal limit.
    """
    prior = PRIOR * examples
    shrink = prior / (1.0 + prior)
    u = away * away / (away * away + variance) if away != 0.0 else 0.0
    t = math.copysign(math.sqrt(blocks * u / max(1.0 - u, 1e-12)), away)
    positive = max(math.erfc(-t * math.sqrt(0.5 * shrink)), 1e-300)  # twice the probability
    return -0.5 * math.log1p(prior) - 0.5 * blocks * math.log1p(-u * shrink) + math.log(positive)


@exact_kernel
def _half_width(variance: float, blocks: float, examples: float, log_alpha: float) -> float:
    """How far from the mean found a mean must be for the two-sided mixture to reach the threshold against it."""
    prior = PRIOR * examples
    u = -math.expm1(-(2.0 * log_alpha + math.log1p(prior)) / blocks) * (1.0 + prior) / prior
    return math.sqrt(variance * u / (1.0 - u)) if u < 1.0 else 2.0


@exact_kernel
def _weigh_blocks(
    blocks: Floats, better: float, worse: float, cycle: int, log_alpha: float
) -> tuple[float, float, float, float, float, float]:
    """Log e better, log e worse, low, high, and the length and number of the blocks that decided on better.

    Whole cycles are a second witness beside the doubling lengths: the mean of the two e-values is an e-value.
    """
    if cycle > 0:
        log_alpha += math.log(2.0)
    first, second, low, high, length, count = _doubling(blocks, better, worse, log_alpha)
    if cycle == 0:
        return first, second, low, high, length, count
    first -= math.log(2.0)
    second -= math.log(2.0)
    sums = blocks[LEVELS]
    if sums[COUNT] >= FEWEST_CYCLES and _resemblance(sums) <= CORRELATED:
        mean, variance, independent = _describe(sums, cycle)
        examples = sums[COUNT] * cycle
        above = _log_e(mean - better, variance, independent, examples) - math.log(2.0)
        if above > first:
            length, count = float(cycle), sums[COUNT]
        first = np.logaddexp(first, above)
        second = np.logaddexp(second, _log_e(worse - mean, variance, independent, examples) - math.log(2.0))
        half = _half_width(variance, independent, examples, log_alpha)
        low, high = max(low, mean - half), min(high, mean + half)
    return first, second, low, high, length, count


@exact_kernel
def _doubling(
    blocks: Floats, better: float, worse: float, log_alpha: float
) -> tuple[float, float, float, float, float, float]:
    level = LEVELS - 1
    while level > 0 and blocks[level, COUNT] < FEWEST:
        level -= 1
    longest = level
    first = second = np.inf
    low, high, decided = 1.0, -1.0, level
    while level >= 0 and blocks[level, COUNT] >= FEWEST and abs(_resemblance(blocks[level])) <= CORRELATED:
        length = float(1 << level)
        examples = blocks[level, COUNT] * length
        mean, variance, independent = _describe(blocks[level], length)
        above = _log_e(mean - better, variance, independent, examples)
        if above < first:
            first, decided = above, level
        second = min(second, _log_e(worse - mean, variance, independent, examples))
        half = _half_width(variance, independent, examples, log_alpha)
        low, high = min(low, mean - half), max(high, mean + half)
        level -= 1
    if level == longest:  # none was heard
        return 0.0, 0.0, -1.0, 1.0, float(1 << longest), blocks[longest, COUNT]
    return first, second, max(low, -1.0), min(high, 1.0), float(1 << decided), blocks[decided, COUNT]
