"""Streams whose features are drawn for a label: LED, waveform and random RBF, with the exact P(label | features)."""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import exact_kernel, inlined
from everlearn._random import uniform
from everlearn.records import Floats, Ints

DIGITS = np.array(
    [
        [1, 1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 0, 1], [1, 0, 1, 1, 0, 1, 1],
        [0, 1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 0, 1, 1], [1, 1, 0, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1, 0],
        [1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1, 1],
    ],
    np.float64,
)  # fmt: skip
"""The segments of a seven-segment display that show each digit: Breiman et al. 1984, "Classification and regression
trees", section 2.6.1."""

WAVES = np.maximum(6.0 - np.abs(np.arange(21) - np.array([[6.0], [14.0], [10.0]])), 0.0)
"""The three triangular waves, float64 (3, 21): the same book, section 2.6.2, in River's order."""

FIRST, SECOND = np.array([0, 0, 1]), np.array([1, 2, 2])  # the two waves that each class mixes


def swapped(seed: int, features: int, relevant: int, swaps: int) -> Ints:
    """Return the place of each feature, int64 (features,), after `swaps` relevant ones changed places with noise.

    Where the swapped features begin is drawn, as in MOA and River.
    """
    order, noise = np.arange(features), features - relevant
    if noise:
        near, far = int(uniform(seed, 0, 0) * relevant), int(uniform(seed, 0, 1) * noise)
        for i in range(swaps):
            one, other = (i + near) % relevant, relevant + (i + far) % noise
            order[one], order[other] = other, one
    return order


@exact_kernel
def draw_led(
    seed: int, first: int, noise: float, order: Ints, now: Ints, priors: Floats, x: Floats, label: Ints
) -> None:
    """Draw rows `first` and further: segments float64 (n, d), each inverted with probability `noise`, and digits.

    `order` int64 (concepts, d) has the places of the features by concept, `now` int64 (n,) the concept of each row, and
    `priors` float64 (10,) the cumulative shares of the digits.
    """
    for row in range(len(x)):
        label[row] = _pick(priors, uniform(seed, first + row, 0))
        places = order[now[row]]
        for j in range(len(places)):
            drawn = uniform(seed, first + row, j + 1)
            bit = 1.0 if drawn < 0.5 else 0.0
            if j < 7:
                bit = DIGITS[label[row], j]
                bit = 1.0 - bit if drawn < noise else bit
            x[row, places[j]] = bit


def led(x: Floats, noise: float, order: Ints, now: Ints, shares: Floats) -> Floats:
    """Return P(digit | segments), float64 (n, 10); `shares` float64 (10,) are the priors."""
    seen = np.take_along_axis(x, order[now][:, :7], axis=1)
    wrong = np.abs(seen[:, None, :] - DIGITS).sum(axis=2)
    return _normal(shares * noise**wrong * (1.0 - noise) ** (7.0 - wrong))


@exact_kernel
def draw_waveform(seed: int, first: int, order: Ints, now: Ints, priors: Floats, x: Floats, label: Ints) -> None:
    """Draw rows `first` and further: a random mix of two of three waves, with normal noise on every feature.

    The arguments are those of `draw_led`.
    """
    noise = np.empty(x.shape[1] + 1)
    for row in range(len(x)):
        label[row] = _pick(priors, uniform(seed, first + row, 0))
        share = uniform(seed, first + row, 1)
        places = order[now[row]]
        _normals(seed, first + row, 2, noise)
        one, other = FIRST[label[row]], SECOND[label[row]]
        for j in range(len(places)):
            value = noise[j]
            if j < 21:
                value += share * WAVES[one, j] + (1.0 - share) * WAVES[other, j]
            x[row, places[j]] = value


def waveform(x: Floats, order: Ints, now: Ints, shares: Floats) -> Floats:
    """Return P(class | features), float64 (n, 3): the normal density, integrated over the share of the mix."""
    erf = np.frompyfunc(math.erf, 1, 1)
    seen = np.take_along_axis(x, order[now][:, :21], axis=1)
    logs = np.empty((len(x), 3))
    inside = np.empty((len(x), 3))
    for label in range(3):
        way, rest = WAVES[FIRST[label]] - WAVES[SECOND[label]], seen - WAVES[SECOND[label]]
        length = float(way @ way)
        centre, scale = (rest * way).sum(axis=1) / length, math.sqrt(length / 2.0)
        logs[:, label] = -0.5 * ((rest**2).sum(axis=1) - length * centre**2)
        inside[:, label] = (erf((1.0 - centre) * scale) - erf(-centre * scale)).astype(np.float64) / scale
    return _normal(shares * inside * np.exp(logs - logs.max(axis=1, keepdims=True)))


