"""Reliability of annotators: how often each labels as the truth says, from evidence that the model has not learned.

An annotator of reliability q reports the true preference with probability q (one coin: Dawid and Skene 1979, with one
rate). A label that the reward model predicted with probability p, *before it learned the label*, has likelihood
q p + (1 - q) (1 - p). A gold question has a known answer, which counts as p = 0.98. The log-likelihood of each
annotator is kept on a grid of q, so that the posterior needs no old labels. The
fitted model must not be the judge: it has explained every annotator's labels, and finds all of them reliable.

An annotator is presumed honest, with a tenth left for all other reliabilities: one that flips a label in five, as a
broad prior says, makes a head explain surprising labels as flips where it should learn from them.

The same predictions are a test of the model (`skill`): bets on each label before it came, whose gain is an e-value
against "this model predicts no better than chance".

Naming is a sequential test: the mixture of likelihoods below a bound, divided by the largest likelihood from the bound
on, is an e-process (Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference"). An annotator
whose q is at least the bound is named with probability at most `level`, at any time and however often it is tested.
This presumes calibrated predictions; they are clipped, so that a confident error of the model costs little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.families.preference import first_come
from everlearn.families.preference.agreement import wilson
from everlearn.records import Arrays, Floats, Ints

GRID = np.linspace(0.01, 0.99, 50)  # reliabilities: 0.01, 0.03, ..., 0.99
CLIP = 0.05  # predictions count as at least this, and at most 1 minus this
GOLD = 0.98  # probability of the known answer of a gold question
HONEST = 0.9  # prior probability that an annotator errs no more than close answers explain: of the largest q
PRIOR = (4.0, 1.0)  # Beta distribution of the reliability of the other annotators
USEFUL = 0.65  # an annotator below it may be named random
LEVEL = 0.01  # probability of naming an annotator wrongly, for each annotator and test
HASTY = 1.0  # seconds; quicker judgements are counted

SLOPES = np.linspace(0.0, 1.0, 5)  # of the logits of predictions that are bet on; 0 bets nothing

GOOD, RANDOM, INVERTED = range(3)
NAMES = ("", "random", "inverted")
JUDGED, GOLDS, RIGHT, TIMED, QUICK, REPEATED, SAME_AGAIN = range(7)  # columns of "judgements"
BOTH, SAME = range(2)  # last axis of "agreement"


def start(capacity: int = 64) -> Arrays:
    """Return the arrays of a table of annotators, numbered in order of arrival (see `first_come`), without any.

    >>> {name: array.shape for name, array in start(8).items()}["evidence"]
    (8, 50)
    """
    return {
        **first_come.start(capacity),
        "evidence": np.zeros((capacity, len(GRID))),
        "slopes": np.zeros(len(SLOPES)),
        "judgements": np.zeros((capacity, 7), np.int64),
        "log_seconds": np.zeros(capacity),
        "agreement": np.zeros((capacity, capacity, 2), np.int64),
    }


def update(arrays: Arrays, who: Ints, label: Floats, proba: Floats, seconds: Floats | None = None) -> None:
    """Add judgements, in place. `proba` is P(first preferred), (n,), from before the model learned the `label`, (n,).

    `seconds` from shown to judged, (n,); 0 where unknown. Raises `InputError` for probabilities outside [0, 1].

    >>> table = start(4)
    >>> update(table, np.array([1] * 40), np.ones(40), np.full(40, 0.9))
    >>> float(reliability(table)[1].round(2))
    0.99
    """
    if not ((proba >= 0) & (proba <= 1)).all():
        raise InputError(
            "proba: got a value outside [0, 1]; expected P(first preferred) of the model before it learned."
        )
    right = np.where(label > 0.5, proba, 1 - proba)
    sure = np.clip(right, 1e-6, 1 - 1e-6)
    logit = np.log(sure / (1 - sure))
    for at, one in enumerate(who.tolist()):  # one by one, so that a cut into calls changes nothing
        each = 1 / (1 + np.exp(-SLOPES * logit[at]))  # probability of the label, by slope
        q = float(_mean(arrays["evidence"][one]))
        arrays["slopes"] += np.log(2 * (q * each + (1 - q) * (1 - each)))
        _add(arrays, who[at : at + 1], np.clip(right[at : at + 1], CLIP, 1 - CLIP))
    if seconds is not None:
        timed(arrays, who, seconds)


def timed(arrays: Arrays, who: Ints, seconds: Floats) -> None:
    """Add the seconds from shown to judged, (n,), in place; 0 where unknown."""
    known = seconds > 0
    np.add.at(arrays["judgements"][:, TIMED], who[known], 1)
    np.add.at(arrays["judgements"][:, QUICK], who, known & (seconds < HASTY))
    np.add.at(arrays["log_seconds"], who[known], np.log(seconds[known]))


def skill(arrays: Arrays) -> float:
    """Return the logarithm of the e-value against predictions no better than chance, in nats.

    If labels do not depend on what the model predicts, it ever reaches log(1 / level) with probability at most `level`.

    >>> table = start(4)
    >>> update(table, np.array([1] * 10), np.ones(10), np.full(10, 0.9))
    >>> round(skill(table), 2)
    4.64
    """
    return float(np.logaddexp.reduce(arrays["slopes"]) - np.log(len(SLOPES)))


def gold(arrays: Arrays, who: Ints, right: NDArray[np.bool_]) -> None:
    """Add answers to gold questions, in place: `right` where an annotator gave the known answer, (n,).

    >>> table = start(4)
    >>> gold(table, np.array([1] * 10), np.zeros(10, np.bool_))
    >>> NAMES[named(table)[1]]
    'inverted'
    """
    _add(arrays, who, np.where(right, GOLD, 1 - GOLD))
    np.add.at(arrays["judgements"][:, GOLDS], who, 1)
    np.add.at(arrays["judgements"][:, RIGHT], who, right)


def again(arrays: Arrays, who: Ints, same: NDArray[np.bool_]) -> None:
    """Add judgements of pairs that an annotator had judged before, in place: `same` where both agree, (n,).

    An annotator of reliability q agrees with itself with probability q^2 + (1 - q)^2, whatever the truth is: this tells
    random annotators from others, and cannot tell good ones from inverted ones.

    >>> table = start(4)
    >>> again(table, np.array([1] * 40), np.arange(40) % 2 == 0)
    >>> bool(reliability(table)[1] < 0.7), float(consistency(table)[1])
    (True, 0.5)
    """
    agreeing = np.where(same[:, None], GRID**2 + (1 - GRID) ** 2, 2 * GRID * (1 - GRID))
    np.add.at(arrays["evidence"], who, np.log(agreeing))
    np.add.at(arrays["judgements"][:, JUDGED], who, 1)
    np.add.at(arrays["judgements"][:, REPEATED], who, 1)
    np.add.at(arrays["judgements"][:, SAME_AGAIN], who, same)


def consistency(arrays: Arrays) -> Floats:
    """Return the share of repeated pairs that each annotator judged as before, (A,); nan without any.

    >>> consistency(start(2)).tolist()
    [nan, nan]
    """
    counts = arrays["judgements"]
    return np.asarray(counts[:, SAME_AGAIN] / np.where(counts[:, REPEATED] > 0, counts[:, REPEATED], np.nan))


def _add(arrays: Arrays, who: Ints, right: Floats) -> None:
    likelihood = np.log(GRID * right[:, None] + (1 - GRID) * (1 - right[:, None]))
    np.add.at(arrays["evidence"], who, likelihood)
    np.add.at(arrays["judgements"][:, JUDGED], who, 1)


def reliability(arrays: Arrays) -> Floats:
    """Return the posterior mean of each annotator's reliability, (A,): the weight of its labels in `reward.fit`.

    An annotator is honest with the probability `HONEST`, so that a doubt about labels needs evidence, but little of it.

    >>> reliability(start(2)).round(2).tolist()
    [0.97, 0.97]
    """
    return np.asarray(_mean(arrays["evidence"]))


def _mean(evidence: Floats) -> Floats:
    """Return the posterior mean of reliabilities, (...,), by evidence on the grid, (..., 50)."""
    log = evidence + _LOG_PRIOR
    mass = np.exp(log - log.max(-1, keepdims=True))
    return np.asarray(mass @ GRID / mass.sum(-1))


def _log_prior() -> Floats:
    a, b = PRIOR
    prior = GRID ** (a - 1) * (1 - GRID) ** (b - 1)
    prior *= (1 - HONEST) / prior.sum()
    prior[-1] += HONEST
    return np.asarray(np.log(prior))


_LOG_PRIOR = _log_prior()


def evidence_below(arrays: Arrays, bound: float) -> Floats:
    """Return the e-value, (A,), against a reliability of at least `bound`.

    >>> evidence_below(start(2), 0.5).round(6).tolist()
    [1.0, 1.0]
    """
    log, below = arrays["evidence"], bound > GRID
    largest = log[:, ~below].max(1)
    return np.asarray(np.exp(np.minimum(log[:, below] - largest[:, None], 500.0)).mean(1))


def named(arrays: Arrays, level: float = LEVEL) -> Ints:
    """Return GOOD, RANDOM or INVERTED for each annotator, int64 (A,).

    An annotator with q >= 0.5 is named inverted, and one with q >= `USEFUL` named random, with probability at most
    `level`, at any time.

    >>> named(start(2)).tolist()
    [0, 0]
    """
    weak, turned = evidence_below(arrays, USEFUL) >= 1 / level, evidence_below(arrays, 0.5) >= 1 / level
    return np.where(turned, INVERTED, np.where(weak, RANDOM, GOOD)).astype(np.int64)


def agreed(arrays: Arrays, first: Ints, second: Ints, same: NDArray[np.bool_]) -> None:
    """Add pairs that two annotators judged, in place: `same` where they preferred the same answer, (n,).

    >>> table = start(4)
    >>> agreed(table, np.array([1, 1]), np.array([2, 2]), np.array([True, False]))
    >>> table["agreement"][2, 1].tolist()
    [2, 1]
    """
    for one, other in ((first, second), (second, first)):
        np.add.at(arrays["agreement"][..., BOTH], (one, other), 1)
        np.add.at(arrays["agreement"][..., SAME], (one, other), same)


def agreement(arrays: Arrays, one: Ints, others: Ints) -> tuple[float, float, float]:
    """Return the share of pairs on which annotators of two sets agreed, with its interval of 95 % (Wilson 1927).

    `one` and `others` are disjoint sets of numbers, for instance a judge and all people. (nan, 0, 1) without pairs.

    >>> table = start(4)
    >>> agreed(table, np.full(50, 1), np.full(50, 2), np.arange(50) < 40)
    >>> tuple(round(x, 2) for x in agreement(table, np.array([1]), np.array([2, 3])))
    (0.8, 0.67, 0.89)
    """
    both, same = (int(arrays["agreement"][np.ix_(one, others)][..., column].sum()) for column in (BOTH, SAME))
    return (same / both if both else float("nan"), *wilson(same, both))


def seconds(arrays: Arrays) -> tuple[Floats, Floats]:
    """Return the geometric mean of each annotator's seconds, and the share of hasty judgements, (A,); nan if untimed.

    >>> table = start(3)
    >>> update(table, np.array([1, 1]), np.ones(2), np.full(2, 0.5), np.array([0.5, 8.0]))
    >>> [float(x[1].round(3)) for x in seconds(table)]
    [2.0, 0.5]
    """
    counts = arrays["judgements"]
    timed = np.where(counts[:, TIMED] > 0, counts[:, TIMED], np.nan)
    return np.exp(arrays["log_seconds"] / timed), counts[:, QUICK] / timed
