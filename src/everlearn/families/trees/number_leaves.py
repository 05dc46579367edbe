"""Predict a number at a leaf: its mean or its linear model, whichever had the smaller recent loss there.

For the squared loss these are the two predictions. For a quantile the running quantile of the residuals is added to
each, which a stochastic step follows, in units of the leaf's deviation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, uncounted
from everlearn.families.trees.layout import (
    AROUND,
    CEILING,
    FLOOR,
    INACTIVE,
    LEFT,
    LINE_LOSS,
    LINE_SHIFT,
    MEAN_LOSS,
    MEAN_SHIFT,
    NODE_MEAN,
    NODE_SQUARES,
    NODE_WEIGHT,
    NORMAL,
    OWN,
    OWN_SQUARES,
    QUANTILE,
    RATE,
    SOLVE,
)
from everlearn.families.trees.leaves import gather
from everlearn.families.trees.number_lines import line_answer
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

WIDENED = 0.1  # share of the range of a leaf by which a linear model may leave it
FADE = 0.98  # what recent losses keep of the past, each row
HORIZON = 1000.0  # rows after which the step of a running quantile falls no more
LARGEST_LOSS = 1e35


@uncounted
def number_answer(
    settings: Floats, t: int, nodes: Nodes, counts: Floats, blocks: Singles, choices: Nodes, node: int, rows: Floats,
    b: int, indices: Nodes, values: Singles, low: int, high: int, seen: Floats, p: Floats,
) -> tuple[float, float]:  # fmt: skip
    """Write the prediction of a leaf to `p[0, 0]`, if it has rows; return those of its mean and of its linear model."""
    n, mean = counts[t, node, NODE_WEIGHT], counts[t, node, NODE_MEAN]
    left = nodes[t, node, LEFT]
    if left == INACTIVE:
        if n > 0.0:
            p[0, 0] = mean + settings[NORMAL] * math.sqrt(counts[t, node, NODE_SQUARES] / n)
        return p[0, 0], p[0, 0]
    block = -1 - left
    gather(rows, b, choices, t, block, seen)
    if n <= 0.0:
        return p[0, 0], p[0, 0]
    first = mean + blocks[t, block, MEAN_SHIFT]
    second = first
    p[0, 0] = first
    if blocks[t, block, SOLVE] > 0.0:
        around = np.float64(blocks[t, block, AROUND])
        lowest, highest = around + blocks[t, block, FLOOR], around + blocks[t, block, CEILING]
        wider = WIDENED * (highest - lowest)
        second = min(max(line_answer(blocks, t, block, seen.shape[1], rows, b), lowest - wider), highest + wider)
        second += blocks[t, block, LINE_SHIFT]
        if blocks[t, block, LINE_LOSS] <= blocks[t, block, MEAN_LOSS]:
            p[0, 0] = second
    return first, second


@inlined
def number_loss(away: float, quantile: float) -> float:
    """Return the loss of a prediction that is `away` above its target: squared, or pinball for a quantile above 0."""
    if quantile == 0.0:
        return min(away * away, LARGEST_LOSS)
    return (1.0 - quantile) * away if away > 0.0 else -quantile * away


@uncounted
def learn_answers(
    settings: Floats, blocks: Singles, t: int, block: int, first: float, second: float, target: float, weight: float
) -> None:
    """Count the losses of both predictions of a leaf, and follow the quantiles of their residuals."""
    quantile = settings[QUANTILE]
    if blocks[t, block, SOLVE] > 0.0:
        mean_loss, line_loss = number_loss(first - target, quantile), number_loss(second - target, quantile)
        blocks[t, block, MEAN_LOSS] = FADE * blocks[t, block, MEAN_LOSS] + mean_loss
        blocks[t, block, LINE_LOSS] = FADE * blocks[t, block, LINE_LOSS] + line_loss
    own = np.float64(blocks[t, block, OWN])
    if quantile > 0.0 and own > 0.0:
        count = min(1.0 + own / max(settings[RATE], 1.0), HORIZON)
        deviation = math.sqrt(blocks[t, block, OWN_SQUARES] / own)
        step = deviation * min(0.6 / (quantile * (1.0 - quantile) * count), 1.0) * min(weight, 1.0)
        blocks[t, block, MEAN_SHIFT] += np.float32(step * (quantile - (1.0 if target < first else 0.0)))
        if blocks[t, block, SOLVE] > 0.0:
            blocks[t, block, LINE_SHIFT] += np.float32(step * (quantile - (1.0 if target < second else 0.0)))
