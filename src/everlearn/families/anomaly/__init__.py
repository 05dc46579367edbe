"""Anomaly scores of rows, learned from a stream without labels.

A spec and batches of encoded rows come in; the second of two "probabilities" is the rank of a row among recent scores,
and named arrays go out. `settings` reads the spec, `model` holds the arrays, and `kernels` compiles the row loops of
`rows`. Three detectors score a row: `half_space` by the mass around it, `isolation` by the depth at which random cuts
isolate it, and `quantiles` by the tails of its columns and how rare its categories are. `ranks` turns a score into a
rank. Thresholds and alert rates live in `learn/`, metrics in `metrics/`.
"""

from everlearn.families.anomaly.model import Anomaly, build

__all__ = ["Anomaly", "build"]
