"""Nearest neighbours: the labels of the closest rows among the newest ones.

A spec and batches of encoded rows come in; probabilities or numbers, and named arrays, go out. `settings` reads the
spec and lays out the arrays, `rows` holds the loops that are compiled. The search is exact: it visits the whole window.
"""

from everlearn.families.neighbours.settings import build

__all__ = ["build"]
