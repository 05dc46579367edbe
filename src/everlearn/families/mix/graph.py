"""A mix as a graph of ONNX: its members, and its stackers as they are now."""

from __future__ import annotations

import numpy as np

from everlearn.families import graphs
from everlearn.families.graphs import DOUBLE, FLOAT, Graph, Row
from everlearn.families.mix import numbers, stacking
from everlearn.families.mix.model import Mix
from everlearn.families.mix.settings import LOSSES


def answer(model: Mix, graph: Graph, row: Row) -> str:
    """Add the nodes of a mix; return the name of its answers, float64 (n, outputs).

    The members' answers are rounded to float32 between, as the mix does.
    """
    votes = []
    held, who = model.answering_bank()  # members that rest say nothing
    for member in [model.members[place] for place in who]:
        single = graph.add("Cast", graphs.answer(member, graph, row), to=FLOAT)
        votes.append(graph.add("Cast", single, to=DOUBLE))
    if model.loss is not None:
        shares = numbers.number_parts(
            held["recent"], held["prior"], float(held["counts"][stacking.ROWS]), LOSSES[model.loss.kind]
        )
        own = shares[: stacking.STACKERS]
        weights = own @ held["shares"] + shares[stacking.STACKERS :]
        bias = np.array(own @ held["bias"][:, numbers.BIAS])
        parts = [graph.add("Mul", vote, np.array(weight)) for vote, weight in zip(votes, weights, strict=True)]
        return graph.add("Add", graphs.total(graph, parts), bias)
    classes = held["bias"].shape[1]
    floored = [graphs.floored(graph, vote, stacking.FLOOR, classes) for vote in votes]
    logs = [graph.add("Log", one) for one in floored]
    each = []
    for s in range(stacking.STACKERS):
        weights = held["shared"][s][:, None] + held["own"][s]
        parts = [graph.add("Mul", log, weight) for log, weight in zip(logs, weights, strict=True)]
        each.append(graph.add("Softmax", graph.add("Add", graphs.total(graph, parts), held["bias"][s]), axis=-1))
    shares = np.exp(held["recent"].min() - held["recent"])
    shares /= shares.sum()
    return graphs.total(
        graph, [graph.add("Mul", one, np.array(share)) for one, share in zip([*each, *floored], shares, strict=True)]
    )
