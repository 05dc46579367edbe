"""Nodes of classes: counts of rows, and the probability that they give a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined
from everlearn.families.mondrian.growing import Answer, NodeKind, growing
from everlearn.families.mondrian.layout import PRIOR
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

MOST_WEIGHT = float(1 << 22)  # of a node before its weights are halved


@inlined
def given(
    settings: Floats,
    beliefs: Floats,
    counts: Singles,
    t: int,
    node: int,
    x: Singles,
    wide: int,
    y: int,
    above: Answer,
) -> tuple[float, Answer]:
    """Return the probability that a node gives class y; there is no other answer."""
    classes = counts.shape[2] - 1
    total = np.float64(counts[t, node, classes])
    return (counts[t, node, y] + settings[PRIOR]) / (total + classes * settings[PRIOR]), above


@inlined
def mixed(beliefs: Floats, counts: Singles, t: int, node: int, y: int) -> bool:
    """Return True if a node has rows of another class than y."""
    return bool(counts[t, node, y] != counts[t, node, counts.shape[2] - 1])


@inlined
def count(
    settings: Floats, nodes: Nodes, beliefs: Floats, counts: Singles, t: int, node: int, x: Singles, wide: int, y: int,
    weight: float, answer: Answer,
) -> None:  # fmt: skip
    """Count a row of class y."""
    classes = counts.shape[2] - 1
    counts[t, node, y] += np.float32(weight)
    counts[t, node, classes] += np.float32(weight)
    if counts[t, node, classes] > MOST_WEIGHT:
        for k in range(classes + 1):
            counts[t, node, k] *= np.float32(0.5)


@inlined
def settle(
    nodes: Nodes, beliefs: Floats, counts: Singles, t: int, path: Nodes, passed: int, x: Singles, wide: int
) -> None:
    """Do nothing: a node has only counts."""
    return


learn_class = growing(NodeKind(given, mixed, count, settle))
