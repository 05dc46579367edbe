"""Formulas that merge one array of several parents: float64 arrays of one shape in, one out.

The difference of a parent from the common ancestor is called a task vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from everlearn.records import Floats

PARALLEL = 0.9995  # cosine from which the arc and its chord are equal


class How(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method and its settings; see `everlearn.merge.merge`."""

    method: str
    weights: tuple[float, ...] = ()
    density: float = 0.0
    scale: float = 1.0
    seed: int = 0


class ParentArrays(NamedTuple):
    """The values of one array: in each parent, in their ancestor, and its Fisher information, as needed."""

    name: str
    parents: list[Floats]
    ancestor: Floats | None = None
    fishers: list[Floats] | None = None


class Method(NamedTuple):
    """The function that merges one array, and its requirements; `weights` and `density` are the defaults."""

    what: str
    run: Callable[[How, ParentArrays], Floats]
    weights: tuple[float, ...] = ()
    density: float = 0.0
    ancestor: bool = False
    fisher: bool = False
    pair: bool = False
    signed: bool = False


# ---- formulas ----------------------------------------------------------------------------------------------------


def linear(parents: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return the weighted mean; weights are normalised (Wortsman et al. 2022, "Model soups").

    >>> linear([np.array([1.0, 4.0]), np.array([3.0, 0.0])], [3.0, 1.0]).tolist()
    [1.5, 3.0]
    """
    return _sum(parents, weights) / float(sum(weights))


def fisher(parents: Sequence[Floats], fishers: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return the mean weighted by Fisher information: sum(w F x) / sum(w F), or the plain mean where all F are 0.

    `fishers` are diagonals of Fisher information, not negative (Matena & Raffel 2022, "Merging models with
    Fisher-weighted averaging", equation 6).

    >>> fisher([np.array([1.0, 1.0]), np.array([5.0, 5.0])], [np.array([3.0, 0.0]), np.array([1.0, 0.0])], [1, 1])
    array([2., 3.])
    """
    precision = [weight * values for weight, values in zip(weights, fishers, strict=True)]
    total = _sum(precision, [1.0] * len(precision))
    known = total > 0.0
    divisor = np.where(known, total, 1.0)
    weighted = [values / divisor * parent for values, parent in zip(precision, parents, strict=True)]
    return np.where(known, _sum(weighted, [1.0] * len(weighted)), linear(parents, weights))


def slerp(start: Floats, end: Floats, share: float) -> Floats:
    """Return the point `share` of the way from start to end on the arc between them, which keeps the length.

    Shoemake 1985, "Animating rotation with quaternion curves"; on the straight line between them where they are near
    parallel or opposite (|cosine| > 0.9995), or where one is 0.

    >>> slerp(np.array([2.0, 0.0]), np.array([0.0, 2.0]), 0.5).round(4).tolist()
    [1.4142, 1.4142]
    """
    lengths = _length(start) * _length(end)
    cosine = float(np.sum(start * end)) / lengths if lengths > 0.0 else 1.0
    if not abs(cosine) <= PARALLEL:
        return (1.0 - share) * start + share * end
    angle = np.arccos(cosine)
    parts = np.sin((1.0 - share) * angle), np.sin(share * angle)
    return np.asarray((parts[0] * start + parts[1] * end) / np.sin(angle))


def task(ancestor: Floats, parents: Sequence[Floats], weights: Sequence[float], scale: float = 1.0) -> Floats:
    """Return the ancestor plus `scale` times the weighted sum of task vectors.

    Ilharco et al. 2023, "Editing models with task arithmetic". Weights are not normalised: two weights of 1 add the
    full change of both parents.

    >>> task(np.array([1.0]), [np.array([3.0]), np.array([0.5])], [1.0, 1.0]).tolist()
    [2.5]
    """
    return ancestor + scale * _sum([parent - ancestor for parent in parents], weights)


def ties(
    ancestor: Floats, parents: Sequence[Floats], weights: Sequence[float], scale: float = 1.0, density: float = 0.2
) -> Floats:
    """Trim, elect and merge (Yadav et al. 2023, "TIES-Merging").

    Keep the largest share `density` of each task vector, choose for each number the sign with more weight behind it,
    and take the weighted mean of the values with this sign. Each array is trimmed separately. 0 has the sign "plus", as
    in mergekit.

    >>> parents = [np.array([4.0, 1.0, 0.1]), np.array([2.0, -3.0, 0.0])]
    >>> ties(np.zeros(3), parents, [0.5, 0.5], density=0.67).tolist()
    [3.0, -3.0, 0.0]
    """
    return ancestor + scale * elected([trimmed(parent - ancestor, density) for parent in parents], weights)


def dare(
    ancestor: Floats,
    parents: Sequence[Floats],
    weights: Sequence[float],
    scale: float = 1.0,
    density: float = 0.5,
    key: str = "",
) -> Floats:
    """Drop and rescale: task arithmetic of task vectors thinned out at random.

    Yu et al. 2024, "Language models are Super Mario". `key` names the random numbers: the same key gives the same
    result.

    >>> dare(np.zeros(4), [np.ones(4)], [1.0], density=0.5, key="w").tolist()
    [2.0, 0.0, 2.0, 0.0]
    """
    deltas = [dropped(parent - ancestor, density, f"{key}/{number}") for number, parent in enumerate(parents)]
    return ancestor + scale * _sum(deltas, weights)


def trimmed(delta: Floats, density: float) -> Floats:
    """Keep the largest share `density` by absolute value, and set the others to 0.

    At least one number is kept; ties keep the first.

    >>> trimmed(np.array([1.0, -5.0, 3.0, 0.0]), 0.5).tolist()
    [0.0, -5.0, 3.0, 0.0]
    """
    count = max(1, int(density * delta.size))
    if count >= delta.size:
        return delta
    flat = delta.ravel()
    largest = np.argsort(-np.abs(flat), kind="stable")[:count]
    kept = np.zeros_like(flat)
    kept[largest] = flat[largest]
    return kept.reshape(delta.shape)


def dropped(delta: Floats, density: float, key: str) -> Floats:
    """Keep each number with probability `density` and divide it by `density`, else 0: the mean over keys is `delta`."""
    if density >= 1.0:
        return delta
    draws = uniform(delta.size, key).reshape(delta.shape)
    return np.where(draws < density, delta / density, 0.0)


def elected(deltas: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return the weighted mean of the values whose sign is that of the weighted sum; 0 where there are none."""
    plus = _sum(deltas, weights) >= 0.0
    agree = [np.where(plus, delta > 0.0, delta < 0.0) for delta in deltas]
    held = _sum([mask.astype(np.float64) for mask in agree], weights)
    total = _sum([np.where(mask, delta, 0.0) for mask, delta in zip(agree, deltas, strict=True)], weights)
    return total / np.where(held > 0.0, held, 1.0)


def uniform(n: int, key: str) -> Floats:
    """Return n numbers in [0, 1) for a key: splitmix64 of a counter (Steele, Lea and Flood 2014).

    >>> uniform(2, "a").tolist() == uniform(3, "a")[:2].tolist()
    True
    """
    start = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], np.uint64)
    mixed = start + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _sum(parts: Sequence[Floats], weights: Sequence[float]) -> Floats:
    total = weights[0] * parts[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + weight * part
    return total


def _length(array: Floats) -> float:
    return float(np.sqrt(np.sum(array * array)))


# ---- the table ---------------------------------------------------------------------------------------------------


def _linear(how: How, arrays: ParentArrays) -> Floats:
    return linear(arrays.parents, how.weights)


def _fisher(how: How, arrays: ParentArrays) -> Floats:
    return (
        linear(arrays.parents, how.weights)
        if arrays.fishers is None
        else fisher(arrays.parents, arrays.fishers, how.weights)
    )


def _slerp(how: How, arrays: ParentArrays) -> Floats:
    return slerp(arrays.parents[0], arrays.parents[1], how.weights[1] / sum(how.weights))


def _task(how: How, arrays: ParentArrays) -> Floats:
    return task(_origin(arrays), arrays.parents, how.weights, how.scale)


def _ties(how: How, arrays: ParentArrays) -> Floats:
    return ties(_origin(arrays), arrays.parents, how.weights, how.scale, how.density)


def _dare(how: How, arrays: ParentArrays) -> Floats:
    return dare(_origin(arrays), arrays.parents, how.weights, how.scale, how.density, f"{how.seed}/{arrays.name}")


def _origin(arrays: ParentArrays) -> Floats:
    return np.zeros_like(arrays.parents[0]) if arrays.ancestor is None else arrays.ancestor


METHODS: dict[str, Method] = {
    "linear": Method("weighted mean", _linear, signed=True),
    "ema": Method("one step of a moving average: the first parent moves towards the second", _linear, (0.9, 0.1)),
    "fisher": Method("mean weighted by Fisher information", _fisher, fisher=True),
    "slerp": Method("the arc between two parents", _slerp, pair=True),
    "task": Method("task arithmetic", _task, ancestor=True, signed=True),
    "ties": Method("trim, elect sign, merge", _ties, density=0.2, ancestor=True),
    "dare": Method("drop and rescale, then task arithmetic", _dare, density=0.5, ancestor=True, signed=True),
}
