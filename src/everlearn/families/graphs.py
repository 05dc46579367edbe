"""Models as graphs of the operators of ONNX: what each family contributes, and the record of a graph.

`FAMILIES` names the module of each family that can be written so. Its function `answer(model, graph, row)` adds the
nodes that compute the answers of n rows, and returns the name of the result, float64 (n, outputs). Nothing here needs
the package onnx; `everlearn.export.onnx_file` writes the file.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.families.frozen import DENSE, ENTRY, LEAF, FrozenTree, thresholds
from everlearn.model import Model
from everlearn.records import Floats

FAMILIES: dict[str, str] = {
    "linear": "everlearn.families.linear.graph",
    "tree": "everlearn.families.trees.graph",
    "forest": "everlearn.families.trees.graph",
    "mondrian": "everlearn.families.mondrian.graph",
    "mix": "everlearn.families.mix.graph",
    "last": "everlearn.families.last",
}
FLOAT, INT64, BOOL, DOUBLE, UINT64 = 1, 7, 9, 11, 13  # types of elements, as ONNX numbers them


class Row(NamedTuple):
    """The names of the inputs of a graph.

    `dense` is float32 (n, d), infinity replaced by NaN. `indices` int64 (n, e) and `values` float32 (n, e) are the
    hashed entries of each row, filled up with values of 0; values that are not finite are 0, too. Both are "" where
    the schema hashes nothing.
    """

    dense: str
    indices: str = ""
    values: str = ""


class Operation(NamedTuple):
    """One node: operator and domain, names of its inputs and of its output, attributes."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class Graph:
    """Nodes and constants of a graph, in the order in which they are computed.

    >>> graph = Graph()
    >>> graph.add("Add", "x", np.ones(2)), graph.nodes[0].inputs, graph.constants["c0"].tolist()
    ('v0', ('x', 'c0'), [1.0, 1.0])
    """

    def __init__(self) -> None:
        self.nodes: list[Operation] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, *inputs: str | NDArray[Any], domain: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output; arrays among the inputs become constants."""
        names = tuple(one if isinstance(one, str) else self._constant(one) for one in inputs)
        output = f"v{len(self.nodes)}"
        self.nodes.append(Operation(operator, domain, names, output, attributes))
        return output

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array)
        return name


def answer(model: Model, graph: Graph, row: Row) -> str:
    """Add the nodes of a model; return the name of its answers, float64 (n, outputs).

    Raises `InputError` for a family that has no such form.
    """
    family = str(model.spec.get("family", ""))
    if family not in FAMILIES:
        raise InputError(
            f"onnx: got a model of the family {family!r}; expected one of {', '.join(sorted(FAMILIES))}. "
            "A network of PyTorch is written by torch.onnx"
        )
    return importlib.import_module(FAMILIES[family]).answer(model, graph, row)  # type: ignore[no-any-return]


def floored(graph: Graph, probabilities: str, floor: float, classes: int) -> str:
    """Return probabilities, of which the share `floor` is spread evenly over the classes."""
    return graph.add("Add", graph.add("Mul", probabilities, np.array(1.0 - floor)), np.array(floor / classes))


def total(graph: Graph, parts: list[str]) -> str:
    """Return the sum of some values."""
    return graph.add("Sum", *parts) if len(parts) > 1 else parts[0]


def constant_rows(graph: Graph, row: Row, values: Floats) -> str:
    """Return the same values, float64 (outputs,), for each row."""
    n = graph.add("Shape", row.dense, start=0, end=1)
    shape = graph.add("Concat", n, np.array([len(values)], np.int64), axis=0)
    return graph.add("Expand", values[None, :].astype(np.float64), shape)


def ensemble(graph: Graph, trees: list[FrozenTree], row: Row, extra: str = "", first_extra: int = 0) -> str:
    """Return the mean answer of some trees, float64 (n, outputs).

    `extra` float32 (n, more) are further columns, at the numbers from `first_extra`, for trees that test sums: the
    column of a sum is then its number in all of these. Hashed entries that trees test become columns as well.
    """
    entries = sorted({int(index) for tree in trees for index in tree.columns[tree.kinds == ENTRY]})
    columns = [row.dense] + ([extra] if extra else [])
    base = first_extra
    if entries:
        columns.append(_absent(graph, row, np.array(entries, np.int64)))
    x = graph.add("Concat", *columns, axis=1) if len(columns) > 1 else row.dense
    centre = np.mean([tree.answers[0] for tree in trees], axis=0) if trees[0].answers.shape[1] == 1 else np.zeros(1)
    places = {index: base + place for place, index in enumerate(entries)}
    listed = _listed(trees, places, centre)
    found = graph.add(
        "TreeEnsembleRegressor", x, domain="ai.onnx.ml", n_targets=trees[0].answers.shape[1], aggregate_function="SUM",
        post_transform="NONE", **listed,
    )  # fmt: skip
    mean = graph.add("Mul", graph.add("Cast", found, to=DOUBLE), np.array(1.0 / len(trees)))
    return graph.add("Add", mean, centre)


def _absent(graph: Graph, row: Row, entries: NDArray[np.int64]) -> str:
    """Return a column for each hashed entry, float32 (n, entries): above 0.5 where a row does not have it."""
    here = graph.add("Equal", graph.add("Unsqueeze", row.indices, np.array([2])), entries[None, None, :])
    counted = graph.add("Not", graph.add("Equal", row.values, np.array(0.0, np.float32)))
    both = graph.add("And", here, graph.add("Unsqueeze", counted, np.array([2])))
    times = graph.add("ReduceSum", graph.add("Cast", both, to=FLOAT), np.array([1]), keepdims=0)
    return graph.add("Sub", np.array(1.0, np.float32), times)


def _listed(trees: list[FrozenTree], places: dict[int, int], centre: Floats) -> dict[str, Any]:
    """Return the attributes of an ensemble of trees; `places` are the columns of hashed entries."""
    nodes: dict[str, list[Any]] = {
        name: []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
                     "missing_value_tracks_true")
    }  # fmt: skip
    targets: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for t, tree in enumerate(trees):
        n, leaves = len(tree.left), tree.kinds == LEAF
        dense = tree.kinds == DENSE
        cuts = np.where(dense, thresholds(tree), np.where(tree.kinds == ENTRY, np.float32(0.5), tree.cuts))
        columns = [
            places[column] if kind == ENTRY else column
            for kind, column in zip(tree.kinds.tolist(), tree.columns.tolist(), strict=True)
        ]
        nodes["treeids"] += [t] * n
        nodes["nodeids"] += range(n)
        nodes["featureids"] += columns
        nodes["values"] += cuts.astype(np.float32).tolist()
        nodes["modes"] += np.where(leaves, "LEAF", "BRANCH_LEQ").tolist()
        nodes["truenodeids"] += np.where(leaves, 0, tree.left).tolist()
        nodes["falsenodeids"] += np.where(leaves, 0, tree.left + 1).tolist()
        nodes["missing_value_tracks_true"] += (~tree.missing & ~leaves).astype(int).tolist()
        for leaf in np.flatnonzero(leaves).tolist():
            answers = (tree.answers[leaf] - centre).astype(np.float32).tolist()
            targets["treeids"] += [t] * len(answers)
            targets["nodeids"] += [leaf] * len(answers)
            targets["ids"] += range(len(answers))
            targets["weights"] += answers
    return {f"nodes_{name}": values for name, values in nodes.items()} | {
        f"target_{name}": values for name, values in targets.items()
    }
