"""Additive parts of an answer, and how they pass through sums, softmaxes and logarithms without a rest.

An `AnswerParts` holds a base and what each name adds to it, which add up to the answer. A step that is not linear
passes terms on by the slope of its secant between base and answer (the logarithmic mean Divisia index; Ang 2005, "The
LMDI approach to decomposition analysis"; Sato 1976 and Vartia 1976 for shares). For a logarithm this slope is one over
the logarithmic mean of both ends. So sums stay exact, and a name that adds nothing before adds nothing after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from everlearn.records import Floats

Terms = dict[str, Floats]

INTERCEPT = "intercept"


class Names(NamedTuple):
    """The names of one encoded row: of its dense columns, of its hashed entries, and of values that it does not have.

    A tree may ask for a hashed entry that the row lacks; what that adds has the name `absent`.
    """

    dense: Sequence[str]
    hashed: Sequence[str]
    absent: str

    def all(self) -> list[str]:
        """Return each name once, in order."""
        return list(dict.fromkeys([*self.dense, *self.hashed, self.absent]))


class AnswerParts(NamedTuple):
    """A base, float64 (outputs,), and what each name adds to it; the answer is their sum."""

    base: Floats
    terms: Terms
    answer: Floats


def logarithmic_mean(logs: Floats, others: Floats) -> Floats:
    """Return (a - b) / (log a - log b) of numbers given by their logarithms; a where both are equal.

    >>> logarithmic_mean(np.log([2.0, 3.0]), np.log([1.0, 3.0])).round(6).tolist()
    [1.442695, 3.0]
    """
    highest = np.maximum(logs, others)
    away = np.minimum(logs, others) - highest
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(away < -1e-12, np.expm1(away) / away, 1.0)
    found: Floats = np.exp(highest) * slope
    return found


def added(parts: Iterable[tuple[float | Floats, AnswerParts]]) -> AnswerParts:
    """Return the sum of some parts, each multiplied by a number, or by one for each output."""
    base: Floats | float = 0.0
    answer: Floats | float = 0.0
    terms: Terms = {}
    for factor, part in parts:
        base, answer = base + factor * part.base, answer + factor * part.answer
        for name, value in part.terms.items():
            terms[name] = terms[name] + factor * value if name in terms else factor * value
    return AnswerParts(np.asarray(base), terms, np.asarray(answer))


def logarithm(part: AnswerParts) -> AnswerParts:
    """Return the parts of the logarithms of an answer above 0."""
    base, answer = np.log(part.base), np.log(part.answer)
    mean = logarithmic_mean(base, answer)
    return AnswerParts(base, {name: value / mean for name, value in part.terms.items()}, answer)


def floored(part: AnswerParts, floor: float) -> AnswerParts:
    """Return the parts of an answer of which the share `floor` is spread evenly over the classes."""
    classes = len(part.base)
    terms = {name: (1.0 - floor) * value for name, value in part.terms.items()}
    return AnswerParts(
        (1.0 - floor) * part.base + floor / classes, terms, (1.0 - floor) * part.answer + floor / classes
    )


def softmax(part: AnswerParts) -> AnswerParts:
    """Return the parts of the softmax of scores.

    The logarithm of a share changes by its own score, less the mean of all scores, weighted by the logarithmic means of
    both ends of the shares.

    >>> scores = AnswerParts(np.zeros(2), {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 1.0])}, np.array([0.0, 2.0]))
    >>> found = softmax(scores)
    >>> [float(round(number, 6)) for number in (found.base[1], found.terms["a"][1], found.answer[1])]
    [0.5, 0.190399, 0.880797]
    """
    base, answer = _log_softmax(part.base), _log_softmax(part.answer)
    mean = logarithmic_mean(base, answer)
    weights = mean / mean.sum()
    terms = {name: mean * (value - weights @ value) for name, value in part.terms.items()}
    return AnswerParts(np.exp(base), terms, np.exp(answer))


def scores(part: AnswerParts, task: str) -> list[dict[str, float]]:
    """Return the contributions to each score, with the intercept: the logit, log-probabilities, or the number."""
    if task == "regression":
        return [_named(part, np.ones(1))]
    logs = logarithm(part)
    if task == "binary":
        return [_named(logs, np.array([-1.0, 1.0]))]
    return [_named(logs, one) for one in np.eye(len(part.base))]


def named(values: Mapping[str, Floats]) -> Terms:
    """Return the terms that are not 0 everywhere."""
    return {name: value for name, value in values.items() if np.any(value)}


def _log_softmax(values: Floats) -> Floats:
    away = values - values.max()
    found: Floats = away - np.log(np.exp(away).sum())
    return found


def _named(part: AnswerParts, factors: Floats) -> dict[str, float]:
    found = {name: float(factors @ value) for name, value in part.terms.items()}
    return found | {INTERCEPT: float(factors @ part.base)}
