"""The reward model: a Bayesian Bradley-Terry head on given features of answers.

The logit that answer A is preferred over answer B is

    f = (x_A - x_B) . (u + v_g) + t . c_k        u ~ N(0, shared * variance), v_g ~ N(0, (1 - shared) * variance)

where g is the group of the prompt, k the kind of source that judged, and t the differences in length, side and format
with coefficients c_k ~ N(0, 9). Kind 0 is trusted and has no such term: only u + v_g teaches a policy. An annotator of
reliability q gives the label that the logit says with probability q (one coin), so that the likelihood of a label is
q s(f) + (1 - q) s(-f) with the logistic function s, or with exchanged roles for the other label.

The newest labels stand in a window and are fitted exactly, with posterior draws (`laplace`). Between two fits each
label moves the weights by coordinate steps on the dual variables, which have the same fixed point (Shalev-Shwartz and
Zhang 2013). Labels that leave the window go into the prior once, as a Gaussian with diagonal precision and the mean
that leaves the posterior mode where it was (compare Li et al. 2025, arXiv 2502.07193, whose local norm plays the part
of this precision).

State is a dict of arrays of fixed shape and dtype. Names that begin with "learn/" are not read to score answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from everlearn.errors import InputError
from everlearn.families.preference.laplace import COUNT, FITTED, TOTAL, absorb, fit, keep, prior_draws, refine
from everlearn.records import Arrays, Floats, Ints, Singles

TERMS = 3  # bias terms of a kind: difference in length, side shown, difference in format
BIAS_VARIANCE = 9.0
VARIANCE, SHARED, DRAWS, WINDOW = 4.0, 0.25, 8, 2048
CHUNK = 64  # labels that leave a full window together
PERIOD = 64  # a fit is due when this fraction of the window's labels is new
SLOWEST = 32  # labels between two fits at most
NO_ARM = -1  # of a pair that was not drawn by this model: of a file, a duel, an edit

__all__ = [
    *("Pairs", "append", "centred", "fit", "forget", "learn", "pairs", "predict", "refine", "score", "start"),
    *("strangeness", "taken", "whiten", "whitened", "worth_of_arms"),
]


class Pairs(NamedTuple):
    """Judged pairs of answers, one row each.

    `first`, `second`: features of the answers, (n, d). `label`: 1 where the first is preferred, else 0, (n,). `group`,
    `kind`, `who`: numbers from first-come tables, integers (n,). `terms`: differences of first and second in length,
    side and format, (n, 3). `weight`: of the label, (n,). `arm`: 0 for two random answers of the policy, 1 where a
    selector chose the pair, `NO_ARM` for other pairs, (n,).
    """

    first: Singles
    second: Singles
    label: Floats
    group: Ints
    kind: Ints
    who: Ints
    terms: Floats
    weight: Floats
    arm: Ints


def pairs(first: Singles, second: Singles, label: Floats, group: Ints | None = None) -> Pairs:
    """Return pairs of kind 0 (trusted) and annotator 0, of weight 1, without differences in length, side and format.

    >>> pairs(np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32), np.array([1.0, 0.0])).terms.shape
    (2, 3)
    """
    n, none = len(first), np.zeros(len(first), np.int64)
    found = none if group is None else np.asarray(group, np.int64)
    label = np.asarray(label, np.float64)
    return Pairs(first, second, label, found, none, none, np.zeros((n, TERMS)), np.ones(n), none)


def taken(judged: Pairs, rows: slice | Ints) -> Pairs:
    """Return some rows of judged pairs.

    >>> x = np.eye(2, dtype=np.float32)
    >>> taken(pairs(x, x, np.array([1.0, 0.0])), slice(1, 2)).label.tolist()
    [0.0]
    """
    return Pairs(
        judged.first[rows],
        judged.second[rows],
        judged.label[rows],
        judged.group[rows],
        judged.kind[rows],
        judged.who[rows],
        judged.terms[rows],
        judged.weight[rows],
        judged.arm[rows],
    )


def start(
    width: int,
    *,
    groups: int = 1,
    kinds: int = 1,
    window: int = WINDOW,
    draws: int = DRAWS,
    variance: float = VARIANCE,
    shared: float | Floats = SHARED,
    scale: Floats | float = 1.0,
    seed: int = 0,
) -> Arrays:
    """Return the arrays of a head that has seen no label.

    `width` is the number of features, `groups` and `kinds` the capacities of the numbers, with number 0. `variance` is
    that of an answer's reward where the squared norm of its features is 1, and `shared` the part of it that all groups
    have in common. `shared` and `scale`, a factor of the variance, may have one value for each feature, (width,).
    Raises `InputError` for sizes below 1, or a window that holds less than two chunks of labels.

    >>> start(16, groups=4)["weights"].shape  # row 0 is shared, row 1 + g belongs to group g
    (5, 16)
    """
    if min(width, groups, kinds, draws) < 1 or window < 2 * CHUNK:
        raise InputError(
            f"reward: got width {width}, groups {groups}, kinds {kinds}, draws {draws}, window {window}; "
            f"expected at least 1 each and a window of at least {2 * CHUNK}."
        )
    part = np.broadcast_to(np.asarray(shared, np.float64), width)
    both = variance * np.asarray(scale, np.float64) * np.stack([part, 1.0 - part])
    bias = np.full((kinds, TERMS), BIAS_VARIANCE)
    bias[0] = 0.0
    arrays: Arrays = {
        "weights": np.zeros((1 + groups, width)),
        "deviations": np.zeros((draws, 1 + groups, width), np.float32),
        "bias": np.zeros((kinds, TERMS)),
        "moments": np.zeros((2, width)),
        "answers": np.zeros(1),
        "learn/seed": np.array([seed], np.int64),
        "learn/counts": np.zeros(4, np.int64),
        "learn/start_variance": both,
        "learn/prior_mean": np.zeros((1 + groups, width)),
        "learn/prior_variance": np.concatenate([both[:1], np.repeat(both[1:], groups, 0)]),
        "learn/bias_mean": np.zeros((kinds, TERMS)),
        "learn/bias_variance": bias,
        "learn/difference": np.zeros((window, width), np.float32),
        "learn/terms": np.zeros((window, TERMS)),
        "learn/noise": np.zeros((window, draws)),
    }
    arrays |= {f"learn/{name}": np.zeros(window) for name in ("label", "weight", "dual", "reliability")}
    arrays |= {f"learn/{name}": np.zeros(window, np.int64) for name in ("group", "kind", "who", "arm", "number")}
    arrays["deviations"][:] = prior_draws(arrays)[0] - arrays["learn/prior_mean"]
    return arrays


# ---- scores --------------------------------------------------------------------------------------------------------


def score(arrays: Arrays, features: Singles, group: Ints) -> tuple[Floats, Floats]:
    """Return the rewards of answers: the mean, (n,), and the posterior draws, (n, E).

    `features` is (n, d) and `group` int64 (n,), the group number of each answer's prompt. Rewards are logits: the
    difference of two is the log-odds of a preference by a trusted source. They are known up to a constant per prompt.

    >>> mean, draws = score(start(3), np.ones((2, 3), np.float32), np.zeros(2, np.int64))
    >>> mean.tolist(), draws.shape
    ([0.0, 0.0], (2, 8))
    """
    weights, deviations = arrays["weights"], arrays["deviations"]
    mean, draws = np.empty(len(features)), np.empty((len(features), len(deviations)))
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        x = np.asarray(features[rows], np.float64)
        mean[rows] = x @ (weights[0] + weights[1 + one])
        draws[rows] = x @ (deviations[:, 0] + deviations[:, 1 + one]).astype(np.float64).T
    return mean, mean[:, None] + draws


def centred(values: Floats, prompt: Ints) -> Floats:
    """Return rewards, (n,) or (n, E), minus their mean over the answers of the same prompt.

    >>> centred(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 8])).tolist()
    [-1.0, 1.0, 0.0]
    """
    _, place, counts = np.unique(prompt, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, place, values)
    return np.asarray(values - (sums.T / counts).T[place])


def predict(arrays: Arrays, judged: Pairs) -> Floats:
    """Return the probability that each source prefers the first answer, (n,), averaged over the posterior.

    The bias terms of the pair's kind are part of it, the annotator's reliability is not. Each draw counts with its
    mirror image about the mean, so that equal answers have probability 1/2.

    >>> x = np.eye(2, dtype=np.float32)
    >>> float(predict(start(2), pairs(x[:1], x[1:], np.ones(1)))[0])
    0.5
    """
    mean, first = score(arrays, judged.first, judged.group)
    other, second = score(arrays, judged.second, judged.group)
    logit = mean - other + np.einsum("nt,nt->n", judged.terms, arrays["bias"][judged.kind])
    spread = first - second - (mean - other)[:, None]
    return np.asarray(0.5 * (_logistic(logit[:, None] + spread) + _logistic(logit[:, None] - spread)).mean(1))


def worth_of_arms(arrays: Arrays, judged: Pairs) -> Floats:
    """Return what labels of each arm are worth, (n, 2): random, chosen; call it before the pairs are learned.

    The logit of a pair is a sum over the labels of the window: dual variable times prior covariance. The worth of an
    arm is the log-likelihood of the pair's label that is lost without the part of some of its labels: of each group as
    many as the smaller arm has, evenly chosen; nan while no group has labels of both. `judged` must be pairs that no
    selector chose.

    >>> x = np.eye(2, dtype=np.float32)
    >>> worth_of_arms(start(2), pairs(x[:1], x[1:], np.ones(1))).tolist()
    [[nan, nan]]
    """
    each, found = _matched(arrays), np.full((len(judged.label), 2), np.nan)
    if len(each[0]):
        mean = np.subtract(*(score(arrays, x, judged.group)[0] for x in (judged.first, judged.second)))
        sign = 2.0 * judged.label - 1.0
        logit = sign * (mean + np.einsum("nt,nt->n", judged.terms, arrays["bias"][judged.kind]))
        for one, rows in enumerate(each):
            part = sign * (covariance(arrays, rows, judged) @ arrays["learn/dual"][rows])
            found[:, one] = np.logaddexp(0.0, part - logit) - np.logaddexp(0.0, -logit)
    return found


def _matched(arrays: Arrays) -> tuple[Ints, Ints]:
    """Return rows of the window of both arms, as many of one as of the other in each group."""
    n = int(arrays["learn/counts"][COUNT])
    arm, group = arrays["learn/arm"][:n], arrays["learn/group"][:n]
    found: tuple[list[Ints], list[Ints]] = ([], [])
    for one in np.unique(group):
        each = [np.flatnonzero((group == one) & (arm == which)) for which in (0, 1)]
        count = min(len(rows) for rows in each)
        for rows, some in zip(each, found, strict=True):
            some.append(rows[np.arange(count) * len(rows) // max(count, 1)])
    random, chosen = (np.concatenate([np.zeros(0, np.int64), *some]) for some in found)
    return random, chosen


def covariance(arrays: Arrays, rows: Ints, judged: Pairs) -> Floats:
    """Return the prior covariance of the logits of pairs, (n,), with those of some of the window's labels, (n, m)."""
    variance, known = arrays["learn/prior_variance"], arrays["learn/difference"][rows].astype(np.float64)
    x = np.asarray(judged.first - judged.second, np.float64)
    found = (x * variance[0]) @ known.T
    same = judged.group[:, None] == arrays["learn/group"][rows]
    found += np.where(same, (x * variance[1 + judged.group]) @ known.T, 0.0)
    of = judged.kind[:, None] == arrays["learn/kind"][rows]
    terms = (judged.terms * arrays["learn/bias_variance"][judged.kind]) @ arrays["learn/terms"][rows].T
    return np.asarray(found + np.where(of, terms, 0.0))


