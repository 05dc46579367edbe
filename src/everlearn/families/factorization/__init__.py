"""Factorization machines: a weight for each input, and for each pair of inputs the product of two short vectors.

A spec and batches of encoded rows come in; probabilities or numbers, and named arrays, go out. `settings` reads the
spec and lays out the arrays, `rows` holds the loops that are compiled. Users and items alone, with negatives that are
drawn, are in `everlearn.families.matrix`.
"""

from everlearn.families.factorization.settings import build

__all__ = ["build"]
