"""Linear models as a graph of ONNX, which is exact: all numbers are float64, as in the model."""

from __future__ import annotations

import numpy as np

from everlearn.errors import InputError
from everlearn.families import graphs
from everlearn.families.graphs import DOUBLE, Graph, Row
from everlearn.families.linear import settings
from everlearn.families.linear.blend import COUNTS, SCALE, SHARE
from everlearn.families.linear.explain import scale
from everlearn.families.linear.model import Linear
from everlearn.families.linear.rows import LARGEST_DEVIATION, LARGEST_PREDICTION
from everlearn.families.linear.settings import Settings
from everlearn.records import Floats


def answer(model: Linear, graph: Graph, row: Row) -> str:
    """Add the nodes of a linear model; return the name of its answers, float64 (n, outputs).

    Raises `InputError` for products of hashed entries, which only stored models of release 0.1 have.
    """
    chosen = settings.read(model.spec)
    if chosen.pairs_hashed:
        raise InputError(
            f"onnx: got a linear model with interactions {chosen.interactions!r}; expected 'none' or 'dense', since "
            "a graph has no products of hashed entries. Use schema.interactions in a new loop"
        )
    parts = []
    if chosen.columns > 1:
        x = _inputs(model, chosen, graph, row)
        parts.append(_summed(graph, x, _dense(model, chosen), _scales(model, chosen)))
    if chosen.hashed and row.indices:
        parts.append(_hashed(model, chosen, graph, row))
    intercept = _intercept(model, chosen)
    scores = (
        graph.add("Add", graphs.total(graph, parts), intercept)
        if parts
        else graphs.constant_rows(graph, row, intercept)
    )
    if chosen.task == "multiclass":
        return graph.add("Softmax", scores, axis=-1)
    if chosen.task == "binary":
        second = graph.add("Sigmoid", scores)
        return graph.add("Concat", graph.add("Sub", np.array(1.0), second), second, axis=1)
    scaled = settings.kernel_settings(chosen)[settings.SCALE_TARGET] != 0.0
    centre, spread = scale(model.arrays["moments"]) if scaled else (0.0, 1.0)
    number = graph.add("Add", graph.add("Mul", scores, np.array(spread)), np.array(centre))
    return graph.add("Clip", number, np.array(-LARGEST_PREDICTION), np.array(LARGEST_PREDICTION))


def _inputs(model: Linear, chosen: Settings, graph: Graph, row: Row) -> str:
    """Return columns and products as the model sees them, float64 (n, columns), without the intercept."""
    raw = graph.add("Cast", row.dense, to=DOUBLE)
    missing = graph.add("IsNaN", row.dense)
    x = graph.add("Where", missing, np.array(0.0), raw)
    if chosen.standardize:
        n, mean, squares = (part[: chosen.dense] for part in model.arrays["moments"][:3])
        away = graph.add("Sub", x, mean)
        moved = graph.add("Sub", x, graph.add("Add", graph.add("Div", away, n + 1.0), mean))
        whole = graph.add("Add", graph.add("Mul", away, moved), squares)
        some = graph.add("Greater", whole, np.array(0.0))
        part = graph.add("Div", n + 1.0, graph.add("Where", some, whole, np.array(1.0)))
        z = graph.add("Where", some, graph.add("Mul", moved, graph.add("Sqrt", part)), np.array(0.0))
        z = graph.add("Clip", z, np.array(-LARGEST_DEVIATION), np.array(LARGEST_DEVIATION))
        x = graph.add("Where", missing, np.array(0.0), z)
    if chosen.pairs_dense and chosen.dense > 1:
        first, second = np.triu_indices(chosen.dense, 1)
        pairs = graph.add("Mul", graph.add("Gather", x, first, axis=1), graph.add("Gather", x, second, axis=1))
        x = graph.add("Concat", x, pairs, axis=1)
    return x


def _blended(model: Linear, quick: Floats, settled: Floats) -> Floats:
    blend = model.arrays["blend"]
    found: Floats = blend[SCALE] * (settled + blend[SHARE] * (quick - settled))
    return found


def _dense(model: Linear, chosen: Settings) -> Floats:
    """Return the weights of all columns, float64 (scores, columns), without the intercept."""
    weights = model.arrays["weights"]
    found = _blended(model, weights[0], weights[1]) if chosen.optimizer == "blend" else weights[0]
    return found[:, :-1]


def _scales(model: Linear, chosen: Settings) -> Floats | None:
    """Return the size up to which each column counts, float64 (scores, columns); None without a bound."""
    return model.arrays["weights"][2][:, :-1] if chosen.optimizer == "normalized" else None


def _intercept(model: Linear, chosen: Settings) -> Floats:
    """Return the score of a row without values, float64 (scores,)."""
    weights = model.arrays["weights"]
    if chosen.optimizer == "blend":
        blend, loss = model.arrays["blend"], settings.LOSSES[chosen.loss]
        prior = np.zeros(chosen.margins)
        if loss == settings.LOGISTIC:
            prior[0] = blend[COUNTS + 3] - blend[COUNTS + 2]
        elif loss == settings.SOFTMAX:
            prior = blend[(len(blend) + COUNTS) // 2 :][: chosen.margins]
        found: Floats = _blended(model, weights[0], weights[1])[:, -1] + (1.0 - blend[SCALE]) * prior
    elif chosen.optimizer == "normalized":
        found = weights[0][:, -1] * np.minimum(weights[2][:, -1], 1.0)
    else:
        found = weights[0][:, -1]
    return found


def _summed(graph: Graph, x: str, weights: Floats, scales: Floats | None) -> str:
    """Return weight times column, summed, float64 (n, scores)."""
    if scales is None:
        return graph.add("MatMul", x, weights.T)
    each = []
    for own, bound in zip(weights, scales, strict=True):
        cut = graph.add("Max", graph.add("Min", x, bound), -bound)
        each.append(graph.add("MatMul", cut, own[:, None]))
    return graph.add("Concat", *each, axis=1) if len(each) > 1 else each[0]


def _hashed(model: Linear, chosen: Settings, graph: Graph, row: Row) -> str:
    """Return the sum of the weights of a row's hashed entries, float64 (n, scores)."""
    table = model.arrays["hashed"].astype(np.float64)
    weights = _blended(model, table[:, :, 0], table[:, :, 2]) if chosen.optimizer == "blend" else table[:, :, 0]
    values = graph.add("Cast", graph.add("Unsqueeze", row.values, np.array([2])), to=DOUBLE)
    if chosen.optimizer == "normalized":
        bound = graph.add("Gather", table[:, :, 2], row.indices, axis=0)
        values = graph.add("Max", graph.add("Min", values, bound), graph.add("Neg", bound))
    found = graph.add("Mul", graph.add("Gather", weights, row.indices, axis=0), values)
    return graph.add("ReduceSum", found, np.array([1]), keepdims=0)
