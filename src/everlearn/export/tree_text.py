"""A tree as text, in the manner of scikit-learn's `export_text`."""

from __future__ import annotations

from collections.abc import Mapping

from everlearn.export.labels import DEPTH, ShownNode, labelled
from everlearn.model import Model
from everlearn.spec import Schema


def text(
    model: Model, schema: Schema, tree: str | int = 0, depth: int = DEPTH, entries: Mapping[int, str] | None = None
) -> str:
    """Return a tree as lines of text: its tests, and in its leaves the classes' shares or the number, and the weight.

    Thresholds are in the units of the fields. `tree` is a name, as `everlearn.export.trees` lists them, or a number.
    The tree is cut at `depth`. `entries` are the meanings of hashed entries, from `everlearn.export.entry_names`.
    Weights are sums of the weights with which rows were learned: a forest of classes gives each row 6 on average.
    Raises `InputError` for a model without trees, and for an unknown name.

    >>> import numpy as np, everlearn as el
    >>> x = np.random.default_rng(0).random(2000)
    >>> stream = el.read({"age": 80 * x, "ill": x > 0.6}, label="ill")
    >>> model = el.build({"family": "tree", "drift": False})
    >>> report = el.prequential(model, stream)
    >>> print(text(model, stream.schema, depth=1))  # doctest: +ELLIPSIS
    |--- age <= ...
    |   |--- ...
    |--- age > ...
    |   |--- ...
    """
    nodes = labelled(model, schema, tree, depth, entries)
    return "\n".join(_lines(nodes, 0))


def _lines(nodes: list[ShownNode], place: int) -> list[str]:
    node = nodes[place]
    bar = "|   " * node.depth + "|--- "
    if node.below is None:
        cut = f"; cut here, {node.leaves:,} leaves below" if node.leaves else ""
        return [f"{bar}{node.answer} (weight {node.weight:,.0f}{cut})"]
    left, right = node.below
    return [f"{bar}{node.left}", *_lines(nodes, left), f"{bar}{node.right}", *_lines(nodes, right)]
