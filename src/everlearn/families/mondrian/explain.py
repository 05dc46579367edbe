"""Split the answer of a Mondrian forest into parts of columns and hashed entries, by Shapley values of its trees.

A tree adds hashed entries up in sums, and tests these. What the tests of a sum add is divided among the entries of the
row in this sum, in proportion to the size of what they bring to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families import frozen as plain
from everlearn.families import parts as adding
from everlearn.families import shapley
from everlearn.families.frozen import SUM
from everlearn.families.mondrian import freezing
from everlearn.families.mondrian.freezing import Entries
from everlearn.families.mondrian.layout import SKETCHED
from everlearn.families.mondrian.model import Mondrian
from everlearn.families.mondrian.rows import FLOOR
from everlearn.families.parts import AnswerParts, Names, Terms
from everlearn.records import Batch, Singles


def parts(model: Mondrian, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row: class probabilities."""
    some = slice(int(row.indptr[0]), int(row.indptr[1]))
    entries = row.indices[some], row.values[some]
    found = [_member(model, t, row.dense[0], entries, names) for t in range(len(model.arrays["trees"]))]
    return adding.floored(adding.added((1.0 / len(found), part) for part in found), FLOOR)


def _member(
    model: Mondrian, t: int, dense: Singles, entries: tuple[NDArray[np.int32], Singles], names: Names
) -> AnswerParts:
    """Return the parts of the answer of tree t."""
    tree = freezing.frozen(model, t)
    known = names.all()
    numbers = {name: place for place, name in enumerate(known)}
    fields = np.array([numbers[name] for name in names.dense] or [0], np.int32)
    sums = tree.kinds == SUM
    tested = np.where(sums, len(known) + tree.columns, fields[np.where(sums | (tree.left < 0), 0, tree.columns)])
    right = plain.rights(tree, dense, np.zeros(0, np.int32), freezing.sums_of(model, t, entries))
    credits, mean = shapley.credits(tree, right, tested.astype(np.int32), len(known) + SKETCHED)
    own = credits[: len(known)]
    shares = _shares(model, t, entries, names, known) if sums.any() else np.zeros((SKETCHED, len(known)))
    own = own + shares.T @ credits[len(known) :]
    terms: Terms = adding.named(dict(zip(known, own, strict=True)))
    return AnswerParts(mean, terms, tree.answers[plain.leaf_of(tree, right)])


def _shares(model: Mondrian, t: int, entries: Entries, names: Names, known: list[str]) -> NDArray[np.float64]:
    """Return the share of each name in each sum, float64 (sums, names); a sum without entries is one of absent ones."""
    shares = np.zeros((SKETCHED, len(known)))
    indices, values = entries
    if len(indices):
        for place, factor, value, name in zip(*freezing.places(model, t, indices), values, names.hashed, strict=True):
            shares[place, known.index(name)] += abs(factor * value) if abs(value) < np.inf else 0.0
    total = shares.sum(axis=1)
    shares[total == 0.0, known.index(names.absent)] = 1.0
    return shares / np.where(total == 0.0, 1.0, total)[:, None]