@exact_kernel
def draw_rbf(
    seed: int,
    first: int,
    centres: Floats,
    spread: Floats,
    classes: Ints,
    cumulative: Floats,
    velocity: Floats,
    now: Ints,
    toward: Ints,
    share: Floats,
    x: Floats,
    label: Ints,
) -> None:
    """Draw rows `first` and further: a centre, and a point around it in a random direction at a normal distance.

    `centres` and `velocity` are float64 (concepts, k, d), `spread` float64 and `classes` int64 (concepts, k), and
    `cumulative` float64 (concepts, k), the cumulative weights. `now` and `toward` int64 (n,) are the concepts that a
    row is between, and `share` float64 (n,) how far it is.
    """
    pair, d = np.empty(2), x.shape[1]
    for row in range(len(x)):
        number, one, other, part = first + row, now[row], toward[row], share[row]
        k = _pick(cumulative[one], uniform(seed, number, 0))
        length = 0.0
        for j in range(d):
            x[row, j] = 2.0 * uniform(seed, number, j + 3) - 1.0
            length += x[row, j] * x[row, j]
        _normals(seed, number, 1, pair)
        wide = (1.0 - part) * spread[one, k] + part * spread[other, k]
        scale = pair[0] * wide / math.sqrt(length)
        for j in range(d):
            x[row, j] = x[row, j] * scale + _centre(centres, velocity, one, other, part, k, j, number)
        label[row] = classes[one, k]


@exact_kernel
def rbf_densities(
    first: int,
    centres: Floats,
    spread: Floats,
    classes: Ints,
    weight: Floats,
    velocity: Floats,
    now: Ints,
    toward: Ints,
    share: Floats,
    x: Floats,
    proba: Floats,
) -> None:
    """Write P(class | features), float64 (n, classes), of rows `first` and further; see `draw_rbf`.

    A direction is a point of a cube, so its density at the direction u falls with the d-th power of max |u|; the
    distance is the absolute value of a normal number.
    """
    logs, d = np.empty(spread.shape[1]), x.shape[1]
    for row in range(len(x)):
        one, other, part, most = now[row], toward[row], share[row], -np.inf
        for k in range(len(logs)):
            squares, longest = 0.0, 0.0
            for j in range(d):
                gap = abs(x[row, j] - _centre(centres, velocity, one, other, part, k, j, first + row))
                squares += gap * gap
                longest = max(longest, gap)
            wide = (1.0 - part) * spread[one, k] + part * spread[other, k]
            logs[k] = -np.inf
            if weight[one, k] > 0.0 and longest > 0.0:
                logs[k] = math.log(weight[one, k] / wide) - squares / (2.0 * wide * wide)
                logs[k] += 0.5 * math.log(squares) - d * math.log(longest)
            most = max(most, logs[k])
        proba[row] = 0.0
        for k in range(len(logs)):
            proba[row, classes[one, k]] += math.exp(logs[k] - most)
        proba[row] /= proba[row].sum()


@exact_kernel
def choose(seed: int, first: int, cumulative: Floats, wanted: Ints) -> None:
    """Draw a class for each of rows `first` and further into `wanted`, int64 (n,), by cumulative shares."""
    for row in range(len(wanted)):
        wanted[row] = _pick(cumulative, uniform(seed, first + row, 0))


@exact_kernel
def replace(seed: int, first: int, noise: float, classes: int, label: Ints) -> None:
    """Replace labels, int64 (n,), by another class with probability `noise`; all others are as likely."""
    for row in range(len(label)):
        if uniform(seed, first + row, 0) < noise:
            other = int(uniform(seed, first + row, 1) * (classes - 1))
            label[row] = other if other < label[row] else other + 1


@inlined
def _centre(centres: Floats, velocity: Floats, one: int, other: int, part: float, k: int, j: int, number: int) -> float:
    """Return a coordinate of a centre at row `number`: on a straight way, thrown back by the walls 0 and 1."""
    start = (1.0 - part) * centres[one, k, j] + part * centres[other, k, j]
    place: float = abs(start + velocity[one, k, j] * number) % 2.0
    return 2.0 - place if place > 1.0 else place


@inlined
def _pick(cumulative: Floats, drawn: float) -> int:
    """Return the first place whose cumulative share exceeds `drawn`."""
    for k in range(len(cumulative) - 1):
        if drawn < cumulative[k]:
            return k
    return len(cumulative) - 1


@inlined
def _normals(seed: int, row: int, at: int, out: Floats) -> None:
    """Fill `out` with standard normal numbers, two from two uniform ones (Box and Muller 1958)."""
    for j in range(0, len(out) - 1, 2):
        far = math.sqrt(-2.0 * math.log(1.0 - uniform(seed, row, at + j)))
        turn = 2.0 * math.pi * uniform(seed, row, at + j + 1)
        out[j], out[j + 1] = far * math.cos(turn), far * math.sin(turn)


def _normal(weights: Floats) -> Floats:
    """Return the rows divided by their sums."""
    found: Floats = weights / weights.sum(axis=1, keepdims=True)
    return found
