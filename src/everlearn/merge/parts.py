"""What of a snapshot is merged, and what becomes of the rest of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from everlearn.records import Arrays, Floats

Spec = Mapping[str, Any]

_FISHER = re.compile(r"^learn/terms/\d+-ewc/fisher/(.+)$")
_STATISTIC = re.compile(r"(^|/)(inputs|head)/|\brunning_(mean|var)$")
_LEARNT_WITH = re.compile(r"(^|/)learn/(?!raw/)")
_MET = re.compile(r"(^|/)classes$")


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
    """The arrays of numbers that serve, and those of them that are trained, as float64."""
    names = [name for name, array in snapshots[0].items() if _merged(name, array)]
    return [{name: one[name].astype(np.float64) for name in names} for one in snapshots]


def closed(spec: Spec, parents: Sequence[Arrays], shares: Floats, merged: Arrays) -> Arrays:
    """The first parent, with what was merged; statistics are averaged, and a class that any parent has met was met.

    Statistics are running means and variances (of inputs, of batch normalisation, of the features of classes). No
    method may change these otherwise: a variance plus a difference could be negative.
    """
    whole: Arrays = {}
    for name, array in parents[0].items():
        if name in merged:
            whole[name] = merged[name].astype(array.dtype)
        elif _averaged(name, array):
            mean = sum(share * one[name].astype(np.float64) for share, one in zip(shares, parents, strict=True))
            whole[name] = np.asarray(mean).astype(array.dtype)
        elif _MET.search(name) and np.issubdtype(array.dtype, np.integer):
            whole[name] = np.max([one[name] for one in parents], axis=0)
        else:
            whole[name] = np.array(array, copy=True)
    return whole


def fisher(spec: Spec, arrays: Arrays) -> Arrays | None:
    """What the first EWC term of a network keeps, for weights that serve and weights that are trained alike."""
    found: Arrays = {}
    for name in sorted(arrays):
        if match := _FISHER.match(name):
            for place in ("weights/", "learn/raw/"):
                found.setdefault(place + match[1], arrays[name].astype(np.float64))
    return found or None


NAMED = Parts(opened, closed, fisher)


def _floating(array: Any) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _merged(name: str, array: Any) -> bool:
    return _floating(array) and not _LEARNT_WITH.search(name) and not _STATISTIC.search(name)


def _averaged(name: str, array: Any) -> bool:
    return _floating(array) and bool(_STATISTIC.search(name)) and not _LEARNT_WITH.search(name)
