"""Trees and forests as a graph of ONNX: an ensemble of trees whose leaves have one answer each.

Leaves that answer by naive Bayes, or with a linear model, answer there with the shares of their classes, or with their
mean: as `everlearn.families.trees.freezing.still` does.
"""

from __future__ import annotations

from everlearn.families.graphs import Graph, Row, ensemble, floored
from everlearn.families.trees import freezing
from everlearn.families.trees.class_rows import FLOOR
from everlearn.families.trees.model import Trees


def answer(model: Trees, graph: Graph, row: Row) -> str:
    """Add the nodes of a tree or a forest; return the name of its answers, float64 (n, outputs)."""
    trees = [freezing.frozen(model, t) for t in range(len(model.arrays["trees"]))]
    found = ensemble(graph, trees, row, first_extra=int(model.spec["dense"]))
    return found if model.spec["task"] == "regression" else floored(graph, found, FLOOR, int(model.spec["classes"]))
