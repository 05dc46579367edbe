"""Merge several snapshots of one model into one.

Snapshots of equal names, shapes and dtypes come in; one snapshot goes out. `snapshots` checks and merges whole
snapshots, `methods` holds the formulas, `contents` decides which arrays are merged, and `adapters` merges low-rank
adapters. The versions that are merged live in `version/`; the gate that a merged model must pass lives in `gate/`.
"""

from everlearn.merge import adapters
from everlearn.merge.methods import METHODS, How
from everlearn.merge.snapshots import LEARNING, completed, differing, ema, merge, merged

__all__ = ["LEARNING", "METHODS", "How", "adapters", "completed", "differing", "ema", "merge", "merged"]
