"""Trees of a Mondrian forest as plain arrays: see `everlearn.families.frozen`.

A tree predicts by the average of the nodes on the way of a row. That way depends on thresholds alone, not on boxes. So
each leaf of a forest of classes has one answer for all rows that come to it, and the plain tree is exact. A node of
numbers has its mean, to which its linear model adds something for each row; the plain tree has the means alone.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.families import frozen as plain
from everlearn.families.frozen import DENSE, LEAF, SUM, FrozenTree
from everlearn.families.mondrian import layout, settings
from everlearn.families.mondrian.aggregating import LEAST_SHARE
from everlearn.families.mondrian.columns import ENTRIES, FURTHEST
from everlearn.families.mondrian.layout import (
    CEILING,
    COLUMN,
    CUT,
    FLOOR,
    LEFT,
    MEAN,
    ODDS,
    ORIGIN,
    PRIOR,
    SHIFT,
    TARGET_MEAN,
    UNIT,
    USED_PAIRS,
)
from everlearn.families.mondrian.model import Mondrian
from everlearn.families.mondrian.number_nodes import ABOVE
from everlearn.families.mondrian.number_rows import WIDENED
from everlearn.records import Floats, Singles

Entries = tuple[NDArray[np.int32], Singles]


def frozen(model: Mondrian, t: int) -> FrozenTree:
    """Return tree t of a model; the answer of a node is the average of all nodes from the root to it.

    That of a forest of numbers is in the units of the stream, without what linear models add.
    """
    held = model.arrays
    empty = held["trees"][t, USED_PAIRS] == 0
    if empty:
        order, left = np.zeros(1, np.int32), np.full(1, -1, np.int32)
    else:
        order, left = plain.breadth_first(np.ascontiguousarray(held["nodes"][t][:, LEFT]), 0)
    nodes, counts = held["nodes"][t][order], held["counts"][t][order].astype(np.float64)
    inner, weights = left >= 0, counts[:, -1]
    if model.spec["task"] == "regression":
        own = _means(left, held["beliefs"][t][order], weights)
        if empty:
            own[:] = held["target"][TARGET_MEAN]
    else:
        classes = int(model.spec["classes"])
        prior = settings.kernel_settings(settings.read(model.spec))[PRIOR]
        own = (counts[:, :-1] + prior) / (weights + classes * prior)[:, None]
    drawn = held["columns"].shape[1]
    sums = inner & (nodes[:, COLUMN] >= drawn)
    columns = np.where(inner, nodes[:, COLUMN], 0)
    if drawn:
        dense = held["columns"][t][np.where(inner & ~sums, columns, 0)]
        columns = np.where(inner & ~sums, dense, columns - drawn * sums)
    below = np.where(inner, left, 0)
    return FrozenTree(
        np.where(inner, np.where(sums, SUM, DENSE), LEAF).astype(np.int8),
        columns.astype(np.int32),
        np.where(inner, np.ascontiguousarray(nodes[:, CUT]).view(np.float32), np.float32(0.0)),
        np.zeros(len(order)),
        left,
        inner & (weights[below + inner] > weights[below]),
        _in_units(model, _averaged(left, own, held["beliefs"][t][order, ODDS])),
        weights,
        order,
    )


def still(model: Mondrian) -> Mondrian:
    """Return a copy of a model whose nodes answer with constants; a forest of classes as it is."""
    if model.spec["task"] != "regression":
        return model
    found = copy.copy(model)
    counts, lined = np.array(model.arrays["counts"]), len(model.arrays["centres"])
    counts[:, :, lined : 2 * lined] = 0.0
    found.arrays = {"counts": counts}
    return found


def within_range(model: Mondrian, mean: Floats) -> Floats:
    """Return the mean of the members of a forest of numbers, cut as its predictions are; in units of the stream."""
    target = model.arrays["target"]
    wider = WIDENED * (target[CEILING] - target[FLOOR])
    low, high = _in_units(model, np.array([target[FLOOR] - wider, target[CEILING] + wider]))
    return np.clip(mean, low, high)


def _in_units(model: Mondrian, answers: Floats) -> Floats:
    """Return the answers of a forest of numbers in the units of the stream; probabilities as they are."""
    if model.spec["task"] != "regression":
        return answers
    target = model.arrays["target"]
    found: Floats = target[ORIGIN] + target[UNIT] * answers
    return found


def places(model: Mondrian, t: int, indices: NDArray[np.int32]) -> tuple[NDArray[np.int64], Floats]:
    """Return the sum of tree t to which each hashed index adds, int64 (n,), and its factor, float64 (n,)."""
    seed = int(settings.kernel_settings(settings.read(model.spec))[layout.SEED]) ^ ENTRIES
    drawn = np.array([uniform(seed, t, int(index)) for index in indices]) * layout.SKETCHED
    whole = drawn.astype(np.int64)
    return whole, 0.5 + drawn - whole


def sums_of(model: Mondrian, t: int, entries: Entries) -> Singles:
    """Return the sums of one row's hashed entries that tree t compares, float32 (sums,)."""
    found = np.zeros(layout.SKETCHED, np.float32)
    if len(entries[0]) and int(model.spec.get("hashed", 0)):
        for place, factor, value in zip(*places(model, t, entries[0]), entries[1], strict=True):
            if abs(value) < np.inf:
                found[place] += np.float32(factor * np.float64(min(max(value, -FURTHEST), FURTHEST)))
    return found


@exact_kernel
def _means(left: NDArray[np.int32], beliefs: Floats, weights: Floats) -> Floats:
    """Return the mean and shift of each node, drawn towards those of its parent as `answer_of` does, (n, 1)."""
    own = np.empty((len(left), 1))
    own[0, 0] = beliefs[0, MEAN] + beliefs[0, SHIFT]
    for node in range(len(left)):  # a parent comes before its children
        if left[node] >= 0:
            for child in range(left[node], left[node] + 2):
                part = weights[child] / (weights[child] + ABOVE)
                own[child, 0] = part * (beliefs[child, MEAN] + beliefs[child, SHIFT]) + (1.0 - part) * own[node, 0]
    return own


@exact_kernel
def _averaged(left: NDArray[np.int32], own: Floats, odds: Floats) -> Floats:
    """Return the answer at each node: shares of the nodes above it, and the rest for the node itself, (n, classes)."""
    n, classes = own.shape
    above, mass, answers = np.zeros((n, classes)), np.ones(n), np.empty((n, classes))
    for node in range(n):  # a parent comes before its children
        for k in range(classes):
            answers[node, k] = above[node, k] + mass[node] * own[node, k]
        if left[node] >= 0:
            share = mass[node] / (1.0 + odds[node]) if mass[node] > LEAST_SHARE else mass[node]
            for child in range(left[node], left[node] + 2):
                mass[child] = mass[node] - share
                for k in range(classes):
                    above[child, k] = above[node, k] + share * own[node, k]
    return answers
