"""Mondrian forests as a graph of ONNX: each leaf has one answer, which is exact for classes.

Nodes of numbers answer with their means, as `everlearn.families.mondrian.freezing.still` does.

The sums in which trees add hashed entries up are computed from the entries, with the same random numbers: splitmix64 is
whole numbers that wrap around, which the operators of int64 do.
"""

from __future__ import annotations

import numpy as np

from everlearn.families.frozen import SUM
from everlearn.families.graphs import DOUBLE, FLOAT, INT64, UINT64, Graph, Row, ensemble, floored
from everlearn.families.mondrian import freezing
from everlearn.families.mondrian.columns import ENTRIES, FURTHEST
from everlearn.families.mondrian.layout import SKETCHED
from everlearn.families.mondrian.model import Mondrian
from everlearn.families.mondrian.rows import FLOOR
from everlearn.records import Ints

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # see `everlearn._random`
WHOLE = (1 << 64) - 1


def answer(model: Mondrian, graph: Graph, row: Row) -> str:
    """Add the nodes of a Mondrian forest; return the name of its answers, float64 (n, classes)."""
    dense, trees = int(model.spec["dense"]), []
    for t in range(len(model.arrays["trees"])):
        tree = freezing.frozen(model, t)
        sums = dense + t * SKETCHED + tree.columns
        trees.append(tree._replace(columns=np.where(tree.kinds == SUM, sums, tree.columns).astype(np.int32)))
    summed = any((tree.kinds == SUM).any() for tree in trees)
    extra = _sums(graph, row, int(model.spec["seed"]), len(trees)) if summed else ""
    found = ensemble(graph, trees, row, extra)
    if model.spec["task"] == "regression":
        return found  # a mean of members' means is within their range
    return floored(graph, found, FLOOR, int(model.spec["classes"]))


def _sums(graph: Graph, row: Row, seed: int, trees: int) -> str:
    """Return the sums of all trees, float32 (n, trees * sums), as `everlearn.families.mondrian.columns.gather` does."""
    keys = np.array([_mixed((seed ^ ENTRIES) & WHOLE, t) for t in range(trees)], np.uint64).view(np.int64)
    indices = graph.add("Unsqueeze", row.indices, np.array([2]))  # (n, entries, 1), then (n, entries, trees)
    mixed = graph.add("Add", graph.add("BitwiseXor", indices, keys[None, None, :]), _signed(GOLDEN))
    for shift, factor in ((30, FIRST), (27, SECOND)):
        mixed = graph.add("Mul", graph.add("BitwiseXor", mixed, _shifted(graph, mixed, shift)), _signed(factor))
    mixed = graph.add("BitwiseXor", mixed, _shifted(graph, mixed, 31))
    drawn = graph.add("Mul", graph.add("Cast", _shifted(graph, mixed, 11), to=DOUBLE), np.array(1.0 / (1 << 53)))
    drawn = graph.add("Mul", drawn, np.array(float(SKETCHED)))
    place = graph.add("Floor", drawn)
    share = graph.add("Add", graph.add("Sub", drawn, place), np.array(0.5))
    values = graph.add("Cast", graph.add("Unsqueeze", row.values, np.array([2])), to=DOUBLE)
    values = graph.add("Clip", values, np.array(-float(FURTHEST)), np.array(float(FURTHEST)))
    brought = graph.add("Cast", graph.add("Mul", share, values), to=FLOAT)
    here = graph.add("Equal", graph.add("Unsqueeze", place, np.array([3])), np.arange(float(SKETCHED)))
    placed = graph.add("Mul", graph.add("Unsqueeze", brought, np.array([3])), graph.add("Cast", here, to=FLOAT))
    sums = graph.add("ReduceSum", placed, np.array([1]), keepdims=0)
    return graph.add("Reshape", sums, np.array([-1, trees * SKETCHED], np.int64))


def _mixed(state: int, part: int) -> int:
    """Return the state of splitmix64 after one part of a key."""
    state = ((state ^ part) + GOLDEN) & WHOLE
    state = ((state ^ (state >> 30)) * FIRST) & WHOLE
    state = ((state ^ (state >> 27)) * SECOND) & WHOLE
    return state ^ (state >> 31)


def _signed(number: int) -> Ints:
    return np.array(number, np.uint64).view(np.int64)


def _shifted(graph: Graph, name: str, bits: int) -> str:
    """Return int64 numbers shifted to the right, as if they had no sign."""
    plain = graph.add("Cast", name, to=UINT64)
    return graph.add("Cast", graph.add("BitShift", plain, np.array(bits, np.uint64), direction="RIGHT"), to=INT64)
