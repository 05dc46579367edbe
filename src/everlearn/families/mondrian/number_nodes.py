"""Nodes of numbers: their answers, and what they give a number."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, outlined
from everlearn.families.mondrian.aggregating import LEAST_SHARE, child
from everlearn.families.mondrian.growing import LEAST_EVIDENCE, Kind, growing
from everlearn.families.mondrian.layout import LEFT, MEAN, NONE, ODDS, PARENT, QUANTILE, SHIFT, SOLVE, SQUARES
from everlearn.families.mondrian.number_lines import learn_line, solve_line
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

MOST_WEIGHT = float(1 << 22)  # of a node before its weight is halved
ABOVE = 1.0  # rows that the answer of the parent counts for
FIRST_SOLVED, RESOLVED = 4.0, 1.125
HORIZON = 1000.0  # rows after which the step of a running quantile falls no more


@inlined
def answer_of(
    beliefs: Floats, counts: Singles, t: int, node: int, x: Singles, wide: int, above: float
) -> float:
    """Return the answer of a node: its mean, moved along its slopes, and drawn towards the answer of its parent."""
    lined = len(x) - wide - 1
    n = np.float64(counts[t, node, counts.shape[2] - 1])
    moved = np.float32(0.0)
    for j in range(lined):
        moved += counts[t, node, lined + j] * (x[wide + j] - counts[t, node, j])
    own = beliefs[t, node, MEAN] + beliefs[t, node, SHIFT] + moved
    if node == 0:
        return own
    return (n * own + ABOVE * above) / (n + ABOVE)


@inlined
def number_loss(away: float, quantile: float) -> float:
    """Return the loss of a prediction that is `away` above its target: squared, or pinball for a quantile above 0."""
    if quantile == 0.0:
        return away * away
    return (1.0 - quantile) * away if away > 0.0 else -quantile * away


@inlined
def given(
    settings: Floats, beliefs: Floats, counts: Singles, t: int, node: int, x: Singles, wide: int, y: float, above: float
) -> tuple[float, float]:
    """Return what a node gives a number, exp(-loss / scale), and its answer."""
    answer = answer_of(beliefs, counts, t, node, x, wide, above)
    precision = np.float64(x[len(x) - 1])
    return max(math.exp(-precision * number_loss(answer - y, settings[QUANTILE])), LEAST_EVIDENCE), answer


@inlined
def mixed(beliefs: Floats, counts: Singles, t: int, node: int, y: float) -> bool:
    """Return True if the numbers of a node and y are not all the same."""
    return bool(beliefs[t, node, SQUARES] > 0.0 or beliefs[t, node, MEAN] != y)


@outlined
def count(
    settings: Floats, nodes: Nodes, beliefs: Floats, counts: Singles, t: int, node: int, x: Singles, wide: int,
    y: float, weight: float, answer: float,
) -> None:  # fmt: skip
    """Count a row: weight, means of target and columns, squares, and the running quantile of the errors."""
    last = counts.shape[2] - 1
    lined = len(x) - wide - 1
    held = np.float64(counts[t, node, last])
    share = weight / (held + weight)
    away = y - beliefs[t, node, MEAN]
    if held == 0.0:
        beliefs[t, node, MEAN] = y
        beliefs[t, node, SOLVE] = FIRST_SOLVED
        parent = nodes[t, node, PARENT]
        for j in range(lined):
            counts[t, node, j] = x[wide + j]
            counts[t, node, lined + j] = counts[t, parent, lined + j] if parent >= 0 else np.float32(0.0)
    else:
        if settings[QUANTILE] > 0.0:
            quantile, rows = settings[QUANTILE], min(1.0 + held, HORIZON)
            step = math.sqrt(beliefs[t, node, SQUARES]) * min(0.6 / (quantile * (1.0 - quantile) * rows), 1.0)
            beliefs[t, node, SHIFT] += step * min(weight, 1.0) * (quantile - (1.0 if y < answer else 0.0))
        beliefs[t, node, MEAN] += share * away
        beliefs[t, node, SQUARES] += share * ((1.0 - share) * away * away - beliefs[t, node, SQUARES])
        learn_line(counts, t, node, x, wide, np.float32(away), np.float32(share), np.float32(held * share))
    counts[t, node, last] = min(held + weight, MOST_WEIGHT)
    if held + weight >= beliefs[t, node, SOLVE] and lined > 0:
        beliefs[t, node, SOLVE] = max((held + weight) * RESOLVED, held + weight + lined / 2)
        solve_line(counts, t, node, nodes[t, node, PARENT], lined)


@outlined
def aggregate_numbers(
    nodes: Nodes, beliefs: Floats, counts: Singles, t: int, x: Singles, wide: int
) -> float:
    """Return the answer of a tree: those of the nodes on the way of a row, each by its share."""
    node, mass, total, parts, answer = 0, 1.0, 0.0, 0.0, 0.0
    while mass > LEAST_SHARE:
        share = mass / (1.0 + beliefs[t, node, ODDS])
        answer = answer_of(beliefs, counts, t, node, x, wide, answer)
        total += share * answer
        parts += share
        if nodes[t, node, LEFT] == NONE:
            break
        mass -= share
        node = child(nodes, counts, t, node, x)
    return total / parts


learn_number = growing(Kind(given, mixed, count))
