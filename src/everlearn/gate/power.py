"""Power of a validation set: the probability that a better candidate is accepted with a given number of examples.

Two tests of paired predictions. "exact" is the exact test on the rows where exactly one of the two is right (McNemar
1947, its exact form: are those rows a fair coin?), evaluated once; its power is a sum. "gate" is the gate, which can be
evaluated at any moment and is not misled by one favourable stretch; its power is measured on fixed simulated streams.
It needs 3 to 4 times the examples of the exact test.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np

from everlearn import gate
from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError
from everlearn.records import Floats, Ints
from everlearn.spec import GateSpec

Test = Literal["gate", "exact"]

STEP = 100  # the gate is evaluated after every so many examples
STREAMS = 400  # simulated streams: a power of 0.8 is measured to 0.02 (standard error)
LONGEST = 10.0  # search limit, as a multiple of the normal approximation
DEVIATIONS = 8.0  # standard deviations of the number of disagreements that are counted
TINY = 1e-18  # relative size below which terms of a sum are left out
ROWS = 10_000_000  # of a simulated stream: more would not fit in memory


@exact_kernel
def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)


@exact_kernel
def _tail(m: int, p: float, least: int) -> float:
    """Return the probability of at least `least` heads in m throws of a coin with probability p of heads."""
    if least <= 0:
        return 1.0
    if least > m:
        return 0.0
    if p <= 0.0 or p >= 1.0:
        return 1.0 if p >= 1.0 else 0.0
    others = least < m * p  # then the sum over the other side is shorter
    if others:
        p, least = 1.0 - p, m - least + 1
    term = math.exp(_log_choose(m, least) + least * math.log(p) + (m - least) * math.log1p(-p))
    total, odds, k = term, p / (1.0 - p), least
    while k < m and term > TINY * total:
        term *= odds * (m - k) / (k + 1.0)
        total += term
        k += 1
    return 1.0 - total if others else total


@exact_kernel
def _critical(m: int, alpha: float) -> int:
    """Return the fewest wins among m disagreements that a fair coin reaches with probability at most alpha.

    `alpha` is below 0.5.
    """
    low, high = m // 2, m + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _tail(m, 0.5, middle) <= alpha:
            high = middle
        else:
            low = middle
    return high


@exact_kernel
def _exact_power(n: int, difference: float, disagreement: float, alpha: float) -> float:
    spread = DEVIATIONS * math.sqrt(n * disagreement * (1.0 - disagreement)) + 1.0
    first, last = max(0, int(n * disagreement - spread)), min(n, int(n * disagreement + spread) + 1)
    wins, total = 0.5 + 0.5 * difference / disagreement, 0.0
    for m in range(first, last + 1):
        weight = _log_choose(n, m) + m * math.log(disagreement)
        if m < n:
            weight += (n - m) * math.log1p(-disagreement)
        total += math.exp(weight) * _tail(m, wins, _critical(m, alpha))
    return min(total, 1.0)


def power(
    examples: int,
    points: float,
    *,
    disagreement: float = 0.06,
    alpha: float = 0.05,
    test: Test = "gate",
    minimum: int = 500,
    seed: int = 0,
) -> float:
    """Return the probability that a candidate whose accuracy is better by `points` percentage points is accepted.

    `examples` paired examples are compared; on the share `disagreement` of them exactly one of the two is right.
    `alpha` is that of the test. "gate" is evaluated after every 100 examples from `minimum` on, and its power is
    measured on 400 simulated streams with the random numbers of `seed` (standard error at most 0.025). Raises
    `ConfigError` for impossible values.

    >>> round(power(4000, 1.0, test="exact"), 2), round(power(500, 1.0, test="exact"), 2)
    (0.81, 0.18)
    """
    _check(points, disagreement, alpha)
    if examples < 0:
        raise ConfigError(f"power: examples is {examples}; expected a number of paired examples, 0 or more")
    if test == "exact":
        return float(_exact_power(examples, points / 100, disagreement, alpha)) if examples else 0.0
    accepted = _accepted_at(examples, points / 100, disagreement, alpha, minimum, seed)
    return float((accepted > 0).mean())


def needed(
    points: float,
    disagreement: float = 0.06,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    test: Test = "gate",
    minimum: int = 500,
    seed: int = 0,
) -> int:
    """Return the number of paired examples needed to accept, with probability `power`, a better candidate.

    The candidate's accuracy is better by `points` percentage points; the other arguments are those of the function
    `power`. For "gate" the number is that at which this share of the simulated streams was accepted; another seed
    changes it by about 5 %. Raises `ConfigError` for impossible values, for more than 10 million examples, or for a
    power that the gate does not reach.

    (The formula for normal differences gives 3,700 and 930 here; rows are integers, and the exact test never exceeds
    alpha.)

    >>> needed(1.0, test="exact"), needed(2.0, test="exact")
    (3881, 996)
    """
    _check(points, disagreement, alpha)
    if not 0.0 < power < 1.0 or points == 0.0:
        raise ConfigError(
            f"needed: got points {points!r} and power {power!r}; expected a difference above 0, and a probability "
            "above 0 and below 1"
        )
    difference, normal = points / 100, NormalDist()
    quantiles = normal.inv_cdf(1 - alpha) + max(normal.inv_cdf(power), 0.0)
    guess = math.ceil(quantiles**2 * disagreement / difference**2) + 1
    longest = minimum + math.ceil(LONGEST * guess / STEP) * STEP
    if longest > ROWS:
        raise ConfigError(
            f"needed: a difference of {points:g} points where {disagreement:g} of the answers disagree takes more than "
            f"{guess} examples, the limit is {ROWS}; expected a larger difference"
        )
    if test == "exact":
        return _first(guess, difference, disagreement, alpha, power)
    accepted = _accepted_at(longest, difference, disagreement, alpha, minimum, seed)
    reached, wanted = np.sort(accepted[accepted > 0]), math.ceil(power * STREAMS)
    if len(reached) < wanted:
        raise ConfigError(
            f"needed: of {STREAMS} simulated streams of {longest} examples the gate accepts {len(reached)}, and power "
            f"{power:g} needs {wanted}; expected a lower power (the gate may reject a better "
            "candidate: less often at a smaller alpha), or a larger difference"
        )
    return int(reached[wanted - 1])


def _first(guess: int, difference: float, disagreement: float, alpha: float, power: float) -> int:
    """Return the smallest number of examples at which the exact test has this power, by bisection."""
    low, high = 0, guess
    while _exact_power(high, difference, disagreement, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _exact_power(middle, difference, disagreement, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def visible(
    examples: int,
    *,
    disagreement: float = 0.06,
    alpha: float = 0.05,
    power: float = 0.8,
    test: Test = "gate",
    minimum: int = 500,
) -> float:
    """Return the smallest difference, in percentage points, that these examples show with probability `power`.

    It is computed to a hundredth of `disagreement`; infinite if even a candidate that is right wherever the two
    disagree would not be accepted that often. Raises `ConfigError` as `power` does.

    >>> visible(4000, test="exact"), visible(500, test="exact")
    (1.02, 2.88)
    """
    steps = np.arange(1, 101) * disagreement  # percentage points
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if _power(examples, float(steps[middle]), disagreement, alpha, test, minimum) < power:
            low = middle + 1
        else:
            high = middle
    return round(float(steps[low]), 9) if low < len(steps) else math.inf


def _power(examples: int, points: float, disagreement: float, alpha: float, test: Test, minimum: int) -> float:
    return power(examples, points, disagreement=disagreement, alpha=alpha, test=test, minimum=minimum)


def _accepted_at(examples: int, difference: float, disagreement: float, alpha: float, minimum: int, seed: int) -> Ints:
    """Return the number of examples at which the gate promotes in each simulated stream, int64 (STREAMS,); 0: never.

    A rejection ends a stream, as it ends a validation.
    """
    spec = GateSpec(loss="error", alpha=alpha, minimum=max(1, minimum))
    accepted = np.zeros(STREAMS, np.int64)
    for stream in range(STREAMS):
        random = np.random.default_rng([seed, stream])  # the same rows, however many are read
        arrays = gate.start(spec, guard=False)
        for begin in range(0, examples, STEP):
            gate.update(arrays, spec, *_errors(random, min(STEP, examples - begin), difference, disagreement))
            action = gate.verdict(arrays, spec).action
            if action != "wait":
                accepted[stream] = min(begin + STEP, examples) if action == "promote" else 0
                break
    return accepted


def _errors(random: np.random.Generator, n: int, difference: float, disagreement: float) -> tuple[Floats, Floats]:
    """Return errors, 0 or 1, of a reference and of a candidate that is right more often by `difference`."""
    drawn, border = random.random(n), 0.5 * (disagreement + difference)
    return (drawn < border).astype(np.float64), ((drawn >= border) & (drawn < disagreement)).astype(np.float64)


def _check(points: float, disagreement: float, alpha: float) -> None:
    if not (0.0 < disagreement <= 1.0 and 0.0 <= points <= 100 * disagreement):
        raise ConfigError(
            f"points is {points!r} and disagreement {disagreement!r}; expected a share of answers above 0 and at most "
            "1, and a difference from 0 to 100 times that share"
        )
    if not 0.0 < alpha < 0.5:
        raise ConfigError(f"alpha is {alpha!r}; expected a probability above 0 and below 0.5, such as 0.05")
