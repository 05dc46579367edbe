"""Merge learners that began at the same arrays and then learned different rows.

    base        the arrays that all of them had after the last merge
    parts       their arrays now, in the order of the partitions
    rows        the number of rows that each has learned since

A statistic that adds up (counts, moments, sums of squares) is added: the change of each part since the base counts
once. Weights are averaged, and each part counts by its rows. A tree of a forest comes from the partition that owns it.
What a family does with each of its arrays is in `everlearn.families.partitions`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, ModelError
from everlearn.model import Model, compare, copied, family_of
from everlearn.records import Arrays, Floats

Spec = Mapping[str, Any]

_ROOM = "everlearn.families.partitions"
FAMILIES: dict[str, str] = {
    "linear": "linear",
    "forest": "forests",
    "mondrian": "forests",
    "naive_bayes": "naive_bayes",
    "kmeans": "kmeans",
    "mix": "mix",
    "auto": "mix",
    "last": "simple",
    "passive_aggressive": "simple",
    "factorization": "simple",
    "neural": "neural",
}
"""The families whose learners can be merged, and the modules of `everlearn.families.partitions` with their rules."""

_REASONS = {
    "tree": "a tree is one piece, and cannot be learned in parts; a forest can, one tree in each place",
    "foreign": "the state of a foreign model has no arrays with a meaning",
    "registered": "the state of a foreign model has no arrays with a meaning",
}


class PartitionRules(NamedTuple):
    """The rules of a family.

    merge   (spec, base, parts, rows) -> the merged arrays; `rows` float64 (partitions,) are not all 0
    local   (spec, name) -> True for an array that stays with its partition, such as a replay memory
    own     (model, partition, partitions): let a model train only what its partition owns; most own everything
    check   (spec): raise ConfigError for settings under which no merge is right
    """

    merge: Callable[[Spec, Arrays, Sequence[Arrays], Floats], Arrays]
    local: Callable[[Spec, str], bool] = lambda spec, name: False
    own: Callable[[Model, int, int], None] = lambda model, partition, partitions: None
    check: Callable[[Spec], None] = lambda spec: None


def rules(spec: Spec) -> PartitionRules:
    """Return the rules of the family of a spec.

    Raises `ConfigError` for a family, or a member of a mix, that cannot be merged.
    """
    family = family_of(spec)
    if family not in FAMILIES:
        why = _REASONS.get(family, "no rule is known that merges its arrays")
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(f"partitions: got the family {family!r}, and {why}; expected one of {known}. Use one learner")
    module = importlib.import_module(f"{_ROOM}.{FAMILIES[family]}")
    found = cast(PartitionRules, module.RULES[family])
    found.check(spec)
    return found


def merged(spec: Spec, base: Arrays, parts: Sequence[Arrays], rows: Sequence[float]) -> Arrays:
    """Return the merged arrays of learners of one spec; they share no memory with the others.

    The order of the parts is that of the partitions, and decides the rounding: the same parts give the same bytes.
    Parts without rows do not count. An array that stays with its partition is that of the base. Raises `ConfigError` as
    `rules` does, and `ModelError` for arrays that do not fit.

    >>> from everlearn.model import build
    >>> model = build({"family": "last", "task": "regression", "dense": 1})
    >>> merged(model.spec, model.arrays, [{"number": np.ones(1)}, {"number": np.zeros(1)}], [1, 0])
    {'number': array([1.])}
    """
    family, learned = rules(spec), np.asarray(rows, np.float64)
    for number, part in enumerate(parts):
        if differences := compare(base, part):
            raise ModelError(f"partition {number} has arrays that do not fit the others: " + "; ".join(differences))
    if len(learned) != len(parts) or (learned < 0.0).any():
        raise ModelError(f"rows: got {list(rows)} for {len(parts)} parts; expected a number from 0 for each")
    if not learned.any():
        return copied(base)
    if len(parts) == 1:
        return copied(parts[0])
    found = family.merge(spec, base, parts, learned)
    fixed = {name: base[name] if family.local(spec, name) else found[name] for name in base}
    return {name: np.array(array, base[name].dtype, order="C") for name, array in fixed.items()}


# ---- rules of one array --------------------------------------------------------------------------------------------


def shares(rows: Floats) -> Floats:
    """Return the part of each partition in an average: its rows over all rows.

    >>> shares(np.array([1.0, 3.0])).tolist()
    [0.25, 0.75]
    """
    found: Floats = rows / rows.sum()
    return found


def added(base: NDArray[Any], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the base and the changes of all parts since; integers stay exact.

    >>> added(np.array([5]), [np.array([7]), np.array([6])]).tolist()
    [8]
    """
    kind = np.int64 if np.issubdtype(base.dtype, np.integer) else np.float64
    origin: NDArray[Any] = base.astype(kind)
    total = origin.copy()
    for part in parts:
        total += part.astype(kind) - origin
    return total


