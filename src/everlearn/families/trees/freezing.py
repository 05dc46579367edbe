"""Trees and forests as plain arrays: see `everlearn.families.frozen`.

The pool keeps the counts that a node had when it was split, and its leaves those since. Their sum at each node is all
rows that came to it: both children of a node began at the same row, so their sums have the ratio of the rows that went
left and right.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from everlearn.families import frozen as plain
from everlearn.families.frozen import DENSE, ENTRY, LEAF, FrozenTree
from everlearn.families.trees import settings
from everlearn.families.trees.layout import (
    AROUND,
    BAYES_RIGHT,
    CEILING,
    CENTRE,
    COLUMN,
    CUT,
    FLOOR,
    INACTIVE,
    LEFT,
    LINE_LOSS,
    LINE_MEAN,
    LINE_SHIFT,
    MAJORITY_RIGHT,
    MEAN_LOSS,
    MEAN_SHIFT,
    NODE_MEAN,
    NODE_SQUARES,
    NODE_WEIGHT,
    NONE,
    NORMAL,
    ORIGIN,
    OTHER,
    ROOT,
    SIDE,
    SOLVE,
)
from everlearn.families.trees.model import Trees
from everlearn.families.trees.number_leaves import WIDENED
from everlearn.records import Floats, Singles


def frozen(model: Trees, t: int, lines: bool = False) -> FrozenTree:
    """Return tree t of a model.

    Its answers are the shares of the classes, or the mean of the numbers in their units. With `lines` a leaf that
    answers with its linear model has what this model says where all columns are at their means. A tree that has no
    rows is one leaf.

    >>> from everlearn.families.trees import build
    >>> frozen(build({"family": "tree", "task": "binary", "dense": 2}), 0).answers.tolist()
    [[0.5, 0.5]]
    """
    held = model.arrays
    numbers = model.spec["task"] == "regression"
    root = int(held["trees"][t, ROOT])
    if root == NONE:
        return _empty(model)
    nodes = held["nodes"][t]
    order, left = plain.breadth_first(np.ascontiguousarray(nodes[:, LEFT]), root)
    nodes, counts = nodes[order], held["counts"][t][order].astype(np.float64)
    inner = left >= 0
    kinds = np.where(inner, np.where(nodes[:, COLUMN] >= 0, DENSE, ENTRY), LEAF).astype(np.int8)
    columns = np.where(inner, np.where(nodes[:, COLUMN] >= 0, nodes[:, COLUMN], -1 - nodes[:, COLUMN]), 0)
    origins, dense = np.zeros(len(order)), kinds == DENSE
    origins[dense] = held["moments"][ORIGIN, columns[dense]]
    cuts = np.ascontiguousarray(nodes[:, CUT]).view(np.float32)
    parts = _number_parts(model, t, order, counts, lines) if numbers else (counts, counts.sum(axis=1))
    sums = np.column_stack([parts[0] * (parts[1][:, None] if numbers else 1.0), parts[1]])
    plain.add_below(left, sums)
    weights = sums[:, -1]
    known = weights > 0.0
    default = _default(model)
    answers = np.where(known[:, None], sums[:, :-1] / np.where(known, weights, 1.0)[:, None], default)
    answers = np.where(inner[:, None] | ~(parts[1] > 0.0)[:, None], answers, parts[0] if numbers else answers)
    return FrozenTree(
        kinds, columns.astype(np.int32), np.where(inner, cuts, np.float32(0.0)), origins, left, nodes[:, SIDE] == 1,
        _in_units(model, answers) if numbers else answers, weights, order,
    )  # fmt: skip


def still(model: Trees) -> Trees:
    """Return a copy of a model whose leaves answer with the shares of their classes, or with their mean."""
    found = copy.copy(model)
    blocks = np.array(model.arrays["blocks"])
    if model.spec["task"] == "regression":
        blocks[:, :, LINE_LOSS], blocks[:, :, MEAN_LOSS] = 1.0, 0.0
    else:
        blocks[:, :, BAYES_RIGHT], blocks[:, :, MAJORITY_RIGHT] = -1.0, 0.0
    found.arrays = {**model.arrays, "blocks": blocks}
    return found


def leads(blocks: Singles) -> NDArray[np.bool_]:
    """Return where leaves of numbers answer with their linear models; `blocks` float32 (leaves, numbers)."""
    found: NDArray[np.bool_] = (blocks[:, SOLVE] > 0.0) & (blocks[:, LINE_LOSS] <= blocks[:, MEAN_LOSS])
    return found


def within_range(blocks: Singles, answers: Floats) -> Floats:
    """Return the answers of linear models of leaves, float64 (leaves,), cut to the widened ranges of the leaves."""
    around = blocks[:, AROUND].astype(np.float64)
    lowest, highest = around + blocks[:, FLOOR], around + blocks[:, CEILING]
    wider = WIDENED * (highest - lowest)
    return np.clip(answers, lowest - wider, highest + wider)


def _number_parts(model: Trees, t: int, order: NDArray[np.int32], counts: Floats, lines: bool) -> tuple[Floats, Floats]:
    """Return the answer of each node in units, float64 (n, 1), and its own weight, float64 (n,)."""
    own, answers = counts[:, NODE_WEIGHT].copy(), counts[:, NODE_MEAN].copy()
    lefts = model.arrays["nodes"][t][order, LEFT]
    normal = settings.kernel_settings(settings.read(model.spec))[NORMAL]
    inactive = (lefts == INACTIVE) & (own > 0.0)
    answers[inactive] += normal * np.sqrt(counts[inactive, NODE_SQUARES] / own[inactive])
    active = (lefts < 0) & (lefts != INACTIVE) & (own > 0.0)
    blocks = model.arrays["blocks"][t][-1 - lefts[active]]
    answers[active] += blocks[:, MEAN_SHIFT]
    if lines and len(blocks):
        centre = within_range(blocks, blocks[:, AROUND].astype(np.float64) + blocks[:, LINE_MEAN].astype(np.float64))
        answers[active] = np.where(leads(blocks), centre + blocks[:, LINE_SHIFT], answers[active])
    return answers[:, None], own


def _default(model: Trees) -> float:
    """Return what a leaf without rows says: equal probabilities, or the mean of the stream in units."""
    if model.spec["task"] == "regression":
        return float(model.arrays["moments"][CENTRE, -1])
    return 1.0 / int(model.spec["classes"])


def _in_units(model: Trees, answers: Floats) -> Floats:
    """Return numbers of the trees in the units of the stream."""
    moments = model.arrays["moments"]
    found: Floats = moments[ORIGIN, -1] + moments[OTHER, -1] * answers
    return found


def _empty(model: Trees) -> FrozenTree:
    """Return a tree of one leaf without rows."""
    numbers = model.spec["task"] == "regression"
    answers = np.full((1, 1 if numbers else int(model.spec["classes"])), _default(model))
    none, zero = np.full(1, -1, np.int32), np.zeros(1, np.int32)
    return FrozenTree(
        np.full(1, LEAF, np.int8), zero, np.zeros(1, np.float32), np.zeros(1), none, np.zeros(1, np.bool_),
        _in_units(model, answers) if numbers else answers, np.zeros(1), zero,
    )  # fmt: skip
