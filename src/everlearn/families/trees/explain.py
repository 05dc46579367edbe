"""Split the answer of a tree or a forest into parts of columns and hashed entries.

What the tests of a tree add are Shapley values (`everlearn.families.shapley`) of the answers that leaves have for all
their rows. A leaf that answers by naive Bayes, or with its linear model, adds what each column does there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.families import frozen as plain
from everlearn.families import parts as adding
from everlearn.families import shapley
from everlearn.families.frozen import ENTRY, FrozenTree
from everlearn.families.parts import AnswerParts, Names, Terms
from everlearn.families.trees import freezing, settings
from everlearn.families.trees.class_rows import FLOOR
from everlearn.families.trees.columns import FURTHEST
from everlearn.families.trees.layout import (
    AROUND,
    BAYES_RIGHT,
    BINARY,
    CENTRE,
    CHOICES,
    COLUMN_FLOATS,
    CONSTANT,
    COUNT,
    DEVIATIONS,
    HEAD,
    INACTIVE,
    KEY,
    KIND,
    LEFT,
    LINE_MEAN,
    LINE_START,
    MAJORITY_RIGHT,
    MEAN,
    MOST_LINE,
    NUMBER_HEAD,
    ORIGIN,
    OTHER,
    PARTS,
    SECOND,
    SHARE,
    SHRINK,
    SPREAD,
    SQUARES,
    VALUE,
    WAYS,
    WEIGHT,
)
from everlearn.families.trees.leaves import LEAST_SHRINK
from everlearn.families.trees.model import Trees
from everlearn.families.trees.scores import LEAST_PART
from everlearn.records import Batch, Floats, Singles

DRAWN_ENTRIES = 0x4A5D  # as `observers.is_drawn` mixes keys


def parts(model: Trees, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row: class probabilities, or the number of a regression."""
    numbers = model.spec["task"] == "regression"
    prepared = _prepared(model, row.dense[0])
    found = [_member(model, t, row, prepared, names) for t in range(len(model.arrays["trees"]))]
    whole = adding.added((1.0 / len(found), part) for part in found)
    return whole if numbers else adding.floored(whole, FLOOR)


def _member(model: Trees, t: int, row: Batch, prepared: Floats, names: Names) -> AnswerParts:
    """Return the parts of the answer of tree t."""
    numbers = model.spec["task"] == "regression"
    tree = freezing.frozen(model, t, lines=True)
    indices, values = entries(row)
    right = plain.rights(tree, row.dense[0], indices, values)
    known = names.all()
    credits, mean = shapley.credits(tree, right, _fields(tree, indices, names, known), len(known))
    leaf = plain.leaf_of(tree, right)
    terms: Terms = adding.named(dict(zip(known, credits, strict=True)))
    part = AnswerParts(mean, terms, tree.answers[leaf])
    node = int(tree.places[leaf])
    left = int(model.arrays["nodes"][t, node, LEFT]) if tree.weights[leaf] > 0.0 else INACTIVE
    if left == INACTIVE:
        return part
    own = _line(model, t, -1 - left, prepared, names) if numbers else _bayes(model, t, node, row, prepared, names)
    return adding.added([(1.0, part), (1.0, own)]) if own else part


def entries(row: Batch) -> tuple[NDArray[np.int32], Singles]:
    """Return the hashed entries of one row: indices and values; those that count as absent have the index -1."""
    some = slice(int(row.indptr[0]), int(row.indptr[1]))
    values = row.values[some]
    return np.where((values != 0.0) & np.isfinite(values), row.indices[some], -1).astype(np.int32), values


def _fields(tree: FrozenTree, indices: NDArray[np.int32], names: Names, known: list[str]) -> NDArray[np.int32]:
    """Return the place in `known` of the name that each node tests, int32 (n,)."""
    numbers = {name: place for place, name in enumerate(known)}
    dense = np.array([numbers[name] for name in names.dense] or [0], np.int32)
    tests = tree.kinds == ENTRY
    found: NDArray[np.int32] = dense[np.where(tests | (tree.left < 0), 0, tree.columns)]
    found[tests] = numbers[names.absent]
    for index, name in zip(indices.tolist(), names.hashed, strict=True):
        if index >= 0:
            found[tests & (tree.columns == index)] = numbers[name]
    return found


