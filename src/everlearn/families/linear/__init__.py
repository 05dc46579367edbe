"""Linear models: logistic, softmax and regression, on dense columns and hashed entries.

A spec and batches of encoded rows come in; predictions and named arrays go out. `settings` reads the spec, `model`
holds the arrays, `kernels` compiles the row loops of `rows`, which `losses`, `updates`, `auto` and `normalized` are
inlined into. Encoding records is in `schema/`; merging arrays of several models is started from `merge/`.
"""

from everlearn.families.linear.model import Linear, build

__all__ = ["Linear", "build"]