def strangeness(arrays: Arrays, features: Singles) -> Floats:
    """Return how far answers are from those the head has learned from, (n,), in standard deviations of such answers.

    The mean squared standardised feature minus 1, divided by sqrt(2 / d), its standard deviation for normal features.
    0 while fewer than two pairs are known. An answer above 4 is out of distribution.

    >>> strangeness(start(3), np.ones((1, 3), np.float32)).tolist()
    [0.0]
    """
    count, (total, squares) = float(arrays["answers"][0]), arrays["moments"]
    if count < 4:
        return np.zeros(len(features))
    mean = total / count
    spread = np.maximum(squares / count - mean**2, 1e-12)
    z = (features - mean) ** 2 / spread
    return np.asarray((z.mean(1) - 1.0) / np.sqrt(2.0 / features.shape[1]))


def _logistic(f: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * f)))


# ---- learning ------------------------------------------------------------------------------------------------------


def learn(arrays: Arrays, judged: Pairs, reliability: Floats | None = None) -> None:
    """Learn judged pairs one after the other, in place: a fit where one is due, otherwise coordinate steps.

    `reliability`, (A,), holds the probability that annotator `who` labels as the model of the source says; 1 for all
    where it is None. Fits are due by the number of labels learned, so that a cut into calls changes nothing as long as
    the reliabilities are equal.

    >>> x, y = np.eye(2, dtype=np.float32), np.ones(1)
    >>> head = start(2)
    >>> learn(head, pairs(x[:1], x[1:], y))
    >>> float(predict(head, pairs(x[:1], x[1:], y))[0]) > 0.6
    True
    """
    for at in range(len(judged.label)):
        append(arrays, taken(judged, slice(at, at + 1)), reliability)
        counts = arrays["learn/counts"]
        if counts[TOTAL] - counts[FITTED] >= min(max(1, int(counts[COUNT]) // PERIOD), SLOWEST):
            fit(arrays, reliability)
        else:
            refine(arrays)


def append(arrays: Arrays, judged: Pairs, reliability: Floats | None = None) -> None:
    """Put judged pairs into the window, in place, without moving the weights; the oldest leave a full window.

    Raises `InputError` for numbers beyond the capacities, and for labels, weights or features that are not finite.

    >>> head = start(2)
    >>> append(head, pairs(np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32), np.ones(3)))
    >>> int(head["learn/counts"][TOTAL])
    3
    """
    _check(arrays, judged)
    counts, window = arrays["learn/counts"], len(arrays["learn/label"])
    for begin in range(0, len(judged.label), CHUNK):
        part = taken(judged, slice(begin, begin + CHUNK))
        n = len(part.label)
        if counts[COUNT] + n > window:
            absorb(arrays, CHUNK)
        rows = slice(int(counts[COUNT]), int(counts[COUNT]) + n)
        arrays["learn/difference"][rows] = part.first - part.second
        for name in ("terms", "label", "group", "kind", "who", "weight", "arm"):
            arrays[f"learn/{name}"][rows] = getattr(part, name)
        arrays["learn/reliability"][rows] = 1.0 if reliability is None else reliability[part.who]
        arrays["learn/dual"][rows] = 0.0
        arrays["learn/number"][rows] = first = counts[TOTAL] + np.arange(n)
        seed, draws = int(arrays["learn/seed"][0]), arrays["learn/noise"].shape[1]
        for row, number in zip(range(rows.start, rows.stop), first.tolist(), strict=True):
            arrays["learn/noise"][row] = np.random.default_rng([seed, 1, number]).standard_normal(draws)
        for answers in (part.first, part.second):
            arrays["moments"] += np.stack([answers.sum(0, np.float64), np.square(answers, dtype=np.float64).sum(0)])
            arrays["answers"] += n
        counts[COUNT] += n
        counts[TOTAL] += n


def _check(arrays: Arrays, judged: Pairs) -> None:
    """Raise `InputError` for pairs that do not fit the arrays."""
    limits = {"group": len(arrays["weights"]) - 1, "kind": len(arrays["bias"])}
    for name, limit in limits.items():
        column = getattr(judged, name)
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < limit:
            raise InputError(f"{name}: got numbers {column.min()} to {column.max()}; expected 0 to {limit - 1}.")
    for name in ("first", "second", "label", "terms", "weight"):
        if not np.isfinite(getattr(judged, name)).all():
            raise InputError(f"{name}: got a number that is not finite; expected finite numbers. Drop the pair.")


def forget(arrays: Arrays, group: int, newest: int) -> int:
    """Drop a group's labels but those among the `newest` labels learned, and reset its part of the prior, in place.

    For groups whose preferences changed. What left the window stays in the shared part. Call `fit` afterwards. Returns
    the number of labels dropped.

    >>> forget(start(2, groups=3), group=1, newest=192)
    0
    """
    n, total = (int(arrays["learn/counts"][column]) for column in (COUNT, TOTAL))
    old = (arrays["learn/group"][:n] == group) & (arrays["learn/number"][:n] < total - newest)
    arrays["learn/prior_mean"][1 + group] = 0.0
    arrays["learn/prior_variance"][1 + group] = arrays["learn/start_variance"][1]
    keep(arrays, ~old)
    return int(old.sum())


# ---- features ------------------------------------------------------------------------------------------------------

WIDEST = 256  # features after whitening


def whiten(features: Singles, widest: int = WIDEST, whitening: float = 1.0) -> Arrays:
    """Return the arrays that map raw features, (n, D), to uncorrelated ones of at most `widest` dimensions.

    The standard deviation of a mapped feature is that of its principal component to the power 1 - `whitening`: with 1
    all have equal variances, with 0 they vary as the raw ones do. Between, directions in which answers differ little,
    of which many are noise, need more labels to count. The mean squared norm is 1 over the given rows, which should be
    the first candidates of real prompts (256 are enough). Directions below a thousandth of the largest standard
    deviation become columns of zeros. Raises `InputError` for fewer than 2 rows or rows that are not finite.

    >>> x = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32) * [1, 10, 100]
    >>> float(np.square(whitened(whiten(x), x)).sum(1).mean().round(3))
    1.0
    """
    if len(features) < 2 or not np.isfinite(features).all():
        raise InputError(f"features: got {len(features)} rows; expected at least 2, all finite.")
    x = np.asarray(features, np.float64)
    width = min(widest, x.shape[1])
    centre = x.mean(0)
    _, size, turn = np.linalg.svd(x - centre, full_matrices=False)
    size, turn = size[:width], turn[:width]
    used = size > 1e-3 * max(float(size[0]), 1e-300)
    kept = size[used]
    scale = np.sqrt(len(x) / max(float((kept ** (2.0 - 2.0 * whitening)).sum()), 1e-300))
    mapping = np.zeros((x.shape[1], width))
    mapping[:, : len(size)][:, used] = (turn[used] / kept[:, None] ** whitening).T * scale
    return {"centre": centre.astype(np.float32), "mapping": mapping.astype(np.float32)}


def whitened(arrays: Arrays, features: Singles) -> Singles:
    """Return raw features, (n, D), as whitened ones, float32 (n, k).

    >>> whitened({"centre": np.zeros(2, np.float32), "mapping": np.eye(2, dtype=np.float32)}, np.float32([[1, 2]]))
    array([[1., 2.]], dtype=float32)
    """
    return np.asarray((features - arrays["centre"]) @ arrays["mapping"], np.float32)
