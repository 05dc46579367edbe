"""Shapley values of trees against the sum over all coalitions, and against closed forms."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from everlearn.families.frozen import FrozenTree
from everlearn.families.shapley import credits


def grown(random: np.random.Generator, fields: int, leaves: int, outputs: int) -> tuple[FrozenTree, np.ndarray]:
    """Return a random tree and the field that each node tests; some leaves have no rows."""
    left, tested = [-1], [0]
    open_leaves = [0]
    while len(open_leaves) < leaves:
        node = open_leaves.pop(int(random.integers(len(open_leaves))))
        left[node], tested[node] = len(left), int(random.integers(fields))
        open_leaves += [len(left), len(left) + 1]
        left += [-1, -1]
        tested += [0, 0]
    n = len(left)
    weights = np.zeros(n)
    weights[open_leaves] = random.integers(0, 6, len(open_leaves))
    for node in reversed(range(n)):
        if left[node] >= 0:
            weights[node] = weights[left[node]] + weights[left[node] + 1]
    zero = np.zeros(n)
    answers = random.normal(size=(n, outputs))
    tree = FrozenTree(zero, zero, zero, zero, np.array(left, np.int32), zero > 0, answers, weights, zero)
    return tree, np.array(tested, np.int32)


def game(tree: FrozenTree, right: np.ndarray, fields: np.ndarray, known: set[int], node: int = 0) -> np.ndarray:
    """Return the answer where only the fields in `known` are known: the definition, one node after another."""
    if tree.left[node] < 0:
        return tree.answers[node]
    pair = int(tree.left[node]), int(tree.left[node]) + 1
    if int(fields[node]) in known:
        return game(tree, right, fields, known, pair[int(right[node])])
    total = tree.weights[pair[0]] + tree.weights[pair[1]]
    share = tree.weights[pair[0]] / total if total > 0 else 0.5
    return share * game(tree, right, fields, known, pair[0]) + (1 - share) * game(tree, right, fields, known, pair[1])


@pytest.mark.parametrize("seed", range(12))
def test_values_are_those_of_all_coalitions(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 5
    tree, fields = grown(random, count, int(random.integers(1, 24)), 2)
    right = random.random(len(fields)) < 0.5
    found, mean = credits(tree, right, fields, count)
    for field in range(count):
        others = [other for other in range(count) if other != field]
        expected = np.zeros(2)
        for size in range(count):
            share = factorial(size) * factorial(count - size - 1) / factorial(count)
            for some in combinations(others, size):
                more = game(tree, right, fields, {*some, field}) - game(tree, right, fields, set(some))
                expected = expected + share * more
        np.testing.assert_allclose(found[field], expected, atol=1e-12)
    np.testing.assert_allclose(mean, game(tree, right, fields, set()), atol=1e-12)
    everything = game(tree, right, fields, set(range(count)))
    np.testing.assert_allclose(mean + found.sum(axis=0), everything, atol=1e-12)


def test_a_field_that_no_node_tests_has_exactly_0() -> None:
    tree, fields = grown(np.random.default_rng(1), 3, 20, 1)
    found, _ = credits(tree, np.ones(len(fields), bool), fields, 4)
    assert found[3, 0] == 0.0


def test_two_equal_fields_share_equally() -> None:
    """The "and" of two fields, each true for half of the rows, is 1: each gets (1 - 1/4) / 2."""
    left = np.array([1, -1, 3, -1, -1], np.int32)
    zero = np.zeros(5)
    answers = np.array([[0.0], [0.0], [0.0], [0.0], [1.0]])
    tree = FrozenTree(zero, zero, zero, zero, left, zero > 0, answers, np.array([4.0, 2.0, 2.0, 1.0, 1.0]), zero)
    found, mean = credits(tree, np.ones(5, bool), np.array([0, 0, 1, 0, 0], np.int32), 2)
    np.testing.assert_allclose(found[:, 0], [0.375, 0.375])
    np.testing.assert_allclose(mean, [0.25])


def test_a_deep_tree_keeps_its_sum() -> None:
    random = np.random.default_rng(3)
    tree, fields = grown(random, 60, 3000, 3)
    right = random.random(len(fields)) < 0.5
    found, mean = credits(tree, right, fields, 60)
    node = 0
    while tree.left[node] >= 0:
        node = int(tree.left[node]) + int(right[node])
    np.testing.assert_allclose(mean + found.sum(axis=0), tree.answers[node], atol=1e-9)