def averaged(parts: Sequence[NDArray[Any]], rows: Floats) -> Floats:
    """Return the mean of an array over the parts, each weighted by its rows, float64.

    >>> averaged([np.array([0.0]), np.array([4.0])], np.array([1.0, 3.0])).tolist()
    [3.0]
    """
    total = np.zeros(parts[0].shape)
    for share, part in zip(shares(rows), parts, strict=True):
        if share > 0.0:  # a part without rows may hold anything
            total += share * part.astype(np.float64)
    return total


def informed(base: NDArray[Any], parts: Sequence[NDArray[Any]], seen: Sequence[Floats]) -> Floats:
    """Return the mean of an array in which each number of a part counts by its own information, `seen`.

    A number about which no part has learned stays that of the base. So a rare input moves as far as in one learner.

    >>> informed(np.array([9.0, 9.0]), [np.zeros(2), np.ones(2)], [np.array([0.0, 0.0]), np.array([2.0, 0.0])]).tolist()
    [1.0, 9.0]
    """
    total, weight = np.zeros(base.shape), np.zeros(base.shape)
    for part, own in zip(parts, seen, strict=True):
        total += own * part.astype(np.float64)
        weight += own
    return np.where(weight > 0.0, total / np.where(weight > 0.0, weight, 1.0), base)


def pooled_since(base: Floats, parts: Sequence[Floats]) -> Floats:
    """Return the moments of the rows of the base and of all rows that the parts have counted since.

    Moments are count, mean and sum of squared deviations, float64 (3, ...). Those of a part since the base are the
    difference (Chan, Golub & LeVeque 1979, read backwards). A column whose count has fallen in a part, which then has
    forgotten a stretch, has those of that part.

    >>> base, first = np.array([[1.0], [2.0], [0.0]]), np.array([[2.0], [3.0], [2.0]])
    >>> second = np.array([[2.0], [4.0], [8.0]])  # the base saw 2, then one part 4 and the other 6
    >>> pooled_since(base, [first, second]).ravel().tolist()
    [3.0, 4.0, 8.0]
    """
    count, mean, squares = (np.array(row, np.float64) for row in base)
    for part in parts:
        since = part[0] - base[0]
        at = np.where(since > 0.0, (part[0] * part[1] - base[0] * base[1]) / np.where(since > 0.0, since, 1.0), mean)
        between = base[0] * np.maximum(since, 0.0) / np.where(part[0] > 0.0, part[0], 1.0) * (at - base[1]) ** 2
        spread = np.maximum(part[2] - base[2] - between, 0.0)
        grown = np.maximum(since, 0.0)
        total = count + grown
        away, share = at - mean, grown / np.where(total > 0.0, total, 1.0)
        mean, squares = mean + away * share, squares + np.where(since > 0.0, spread + away * away * count * share, 0.0)
        count = total
    found: Floats = np.stack([count, mean, squares])
    for part in parts:
        found = np.where(part[0] < base[0], part, found)
    return found
