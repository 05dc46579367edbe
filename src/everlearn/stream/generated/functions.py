"""Streams whose label is a function of the features: SEA, Agrawal, sine, mixed and the hyperplane.

A concept is a row of parameters: the threshold of SEA, the weights of a hyperplane, or the number of a function, from
0. SEA, sine, mixed and the hyperplane are those of River 0.26. Agrawal is that of MOA and of the paper, and group A is
its class 0. River exchanges the classes of functions 0 to 5, and its function 4 tests the salary where the paper tests
the loan.
"""

from __future__ import annotations

import math

import numpy as np

from everlearn._jit import exact_kernel, inlined
from everlearn._random import uniform
from everlearn.records import Floats, Ints

SEA, AGRAWAL, SINE, MIXED, HYPERPLANE = range(5)
RELEVANT = {SEA: 3, AGRAWAL: 9, SINE: 2, MIXED: 4}  # features; all others of a row are noise
THRESHOLDS = (8.0, 9.0, 7.0, 9.5)  # of SEA: Street and Kim 2001, in River's order
STRIDE = 4096  # numbers of a row that one attempt may draw
ATTEMPTS = 10_000  # draws of the features of a row, until its label is the wanted one


def labels(kind: int, x: Floats, parameters: Floats) -> Ints:
    """Return the labels, int64 (n,), of features float64 (n, d) under the concepts of the rows, float64 (n, m).

    >>> labels(SEA, np.array([[4.0, 4.5, 0.0]] * 2), np.array([[8.0], [9.0]])).tolist()
    [1, 0]
    """
    found = np.empty(len(x), np.int64)
    _label_rows(kind, np.ascontiguousarray(x, np.float64), np.ascontiguousarray(parameters, np.float64), found)
    return found


@exact_kernel
def draw(
    kind: int, seed: int, first: int, relevant: int, parameters: Floats, wanted: Ints, x: Floats, label: Ints
) -> None:
    """Draw the features float64 (n, d) and labels int64 (n,) of rows `first` and further.

    `parameters` float64 (n, m) are the concepts of the rows, `wanted` int64 (n,) their labels, -1 for any.
    """
    for row in range(len(x)):
        for attempt in range(ATTEMPTS):
            _features(kind, seed, first + row, attempt * STRIDE, relevant, x[row])
            label[row] = _label(kind, x[row], parameters[row])
            if wanted[row] < 0 or label[row] == wanted[row]:
                break


@exact_kernel
def walk(
    seed: int, first: int, change: float, reversal: float, offset: Floats, direction: Floats, moved: Floats
) -> None:
    """Move the weights of a hyperplane row by row; `moved` float64 (n, m) gets the offsets at each of n rows.

    `offset` and `direction`, float64 (m,), are those at row `first`, and after the call those at row `first` + n. After
    each row an offset moves by `change`, and the direction turns with the probability `reversal` (Hulten, Spencer and
    Domingos 2001).
    """
    for row in range(len(moved)):
        for j in range(len(offset)):
            moved[row, j] = offset[j]
            offset[j] += direction[j] * change
            if uniform(seed, first + row, j) < reversal:
                direction[j] = -direction[j]


@exact_kernel
def _label_rows(kind: int, x: Floats, parameters: Floats, label: Ints) -> None:
    for row in range(len(x)):
        label[row] = _label(kind, x[row], parameters[row])


@inlined
def _features(kind: int, seed: int, row: int, at: int, relevant: int, x: Floats) -> None:
    if kind == AGRAWAL:
        _person(seed, row, at, x)
    elif kind == MIXED:
        x[0] = 1.0 if uniform(seed, row, at) >= 0.5 else 0.0
        x[1] = 1.0 if uniform(seed, row, at + 1) >= 0.5 else 0.0
        x[2], x[3] = uniform(seed, row, at + 2), uniform(seed, row, at + 3)
    else:
        for j in range(relevant):
            x[j] = uniform(seed, row, at + j) * (10.0 if kind == SEA else 1.0)
    for j in range(relevant, len(x)):
        x[j] = uniform(seed, row, at + j)


@inlined
def _person(seed: int, row: int, at: int, x: Floats) -> None:
    """Draw salary, commission, age, elevel, car, zipcode, hvalue, hyears and loan, as MOA does."""
    salary = 20000.0 + 130000.0 * uniform(seed, row, at)
    zipcode = np.floor(9.0 * uniform(seed, row, at + 5))
    x[0] = salary
    x[1] = 0.0 if salary >= 75000.0 else 10000.0 + 65000.0 * uniform(seed, row, at + 1)
    x[2] = 20.0 + np.floor(61.0 * uniform(seed, row, at + 2))
    x[3] = np.floor(5.0 * uniform(seed, row, at + 3))
    x[4] = 1.0 + np.floor(20.0 * uniform(seed, row, at + 4))
    x[5] = zipcode
    x[6] = (9.0 - zipcode) * 100000.0 * (0.5 + uniform(seed, row, at + 6))
    x[7] = 1.0 + np.floor(30.0 * uniform(seed, row, at + 7))
    x[8] = 500000.0 * uniform(seed, row, at + 8)


@inlined
def _label(kind: int, x: Floats, concept: Floats) -> int:
    if kind == SEA:
        return int(x[0] + x[1] > concept[0])
    if kind == HYPERPLANE:
        total, weights = 0.0, 0.0
        for j in range(len(concept)):
            total += concept[j] * x[j]
            weights += concept[j]
        return int(total >= 0.5 * weights)
    number = int(concept[0])
    if kind == SINE:
        curve = math.sin(x[1]) if number < 2 else 0.5 + 0.3 * math.sin(3.0 * math.pi * x[1])
        return int((x[0] < curve) != (number % 2 == 1))
    if kind == MIXED:
        below = x[3] < 0.5 + 0.3 * math.sin(3.0 * math.pi * x[2])
        return int((x[0] + x[1] + (1.0 if below else 0.0) >= 2.0) == (number == 1))
    return _agrawal(number, x)


@inlined
def _agrawal(number: int, x: Floats) -> int:
    """Return the label by one of the ten functions of Agrawal, Imielinski and Swami 1993, "Database mining"."""
    salary, pay, age, level, loan = x[0], x[0] + x[1], x[2], x[3], x[8]
    young, old = age < 40.0, age >= 60.0
    if number == 0:
        return int(not (young or old))
    low = 50000.0 if young else 25000.0 if old else 75000.0
    if number == 1 or number == 5:
        income = salary if number == 1 else pay
        return int(not low <= income <= low + 50000.0)
    if number == 2 or number == 3:
        known = level <= 1.0 if young else level >= 2.0 if old else 1.0 <= level <= 3.0
        if number == 2:
            return int(not known)
        if known or young:
            low = 25000.0 if known and young else 50000.0
        return int(not low <= salary <= low + 50000.0)
    if number == 4:
        inside = low <= salary <= low + 50000.0
        if old:
            least = 300000.0 if inside else 100000.0
        else:
            least = (100000.0 if young else 200000.0) + (0.0 if inside else 100000.0)
        return int(not least <= loan <= least + 200000.0)
    disposable = 2.0 * pay / 3.0
    if number == 6:
        disposable += -loan / 5.0 - 20000.0
    elif number == 7:
        disposable += -5000.0 * level - 20000.0
    elif number == 8:
        disposable += -5000.0 * level - loan / 5.0 - 10000.0
    else:
        equity = x[6] * (x[7] - 20.0) / 10.0 if x[7] >= 20.0 else 0.0
        disposable += -5000.0 * level + equity / 5.0 - 10000.0
    return int(not disposable > 0.0)
