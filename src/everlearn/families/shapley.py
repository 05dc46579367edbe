"""Shapley values of the answer of a tree, exact, for one row.

The game is that of the tree path (Lundberg, Erion and Lee 2018, "Consistent individualized feature attribution for tree
ensembles"): a coalition of fields knows their values; where a node tests another field, the answer is the mean of both
children, weighted by the rows that came to each. A leaf adds to the game

    answer * product over its fields f of (o_f if f is known else z_f)

with z_f the share of the rows that the tests of f send to the leaf, and o_f 1 where the row passes these tests, else 0.
The Shapley value of such a product is an integral of a polynomial (Yu et al. 2022, "Linear TreeShap", use the same
polynomial; Owen 1972 the integral),

    answer * (o_f - z_f) * integral from 0 to 1 of the product over the other fields g of (z_g (1 - t) + o_g t) dt

which Gauss and Legendre's rule with half as many points as there are fields gives exactly.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.families.frozen import FrozenTree
from everlearn.records import Floats

Numbers = NDArray[np.int32]
Flags = NDArray[np.bool_]


def credits(found: FrozenTree, right: Flags, fields: Numbers, count: int) -> tuple[Floats, Floats]:
    """Return what each of `count` fields adds to the answer for a row, float64 (count, outputs), and the mean answer.

    `right` bool (n,) is true where the row goes right at a node. `fields` int32 (n,) is the number of the field that a
    node tests; that of a leaf is not used. Mean, float64 (outputs,), and all credits add up to the answer of the leaf.

    >>> stump = FrozenTree(*[np.zeros(3)] * 4, np.array([1, -1, -1], np.int32), np.zeros(3, bool),
    ...                    np.array([[0.0], [2.0], [6.0]]), np.array([4.0, 3.0, 1.0]), np.zeros(3))
    >>> added, mean = credits(stump, np.ones(3, bool), np.zeros(3, np.int32), 2)
    >>> added.tolist(), mean.tolist()
    ([[3.0], [0.0]], [3.0])
    """
    state = found.left, right, fields, np.ascontiguousarray(found.answers, np.float64), found.weights
    deepest = _most_fields(found.left, fields, count)
    points, parts = _rule(max((deepest + 1) // 2, 1))
    added, mean = np.zeros((count, found.answers.shape[1])), np.zeros(found.answers.shape[1])
    _credit(*state, points, parts, added, mean)
    return added, mean


@cache
def _rule(count: int) -> tuple[Floats, Floats]:
    """Return points and weights of Gauss and Legendre's rule on 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * (points + 1.0), 0.5 * weights


@exact_kernel
def _most_fields(left: Numbers, fields: Numbers, count: int) -> int:
    """Return a bound on the different fields on any way to a leaf: its depth, and the number of fields."""
    depth, deepest = np.zeros(len(left), np.int64), 0
    for node in range(len(left)):
        if left[node] >= 0:
            depth[left[node]] = depth[left[node] + 1] = depth[node] + 1
            deepest = max(deepest, depth[node] + 1)
    return min(deepest, count)


@exact_kernel
def _credit(
    left: Numbers, right: Flags, fields: Numbers, answers: Floats, weights: Floats, points: Floats, parts: Floats,
    added: Floats, mean: Floats,
) -> None:  # fmt: skip
    """Add the credits of all leaves to `added`, and their share of the mean to `mean`."""
    n = len(left)
    parents, shares, passes = np.full(n, -1, np.int32), np.ones(n), np.ones(n, np.bool_)
    zeros, ones, slots = np.empty(n), np.empty(n), np.full(added.shape[0], -1, np.int32)
    players, products, reached = np.empty(n, np.int32), np.empty(len(points)), np.ones(n, np.bool_)
    for node in range(n):
        if not reached[node]:
            if left[node] >= 0:
                reached[left[node]] = reached[left[node] + 1] = False
            continue
        if left[node] >= 0:
            below = weights[left[node]] + weights[left[node] + 1]
            for side in range(2):
                child = left[node] + side
                parents[child] = node
                shares[child] = weights[child] / below if below > 0.0 else 0.5
                passes[child] = right[node] == (side == 1)
                reached[child] = shares[child] > 0.0 or passes[child]
            continue
        held, at = 0, node
        while parents[at] >= 0:
            player = fields[parents[at]]
            if slots[player] < 0:
                slots[player], players[held], zeros[held], ones[held] = held, player, 1.0, 1.0
                held += 1
            zeros[slots[player]] *= shares[at]
            if not passes[at]:
                ones[slots[player]] = 0.0
            at = parents[at]
        share = 1.0
        for f in range(held):
            share *= zeros[f]
            slots[players[f]] = -1
        for k in range(len(mean)):
            mean[k] += share * answers[node, k]
        for q in range(len(points)):
            products[q] = parts[q]
            for f in range(held):
                products[q] *= zeros[f] + (ones[f] - zeros[f]) * points[q]
        for f in range(held):
            total = 0.0
            for q in range(len(points)):
                if products[q] > 0.0:
                    total += products[q] / (zeros[f] + (ones[f] - zeros[f]) * points[q])
            total *= ones[f] - zeros[f]
            for k in range(len(mean)):
                added[players[f], k] += total * answers[node, k]
