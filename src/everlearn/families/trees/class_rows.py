"""Rows of classes: their labels, their votes and their errors, and the row loops of trees that predict them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn.families.kernel_parts import inlined, mislabelled, uncounted
from everlearn.families.trees.growing import Observing, find_room, growing
from everlearn.families.trees.layout import TARGET
from everlearn.families.trees.leaves import largest, predict_leaf
from everlearn.families.trees.observers import learn_columns
from everlearn.families.trees.rows import Kind, learning, predicting
from everlearn.families.trees.scores import hand_on, learn_scored, pooled, predict_scored_leaf
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

FLOOR = 1e-4  # of the probability of all classes together that is spread evenly


@uncounted
def wrong_class(y: Floats, out: Singles) -> int:
    """Return the fault of the first row with a finite label that is not a class; 0 if there is none."""
    return mislabelled(y, out.shape[1])


@inlined
def keep_scale(moments: Floats, targets: Floats, b: int) -> None:
    """Write nothing: classes have no scale."""


@inlined
def aim(label: float, moments: Floats, targets: Floats, b: int) -> None:
    """Write the class of row b."""
    targets[b, TARGET] = label


@inlined
def evenly(targets: Floats, b: int, p: Floats) -> None:
    """Write equal probabilities."""
    p[0] = 1.0 / p.shape[1]


@inlined
def vote(p: Floats, windows: Floats, t: int, votes: Floats, b: int) -> None:
    """Add the probabilities of a member to those of row b."""
    for k in range(votes.shape[1]):
        votes[b, k] += p[0, k]


@inlined
def missed(p: Floats, targets: Floats, b: int, windows: Floats, t: int) -> float:
    """Return 1 if a member's likeliest class is not that of row b, else 0."""
    return 0.0 if largest(p, 0) == targets[b, TARGET] else 1.0


@inlined
def average(votes: Floats, b: int, members: int, targets: Floats, out: Singles, i: int) -> None:
    """Write the mean of the votes of row b's members to row i of the result."""
    classes = out.shape[1]
    for k in range(classes):
        out[i, k] = (1.0 - FLOOR) * votes[b, k] / members + FLOOR / classes


@merged
def learn_plainly(
    settings: Floats, table: Floats, counts: Singles, blocks: Singles, choices: Nodes, t: int, node: int, block: int,
    rows: Floats, b: int, seen: Floats, y: int, weight: float,
) -> None:  # fmt: skip
    """Learn the columns of a row, and keep nothing for naive Bayes."""
    learn_columns(blocks, t, block, seen, y, weight)


@merged
def hold_nothing(blocks: Singles, choices: Nodes, t: int, block: int, classes: int, m: int, columns: int) -> Floats:
    """Return nothing for the children of a leaf."""
    return np.empty(0)


@merged
def hand_nothing(blocks: Singles, choices: Nodes, t: int, block: int, classes: int, m: int, found: Floats) -> None:
    """Give a leaf nothing of its parent."""


SCORED = Kind(
    wrong_class, keep_scale, aim, evenly, predict_scored_leaf, vote, missed, average, find_room,
    growing(Observing(learn_scored, pooled, hand_on)),
)  # fmt: skip
CLASSES = SCORED._replace(answer=predict_leaf, learn_at=growing(Observing(learn_plainly, hold_nothing, hand_nothing)))
predict_class_rows, learn_class_rows = predicting(CLASSES), learning(CLASSES)
predict_scored_rows, learn_scored_rows = predicting(SCORED), learning(SCORED)