def _prepared(model: Trees, dense: Singles) -> Floats:
    """Return a row as `everlearn.families.trees.columns.prepare` writes it, float64 (3, columns)."""
    moments = model.arrays["moments"][:, : len(dense)]
    values = dense.astype(np.float64)
    away = np.clip(values - moments[ORIGIN], -FURTHEST, FURTHEST).astype(np.float32).astype(np.float64)
    binary = moments[KIND] == BINARY
    other = np.where(binary, moments[OTHER], 1.0)
    spread = np.where(binary, moments[CENTRE] / other, moments[DEVIATIONS] / np.maximum(moments[COUNT], 1.0))
    found = np.empty((3, len(dense)))
    found[VALUE] = np.where(np.isfinite(values), away, np.nan)
    found[SPREAD] = np.where(moments[KIND] == CONSTANT, 0.0, spread)
    found[SECOND] = np.where(binary, moments[OTHER], 0.0)
    return found


def _bayes(model: Trees, t: int, node: int, row: Batch, prepared: Floats, names: Names) -> AnswerParts | None:
    """Return what naive Bayes adds to the shares of the classes of a leaf; None where the leaf answers with these."""
    held = model.arrays
    block = -1 - int(held["nodes"][t, node, LEFT])
    own, counts = held["blocks"][t, block], held["counts"][t, node].astype(np.float64)
    if counts.sum() <= 0.0 or own[BAYES_RIGHT] < own[MAJORITY_RIGHT]:
        return None
    dials = settings.kernel_settings(settings.read(model.spec))
    kept = model.spec["prior"] == settings.PARENT
    m = held["choices"].shape[2] - CHOICES - _entry_places(model)
    columns = held["choices"][t, block, CHOICES : CHOICES + m]
    terms: Terms = {}
    observed = own[HEAD : HEAD + PARTS * len(counts) * m].reshape(len(counts), PARTS, m).astype(np.float64)
    scores = _Scores(own, len(counts), m, _entry_places(model)) if kept else None
    seen = scores.known if scores else counts > 0.0
    if not seen.any():
        return None
    base = np.log(np.where(seen, counts, 1.0))[seen]
    densities = log_likelihoods(observed, prepared[:, columns], dials, scores.variances if scores else None)[seen]
    if scores and scores.answers(prepared[:, columns]):
        densities = scores.terms(observed, prepared[:, columns], densities, base)
    for column, value in zip(columns.tolist(), densities.T, strict=True):
        name = names.dense[column]
        terms[name] = terms[name] + value if name in terms else value
    for name, value in _entry_likelihoods(model, t, block, counts, row, names, dials):
        terms[name] = terms[name] + value[seen] if name in terms else value[seen]
    answer = base + sum(terms.values(), np.zeros(len(base)))
    return _less_base(adding.softmax(AnswerParts(base, terms, answer)), seen, counts[seen].sum() / counts.sum())


def _less_base(part: AnswerParts, seen: NDArray[np.bool_], mass: float) -> AnswerParts:
    """Return the terms of some classes, which have a mass, as terms of all of them, with the base 0."""

    def spread(values: Floats) -> Floats:
        whole: Floats = np.zeros(len(seen))
        whole[seen] = mass * values
        return whole

    terms = {name: spread(value) for name, value in part.terms.items()}
    return AnswerParts(np.zeros(len(seen)), terms, spread(part.answer - part.base))


class _Scores:
    """What a leaf keeps for naive Bayes, see `everlearn.families.trees.scores`."""

    def __init__(self, own: Singles, classes: int, m: int, entries: int) -> None:
        at = HEAD + PARTS * classes * m + entries * (1 + classes)
        rest = own[at:].astype(np.float64)
        self.scales = rest[: classes * m].reshape(classes, m)
        self.numbers, known, rest = np.split(rest[classes * m :], [classes, 2 * classes])
        self.known: NDArray[np.bool_] = known > 0.0
        self.variances, self.state = rest[:m], rest[m : m + 1]

    def answers(self, row: Floats) -> bool:
        """Return True if the leaf answers a prepared row, (3, m), by what it keeps."""
        state = np.where(row[SPREAD] > 0.0, np.where(row[SECOND] != 0.0, 1.0, 2.0), 0.0).sum()
        value, second = row[VALUE], row[SECOND]
        third = (second != 0.0) & (value != 0.0) & (value != second)
        return not (np.isnan(value) | third).any() and bool(state == self.state[0])

    def terms(self, observed: Floats, row: Floats, densities: Floats, base: Floats) -> Floats:
        """Return what each column of a prepared row adds to the base of each known class, float64 (known classes, m).

        `densities` are those by the stream as it is now, which binary columns take. The columns that vary share the
        rest of the answer.
        """
        scales, binary = self.scales[self.known], row[SECOND] != 0.0
        scaled = scales * np.where(binary, row[VALUE], np.square(row[VALUE] - observed[self.known, MEAN]))
        numeric = ~binary & (scales < 0.0)
        found = np.where(numeric, scaled + 0.5 * np.log(np.where(numeric, -2.0 * scales, 1.0)), densities)
        left = self.numbers[self.known] + scaled.sum(axis=1) - found.sum(axis=1) - base
        varies = row[SPREAD] > 0.0
        return found + left[:, None] * varies / max(varies.sum(), 1)  # type: ignore[no-any-return]


