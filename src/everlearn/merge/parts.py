"""What of a snapshot is merged, and what becomes of the rest of it."""

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
_APART = 0.5  # deviations by which a parent may come to read its own rows otherwise than it has learned to
_ADAPTER = re.compile(r"\blora_")
MOMENTS, MEANS, HELD, MET, BASE = "inputs/moments", "head/means", "head/held", "classes", "base"  # of a network


class Parts(NamedTuple):
    """How the snapshots of a family are taken apart, and put together again.

    open    (spec, snapshots, shares) -> what is merged of each snapshot, float64 arrays by names of the family's own.
            The first snapshots are the parents, whose shares (parents,) add up to 1; an ancestor may come last
    close   (spec, parents, shares, merged) -> the whole snapshot with what was merged in it
    fisher  (spec, snapshot) -> the diagonal of its Fisher information, by the names of what is merged, none of it
            where there is none; None if the model keeps none
    """

    open: Callable[[Spec, Sequence[Arrays], Floats], list[Arrays]]
    close: Callable[[Spec, Sequence[Arrays], Floats, Arrays], Arrays]
    fisher: Callable[[Spec, Arrays], Arrays | None]


def opened(spec: Spec, snapshots: Sequence[Arrays], shares: Floats) -> list[Arrays]:
    """The numbers that serve, and those of them that are trained, as float64; but for what all snapshots have alike."""
    first = snapshots[0]
    if BASE in first and not _alike(BASE, snapshots):
        raise ModelError("these networks were made with other weights that are not trained; only equal ones are merged")
    if MOMENTS in first:
        _check_moments(spec, [one[MOMENTS] for one in snapshots[: len(shares)]], shares)
    names = [name for name, array in first.items() if _merged(name, array) and not _settled(name, snapshots)]
    return [{name: one[name].astype(np.float64) for name in names} for one in snapshots]


def closed(spec: Spec, parents: Sequence[Arrays], shares: Floats, merged: Arrays) -> Arrays:
    """The first parent, with what was merged; statistics are averaged, and a class that any parent has met was met.

    Statistics are means and deviations (of columns, of batch normalisation), class means and shares of classes. No
    method may change these otherwise: a variance plus a difference could be negative, and so could a share.
    """
    whole: Arrays = {}
    for name, array in parents[0].items():
        held = [one[name] for one in parents]
        if name in merged:
            whole[name] = merged[name].astype(array.dtype)
        elif name == MOMENTS:
            whole[name] = pooled(held, shares)
        elif name == MEANS and HELD in parents[0]:
            whole[name] = _directions(held, [one[HELD] > 0 for one in parents], shares).astype(array.dtype)
        elif _averaged(name, array):
            mean = sum(share * one.astype(np.float64) for share, one in zip(shares, held, strict=True))
            whole[name] = np.asarray(mean).astype(array.dtype)
        elif name in (MET, HELD) and np.issubdtype(array.dtype, np.integer):
            whole[name] = np.max(held, axis=0)
        else:
            whole[name] = np.array(array, copy=True)
    return whole


def pooled(moments: Sequence[Floats], shares: Floats) -> Floats:
    """Counts, means and sums of squared deviations (3, columns) of several streams as those of one, each taken by its
    share (Chan, Golub & LeVeque 1979).

    >>> one, other = np.array([[2.0], [1.0], [2.0]]), np.array([[2.0], [3.0], [2.0]])
    >>> pooled([one, other], np.array([0.5, 0.5])).ravel().tolist()
    [2.0, 2.0, 4.0]
    """
    held = np.stack(moments)
    counts = shares[:, None] * held[:, 0]
    total = counts.sum(axis=0)
    mean = (counts * held[:, 1]).sum(axis=0) / np.where(total > 0.0, total, 1.0)
    spread = (shares[:, None] * held[:, 2] + counts * (held[:, 1] - mean) ** 2).sum(axis=0)
    return np.stack([total, mean, spread])


