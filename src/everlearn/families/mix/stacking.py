"""The arithmetic of stacking: weights for what the members predict, learned row by row with a constant rate.

For classes, the log-probabilities of the members are added with weights, and a softmax makes probabilities of the
sums: a multinomial logistic regression on L[m, k] = log(.99 p[m, k] + .01 / K). The weights of members may add up to
more than 1, which sharpens, and may be negative. A convex combination cannot do either, and converges to the best
member alone. Each member also has a smaller deviation for each class. Steps are divided by the root mean square of
their gradient (RMSProp), and their rate does not fall with time: that is the reaction to drift.

Two stackers run side by side, a quick one and one with a fifth of its rate. Their answers and those of each member
alone are averaged by their recent log losses. So the weights move little while nothing changes, and over its first
rows, or beside one member that knows everything, the mix is little worse than its best member.

Under late labels the gradient is that of the answers which the members gave at the prediction. Labels that are d rows
late show the stream as it was, and a quick stacker follows it too late. So the rate is divided by (1 + d / 25)^2, and
that of biases and deviations for single classes, which follow the shares of the classes, by the square of it.

Late labels also make recent losses a worse guide: d rows in a row are answered by the same average, right or wrong. So
a loss that is d rows late counts 1 / (1 + d / 5) in the average, as in exponential weights with delayed feedback
(Weinberger and Ordentlich 2002, "On delayed prediction of individual sequences"), and is remembered for 1,000 + 2 d
rows. Mixes of earlier versions have 100 in the place of 25, and neither of these two (`patience` 0).

Numbers are stacked by `everlearn.families.mix.numbers`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel, part
from everlearn.records import Arrays, Floats, Ints, Singles

RATE = 0.01
SLOWER = 0.2  # the rate of the second stacker, as a share
DEVIATION = 0.3  # the rate of deviations for single classes, as a share
FLOOR = 0.01  # share of a uniform forecast in what a member says, which bounds its logarithm
FORGET = 0.999  # what the mean squared gradients, the recent losses and the ridge keep of the past, each row
LATE = 25.0  # rows of delay that make the rate a quarter
EARLIER = 100.0  # the same in earlier versions
HALVED = 0.2  # of these rows of delay make a loss count half
REMEMBERED = 2.0  # rows that a row of delay adds to the memory of losses
HEAVIEST = 10.0  # a weight counts as at most so many mean weights
DOUBT = 3.0  # the loss with which a member starts that uses no features
STACKERS = 2

ROWS, WEIGHT = range(2)  # of "counts": rows learned, and their mean weight


_part = partial(part, bare=True)  # loops throughout: operations on whole arrays compile for seconds


@_part
def any_of(values: NDArray[np.bool_]) -> bool:
    """Return True if any of the values is."""
    for i in range(len(values)):  # noqa: SIM110
        if values[i]:
            return True
    return False


@_part
def chosen(votes: Singles, who: Ints) -> Singles:
    """Return what some of the members say, float32 (n, members, classes)."""
    n, _, classes = votes.shape
    found = np.empty((n, len(who), classes), np.float32)
    for i in range(n):
        for m in range(len(who)):
            for k in range(classes):
                found[i, m, k] = votes[i, who[m], k]
    return found


@_part
def log_scores(votes: Singles, found: Floats) -> None:
    """Write log(.99 p + .01 / K) of what the members say, float32 (members, classes), to `found`."""
    members, classes = votes.shape
    for m in range(members):
        for k in range(classes):
            found[m, k] = math.log((1.0 - FLOOR) * votes[m, k] + FLOOR / classes)


@_part
def answer(logs: Floats, own: Floats, shared: Floats, bias: Floats, out: Floats) -> None:
    """Write the class probabilities of one stacker to `out`, float64 (classes,)."""
    members, classes = logs.shape
    highest = -np.inf
    for k in range(classes):
        total = bias[k]
        for m in range(members):
            total += (shared[m] + own[m, k]) * logs[m, k]
        out[k] = total
        highest = max(highest, total)
    total = 0.0
    for k in range(classes):
        out[k] = math.exp(out[k] - highest)
        total += out[k]
    for k in range(classes):
        out[k] /= total


@_part
def answers(logs: Floats, own: Floats, shared: Floats, bias: Floats, each: Floats) -> None:
    """Write the class probabilities of the stackers, and of each member alone, to `each`."""
    for s in range(STACKERS):
        answer(logs, own[s], shared[s], bias[s], each[s])
    members, classes = logs.shape
    for m in range(members):
        for k in range(classes):
            each[STACKERS + m, k] = math.exp(logs[m, k])


@_part
def average(each: Floats, recent: Floats, out: Singles) -> None:
    """Write the mean answer, float32 (classes,), of all rows of `each` by exp(-recent loss) to `out`."""
    best, total = recent[0], 0.0
    for e in range(len(recent)):
        best = min(best, recent[e])
    shares = np.empty(len(each))
    for e in range(len(each)):
        shares[e] = math.exp(best - recent[e])
        total += shares[e]
    for k in range(each.shape[1]):
        mixed = 0.0
        for e in range(len(each)):
            mixed += shares[e] * each[e, k]
        out[k] = mixed / total


@_part
def loss_of_class(each: Floats, recent: Floats, label: int) -> float:
    """Return the log loss of the mean answer, see `average`."""
    best, total, mixed = recent[0], 0.0, 0.0
    for e in range(len(recent)):
        best = min(best, recent[e])
    for e in range(len(each)):
        share = math.exp(best - recent[e])
        total += share
        mixed += share * each[e, label]
    return -math.log(max(mixed / total, 1e-12))


@_part
def remember(each: Floats, label: int, late: float, patience: float, recent: Floats) -> None:
    """Add the log losses of all answers to the recent ones, as much as a label that is `late` rows late counts."""
    heed, keep = 1.0, FORGET
    if patience > 0.0 and late > 0.0:
        heed = 1.0 / (1.0 + late / (HALVED * patience))
        keep = 1.0 - 1.0 / (1.0 / (1.0 - FORGET) + REMEMBERED * late)
    for e in range(len(each)):
        recent[e] = keep * recent[e] - heed * math.log(max(each[e, label], 1e-12))


@_part
def step(
    logs: Floats,
    label: int,
    pace: float,
    timely: float,
    own: Floats,
    shared: Floats,
    bias: Floats,
    squares: Floats,
    each: Floats,
) -> None:
    """Move both stackers towards a label; `each` holds all answers, float64 (2 + members, classes).

    `squares` float64 (2, members, classes + 1) are the mean squared gradients, last of the shared weights. `pace` and
    `timely` multiply the rate, `timely` that of single classes twice.
    """
    members, classes = logs.shape
    for s in range(STACKERS):
        rate = pace * timely * RATE * (1.0 if s == 0 else SLOWER)
        each[s, label] -= 1.0
        for m in range(members):
            total = 0.0
            for k in range(classes):
                slope = each[s, k] * logs[m, k]
                total += slope
                held = FORGET * squares[s, m, k] + (1.0 - FORGET) * slope * slope
                squares[s, m, k] = held
                own[s, m, k] -= DEVIATION * timely * rate * slope / math.sqrt(held + 1e-6)
            held = FORGET * squares[s, m, classes] + (1.0 - FORGET) * total * total
            squares[s, m, classes] = held
            shared[s, m] -= rate * total / math.sqrt(held + 1e-6)
        for k in range(classes):
            bias[s, k] -= timely * rate * each[s, k]
        each[s, label] += 1.0


@exact_kernel
def combine(votes: Singles, own: Floats, shared: Floats, bias: Floats, recent: Floats) -> Singles:
    """Return the answers for n rows, float32 (n, classes), from what the members say about them."""
    n, members, classes = votes.shape
    logs, each = np.empty((members, classes)), np.empty((STACKERS + members, classes))
    out = np.empty((n, classes), np.float32)
    for i in range(n):
        log_scores(votes[i], logs)
        answers(logs, own, shared, bias, each)
        average(each, recent, out[i])
    return out


@exact_kernel
def stack(
    votes: Singles,
    then: Singles,
    late: Floats,
    y: Floats,
    weight: Singles,
    able: NDArray[np.bool_],
    answering: bool,
    patience: float,
    own: Floats,
    shared: Floats,
    bias: Floats,
    recent: Floats,
    squares: Floats,
    counts: Floats,
    out: Singles,
    losses: Floats,
) -> None:
    """Answer each of n rows from what the members say, and learn it from what they answered then.

    `votes` and `then` are float32 (n, members, classes), `late` float64 (n,) the rows between prediction and label,
    of which `patience` make the rate a quarter (0: as in earlier versions).
    Rows that are not `able`, bool (n,), are not learned. `out` is written if `answering`. `losses`, float64 (n,),
    become the log losses of the rows that are learned, and NaN for others.
    """
    n, members, classes = votes.shape
    logs, each = np.empty((members, classes)), np.empty((STACKERS + members, classes))
    for i in range(n):
        learns = able[i] and math.isfinite(y[i]) and math.isfinite(weight[i]) and weight[i] > 0.0
        losses[i] = math.nan
        if answering or (learns and not late[i] > 0.0):
            log_scores(votes[i], logs)
            answers(logs, own, shared, bias, each)
        if answering:
            average(each, recent, out[i])
        if not learns:
            continue
        if late[i] > 0.0:
            log_scores(then[i], logs)
            answers(logs, own, shared, bias, each)
        losses[i] = loss_of_class(each, recent, int(y[i]))
        remember(each, int(y[i]), late[i], patience, recent)
        timely = 1.0 / (1.0 + late[i] / (patience if patience > 0.0 else EARLIER)) ** 2
        step(logs, int(y[i]), count_pace(weight[i], counts), timely, own, shared, bias, squares, each)


@exact_kernel
def stack_banks(
    votes: Singles,
    then: Singles,
    late: Floats,
    y: Floats,
    weight: Singles,
    able: NDArray[np.bool_],
    seats: Ints,
    answering: int,
    patience: float,
    own: Floats,
    shared: Floats,
    bias: Floats,
    recent: Floats,
    squares: Floats,
    counts: Floats,
    out: Singles,
    losses: Floats,
) -> None:
    """Let each bank, a stacker over some of the members, learn n rows; bank `answering` answers them.

    `seats` int64 (banks, 1 + members) are the number of a bank's members, then their places. State arrays have a first
    axis of banks; a bank of k members uses the first k places. `able` and `losses` are (banks, n).
    """
    for b in range(len(seats)):
        k = seats[b, 0]
        if k == 0 or (b != answering and not any_of(able[b])):
            for i in range(len(y)):
                losses[b, i] = math.nan
            continue
        who = seats[b, 1 : 1 + k]
        state = own[b, :, :k], shared[b, :, :k], bias[b], recent[b, : STACKERS + k], squares[b, :, :k], counts[b]
        rows = chosen(votes, who), chosen(then, who), late, y, weight, able[b], b == answering, patience
        stack(*rows, *state, out, losses[b])


@exact_kernel
def count_pace(weight: float, counts: Floats) -> float:
    """Count a row, and return its weight in mean weights."""
    counts[ROWS] += 1.0
    counts[WEIGHT] += (weight - counts[WEIGHT]) / min(counts[ROWS], 1000.0)
    return float(min(weight / counts[WEIGHT], HEAVIEST))


def start(informed: NDArray[np.bool_], classes: int) -> dict[str, Floats]:
    """Return the arrays of stackers that have learned nothing.

    `informed` bool (members,) is true for members that use the features; these count the same, and others nothing yet.
    If no member is informed, all count the same.

    >>> arrays = start(np.array([True, True, False]), 2)
    >>> {name: array.shape for name, array in arrays.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'counts': (2,), 'shared': (2, 3), 'own': (2, 3, 2), 'bias': (2, 2), 'recent': (5,), 'squares': (2, 3, 3)}
    """
    members, counts = len(informed), np.array([0.0, 1.0])
    shares: Floats = (informed if informed.any() else ~informed).astype(np.float64)
    shares /= shares.sum()
    return {
        "counts": counts,
        "shared": np.tile(shares, (STACKERS, 1)),
        "own": np.zeros((STACKERS, members, classes)),
        "bias": np.zeros((STACKERS, classes)),
        "recent": np.concatenate([np.zeros(STACKERS), np.where(shares > 0.0, 0.0, DOUBT)]),
        "squares": np.ones((STACKERS, members, classes + 1)),
    }


def weights(arrays: dict[str, Floats]) -> Floats:
    """Return the weight of each member, float64 (members,), averaged over all answers by their recent losses."""
    members = arrays["shared"].shape[1]
    part = np.exp(arrays["recent"].min() - arrays["recent"])
    found: Floats = part @ np.concatenate([arrays["shared"], np.eye(members)]) / part.sum()
    return found


def bank(arrays: Arrays, number: int, members: int) -> dict[str, Floats]:
    """Return views of one bank, without the places that its members do not use."""
    used: dict[str, Any] = {"shared": (slice(None), slice(members)), "own": (slice(None), slice(members))}
    used |= {"squares": used["own"], "recent": (slice(STACKERS + members),)}
    return {name: array[number][used.get(name, ...)] for name, array in arrays.items()}