def log_likelihoods(observed: Floats, row: Floats, dials: Floats, variances: Floats | None = None) -> Floats:
    """Return the logarithm of the density of each column of a prepared row, (3, m), in each class: (classes, m).

    `observed` float64 (classes, 5, m) are the numbers of a leaf; see `everlearn.families.trees.leaves`. A missing value
    and a constant column have 0. `variances` (m,) are those of the parent of the leaf, 0 where there are none.
    """
    value, spread, second = row[VALUE], row[SPREAD], row[SECOND]
    toward = spread
    if variances is not None:
        toward = np.where(variances > 0.0, np.maximum(variances, LEAST_PART * spread), spread)
    n, mean, squares = observed[:, WEIGHT], observed[:, MEAN], observed[:, SQUARES]
    shrink = dials[SHRINK]
    used = ~np.isnan(value) & (spread > 0.0)
    binary = second != 0.0
    other = np.where(binary, second, 1.0)
    weight = max(shrink, LEAST_SHRINK)
    part = np.clip(mean / other, 0.0, 1.0) * n + weight * spread
    part = np.maximum(np.where(value != second, n + weight - part, part), 1e-9)
    total = np.where(used, squares + shrink * toward, 1.0)
    away = np.where(n == 0.0, toward, np.square(np.where(used, value, 0.0) - mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = -0.5 * (away * (n + shrink) / total + np.log(total / (n + shrink)))
    return np.where(used, np.where(binary, np.log(part / (n + weight)), normal), 0.0)


def _entry_places(model: Trees) -> int:
    """Return how many hashed entries a leaf keeps."""
    return settings.ENTRIES if int(model.spec.get("hashed", 0)) else 0


def _entry_likelihoods(
    model: Trees, t: int, block: int, counts: Floats, row: Batch, names: Names, dials: Floats
) -> list[tuple[str, Floats]]:
    """Return the logarithms of the shares of hashed entries in each class, with the names of the entries."""
    from everlearn._random import uniform

    kept = _entry_places(model)
    held = model.arrays["choices"][t, block]
    own = model.arrays["blocks"][t, block]
    m, classes = len(held) - CHOICES - kept, len(counts)
    at = HEAD + PARTS * classes * m + kept
    found = []
    for index, name in zip(entries(row)[0].tolist() if kept else [], names.hashed, strict=False):
        drawn = dials[SHARE] >= 1.0 or uniform(DRAWN_ENTRIES, int(held[KEY]), index) < dials[SHARE]
        if index < 0 or not drawn:
            continue
        bucket = (index * 40503 >> 4) % (kept // WAYS) * WAYS
        for place in range(bucket, bucket + WAYS):
            if held[CHOICES + m + place] == index:
                part = own[at + place * classes : at + (place + 1) * classes].astype(np.float64)
                found.append((name, np.log((part + 0.5) / (np.maximum(counts, part) + 1.0))))
                break
    return found


def _line(model: Trees, t: int, block: int, prepared: Floats, names: Names) -> AnswerParts | None:
    """Return what the columns add to the answer of a leaf's linear model at their means; None where none answers."""
    own = model.arrays["blocks"][t, block]
    if not freezing.leads(own[None])[0]:
        return None
    columns = prepared.shape[1]
    line, m = min(columns, MOST_LINE), model.arrays["choices"].shape[2] - CHOICES - _entry_places(model)
    at, some = NUMBER_HEAD + m * COLUMN_FLOATS, np.arange(line)
    if columns > MOST_LINE:
        some = (int(own[LINE_START]) + some) % columns
    away = prepared[VALUE, some] - own[at : at + line].astype(np.float64)
    slopes = own[at + line : at + 2 * line].astype(np.float64)
    added = np.where(np.isnan(away), 0.0, slopes * away)
    centre = float(own[AROUND]) + float(own[LINE_MEAN])
    total = added.sum()
    low, high = freezing.within_range(np.stack([own, own]), np.array([centre, centre + total]))
    unit = model.arrays["moments"][OTHER, -1]
    factor = unit * ((high - low) / total if total != 0.0 else 0.0)
    terms: Terms = {}
    for column, value in zip(some.tolist(), added, strict=True):
        name = names.dense[column]
        terms[name] = terms.get(name, np.zeros(1)) + factor * value
    return AnswerParts(np.zeros(1), terms, np.array([factor * total]))