def moved(own: Floats, moments: Floats) -> Floats:
    """By how much the values of each column move where other moments standardise them than a model's own, in
    deviations (root mean square); 0 for columns of which the model has not two values.

    >>> moved(np.array([[10.0, 10.0], [1.0, 5.0], [10.0, 10.0]]), np.array([[20.0, 20.0], [1.0, 4.0], [80.0, 20.0]]))
    array([0.5, 1. ])
    """
    spread, unit = (np.sqrt(one[2] / np.maximum(one[0], 1.0)) for one in (own, moments))
    divisor = np.where(unit > 0.0, unit, 1.0)
    stretch = np.where(spread > 0.0, spread / divisor - 1.0, 0.0)  # what never varied is read as 0
    return np.where(own[0] >= 2.0, np.hypot((own[1] - moments[1]) / divisor, stretch), 0.0)


def _check_moments(spec: Spec, moments: Sequence[Floats], shares: Floats) -> None:
    """Weights of networks are not rewritten for other moments: those of the parents must be near the pooled ones.

    Of two parents that count alike both are off by half a deviation where their means are 1.1 deviations apart, and the
    narrower one where its deviation is 2.6 times smaller.
    """
    both = pooled(moments, shares)
    for number, (one, share) in enumerate(zip(moments, shares, strict=True), 1):
        off = moved(one, both) if share > 0.0 else np.zeros(0)
        if (off > _APART).any():
            column = int(np.argmax(off))
            name = "the number to predict" if column == spec.get("dense") else f"column {column}"
            raise ModelError(
                f"parent {number} has learned from other inputs than all parents together: the mean and the deviation "
                f"of {name} are {_described(one, column)}, and {_described(both, column)} of all. Networks standardise "
                "by these, and their weights mean the same only where they are alike; merge networks that were trained "
                "with 'normalize': False, or give them columns of one scale"
            )


def _described(moments: Floats, column: int) -> str:
    count, mean, squares = moments[:, column]
    return f"{mean:.4g} and {np.sqrt(squares / max(count, 1.0)):.4g}"


def _directions(means: Sequence[Any], known: Sequence[Any], shares: Floats) -> Floats:
    """The mean direction of each class over those parents that know it, of length 1."""
    total = np.zeros(means[0].shape)
    for share, one, knows in zip(shares, means, known, strict=True):
        total += share * np.where(knows[:, None], one, 0.0)
    length = np.sqrt(np.sum(total * total, axis=1, keepdims=True))
    return total / np.where(length > 0.0, length, 1.0)


def fisher(spec: Spec, arrays: Arrays) -> Arrays | None:
    """What the first EWC term of a network keeps, for weights that serve and weights that are trained alike."""
    found: Arrays = {}
    kept = [match for name in arrays if (match := _FISHER.match(name))]
    for match in sorted(kept, key=lambda one: int(one[1])):
        for place in ("weights/", "learn/raw/"):
            found.setdefault(place + match[2], arrays[match[0]].astype(np.float64))
    return found or None


NAMED = Parts(opened, closed, fisher)


def broken(whole: Arrays, parents: Sequence[Arrays]) -> list[str]:
    """The names of arrays with numbers that are not finite, where a parent has finite ones alone; of those that answer.

    >>> broken({"w": np.array([np.inf]), "learn/least": np.array([np.inf])}, [{"w": np.ones(1)}])
    ['w']
    """
    answer = [name for name, array in whole.items() if _floating(array) and not _LEARNT_WITH.search(name)]
    lost = [name for name in answer if not np.isfinite(whole[name]).all()]
    return [name for name in lost if any(np.isfinite(one[name]).all() for one in parents)]


def _floating(array: Any) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _merged(name: str, array: Any) -> bool:
    return _floating(array) and not _LEARNT_WITH.search(name) and not _STATISTIC.search(name)


def _averaged(name: str, array: Any) -> bool:
    return _floating(array) and bool(_STATISTIC.search(name)) and not _LEARNT_WITH.search(name)


def _settled(name: str, snapshots: Sequence[Arrays]) -> bool:
    """Whether there is nothing to merge: weights that are not trained. The factors of adapters come in pairs."""
    return not _ADAPTER.search(name) and _alike(name, snapshots)


def _alike(name: str, snapshots: Sequence[Arrays]) -> bool:
    return all(np.array_equal(snapshots[0][name], one[name]) for one in snapshots[1:])
