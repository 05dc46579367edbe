"""Aggregated Mondrian forests (Mourtada, Gaiffas and Scornet 2021), for two or more classes.

A spec and batches of encoded rows come in; predictions and named arrays go out. `settings` reads the spec, `layout`
divides a budget of bytes, `model` holds the arrays, and `kernels` compiles the row loops of `rows`. A tree predicts by
all its prunings at once (`aggregating`), grows with the boxes of its nodes (`growing`), and takes nodes from a pool of
a fixed size (`pool`). Drift is found by ADWIN, which lives in `drift/`.
"""

from everlearn.families.mondrian.model import Mondrian, build

__all__ = ["Mondrian", "build"]
