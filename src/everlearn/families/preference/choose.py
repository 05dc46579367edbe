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
from everlearn.records import Arrays, Floats, Ints

RANDOM_SHARE = 0.125
SELECTORS = ("random", "thompson", "uncertain", "infomax", "extremes")
EXTREMES = SELECTORS[-1]
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


def probabilities(draws: Floats, selector: str, mean: Floats | None = None) -> Floats:
    """Return the probability of each ordered pair of candidates under a selector, (M, M).

    "random": uniform. "thompson": the best candidate of one draw against the best other one of a second draw (double
    Thompson sampling, Wu and Liu 2016). "uncertain": the pair with the largest information of a Gaussian posterior,
    p (1 - p) times the variance of the difference (D-optimal design). "infomax": the pair of most `information`.
    "extremes": the best against the worst by the `mean` reward, (M,) (default: that of the draws), which is the pair
    that the reward model is surest of, so that its label tests the model most. The last three choose one pair, in a
    random order. Raises `ConfigError` for another selector, and for less than two
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
    if selector == EXTREMES:
        order = np.argsort(draws.mean(1) if mean is None else mean, kind="stable")
        return _one_pair(m, int(order[-1]), int(order[0]))
    if selector == "infomax":
        worth = information(draws)
    elif selector == "uncertain":
        difference = draws[:, None] - draws[None]
        worth = difference.var(2) / np.square(np.cosh(0.5 * difference.mean(2)))
    else:
        raise ConfigError(f"selector: got {selector!r}; expected one of {', '.join(SELECTORS)}.")
    one, other = np.unravel_index(int(np.argmax(np.triu(worth, 1) + np.tri(m) * -1.0)), (m, m))
    return _one_pair(m, int(one), int(other))


def _one_pair(m: int, one: int, other: int) -> Floats:
    found = np.zeros((m, m))
    found[one, other] = found[other, one] = 0.5
    return found


def _uniform(m: int, own: int) -> Floats:
    """Return the probabilities of ordered pairs of the first `own` of m candidates (0: all), (m, m)."""
    own = own or m
    if not 2 <= own <= m:
        raise ConfigError(f"candidates: got {own} of the policy among {m}; expected at least 2 for the random arm.")
    found = np.zeros((m, m))
    found[:own, :own] = (1.0 - np.eye(own)) / (own * (own - 1))
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


def pair(
    draws: Floats,
    selector: str,
    key: tuple[int, ...],
    random_share: float = RANDOM_SHARE,
    own: int = 0,
    alike: Ints | None = None,
    mean: Floats | None = None,
) -> Question:
    """Choose two of one prompt's candidates, with draws (M, E); `prompt` is 0, and its probability 1.

    `key` seeds the choice, for instance (seed, number of the question). With probability `random_share`, and always for
    the selector "random", the pair is uniform among the first `own` candidates (0: all), which are the policy's: on
    other answers the random arm would not show how well the reward model knows the policy. `alike`, (M,), has equal
    numbers for equal answers: two equal answers are chosen only where all are, since their label says nothing. A
    selector counts equal answers once. `mean` is that of `probabilities`.

    >>> pair(np.zeros((2, 4)), "random", (0, 1)).propensity
    0.5
    >>> one = pair(np.zeros((4, 4)), "random", (0, 1), alike=np.array([7, 7, 7, 9]))
    >>> sorted([one.first == 3, one.second == 3]), round(one.propensity, 3)  # one of six ordered pairs that differ
    ([False, True], 0.167)
    """
    random = np.random.default_rng(key)
    active = selector != "random" and random.random() >= random_share
    numbers = np.arange(len(draws)) if alike is None else np.asarray(alike)
    kept = np.sort(np.unique(numbers, return_index=True)[1])
    if len(kept) < 2:
        kept = numbers = np.arange(len(draws))
    if active:
        each = np.zeros((len(draws), len(draws)))
        each[np.ix_(kept, kept)] = probabilities(draws[kept], selector, None if mean is None else mean[kept])
    else:
        different = numbers[:, None] != numbers
        each = _uniform(len(draws), own) * different
        each = each if each.any() else _uniform(len(draws), 0) * different
        each /= each.sum()
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


# ---- does it pay? --------------------------------------------------------------------------------------------------

RECENT = 64  # questions of the random arm whose information counts
LEAST = 0.002  # nats; labels that teach less on average are not worth asking for
FEWEST = 32  # labels of the random arm before a selector may be switched off
MEMORY = 512.0  # labels of the random arm that the comparison of arms remembers
NONE = -1.0  # in "information", of a question that was not asked yet: a number, since versions are merged

SEEN, WEIGHT, GAIN, SQUARES = range(4)  # entries of "worth": labels seen; discounted number, gain and squared gain


def start() -> Arrays:
    """Return the arrays that follow what questions teach.

    >>> {name: array.shape for name, array in start().items()}
    {'information': (64,), 'worth': (4,)}
    """
    return {"information": np.full(RECENT, NONE), "worth": np.zeros(4)}


def known(arrays: Arrays) -> Floats:
    """Return the information that the newest questions of the random arm promised, in nats, at most `RECENT`.

    >>> known(start()).tolist()
    []
    """
    value = arrays["information"]
    return np.asarray(value[value >= 0.0])


def saw(arrays: Arrays, value: float, worth: Floats) -> None:
    """Add a label of the random arm, in place: the question's `value`, and the arms' worth, (2,).

    `worth` is a row of `reward.worth_of_arms` from before the label was learned: random, chosen; nan for an arm without
    labels.

    >>> arrays = start()
    >>> saw(arrays, 0.1, np.array([0.01, np.nan]))
    >>> arrays["worth"].tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    state = arrays["worth"]
    arrays["information"][int(state[SEEN]) % RECENT] = value
    state[SEEN] += 1
    if np.isfinite(worth).all():
        kept = 1.0 - 1.0 / MEMORY
        state[WEIGHT] = kept * state[WEIGHT] + 1.0
        gain = float(worth[1] - worth[0])
        state[GAIN] = kept * state[GAIN] + gain
        state[SQUARES] = kept * state[SQUARES] + gain * gain


