"""Predict by all prunings of a tree at once, each weighted by its likelihood and its prior.

The prior of a pruning is 2 to the minus number of its nodes that may have been split or not. The weights of
all prunings need one number at each node (context tree weighting; Willems, Shtarkov and Tjalkens 1995): here the odds
of its subtree against the node alone, exp(log W_left + log W_right - log w) in the words of Mourtada, Gaiffas and
Scornet 2021, section 3. A node's own share is 1 / (1 + odds). When a row comes, odds are multiplied by what the subtree
gave its label over what the node gave it. They are as safe as logarithms, since they are kept from 1e-100 to 1e100,
beyond which a share is 0 or 1 in any case, and they need neither a logarithm nor an exponential.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.kernel_parts import inlined, outlined
from everlearn.families.mondrian.layout import COLUMN, CUT, LEFT, NONE, ODDS, PRIOR
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

LARGEST_ODDS = 1e100
LEAST_SHARE = 1e-10  # a smaller share of a node is left out, and so is what lies below


@inlined
def child(nodes: Nodes, counts: Singles, t: int, node: int, x: Singles) -> int:
    """Return the child to which a row goes; a row without the value goes where more weight went."""
    left = nodes[t, node, LEFT]
    v = x[nodes[t, node, COLUMN]]
    if math.isnan(v):
        total = counts.shape[2] - 1
        return int(left + (1 if counts[t, left + 1, total] > counts[t, left, total] else 0))
    return int(left + (1 if v > np.int32(nodes[t, node, CUT]).view(np.float32) else 0))


@outlined
def aggregate(settings: Floats, nodes: Nodes, beliefs: Floats, counts: Singles, t: int, x: Singles, p: Floats) -> None:
    """Write the probabilities of a tree to `p`, float64 (classes,)."""
    classes, prior = len(p), settings[PRIOR]
    for k in range(classes):
        p[k] = 0.0
    node, mass, spread = 0, 1.0, 0.0
    while mass > LEAST_SHARE:
        share = mass / (1.0 + beliefs[t, node, ODDS])
        if share > LEAST_SHARE:
            factor = share / (counts[t, node, classes] + classes * prior)
            spread += prior * factor
            for k in range(classes):
                p[k] += factor * counts[t, node, k]
        if nodes[t, node, LEFT] == NONE:
            break
        mass -= share
        node = child(nodes, counts, t, node, x)
    for k in range(classes):
        p[k] += spread


@outlined
def reweigh(beliefs: Floats, t: int, path: Nodes, own: Floats, depth: int, below: float) -> None:
    """Multiply the odds of the nodes of a path, from the last to the root, by what a row says for their subtrees.

    `own` is what each node gave the label of the row, `below` what the node after the path gave it.
    """
    for i in range(depth - 1, -1, -1):
        odds = beliefs[t, path[i], ODDS]
        beliefs[t, path[i], ODDS] = min(max(odds * (below / own[i]), 1.0 / LARGEST_ODDS), LARGEST_ODDS)
        below = (own[i] + odds * below) / (1.0 + odds)
