"""Rows of classes: their labels, their votes and their errors, and the row loops of trees that predict them."""

from __future__ import annotations

from everlearn.families.kernel_parts import inlined, mislabelled, outlined
from everlearn.families.trees.growing import find_room, learn_at
from everlearn.families.trees.layout import TARGET
from everlearn.families.trees.leaves import largest, predict_leaf
from everlearn.families.trees.rows import Kind, learning, predicting
from everlearn.records import Floats, Singles

FLOOR = 1e-4  # of the probability of all classes together that is spread evenly


@outlined
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


CLASSES = Kind(wrong_class, keep_scale, aim, evenly, predict_leaf, vote, missed, average, find_room, learn_at)
predict_class_rows, learn_class_rows = predicting(CLASSES), learning(CLASSES)
