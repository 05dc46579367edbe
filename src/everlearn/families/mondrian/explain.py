"""Split the answer of a Mondrian forest into parts of columns and hashed entries, by Shapley values of its trees.

A tree adds hashed entries up in sums, and tests these. What the tests of a sum add is divided among the entries of the
row in this sum, in proportion to the size of what they bring to it. A node of numbers moves its mean along the slopes
of its linear model, and each column adds what it brings there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families import frozen as plain
from everlearn.families import parts as adding
from everlearn.families import shapley
from everlearn.families.frozen import SUM, FrozenTree
from everlearn.families.mondrian import freezing
from everlearn.families.mondrian.aggregating import LEAST_SHARE
from everlearn.families.mondrian.columns import FURTHEST
from everlearn.families.mondrian.freezing import Entries
from everlearn.families.mondrian.layout import ODDS, SKETCHED, SOLVE, SQUARES, UNIT, USED_PAIRS
from everlearn.families.mondrian.model import Mondrian
from everlearn.families.mondrian.number_lines import FIRST_SOLVED
from everlearn.families.mondrian.number_nodes import ABOVE, REACH
from everlearn.families.mondrian.rows import FLOOR
from everlearn.families.parts import AnswerParts, Names, Terms
from everlearn.records import Batch, Floats, Singles


def parts(model: Mondrian, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row: class probabilities, or the number of a regression."""
    some = slice(int(row.indptr[0]), int(row.indptr[1]))
    entries = row.indices[some], row.values[some]
    found = [_member(model, t, row.dense[0], entries, names) for t in range(len(model.arrays["trees"]))]
    whole = adding.added((1.0 / len(found), part) for part in found)
    if model.spec["task"] != "regression":
        return adding.floored(whole, FLOOR)
    answer = freezing.within_range(model, whole.answer)
    away = whole.answer - whole.base
    factor = np.where(away != 0.0, (answer - whole.base) / np.where(away != 0.0, away, 1.0), 0.0)
    return AnswerParts(whole.base, {name: factor * value for name, value in whole.terms.items()}, answer)


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
    part = AnswerParts(mean, terms, tree.answers[plain.leaf_of(tree, right)])
    if model.spec["task"] != "regression" or model.arrays["trees"][t, USED_PAIRS] == 0:
        return part
    lined = model.arrays["target"][UNIT] * _lines(model, t, tree, right, dense)
    moved = adding.named({name: np.atleast_1d(value) for name, value in zip(names.dense, lined, strict=False)})
    return adding.added([(1.0, part), (1.0, AnswerParts(np.zeros(1), moved, np.atleast_1d(lined.sum())))])


def _lines(model: Mondrian, t: int, tree: FrozenTree, right: NDArray[np.bool_], dense: Singles) -> Floats:
    """Return what each column adds to the answer of tree t by the slopes of its nodes, in its unit, float64 (columns,).

    The nodes on the way of the row have shares as in `number_nodes.aggregate_numbers`, and answers as in `answer_of`.
    """
    beliefs, counts = model.arrays["beliefs"][t], model.arrays["counts"][t].astype(np.float64)
    centres = model.arrays["centres"]
    lined = len(centres)
    x = np.where(np.isfinite(dense[:lined]), np.clip(dense[:lined], -FURTHEST, FURTHEST), centres.astype(np.float32))
    whole, line, variance, source = np.zeros(lined), np.zeros(lined), 0.0, 0
    node, mass, shares = 0, 1.0, 0.0
    while mass > LEAST_SHARE:
        place = int(tree.places[node])
        share = mass / (1.0 + beliefs[place, ODDS])
        part = counts[place, -1] / (counts[place, -1] + ABOVE) if place else 1.0
        variance = part * beliefs[place, SQUARES] + (1.0 - part) * variance
        source = place if not place or beliefs[place, SOLVE] > FIRST_SOLVED * lined + 2.0 else source
        moved = counts[source, lined : 2 * lined] * (x - counts[place, :lined])
        total, most = moved.sum(), REACH * np.sqrt(variance)
        line = part * moved * (np.clip(total, -most, most) / total if total else 0.0) + (1.0 - part) * line
        whole, shares = whole + share * line, shares + share
        if tree.left[node] < 0:
            break
        mass, node = mass - share, int(tree.left[node]) + int(right[node])
    return whole / shares


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
