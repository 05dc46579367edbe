"""The arithmetic of stacking numbers: weights that add up to 1, a bias, and an average by recent losses.

Two stackers run side by side. The first has any weights: for the squared loss those of a ridge regression that forgets
(Hoerl & Kennard 1970), else they follow the gradient of the loss, divided by its root mean square. The second has
shares from 0, moved by exponentiated gradients (Kivinen & Warmuth 1997). Each adds a bias, without which no weights of
members that are all too low reach a quantile. Their answers and those of each member alone are averaged by
exp(-recent loss), in units of the mean loss of the best of them: the likelihood of normal errors for the squared loss,
of Laplace's for the others. So nothing depends on the unit of the numbers, and the mix is little worse than its best
member.

Under late labels all losses and gradients are those of what the members predicted then, and rates are divided by
(1 + d / 100)^2, the rate at which the ridge forgets among them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.families.mix.stacking import DOUBT, EARLIER, FORGET, RATE, ROWS, STACKERS, count_pace
from everlearn.records import Arrays, Floats, Ints, Singles

RIDGE = 10.0  # rows that the prior of the ridge counts for
LEAST_SHARE = 1e-4  # of all members together, in the second stacker
SMALL_STEP = 0.2  # the rate of the bias for the squared loss, as a share
LARGEST_STEP = 3.0  # mean errors that the bias sees at most
SQUARED, ABSOLUTE, PINBALL, HUBER = range(4)
TARGETS, STEEP, STEEP_SHARES, COLUMNS = range(4)  # of `products`, after one column for each member
BIAS, ERROR = range(2)  # of `bias`, for each stacker


@exact_kernel
def loss_of(away: float, loss: int, parameter: float) -> float:
    """Return the loss of a prediction that is `away` above the number.

    >>> loss_of(-2.0, PINBALL, 0.9), loss_of(2.0, SQUARED, 0.0), loss_of(3.0, HUBER, 1.0)
    (1.8, 4.0, 2.5)
    """
    if loss == SQUARED:
        return away * away
    if loss == PINBALL:
        return (1.0 - parameter) * away if away > 0.0 else -parameter * away
    if loss == HUBER and abs(away) < parameter:
        return 0.5 * away * away / parameter
    return abs(away) - (0.5 * parameter if loss == HUBER else 0.0)


@exact_kernel
def slope_of(away: float, loss: int, parameter: float) -> float:
    """Return the derivative of the loss by the prediction; half of it for the squared loss."""
    if loss == SQUARED:
        return away
    if loss == PINBALL:
        return (1.0 - parameter) if away > 0.0 else (-parameter if away < 0.0 else 0.0)
    if loss == HUBER and abs(away) < parameter:
        return away / parameter
    return 1.0 if away > 0.0 else (-1.0 if away < 0.0 else 0.0)


@exact_kernel
def number_answers(row: Singles, shares: Floats, bias: Floats, each: Floats) -> None:
    """Write the answers of both stackers, and of each member alone, to `each`, float64 (2 + members,)."""
    for s in range(STACKERS):
        total = bias[s, BIAS]
        for m in range(len(row)):
            total += shares[s, m] * row[m]
        each[s] = total
    for m in range(len(row)):
        each[STACKERS + m] = row[m]


@exact_kernel
def number_parts(recent: Floats, prior: Floats, rows: float, loss: int) -> Floats:
    """Return the parts of all answers in the average, which add up to 1."""
    best = recent.min()
    unit = best * (1.0 - FORGET) / (1.0 - FORGET ** max(rows - 1.0, 1.0)) * (2.0 if loss == SQUARED else 1.0)
    parts: Floats = np.zeros(len(recent))
    highest, total = -np.inf, 0.0
    for e in range(len(recent)):
        further = recent[e] - best
        parts[e] = -prior[e] - (further / unit if unit > 0.0 else (1e3 if further > 0.0 else 0.0))
        highest = max(highest, parts[e])
    for e in range(len(recent)):
        parts[e] = math.exp(parts[e] - highest)
        total += parts[e]
    parts /= total
    return parts


@exact_kernel
def combine_numbers(
    votes: Singles, loss: int, shares: Floats, bias: Floats, recent: Floats, prior: Floats, counts: Floats
) -> Singles:
    """Return the answers for n rows, float32 (n, 1), from the numbers of the members, float32 (n, members)."""
    out = np.empty((len(votes), 1), np.float32)
    each, parts = np.empty(STACKERS + votes.shape[1]), number_parts(recent, prior, counts[ROWS], loss)
    for i in range(len(votes)):
        number_answers(votes[i], shares, bias, each)
        total = 0.0
        for e in range(len(each)):
            total += parts[e] * each[e]
        out[i, 0] = total
    return out


@exact_kernel
def stack_numbers(
    votes: Singles,
    then: Singles,
    late: Floats,
    y: Floats,
    weight: Singles,
    able: NDArray[np.bool_],
    answering: bool,
    loss: int,
    parameter: float,
    base: Floats,
    shares: Floats,
    bias: Floats,
    recent: Floats,
    prior: Floats,
    products: Floats,
    counts: Floats,
    out: Singles,
    losses: Floats,
) -> None:
    """Answer each of n rows with a number, and learn it from what the members answered then.

    `votes` and `then` are float32 (n, members), `late` float64 (n,) the rows between prediction and label. `base`
    float64 (members,) are the weights of the mean that the ridge begins from. See `start_numbers` for the others, and
    `everlearn.families.mix.stacking.stack` for `able`, `answering`, `out` and `losses`.
    """
    each = np.empty(STACKERS + votes.shape[1])
    for i in range(len(y)):
        losses[i] = math.nan
        if answering:
            out[i : i + 1] = combine_numbers(votes[i : i + 1], loss, shares, bias, recent, prior, counts)
        if not (able[i] and math.isfinite(y[i]) and math.isfinite(weight[i]) and weight[i] > 0.0):
            continue
        row = then[i] if late[i] > 0.0 else votes[i]
        rows = counts[ROWS]
        pace, timely = count_pace(weight[i], counts), 1.0 / (1.0 + late[i] / EARLIER) ** 2
        if counts[ROWS] == 1.0:
            continue  # no member knew the size of the numbers
        number_answers(row, shares, bias, each)
        losses[i] = loss_of((number_parts(recent, prior, rows, loss) * each).sum() - y[i], loss, parameter)
        for e in range(len(each)):
            recent[e] = FORGET * recent[e] + pace * loss_of(each[e] - y[i], loss, parameter)
        if loss == SQUARED:
            _ridge(row, y[i], pace, timely, counts[ROWS], base, shares[0], products)
        else:
            slope = slope_of(each[0] - y[i], loss, parameter)
            _descend(row, slope, each[0] - bias[0, BIAS], pace * timely, shares[0], products)
        slope = slope_of(each[1] - y[i], loss, parameter)
        _exponentiate(row, slope, each[1] - bias[1, BIAS], pace * timely, shares[1], products)
        for s in range(STACKERS):
            _move_bias(each[s] - y[i], loss, parameter, pace * timely, counts[ROWS], bias[s])


@exact_kernel
def stack_number_banks(
    votes: Singles,
    then: Singles,
    late: Floats,
    y: Floats,
    weight: Singles,
    able: NDArray[np.bool_],
    seats: Ints,
    answering: int,
    loss: int,
    parameter: float,
    base: Floats,
    shares: Floats,
    bias: Floats,
    recent: Floats,
    prior: Floats,
    products: Floats,
    counts: Floats,
    out: Singles,
    losses: Floats,
) -> None:
    """Let each bank learn n rows, and bank `answering` answer; see `everlearn.families.mix.stacking.stack_banks`."""
    for b in range(len(seats)):
        k = seats[b, 0]
        if k == 0 or (b != answering and not able[b].any()):
            losses[b] = math.nan
            continue
        who, e = seats[b, 1 : 1 + k], STACKERS + k
        state = base[b, :k], shares[b, :, :k], bias[b], recent[b, :e], prior[b, :e], products[b, :k, : k + COLUMNS]
        rows = votes[:, who], then[:, who], late, y, weight, able[b], b == answering, loss, parameter
        stack_numbers(*rows, *state, counts[b], out, losses[b])


@exact_kernel
def _ridge(
    row: Singles, y: float, pace: float, timely: float, rows: float, base: Floats, shares: Floats, products: Floats
) -> None:
    """Refit the weights by a ridge regression of y on the members, both less the mean by the weights `base`.

    `rows` is the number of rows so far.
    """
    members, fade = len(row), 1.0 - (1.0 - FORGET) * timely
    mean = 0.0
    for m in range(members):
        mean += base[m] * row[m]
    for m in range(members):
        for j in range(members):
            products[m, j] = fade * products[m, j] + pace * (row[m] - mean) * (row[j] - mean)
        products[m, members + TARGETS] = fade * products[m, members + TARGETS] + pace * (row[m] - mean) * (y - mean)
    spread = 0.0
    for m in range(members):
        spread += products[m, m] / members
    if not 0.0 < spread < math.inf:
        return
    system = products[:, :members] / spread
    for m in range(members):
        system[m, m] += RIDGE / min(rows, 1.0 / (1.0 - fade))
    found = np.linalg.solve(system, products[:, members + TARGETS] / spread)
    total = 0.0
    for m in range(members):
        total += found[m]
    for m in range(members):
        shares[m] = base[m] * (1.0 - total) + found[m]


@exact_kernel
def _steep(row: Singles, m: int, slope: float, answer: float, column: int, products: Floats) -> float:
    """Return the gradient of a weight that moves towards member m, in its root mean squares."""
    h = slope * (row[m] - answer)
    at = len(row) + column
    products[m, at] = FORGET * products[m, at] + (1.0 - FORGET) * h * h
    return float(h / math.sqrt(products[m, at])) if products[m, at] > 0.0 else 0.0


@exact_kernel
def _descend(row: Singles, slope: float, answer: float, pace: float, shares: Floats, products: Floats) -> None:
    """Move the weights down the gradient; they add up to 1 as before."""
    total = -1.0
    for m in range(len(row)):
        shares[m] -= RATE * pace * _steep(row, m, slope, answer, STEEP, products)
        total += shares[m]
    for m in range(len(row)):
        shares[m] -= total / len(row)


@exact_kernel
def _exponentiate(row: Singles, slope: float, answer: float, pace: float, shares: Floats, products: Floats) -> None:
    """Multiply each share by exp(-rate * gradient in root mean squares), and divide them by their sum."""
    members, added = len(row), 0.0
    for m in range(members):
        shares[m] *= math.exp(-RATE * pace * _steep(row, m, slope, answer, STEEP_SHARES, products))
        added += shares[m]
    for m in range(members):
        shares[m] = (1.0 - LEAST_SHARE) * shares[m] / added + LEAST_SHARE / members


@exact_kernel
def _move_bias(away: float, loss: int, parameter: float, pace: float, rows: float, bias: Floats) -> None:
    """Move the bias of a stacker whose answer is `away` above the number; the mean absolute error is its unit."""
    bias[ERROR] += (abs(away) - bias[ERROR]) / min(rows - 1.0, 1.0 / (1.0 - FORGET))
    if loss == SQUARED:
        most = LARGEST_STEP * bias[ERROR]
        bias[BIAS] -= SMALL_STEP * RATE * pace * min(max(away, -most), most)
    else:
        bias[BIAS] -= RATE * pace * bias[ERROR] * slope_of(away, loss, parameter)


def start_numbers(informed: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the arrays of stackers of numbers that have learned nothing.

    `informed` bool (members,) is true for members that use the features; these count the same, and others nothing yet.
    If no member is informed, all count the same.

    >>> arrays = start_numbers(np.array([True, True, False]))
    >>> {name: array.shape for name, array in arrays.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'counts': (2,), 'base': (3,), 'shares': (2, 3), 'bias': (2, 2), 'recent': (5,), 'prior': (5,), 'products': (3, 6)}
    """
    members = len(informed)
    base: Floats = (informed if informed.any() else ~informed).astype(np.float64)
    base /= base.sum()
    return {
        "counts": np.array([0.0, 1.0]),
        "base": base,
        "shares": np.stack([base, (1.0 - LEAST_SHARE) * base + LEAST_SHARE / members]),
        "bias": np.zeros((STACKERS, 2)),
        "recent": np.zeros(STACKERS + members),
        "prior": np.concatenate([np.zeros(STACKERS), np.where(base > 0.0, 0.0, DOUBT)]),
        "products": np.zeros((members, members + COLUMNS)),
    }


def number_weights(arrays: Arrays, loss: int) -> Floats:
    """Return the weight of each member, float64 (members,), in the average of all answers."""
    parts = number_parts(arrays["recent"], arrays["prior"], float(arrays["counts"][ROWS]), loss)
    found: Floats = parts @ np.concatenate([arrays["shares"], np.eye(len(arrays["base"]))])
    return found


def bank(arrays: Arrays, number: int, members: int) -> dict[str, Floats]:
    """Return views of one bank, without the places that its members do not use."""
    used: dict[str, Any] = {"base": (slice(members),), "shares": (slice(None), slice(members))}
    used |= {"recent": (slice(STACKERS + members),), "prior": (slice(STACKERS + members),)}
    used |= {"products": (slice(members), slice(members + COLUMNS))}
    return {name: array[number][used.get(name, ...)] for name, array in arrays.items()}
