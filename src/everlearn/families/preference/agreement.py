"""How far a judge agrees with people on the pairs that both judged, and how it leans to a place or to length.

Verdicts are int64 (n,): 0 where the first answer was preferred, 1 for the second, -1 for a tie. Skips are left out
before. The intervals take pairs as independent: give one verdict of a person for each pair. The gate's evidence
(`everlearn.gate`) is for paired losses of a drifting stream and needs at least twelve blocks of them; for a share of
independent pairs the intervals here are narrower, and exact or nearly so from the first pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.families.preference.judged_pairs import JudgeVerdict
from everlearn.records import Ints

_VERDICTS = np.array([0, 1, -1])


class Share(NamedTuple):
    """The share of `pairs` and its interval at level 1 - alpha; `share` is NaN without pairs."""

    pairs: int
    share: float
    low: float
    high: float


class Agreement(NamedTuple):
    """The agreement of a judge and people.

    `all` counts a tie as a third verdict, and `decided` only the pairs on which neither found a tie. `low` and `high`
    are a confidence sequence for the share of `all`: valid at every moment, however often it is looked at. `kappa` is
    Cohen's, of three verdicts; NaN where chance alone would agree always. `chance` is the
    agreement that verdicts of the same frequencies reach by chance.
    """

    all: Share
    decided: Share
    low: float
    high: float
    kappa: float
    chance: float


class PositionBias(NamedTuple):
    """The pairs whose verdict turned with the order, and among them those that leaned to the answer shown as A."""

    turned: Share
    toward_a: Share


class LengthBias(NamedTuple):
    """The pairs on which the judge preferred the longer answer.

    `against_people` is the same among the pairs that the judge and a person decided differently. There, a judge that
    loves length no more than people do has one half.
    """

    longer: Share
    against_people: Share


def agreement(judge: Ints, people: Ints, alpha: float = 0.05) -> Agreement:
    """Compare the verdicts of a judge and of people on the same n pairs, in the order in which they were judged.

    The interval of each share is Wilson's (1927, JASA 22, p. 209), for a number of pairs fixed in advance; `low` and
    `high` are the confidence sequence of `anytime`. Kappa: Cohen 1960, Educational and Psychological Measurement 20,
    eq. 1. Raises `InputError` for other verdicts than 0, 1 and -1, and for arrays of different lengths.

    >>> found = agreement(np.array([0, 1, 1, 0, -1, 1]), np.array([0, 1, 0, 0, -1, -1]))
    >>> found.all.pairs, round(found.all.share, 3), found.decided.pairs, found.decided.share, round(found.kappa, 3)
    (6, 0.667, 4, 0.75, 0.52)
    """
    judge, people = _verdicts(judge, "judge"), _verdicts(people, "people")
    if len(judge) != len(people):
        raise InputError(f"people: got {len(people)} verdicts for {len(judge)} of the judge; expected one for each")
    same = judge == people
    decided = (judge >= 0) & (people >= 0)
    n = len(judge)
    shares = [[np.mean(side == verdict) for verdict in _VERDICTS] for side in (judge, people)] if n else [[], []]
    chance = float(np.dot(shares[0], shares[1])) if n else math.nan
    kappa = (float(same.mean()) - chance) / (1.0 - chance) if n and chance < 1.0 else math.nan
    low, high = anytime(int(same.sum()), n, alpha)
    return Agreement(_share(same, alpha), _share(same[decided], alpha), low, high, kappa, chance)


def plain_agreement(judge: Ints, people: Ints) -> dict[str, float | int | None]:
    """Return how far a judge and people agree, as plain values; `low` and `high` are the confidence sequence.

    `kappa` is None where chance alone would agree always. Raises `InputError` as `agreement` does.

    >>> plain_agreement(np.array([0, 0]), np.array([0, 0]))["kappa"] is None
    True
    """
    found = agreement(judge, people)
    kappa = found.kappa if math.isfinite(found.kappa) else None
    return {"pairs": found.all.pairs, "share": found.all.share, "low": found.low, "high": found.high, "kappa": kappa}


def position_bias(verdicts: Iterable[JudgeVerdict], alpha: float = 0.05) -> PositionBias:
    """Measure how often the verdicts of a judge turned with the order; skips are left out.

    >>> from everlearn.families.preference.judge import function_judge, judged_all
    >>> from everlearn.families.preference.judged_pairs import AnswerPair
    >>> pairs = [AnswerPair(str(n), "Why?", "a" * n, "b" * 5) for n in range(1, 11)]
    >>> partial = function_judge("partial", lambda prompt, a, b: "A" if len(a) + 3 > len(b) else "B")
    >>> found = position_bias(judged_all(partial, pairs))
    >>> found.turned.share, found.toward_a.share
    (0.5, 1.0)
    """
    orders = [found.orders for found in verdicts if found.verdict != "skip"]
    turned = np.array([one != other for one, other in orders], bool)
    toward = np.array([one == "first" or other == "second" for one, other in orders], bool)
    return PositionBias(_share(turned, alpha), _share(toward[turned], alpha))


def length_bias(judge: Ints, lengths: Ints, people: Ints | None = None, alpha: float = 0.05) -> LengthBias:
    """Measure how often a judge prefers the longer of two answers; pairs of equal length and ties are left out.

    `lengths` is int64 (n, 2), in characters or tokens. Without `people` (n,), the second share has no pairs. Raises
    `InputError` as `agreement` does.

    >>> lengths = np.array([[1, 9], [9, 1], [1, 9], [5, 5]])
    >>> found = length_bias(np.array([1, 0, 1, 0]), lengths, people=np.array([0, 0, 0, 1]))
    >>> found.longer.share, found.longer.pairs, found.against_people.share, found.against_people.pairs
    (1.0, 3, 1.0, 2)
    """
    judge = _verdicts(judge, "judge")
    lengths = np.asarray(lengths, np.int64)
    if lengths.shape != (len(judge), 2):
        raise InputError(f"lengths: got shape {lengths.shape}; expected ({len(judge)}, 2), two for each pair")
    known = (judge >= 0) & (lengths[:, 0] != lengths[:, 1])
    longer = judge == (lengths[:, 1] > lengths[:, 0])
    against = np.zeros(len(judge), bool)
    if people is not None:
        people = _verdicts(people, "people")
        if len(people) != len(judge):
            raise InputError(f"people: got {len(people)} verdicts for {len(judge)} of the judge; expected one for each")
        against = known & (people >= 0) & (people != judge)
    return LengthBias(_share(longer[known], alpha), _share(longer[against], alpha))


def wilson(hits: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return Wilson's interval of a share, for n trials fixed in advance; (0, 1) without trials.

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    _check(hits, n, alpha)
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(1.0 - alpha / 2.0)
    share, extra = hits / n, z * z / n
    middle = (share + extra / 2.0) / (1.0 + extra)
    half = z / (1.0 + extra) * math.sqrt(share * (1.0 - share) / n + extra / (4.0 * n))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def anytime(hits: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the confidence sequence of a share after n trials: all p that a bet has not refuted.

    The bet is the uniform mixture of likelihood ratios against p, B(hits + 1, n - hits + 1) / (p^hits (1 - p)^(n -
    hits)), a martingale of mean 1 if p is the truth. By Ville's inequality it ever reaches 1 / alpha with probability
    at most alpha (Robbins 1970, Annals of Mathematical Statistics 41, p. 1397; Howard et al. 2021, arXiv 1810.08240).

    >>> [round(bound, 3) for bound in anytime(8, 10)]
    [0.353, 0.99]
    """
    _check(hits, n, alpha)
    misses = n - hits
    most = math.lgamma(hits + 1) + math.lgamma(misses + 1) - math.lgamma(n + 2) + math.log(alpha)

    def refuted(p: float) -> bool:
        if p <= 0.0 or p >= 1.0:
            return (hits if p <= 0.0 else misses) > 0
        return most - hits * math.log(p) - misses * math.log1p(-p) >= 0.0

    share = hits / n if n else 0.5
    return _edge(refuted, 0.0, share), _edge(refuted, 1.0, share)


def _edge(refuted: Callable[[float], bool], outside: float, inside: float) -> float:
    """Return the border between values that are refuted and a value that is not, by bisection."""
    if not refuted(outside):
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2.0
        outside, inside = (middle, inside) if refuted(middle) else (outside, middle)
    return outside


def _share(hits: NDArray[np.bool_], alpha: float) -> Share:
    n = len(hits)
    low, high = wilson(int(hits.sum()), n, alpha)
    return Share(n, float(hits.mean()) if n else math.nan, low, high)


def _verdicts(given: Ints, name: str) -> Ints:
    verdicts = np.asarray(given)
    if verdicts.ndim != 1 or (len(verdicts) and not np.isin(verdicts, _VERDICTS).all()):
        raise InputError(f"{name}: got {given!r}; expected 0, 1 or -1 (a tie) for each pair. Leave skips out")
    return verdicts.astype(np.int64)


def _check(hits: int, n: int, alpha: float) -> None:
    if not 0 <= hits <= n or not 0.0 < alpha < 1.0:
        raise InputError(f"got {hits} of {n} at alpha {alpha}; expected 0 <= hits <= n and 0 < alpha < 1")
