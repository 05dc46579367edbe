"""Passive-aggressive models: linear, and each mistake is corrected at once, as little as it takes.

A spec and batches of encoded rows come in; probabilities or numbers, and named arrays, go out. `settings` reads the
spec and lays out the arrays, `rows` holds the loops that are compiled. Linear models that learn by gradients are in
`everlearn.families.linear`.
"""

from everlearn.families.passive_aggressive.settings import build

__all__ = ["build"]
