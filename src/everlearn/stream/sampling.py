"""A sample of the rows of a stream of unknown length: one row of each stretch, chosen without any regular stride.

A fixed stride of 8 would show only three hours of each day of hourly rows. Here each stretch of two rows keeps one of
them by a hash of its number, then each pair of these, and so on, so no period of the data can agree with the choice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Ints
from everlearn.schema import columnar
from everlearn.schema.kinds import Sample

_MIX = np.uint64(0x9E3779B97F4A7C15)


class Sampler:
    """Columns of `most` to 2 `most` rows of a stream, or of all its rows if they are fewer.

    >>> sampler = Sampler(4)
    >>> sampler.add({"x": np.arange(100)}, 100)
    >>> sampler.columns["x"]
    [15, 30, 36, 49, 75, 87, 98]
    """

    def __init__(self, most: int) -> None:
        self.columns: dict[str, list[Any]] = {}
        self._most = most
        self._places = np.zeros(0, np.int64)
        self._rows = 0
        self._level = 0

    @property
    def sample(self) -> Sample:
        """Where the kept rows stand in the stream."""
        return Sample(self._places, self._rows)

    def add(self, columns: Any, rows: int) -> None:
        """Add the next rows of the stream."""
        places = np.arange(self._rows, self._rows + rows)
        taken = np.flatnonzero(_chosen(places, 0, self._level))
        kept = len(self._places)
        for name in {**self.columns, **columns}:
            column = self.columns.setdefault(name, [None] * kept)
            column += _some(columns[name], taken) if name in columns else [None] * len(taken)
        self._places = np.concatenate([self._places, places[taken]])
        self._rows += rows
        while len(self._places) > 2 * self._most:
            left = np.flatnonzero(_chosen(self._places, self._level, self._level + 1))
            self._level += 1
            self._places = self._places[left]
            self.columns = {name: [column[i] for i in left.tolist()] for name, column in self.columns.items()}


def _chosen(places: Ints, low: int, high: int) -> NDArray[np.bool_]:
    """Return a mask of the places that are kept at each level from `low` to `high`, bool (n,)."""
    kept = np.ones(len(places), np.bool_)
    for level in range(low, high):
        stretch = (places >> (level + 1)).astype(np.uint64) * np.uint64(64) + np.uint64(level)
        mixed = (stretch ^ (stretch >> np.uint64(30))) * _MIX
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX
        kept &= ((places >> level) & 1).astype(np.uint64) == (mixed >> np.uint64(63))
    return kept


def _some(column: Any, taken: Ints) -> list[Any]:
    """Return the values at `taken`; NaN, not None, for missing numbers, so that an empty column keeps its type."""
    part = columnar.native(column)
    if isinstance(part, list):
        return [part[i] for i in taken.tolist()]
    values = columnar.values_of(part.take(taken) if columnar.is_arrow(part) else part[taken])
    if columnar.is_arrow(part) and str(part.type).startswith(("int", "uint", "float", "double", "halffloat")):
        return [math.nan if value is None else value for value in values]
    return values
