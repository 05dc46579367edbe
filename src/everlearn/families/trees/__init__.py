"""Hoeffding trees and adaptive random forests, for classes and numbers, on dense columns and hashed entries.

A spec and batches of encoded rows come in; predictions and named arrays go out. `settings` reads the spec, `layout`
divides a budget of bytes, `model` holds the arrays, and `kernels` compiles the row loops of `rows`. Files that begin
with `number_` are those of regression. Drift is found by ADWIN, which lives in `drift/`.
"""

from everlearn.families.trees.model import Trees, build

__all__ = ["Trees", "build"]
