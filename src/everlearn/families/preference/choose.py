"""The choice of questions: which prompts, and which two of a prompt's candidate answers, somebody should compare.

Candidates come with posterior draws of their reward, (M, E). Pairs are uniform by default. A selector may take their
place for a part of the questions; a random arm always stays on, so that the reward model is scored, and selection is
compared, on pairs that nothing selected. All functions are pure: random numbers depend on the seed and the position of
the question.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from everlearn.errors import ConfigError
from everlearn.records import Floats

RANDOM_SHARE = 0.125
SELECTORS = ("random", "thompson", "uncertain", "infomax")
RANDOM, ACTIVE = 0, 1  # arms of a question


class Question(NamedTuple):
    """A pair of one prompt's candidates to be compared.

    `arm` is RANDOM or ACTIVE; `propensity` that of this arm, prompt and ordered pair; `value` the information
    that the label is expected to give about the reward, in nats.
    """

    prompt: int
    first: int
    second: int
    arm: int
    propensity: float
    value: float


def information(draws: Floats, reliability: float = 1.0) -> Floats:
    """Return the information of a label for each pair of candidates, (M, M), in nats; 0 on the diagonal.

    The mutual information of the label and the posterior (Houlsby et al. 2011, "Bayesian active learning for
    classification and preference learning"): the entropy of the mean probability minus the mean entropy. `draws` is
    (M, E). Of an annotator of `reliability` q the label is preferred with probability q p + (1 - q) (1 - p).

    >>> information(np.array([[2.0, -2.0], [0.0, 0.0]])).round(3)[0, 1]
    np.float64(0.328)
    """
    difference = draws[:, None] - draws[None]
    p = 0.5 * (1.0 + (2.0 * reliability - 1.0) * np.tanh(0.5 * difference))
    return np.asarray(np.maximum(_entropy(p.mean(2)) - _entropy(p).mean(2), 0.0))


def _entropy(p: Floats) -> Floats:
    p = np.clip(p, 1e-12, 1.0 - 1e-12)
    return np.asarray(-p * np.log(p) - (1.0 - p) * np.log1p(-p))


def probabilities(draws: Floats, selector: str) -> Floats:
    """Return the probability of each ordered pair of candidates under a selector, (M, M).

    "random": uniform. "thompson": the best candidate of one draw against the best other one of a second draw (double
    Thompson sampling, Wu and Liu 2016). "uncertain": the pair with the largest information of a Gaussian posterior,
    p (1 - p) times the variance of the difference (D-optimal design). "infomax": the pair of most `information`. The
    last two choose one pair, in a random order. Raises `ConfigError` for another selector, and for less than two
    candidates.

    >>> probabilities(np.array([[1.0, 1.0], [0.0, 0.5], [0.5, 0.0]]), "thompson").tolist()
    [[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    m = len(draws)
    if m < 2:
        raise ConfigError(f"candidates: got {m}; expected at least 2, or there is no pair to choose.")
    if selector == "random":
        return (1.0 - np.eye(m)) / (m * (m - 1))
    if selector == "thompson":
        return _thompson(draws)
    if selector == "infomax":
        worth = information(draws)
    elif selector == "uncertain":
        difference = draws[:, None] - draws[None]
        worth = difference.var(2) / np.square(np.cosh(0.5 * difference.mean(2)))
    else:
        raise ConfigError(f"selector: got {selector!r}; expected one of {', '.join(SELECTORS)}.")
    one, other = np.unravel_index(int(np.argmax(np.triu(worth, 1) + np.tri(m) * -1.0)), (m, m))
    found = np.zeros((m, m))
    found[one, other] = found[other, one] = 0.5
    return found


def _thompson(draws: Floats) -> Floats:
    m, e = draws.shape
    first = np.bincount(draws.argmax(0), minlength=m) / e
    found = np.zeros((m, m))
    for one in np.flatnonzero(first):
        rest = draws.copy()
        rest[one] = -np.inf
        found[one] = first[one] * np.bincount(rest.argmax(0), minlength=m) / e
    return found


def pair(draws: Floats, selector: str, key: tuple[int, ...], random_share: float = RANDOM_SHARE) -> Question:
    """Choose two of one prompt's candidates, with draws (M, E); `prompt` is 0, and its probability 1.

    `key` seeds the choice, for instance (seed, number of the question). With probability `random_share`, and always for
    the selector "random", the pair is uniform.

    >>> pair(np.zeros((2, 4)), "random", (0, 1)).propensity
    0.5
    """
    random = np.random.default_rng(key)
    active = selector != "random" and random.random() >= random_share
    each = probabilities(draws, selector if active else "random")
    at = int(random.choice(each.size, p=each.ravel() / each.sum()))
    one, other = divmod(at, len(draws))
    share = 1.0 if selector == "random" else (1.0 - random_share if active else random_share)
    worth = float(information(draws[[one, other]])[0, 1])
    return Question(0, one, other, ACTIVE if active else RANDOM, share * float(each[one, other]), worth)


def questions(
    draws: Floats, selector: str, number: int, key: tuple[int, ...], random_share: float = RANDOM_SHARE
) -> list[Question]:
    """Choose `number` questions among prompts with candidates, draws (P, M, E): the prompts as well as the pairs.

    In the random arm prompts are uniform. In the active arm a prompt has a probability proportional to the information
    of its best pair, so that prompts that teach more are met more often and none is never met. A prompt may be chosen
    twice, with independent pairs.

    >>> [one.prompt for one in questions(np.zeros((2, 2, 4)), "random", 2, (0,))]
    [1, 1]
    """
    worth = np.array([information(one).max() for one in draws]) + 1e-9
    found = []
    for at in range(number):
        one = np.random.default_rng((*key, at))
        active = selector != "random" and one.random() >= random_share
        each = worth / worth.sum() if active else np.full(len(draws), 1.0 / len(draws))
        prompt = int(one.choice(len(draws), p=each))
        inner = pair(draws[prompt], selector if active else "random", (*key, at, 1), 0.0)
        share = 1.0 if selector == "random" else (1.0 - random_share if active else random_share)
        found.append(
            inner._replace(
                prompt=prompt,
                arm=ACTIVE if active else RANDOM,
                propensity=share * float(each[prompt]) * inner.propensity,
            )
        )
    return found
