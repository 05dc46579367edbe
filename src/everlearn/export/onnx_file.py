"""A model as one ONNX file, for onnxruntime and whatever else reads ONNX.

The file takes encoded rows: `dense` float32 (n, d), and where the schema hashes fields `indices` int64 (n, e) and
`values` float32 (n, e), rows filled up with the value 0. It returns `probabilities` float32 (n, classes) or `number`
float32 (n, 1). Its metadata say how each column is encoded. Linear models, Mondrian forests and the stackers of a mix
are exact; leaves of Hoeffding trees answer with the shares of their classes, or with their mean
(`everlearn.export.freezing_cost` measures the loss), and the last label of a mix stays the one of now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from everlearn import __version__
from everlearn.errors import InputError, MissingExtra
from everlearn.export.columns import columns
from everlearn.families import graphs
from everlearn.families.graphs import FLOAT, Graph, Row
from everlearn.model import Model
from everlearn.records import Arrays
from everlearn.schema.layout import HASHED
from everlearn.spec import Schema

OPSET, TREES_OPSET, IR_VERSION = 18, 3, 9  # of onnx 1.14 and onnxruntime 1.15 and newer
NAMES = ("everlearn.schema", "everlearn.model")  # of the metadata


def write(
    model: Model, schema: Schema, path: str | Path, *, version: str = "", ranges: Mapping[str, Any] | None = None
) -> Path:
    """Write a model to a file, and return its path.

    `schema` is that of the rows, `version` the id that the metadata name. `ranges` are `low` and `high`, float32 (d,),
    to which a loop clips rows before a model sees them; the file then clips, too. Raises `InputError` for a family that
    has no such form and for a model too large for one file, `MissingExtra` without the package onnx.
    """
    graph, row = Graph(), _row(schema)
    prepared = _prepared(graph, row, ranges or {})
    found = graphs.answer(model, graph, prepared)
    kind = "number" if schema.task == "regression" else "probabilities"
    result = graph.add("Cast", found, to=FLOAT)
    made = _model(graph, row, result, kind, len(columns(schema)), max(len(schema.classes), 1))
    for name, value in zip(NAMES, (described(schema), _about(model, version)), strict=True):
        entry = made.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value, ensure_ascii=False)
    if made.ByteSize() >= 1 << 31:
        raise InputError(
            f"onnx: got a model of {made.ByteSize():,} bytes; expected less than 2 GiB, the most that one file holds. "
            "Lower schema.bits or the memory of the trees"
        )
    path = Path(path)
    path.write_bytes(made.SerializeToString())
    return path


def described(schema: Schema) -> dict[str, Any]:
    """Return how rows are encoded, as plain values.

    >>> described(Schema(label="y", task="binary", classes=("no", "yes"), fields={"age": "numeric"}))["columns"]
    [{'field': 'age', 'kind': 'numeric', 'part': '', 'subtract': 0.0}]
    """
    hashed = {name: kind for name, kind in schema.fields.items() if kind in HASHED}
    return {
        "task": schema.task,
        "label": schema.label,
        "classes": list(schema.classes),
        "columns": [
            {"field": one.field, "kind": one.kind, "part": one.part, "subtract": one.origin} for one in columns(schema)
        ],
        "hashed": hashed,
        "bits": schema.bits if hashed else 0,
        "interactions": schema.interactions,
        "layout": schema.layout,
        "rules": schema.rules,
        "missing": "NaN; infinity counts as missing",
    }


def inputs(batch: Any) -> Arrays:
    """Return encoded rows as the inputs of a file: `dense`, and `indices` and `values` where rows have entries.

    >>> from everlearn.schema import Encoder
    >>> schema = Schema(label="y", task="regression", fields={"x": "numeric", "town": "categorical"}, bits=4)
    >>> found = inputs(Encoder(schema).records([{"x": 1, "town": "Delft"}, {"x": 2}])[0])
    >>> {name: array.tolist() for name, array in found.items() if name != "indices"}
    {'dense': [[1.0], [2.0]], 'values': [[1.0], [0.0]]}
    """
    counts = np.diff(batch.indptr)
    found: Arrays = {"dense": np.ascontiguousarray(batch.dense, np.float32)}
    if len(batch.indices):
        wide = int(counts.max(initial=1)) or 1
        indices, values = np.zeros((len(counts), wide), np.int64), np.zeros((len(counts), wide), np.float32)
        here = np.arange(wide)[None, :] < counts[:, None]
        some = slice(int(batch.indptr[0]), int(batch.indptr[-1]))
        indices[here], values[here] = batch.indices[some], batch.values[some]
        found |= {"indices": indices, "values": values}
    return found


def _about(model: Model, version: str) -> dict[str, Any]:
    return {"spec": dict(model.spec), "version": version, "everlearn": __version__}


def _row(schema: Schema) -> Row:
    """Return the names of the inputs."""
    hashed = any(kind in HASHED for kind in schema.fields.values())
    return Row("dense", "indices", "values") if hashed else Row("dense")


def _prepared(graph: Graph, row: Row, ranges: Mapping[str, Any]) -> Row:
    """Return the inputs as models take them: clipped, infinite numbers missing, values of entries finite."""
    dense = row.dense
    for name, beyond in (("low", "Less"), ("high", "Greater")):
        if name in ranges:
            bound = np.asarray(ranges[name], np.float32)
            dense = graph.add("Where", graph.add(beyond, dense, bound), bound, dense)
    dense = graph.add("Where", graph.add("IsInf", dense), np.array(np.nan, np.float32), dense)
    if not row.indices:
        return Row(dense)
    bad = graph.add("Or", graph.add("IsInf", row.values), graph.add("IsNaN", row.values))
    return Row(dense, row.indices, graph.add("Where", bad, np.array(0.0, np.float32), row.values))


def _model(graph: Graph, row: Row, result: str, kind: str, dense: int, outputs: int) -> Any:
    """Return the graph as a model of the package onnx."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtra("an export to ONNX", "onnx") from error
    nodes = [
        helper.make_node(one.operator, list(one.inputs), [one.output], domain=one.domain, **one.attributes)
        for one in graph.nodes
    ]
    nodes.append(helper.make_node("Identity", [result], [kind]))
    given = [helper.make_tensor_value_info(row.dense, TensorProto.FLOAT, ["rows", dense])]
    if row.indices:
        given.append(helper.make_tensor_value_info(row.indices, TensorProto.INT64, ["rows", "entries"]))
        given.append(helper.make_tensor_value_info(row.values, TensorProto.FLOAT, ["rows", "entries"]))
    answers = [helper.make_tensor_value_info(kind, TensorProto.FLOAT, ["rows", outputs])]
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    whole = helper.make_graph(nodes, "everlearn", given, answers, constants)
    sets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREES_OPSET)]
    made = helper.make_model(whole, opset_imports=sets, producer_name="everlearn", producer_version=__version__)
    made.ir_version = IR_VERSION
    checker.check_model(made)
    return made
