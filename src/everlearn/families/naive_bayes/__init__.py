"""Naive Bayes: class counts, a normal or two-valued density of each number, and shares of hashed entries.

A spec and batches of encoded rows come in; class probabilities and named arrays go out. `settings` reads the spec and
lays out the arrays, `rows` holds the loops that are compiled. The leaves of trees have a naive Bayes of their columns
in `everlearn.families.trees.leaves`, on the arrays of a pool.
"""

from everlearn.families.naive_bayes.settings import build

__all__ = ["build"]
