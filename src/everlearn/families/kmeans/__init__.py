"""Online k-means: clusters whose centres follow the stream, without labels.

A spec and batches of encoded rows come in; the share of each cluster in a row, and named arrays, go out. `settings`
reads the spec and lays out the arrays, `rows` holds the loops that are compiled. How good clusters are is measured in
`everlearn.evaluate.clustering`.
"""

from everlearn.families.kmeans.settings import build

__all__ = ["build"]
