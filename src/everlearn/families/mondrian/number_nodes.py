"""Nodes of numbers: their answers, what they give a number, and how they learn one.

A node answers with the mean of its rows, moved along the slopes of a linear model, plus a running quantile where the
loss is not the squared one. It gives a number exp(-loss / scale), which makes the aggregation of prunings that of
exponential weights (Mourtada, Gaiffas and Scornet 2021, section 3); the scale follows the loss of the tree.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, outlined
from everlearn.families.mondrian.aggregating import LEAST_SHARE, child
from everlearn.families.mondrian.growing import LEAST_EVIDENCE, Answer, NodeKind, growing
from everlearn.families.mondrian.layout import LEFT, MEAN, NONE, ODDS, PARENT, QUANTILE, SHIFT, SOLVE, SQUARES
from everlearn.families.mondrian.number_lines import FIRST_SOLVED, halve_line, learn_line, next_solved, solve_line
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]
Answer = Answer  # of a node: its answer, the variance of its targets, and the node with its slopes

MOST_WEIGHT = float(1 << 22)  # of a node before its weights are halved
ABOVE = 1.0  # rows that the answer and the variance of the parent count for
REACH = 2.5  # deviations of the targets by which slopes move an answer at most
HORIZON = 1000.0  # rows after which the step of a running quantile falls no more
STEADY = 3.0  # rows for each column after which slopes say where a tree should split


@inlined
def answer_of(beliefs: Floats, counts: Singles, t: int, node: int, x: Singles, wide: int, above: Answer) -> Answer:
    """Return the answer of a node; answer and variance are drawn towards those of its parent.

    A node that has not solved for slopes takes those that its parent has now.
    """
    lined = (len(x) - wide - 1) // 2
    n = np.float64(counts[t, node, counts.shape[2] - 1])
    part = n / (n + ABOVE) if node != 0 else 1.0
    variance = part * beliefs[t, node, SQUARES] + (1.0 - part) * above[1]
    source = node if node == 0 or beliefs[t, node, SOLVE] > FIRST_SOLVED * lined + 2.0 else above[2]
    moved = np.float32(0.0)
    for j in range(lined):
        moved += counts[t, source, lined + j] * (x[wide + j] - counts[t, node, j])
    most = REACH * math.sqrt(variance)
    along = min(max(np.float64(moved), -most), most) if abs(moved) < math.inf else 0.0
    own = beliefs[t, node, MEAN] + beliefs[t, node, SHIFT] + along
    return part * own + (1.0 - part) * above[0], variance, source


@inlined
def number_loss(away: float, quantile: float) -> float:
    """Return the loss of a prediction that is `away` above its target: squared, or pinball for a quantile above 0."""
    if quantile == 0.0:
        return away * away
    return (1.0 - quantile) * away if away > 0.0 else -quantile * away


@inlined
def given(
    settings: Floats,
    beliefs: Floats,
    counts: Singles,
    t: int,
    node: int,
    x: Singles,
    wide: int,
    y: float,
    above: Answer,
) -> tuple[float, Answer]:
    """Return what a node gives a number, exp(-loss / scale), and its answer."""
    answer = answer_of(beliefs, counts, t, node, x, wide, above)
    precision = np.float64(x[len(x) - 1])
    return max(math.exp(-precision * number_loss(answer[0] - y, settings[QUANTILE])), LEAST_EVIDENCE), answer


@inlined
def mixed(beliefs: Floats, counts: Singles, t: int, node: int, y: float) -> bool:
    """Return True if the numbers of a node and y are not all the same."""
    return bool(beliefs[t, node, SQUARES] > 0.0 or beliefs[t, node, MEAN] != y)


@outlined
def count(
    settings: Floats, nodes: Nodes, beliefs: Floats, counts: Singles, t: int, node: int, x: Singles, wide: int,
    y: float, weight: float, answer: Answer,
) -> None:  # fmt: skip
    """Count a row: weight, means of target and columns, squares and products, and the running quantile of errors."""
    last = counts.shape[2] - 1
    lined = (len(x) - wide - 1) // 2
    held = np.float64(counts[t, node, last])
    share = weight / (held + weight)
    away = y - beliefs[t, node, MEAN]
    if held == 0.0:
        beliefs[t, node, MEAN] = y
        if nodes[t, node, PARENT] != NONE:
            beliefs[t, node, SHIFT] = beliefs[t, nodes[t, node, PARENT], SHIFT]
        beliefs[t, node, SOLVE] = FIRST_SOLVED * lined + 2.0
        for j in range(lined):
            counts[t, node, j] = x[wide + j]
    else:
        if settings[QUANTILE] > 0.0:
            quantile, rows = settings[QUANTILE], min(1.0 + held, HORIZON)
            step = math.sqrt(answer[1]) * min(0.6 / (quantile * (1.0 - quantile) * rows), 1.0)
            beliefs[t, node, SHIFT] += step * min(weight, 1.0) * (quantile - (1.0 if y < answer[0] else 0.0))
        beliefs[t, node, MEAN] += share * away
        beliefs[t, node, SQUARES] += share * ((1.0 - share) * away * away - beliefs[t, node, SQUARES])
        learn_line(counts, t, node, x, wide, lined, np.float32(away), np.float32(share), np.float32(held * share))
    counts[t, node, last] = held + weight
    if held + weight > MOST_WEIGHT:
        beliefs[t, node, SOLVE] *= 0.5
        halve_line(counts, t, node, lined)


@outlined
def settle(
    nodes: Nodes, beliefs: Floats, counts: Singles, t: int, path: Nodes, passed: int, x: Singles, wide: int
) -> None:
    """Solve for slopes where it is time, after all nodes have given the row its evidence: children use these slopes."""
    lined = (len(x) - wide - 1) // 2
    if lined > 0:
        for i in range(passed):
            node = path[i]
            held = np.float64(counts[t, node, counts.shape[2] - 1])
            if held >= beliefs[t, node, SOLVE]:
                beliefs[t, node, SOLVE] = next_solved(held, lined)
                solve_line(counts, t, node, nodes[t, node, PARENT], lined)


@outlined
def aggregate_numbers(
    nodes: Nodes, beliefs: Floats, counts: Singles, t: int, x: Singles, wide: int
) -> tuple[float, int]:
    """Return the answer of a tree, those of the nodes on the way of a row by their shares, and the last steady node."""
    node, mass, total, parts, answer, steady = 0, 1.0, 0.0, 0.0, (0.0, 0.0, 0), 0
    enough = STEADY * ((len(x) - wide - 1) // 2) + 10.0
    while mass > LEAST_SHARE:
        share = mass / (1.0 + beliefs[t, node, ODDS])
        answer = answer_of(beliefs, counts, t, node, x, wide, answer)
        total += share * answer[0]
        parts += share
        if counts[t, node, counts.shape[2] - 1] >= enough:
            steady = node
        if nodes[t, node, LEFT] == NONE:
            break
        mass -= share
        node = child(nodes, counts, t, node, x)
    return total / parts, steady


learn_number = growing(NodeKind(given, mixed, count, settle))
