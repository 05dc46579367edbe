"""Biased matrix factorisation of users and items, learned from ratings or from choices alone.

A spec and batches of encoded rows come in, whose first two hashed entries are a user and an item; ratings or scores,
and named arrays, go out. `settings` reads the spec and lays out the arrays, `rows` holds the loops that are compiled.
More inputs than these two are for `everlearn.families.factorization`; ranking is in `everlearn.evaluate.ranking`.
"""

from everlearn.families.matrix.settings import build

__all__ = ["build"]