def pays(arrays: Arrays) -> bool:
    """Return False if chosen labels were worth less than random ones, on fresh pairs of the random arm.

    Less by 1.5 standard errors, since the comparison is noisy. The selector should then be "random". True until
    `FEWEST` such pairs are known.

    >>> pays(start())
    True
    """
    _, weight, gain, squares = arrays["worth"]
    return bool(weight < FEWEST or gain >= -1.5 * np.sqrt(squares))


def teaches(arrays: Arrays, least: float = LEAST) -> bool:
    """Return False if the newest questions of the random arm promised less than `least` nats on average.

    Then no more labels are needed, until a group's preferences change. True until `RECENT` questions are known.

    >>> teaches(start())
    True
    """
    value = known(arrays)
    return bool(len(value) < len(arrays["information"]) or value.mean() >= least)


def again(arrays: Arrays) -> None:
    """Forget in place how little labels taught, so that questions are asked again; for an alarm of `groups`.

    >>> again(start())
    """
    arrays["information"][:] = NONE


# ---- sources and their prices --------------------------------------------------------------------------------------

HOUR = 3600.0


def accounts(sources: int) -> Arrays:
    """Return the arrays that follow what the labels of `sources` sources cost, in all and in the present hour.

    >>> {name: array.shape for name, array in accounts(3).items()}
    {'spent': (3,), 'hour': (3,), 'hours': (3,), 'labels': (3,), 'gained': (3,)}
    """
    return {
        "spent": np.zeros(sources),
        "hour": np.zeros(sources, np.int64),
        "hours": np.zeros(sources),
        "labels": np.zeros(sources, np.int64),
        "gained": np.zeros(sources),
    }


def spend(arrays: Arrays, source: int, price: float, seconds: float) -> None:
    """Add a label of a source, in place. `seconds` is the time of the event, since any fixed moment.

    >>> arrays = accounts(2)
    >>> spend(arrays, 1, 0.5, 10.0)
    >>> arrays["spent"].tolist()
    [0.0, 0.5]
    """
    hour = int(seconds // HOUR)
    if arrays["hour"][source] != hour:
        arrays["hour"][source], arrays["hours"][source] = hour, 0.0
    arrays["hours"][source] += price
    arrays["spent"][source] += price
    arrays["labels"][source] += 1


def affordable(arrays: Arrays, prices: Floats, budgets: Floats, seconds: float) -> Ints:
    """Return how many labels each source can still give in this hour, int64 (S,).

    `prices` per label and `budgets` per hour are in one unit, (S,); a budget may be infinite, a price 0.

    >>> affordable(accounts(2), np.array([0.5, 0.0]), np.array([2.2, 1.0]), 0.0).tolist()
    [4, 9223372036854775807]
    """
    spent = np.where(arrays["hour"] == int(seconds // HOUR), arrays["hours"], 0.0)
    most = np.iinfo(np.int64).max
    left = np.maximum(budgets - spent, 0.0)
    each = np.divide(left, prices, out=np.full(len(left), np.inf), where=prices > 0)
    return np.array([most if count > 1e18 else int(count + 1e-9) for count in each], np.int64)


def route(values: Floats, prices: Floats, left: Ints) -> Ints:
    """Return the source that should answer each question, int64 (n,), -1 where none can.

    The questions of the most value, which are the doubtful ones, go to the dearest source, as many as it has `left`,
    (S,), the next ones to the next source. Of sources of one price the first comes first.

    >>> route(np.array([0.1, 0.6, 0.3]), np.array([0.01, 1.0]), np.array([9, 1])).tolist()
    [0, 1, 0]
    """
    found, order = np.full(len(values), -1, np.int64), np.argsort(-values, kind="stable")
    begin = 0
    for source in np.argsort(-prices, kind="stable").tolist():
        end = min(len(values), begin + int(left[source]))
        found[order[begin:end]] = source
        begin = end
    return found


def credit(arrays: Arrays, labels: Ints, gain: float) -> None:
    """Divide a gain in win-rate among sources, in place, by the labels, (S,), that each gave since the last measure.

    >>> arrays = accounts(2)
    >>> credit(arrays, np.array([3, 1]), 0.04)
    >>> arrays["gained"].round(3).tolist()
    [0.03, 0.01]
    """
    if total := int(labels.sum()):
        arrays["gained"] += gain * labels / total


def win_per_unit(arrays: Arrays) -> Floats:
    """Return the gain in win-rate for each unit spent, (S,); nan where nothing was spent.

    >>> win_per_unit(accounts(1)).tolist()
    [nan]
    """
    gained, spent = arrays["gained"], arrays["spent"]
    return np.asarray(np.divide(gained, spent, out=np.full(len(spent), np.nan), where=spent > 0))
