"""The ways to merge one array of several parents, as formulas: float64 arrays of one shape in, one out.

Those that look at what each parent learned since a common ancestor call the difference from it a task vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from everlearn.records import Floats

PARALLEL = 0.9995  # a cosine from which on an arc is as good as its chord


class How(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which method, and its dials; see `everlearn.merge.merge`."""

    method: str
    weights: tuple[float, ...] = ()
    density: float = 0.0
    scale: float = 1.0
    seed: int = 0


class One(NamedTuple):
    """One array: of each parent, of their ancestor and with its Fisher where the method asks for these."""

    name: str
    parents: list[Floats]
    ancestor: Floats | None = None
    fishers: list[Floats] | None = None


class Method(NamedTuple):
    """How one array is merged, and what that needs. `weights` and `density` are what holds where none are given."""

    what: str
    run: Callable[[How, One], Floats]
    weights: tuple[float, ...] = ()
    density: float = 0.0
    ancestor: bool = False
    fisher: bool = False
    pair: bool = False
    signed: bool = False


# ---- formulas ----------------------------------------------------------------------------------------------------


def linear(parents: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted mean; weights count by their proportion (Wortsman et al. 2022, "Model soups").

    >>> linear([np.array([1.0, 4.0]), np.array([3.0, 0.0])], [3.0, 1.0]).tolist()
    [1.5, 3.0]
    """
    return _sum(parents, weights) / float(sum(weights))


def fisher(parents: Sequence[Floats], fishers: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Each number weighed by how sure its parent is of it: sum(w F x) / sum(w F), and the mean where all F are 0.

    `fishers` are diagonals of Fisher information, not negative (Matena & Raffel 2022, "Merging models with
    Fisher-weighted averaging", equation 6).

    >>> fisher([np.array([1.0, 1.0]), np.array([5.0, 5.0])], [np.array([3.0, 0.0]), np.array([1.0, 0.0])], [1, 1])
    array([2., 3.])
    """
    sure = [weight * one for weight, one in zip(weights, fishers, strict=True)]
    total = _sum(sure, [1.0] * len(sure))
    known = total > 0.0
    divisor = np.where(known, total, 1.0)
    weighed = [one / divisor * parent for one, parent in zip(sure, parents, strict=True)]
    return np.where(known, _sum(weighed, [1.0] * len(weighed)), linear(parents, weights))


def slerp(start: Floats, end: Floats, share: float) -> Floats:
    """The point that lies `share` of the way from start to end on the arc between them, which keeps the length.

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
    """The ancestor plus `scale` times the weighted sum of task vectors (Ilharco et al. 2023, "Editing models with task
    arithmetic"). Weights are not brought to a sum of 1: two of 1 add all that both learned.

    >>> task(np.array([1.0]), [np.array([3.0]), np.array([0.5])], [1.0, 1.0]).tolist()
    [2.5]
    """
    return ancestor + scale * _sum([parent - ancestor for parent in parents], weights)


def ties(
    ancestor: Floats, parents: Sequence[Floats], weights: Sequence[float], scale: float = 1.0, density: float = 0.2
) -> Floats:
    """Trim, elect, merge: of each task vector the share `density` that is largest; of each number the sign that has
    more behind it; and the weighted mean of those that have this sign (Yadav et al. 2023, "TIES-Merging").

    Each array is trimmed by itself. 0 is the sign "plus", as in mergekit.

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
    """Drop and rescale: task arithmetic of task vectors thinned out at random (Yu et al. 2024, "Language models are
    Super Mario"). `key` names the random numbers: the same key, the same result.

    >>> dare(np.zeros(4), [np.ones(4)], [1.0], density=0.5, key="w").tolist()
    [2.0, 0.0, 2.0, 0.0]
    """
    deltas = [dropped(parent - ancestor, density, f"{key}/{number}") for number, parent in enumerate(parents)]
    return ancestor + scale * _sum(deltas, weights)


def trimmed(delta: Floats, density: float) -> Floats:
    """The `density` of the numbers that are largest by size, at least one, and 0 for the others; of equals, the first.

    >>> trimmed(np.array([1.0, -5.0, 3.0, 0.0]), 0.5).tolist()
    [0.0, -5.0, 3.0, 0.0]
    """
    many = max(1, int(density * delta.size))
    if many >= delta.size:
        return delta
    flat = delta.ravel()
    largest = np.argsort(-np.abs(flat), kind="stable")[:many]
    kept = np.zeros_like(flat)
    kept[largest] = flat[largest]
    return kept.reshape(delta.shape)


def dropped(delta: Floats, density: float, key: str) -> Floats:
    """Each number with probability `density`, then divided by it, else 0: the mean over keys is `delta`."""
    if density >= 1.0:
        return delta
    draws = uniform(delta.size, key).reshape(delta.shape)
    return np.where(draws < density, delta / density, 0.0)


def elected(deltas: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted mean of those numbers whose sign is that of the weighted sum; 0 where there are none."""
    plus = _sum(deltas, weights) >= 0.0
    agree = [np.where(plus, delta > 0.0, delta < 0.0) for delta in deltas]
    held = _sum([one.astype(np.float64) for one in agree], weights)
    total = _sum([np.where(one, delta, 0.0) for one, delta in zip(agree, deltas, strict=True)], weights)
    return total / np.where(held > 0.0, held, 1.0)


def uniform(n: int, key: str) -> Floats:
    """n numbers in [0, 1) that belong to the key: splitmix64 of a counter (Steele, Lea and Flood 2014).

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


def _linear(how: How, one: One) -> Floats:
    return linear(one.parents, how.weights)


def _fisher(how: How, one: One) -> Floats:
    return linear(one.parents, how.weights) if one.fishers is None else fisher(one.parents, one.fishers, how.weights)


def _slerp(how: How, one: One) -> Floats:
    return slerp(one.parents[0], one.parents[1], how.weights[1] / sum(how.weights))


def _task(how: How, one: One) -> Floats:
    return task(_origin(one), one.parents, how.weights, how.scale)


def _ties(how: How, one: One) -> Floats:
    return ties(_origin(one), one.parents, how.weights, how.scale, how.density)


def _dare(how: How, one: One) -> Floats:
    return dare(_origin(one), one.parents, how.weights, how.scale, how.density, f"{how.seed}/{one.name}")


def _origin(one: One) -> Floats:
    return np.zeros_like(one.parents[0]) if one.ancestor is None else one.ancestor


METHODS: dict[str, Method] = {
    "linear": Method("weighted mean", _linear, signed=True),
    "ema": Method("one step of a moving average: the first parent moves towards the second", _linear, (0.9, 0.1)),
    "fisher": Method("mean weighed by Fisher information", _fisher, fisher=True),
    "slerp": Method("the arc between two parents", _slerp, pair=True),
    "task": Method("task arithmetic", _task, ancestor=True, signed=True),
    "ties": Method("trim, elect sign, merge", _ties, density=0.2, ancestor=True),
    "dare": Method("drop and rescale, then task arithmetic", _dare, density=0.5, ancestor=True, signed=True),
}
