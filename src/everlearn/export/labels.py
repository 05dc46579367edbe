"""The tests and leaves of a tree in words, in the units of the schema, and cut at a depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from everlearn.export.columns import Column, columns
from everlearn.families import frozen
from everlearn.families.frozen import DENSE, ENTRY, FrozenTree
from everlearn.model import Model
from everlearn.records import Floats, Singles
from everlearn.schema.meaning import YEAR, YEAR_2000
from everlearn.spec import Schema

DEPTH = 3
SHARES = 3  # classes that a leaf names


class ShownNode(NamedTuple):
    """A node in words: the conditions of its two branches, or what it answers.

    `depth` counts from 0. `left` and `right` are the conditions and `below` the numbers of the children in the list of
    shown nodes; a leaf, or a node at which the tree is cut, has none. `answer` is what it says, `weight` the weight of
    the rows that came to it, `leaves` how many leaves lie below where the tree is cut (0: it is a leaf). `top` is the
    likeliest class, and `share` its probability; a regression has -1, and 0 to 1 from the lowest to the highest number
    shown.
    """

    depth: int
    left: str
    right: str
    below: tuple[int, int] | None
    answer: str
    weight: float
    leaves: int
    top: int
    share: float


def labelled(
    model: Model, schema: Schema, tree: str | int = 0, depth: int = DEPTH, entries: Mapping[int, str] | None = None
) -> list[ShownNode]:
    """Return the nodes of a tree down to a depth, the root first, each before its children, the left side first.

    `tree` is a name or a number (`everlearn.families.frozen.names`); `entries` are the meanings of hashed indices
    (`everlearn.export.columns.entry_names`). Raises `InputError` for a model without trees, and an unknown name.
    """
    found = frozen.tree(model, tree)
    cuts, named, known = frozen.thresholds(found), columns(schema), entries or {}
    below = np.where(found.left < 0, 1.0, 0.0)[:, None]
    frozen.add_below(found.left, below)
    levels = frozen.depths(found)
    shown = found.answers[levels <= depth]
    lowest, highest = float(shown.min()), float(shown.max())
    nodes: list[ShownNode] = []

    def visit(node: int) -> int:
        level, inner = int(levels[node]), bool(found.left[node] >= 0)
        open_ = inner and level < depth
        left, right = _conditions(found, node, cuts, named, known) if open_ else ("", "")
        answers = found.answers[node]
        if schema.task == "regression":
            top, share = -1, (float(answers[0]) - lowest) / (highest - lowest or 1.0)
        else:
            top, share = int(answers.argmax()), float(answers.max())
        leaves = int(below[node, 0]) if inner and not open_ else 0
        nodes.append(
            ShownNode(
                level, left, right, None, _answer(schema, answers), float(found.weights[node]), leaves, top, share
            )
        )
        place = len(nodes) - 1
        if open_:
            first = visit(int(found.left[node]))
            second = visit(int(found.left[node]) + 1)
            nodes[place] = nodes[place]._replace(below=(first, second))
        return place

    visit(0)
    return nodes


def _conditions(
    found: FrozenTree, node: int, cuts: Singles, named: list[Column], entries: Mapping[int, str]
) -> tuple[str, str]:
    """Return the conditions of the left and of the right branch."""
    column, kind = int(found.columns[node]), int(found.kinds[node])
    if kind == ENTRY:
        meaning = entries.get(column, f"entry {column} is present")
        return meaning, f"not: {meaning}"
    lost = (" or missing", "") if not found.missing[node] else ("", " or missing")
    if kind != DENSE:
        cut = f"{cuts[node]:.6g}"
        return f"sum {column} of hashed entries <= {cut}", f"sum {column} of hashed entries > {cut}"
    one = named[column]
    if one.kind == "boolean" and 0.0 <= cuts[node] < 1.0:
        return f"{one.name} is false{lost[0]}", f"{one.name} is true{lost[1]}"
    cut = _written(one, float(cuts[node]))
    return f"{one.name} <= {cut}{lost[0]}", f"{one.name} > {cut}{lost[1]}"


def _written(column: Column, cut: float) -> str:
    """Return a threshold in the units of its field."""
    if column.kind == "datetime" and column.part.startswith("years"):
        when = np.datetime64(int(cut * YEAR + YEAR_2000), "s")
        return f"{cut:.4f} ({when.astype('datetime64[m]')})"
    return f"{column.origin + cut:.12g}" if column.origin else f"{cut:.6g}"


def _answer(schema: Schema, answers: Floats) -> str:
    """Return the shares of the likeliest classes, or the number."""
    if schema.task == "regression":
        return f"{answers[0]:.6g}"
    likely = np.argsort(-answers, kind="stable")[:SHARES]
    text = ", ".join(f"{schema.classes[k]}: {answers[k]:.2f}" for k in likely.tolist())
    return text if len(answers) <= SHARES else f"{text}, ..."
