"""Contents of a snapshot: which arrays are merged, which are averaged, and which come from the first parent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from everlearn.errors import ModelError
from everlearn.records import Arrays, Floats

Spec = Mapping[str, Any]

_FISHER = re.compile(r"^learn/terms/(\d+)-ewc/fisher/(.+)$")
_STATISTIC = re.compile(r"^(inputs|head)/|^prior$|\brunning_(mean|var)$")
_LEARNT_WITH = re.compile(r"^learn/(?!raw/)")
_APART = 0.5  # largest shift of a parent's own standardised inputs, in deviations
_ADAPTER = re.compile(r"\blora_")
MOMENTS, MEANS, HELD = "inputs/moments", "head/means", "head/held"  # names of arrays of a network
SEEN_CLASSES, BASE = "classes", "base"


class FamilyMerge(NamedTuple):
    """Rules for the snapshots of a family: how they are taken apart and put together again.

    open    (spec, snapshots, shares) -> the arrays to merge of each snapshot, float64, under any names.
            The first snapshots are the parents, whose shares (parents,) add up to 1; an ancestor may come last
    close   (spec, parents, shares, merged) -> the whole snapshot, with the merged arrays in it
    fisher  (spec, snapshot) -> the diagonal of its Fisher information, by the names of the merged arrays; empty if none
            is known yet, None if the model keeps none
    """

    open: Callable[[Spec, Sequence[Arrays], Floats], list[Arrays]]
    close: Callable[[Spec, Sequence[Arrays], Floats, Arrays], Arrays]
    fisher: Callable[[Spec, Arrays], Arrays | None]


def opened(spec: Spec, snapshots: Sequence[Arrays], shares: Floats) -> list[Arrays]:
    """Return the weights that predict and the trained weights behind them, unless equal in all snapshots.

    The arrays are float64. Raises `ModelError` for networks with different fixed weights, or with inputs of different
    scales.
    """
    first = snapshots[0]
    if BASE in first and not _alike(BASE, snapshots):
        raise ModelError("these networks have different fixed weights; expected equal ones")
    if MOMENTS in first:
        _check_moments(spec, [snapshot[MOMENTS] for snapshot in snapshots[: len(shares)]], shares)
    names = [name for name, array in first.items() if _merged(name, array) and not _settled(name, snapshots)]
    return [{name: snapshot[name].astype(np.float64) for name in names} for snapshot in snapshots]


def closed(spec: Spec, parents: Sequence[Arrays], shares: Floats, merged: Arrays) -> Arrays:
    """Return the first parent with the merged arrays, averaged statistics, and the classes seen by any parent.

    Statistics are means and deviations (of columns, of batch normalisation), class means and shares of classes. Other
    methods would be wrong for them: a variance plus a difference could be negative, and so could a share.
    """
    whole: Arrays = {}
    for name, array in parents[0].items():
        held = [parent[name] for parent in parents]
        if name in merged:
            whole[name] = merged[name].astype(array.dtype)
        elif name == MOMENTS:
            whole[name] = pooled(held, shares)
        elif name == MEANS and HELD in parents[0]:
            whole[name] = _directions(held, [parent[HELD] > 0 for parent in parents], shares).astype(array.dtype)
        elif _averaged(name, array):
            mean = sum(share * values.astype(np.float64) for share, values in zip(shares, held, strict=True))
            whole[name] = np.asarray(mean).astype(array.dtype)
        elif name in (SEEN_CLASSES, HELD) and np.issubdtype(array.dtype, np.integer):
            whole[name] = np.max(held, axis=0)
        else:
            whole[name] = np.array(array, copy=True)
    return whole


def pooled(moments: Sequence[Floats], shares: Floats) -> Floats:
    """Pool the moments of several streams, each weighted by its share (Chan, Golub & LeVeque 1979).

    Moments are count, mean and sum of squared deviations, (3, columns).

    >>> first, second = np.array([[2.0], [1.0], [2.0]]), np.array([[2.0], [3.0], [2.0]])
    >>> pooled([first, second], np.array([0.5, 0.5])).ravel().tolist()
    [2.0, 2.0, 4.0]
    """
    held = np.stack(moments)
    counts = shares[:, None] * held[:, 0]
    total = counts.sum(axis=0)
    mean = (counts * held[:, 1]).sum(axis=0) / np.where(total > 0.0, total, 1.0)
    spread = (shares[:, None] * held[:, 2] + counts * (held[:, 1] - mean) ** 2).sum(axis=0)
    return np.stack([total, mean, spread])


def moved(own: Floats, moments: Floats) -> Floats:
    """Return the shift of each column, in deviations, when standardised by other moments than a model's own.

    It is a root mean square, and 0 for columns of which the model has seen fewer than two values.

    >>> moved(np.array([[10.0, 10.0], [1.0, 5.0], [10.0, 10.0]]), np.array([[20.0, 20.0], [1.0, 4.0], [80.0, 20.0]]))
    array([0.5, 1. ])
    """
    spread, unit = (np.sqrt(values[2] / np.maximum(values[0], 1.0)) for values in (own, moments))
    divisor = np.where(unit > 0.0, unit, 1.0)
    stretch = np.where(spread > 0.0, spread / divisor - 1.0, 0.0)  # a constant column is standardised to 0
    return np.where(own[0] >= 2.0, np.hypot((own[1] - moments[1]) / divisor, stretch), 0.0)


def _check_moments(spec: Spec, moments: Sequence[Floats], shares: Floats) -> None:
    """Raise `ModelError` if a parent's moments are far from the pooled ones, since network weights are not rewritten.

    For two parents of equal weight the limit is reached where their means are 1.1 deviations apart, or where the
    deviation of one is 2.6 times smaller.
    """
    both = pooled(moments, shares)
    for number, (own, share) in enumerate(zip(moments, shares, strict=True), 1):
        off = moved(own, both) if share > 0.0 else np.zeros(0)
        if (off > _APART).any():
            column = int(np.argmax(off))
            name = "the number to predict" if column == spec.get("dense") else f"column {column}"
            raise ModelError(
                f"parent {number} has learned from other inputs than all parents together: the mean and the deviation "
                f"of {name} are {_described(own, column)}, and {_described(both, column)} over all parents. Networks "
                "standardise by these, and their weights mean the same only where they agree; merge networks trained "
                "with 'normalize': False, or give them columns of one scale"
            )


def _described(moments: Floats, column: int) -> str:
    count, mean, squares = moments[:, column]
    return f"{mean:.4g} and {np.sqrt(squares / max(count, 1.0)):.4g}"


def _directions(means: Sequence[Any], known: Sequence[Any], shares: Floats) -> Floats:
    """Return the mean direction of each class, of length 1, over the parents that know it."""
    total = np.zeros(means[0].shape)
    for share, directions, knows in zip(shares, means, known, strict=True):
        total += share * np.where(knows[:, None], directions, 0.0)
    length = np.sqrt(np.sum(total * total, axis=1, keepdims=True))
    return total / np.where(length > 0.0, length, 1.0)


def fisher(spec: Spec, arrays: Arrays) -> Arrays | None:
    """Return the Fisher information of the first EWC term of a network, for the averaged and the raw weights alike."""
    found: Arrays = {}
    kept = [match for name in arrays if (match := _FISHER.match(name))]
    for match in sorted(kept, key=lambda match: int(match[1])):
        for place in ("weights/", "learn/raw/"):
            found.setdefault(place + match[2], arrays[match[0]].astype(np.float64))
    return found or None


NAMED = FamilyMerge(opened, closed, fisher)


def broken(whole: Arrays, parents: Sequence[Arrays]) -> list[str]:
    """Return the names of the arrays used in prediction that are not finite although they are finite in some parent.

    >>> broken({"w": np.array([np.inf]), "learn/least": np.array([np.inf])}, [{"w": np.ones(1)}])
    ['w']
    """
    answer = [name for name, array in whole.items() if _floating(array) and not _LEARNT_WITH.search(name)]
    lost = [name for name in answer if not np.isfinite(whole[name]).all()]
    return [name for name in lost if any(np.isfinite(parent[name]).all() for parent in parents)]


def _floating(array: Any) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _merged(name: str, array: Any) -> bool:
    return _floating(array) and not _LEARNT_WITH.search(name) and not _STATISTIC.search(name)


def _averaged(name: str, array: Any) -> bool:
    return _floating(array) and bool(_STATISTIC.search(name)) and not _LEARNT_WITH.search(name)


def _settled(name: str, snapshots: Sequence[Arrays]) -> bool:
    """Return True for weights that are not trained, which need no merging; factors of adapters are always merged."""
    return not _ADAPTER.search(name) and _alike(name, snapshots)


def _alike(name: str, snapshots: Sequence[Arrays]) -> bool:
    return all(np.array_equal(snapshots[0][name], snapshot[name]) for snapshot in snapshots[1:])
