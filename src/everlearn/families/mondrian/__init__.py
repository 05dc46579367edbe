"""Aggregated Mondrian forests (Mourtada, Gaiffas and Scornet 2021), for classes and for numbers.

A spec and batches of encoded rows come in; predictions and named arrays go out. `settings` reads the spec, `layout`
divides a budget of bytes, `model` holds the arrays, and `kernels` compiles the row loops of `rows` and, for numbers,
`number_rows`. A tree predicts by all its prunings at once (`aggregating`), grows with the boxes of its nodes
(`growing`), and takes nodes from a pool of a fixed size (`pool`). Nodes hold counts of classes (`class_nodes`), or
answer with numbers (`number_nodes`) by linear models (`number_lines`). ADWIN, which finds drift, lives in `drift/`.
"""

from everlearn.families.mondrian.model import Mondrian, build

__all__ = ["Mondrian", "build"]
