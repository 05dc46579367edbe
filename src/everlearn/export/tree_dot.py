"""A tree in the language of Graphviz."""

from __future__ import annotations

import json
from collections.abc import Mapping

from everlearn.export.labels import DEPTH, labelled
from everlearn.model import Model
from everlearn.spec import Schema


def dot(
    model: Model, schema: Schema, tree: str | int = 0, depth: int = DEPTH, entries: Mapping[int, str] | None = None
) -> str:
    """Return a tree as a directed graph in DOT, for `dot -Tsvg`. Arguments and errors are those of `text`.

    >>> from everlearn.model import build
    >>> schema = Schema(label="y", task="binary", classes=("no", "yes"), fields={"age": "numeric"})
    >>> print(dot(build({"family": "tree", "task": "binary", "dense": 1}), schema))
    digraph tree {
      node [shape=box, fontname="sans-serif"];
      n0 [label="no: 0.50, yes: 0.50\\nweight 0"];
    }
    """
    lines = ["digraph tree {", '  node [shape=box, fontname="sans-serif"];']
    for number, node in enumerate(labelled(model, schema, tree, depth, entries)):
        title = f"{node.left}?\n" if node.below else ""
        cut = f"\n{node.leaves:,} leaves below" if node.leaves else ""
        text = json.dumps(f"{title}{node.answer}\nweight {node.weight:,.0f}{cut}", ensure_ascii=False)
        lines.append(f"  n{number} [label={text}{', style=dashed' if node.leaves else ''}];")
        for side, child in zip(("yes", "no"), node.below or (), strict=False):
            lines.append(f'  n{number} -> n{child} [label="{side}"];')
    return "\n".join([*lines, "}"])
