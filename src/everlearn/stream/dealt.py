"""Some rows of a source: those that a function keeps, by their positions or by the values of one column.

Positions stay those of the whole source, so the rows can be taken up after any position. Of text, rows that are not
kept are not parsed unless a key must be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Ints
from everlearn.schema.segments import segment_names
from everlearn.stream.blocks import Block
from everlearn.stream.sources import Files, Parquet, Source, Text

Keep = Callable[[Ints, Sequence[str] | None], NDArray[np.bool_]]


class Dealt:
    """The rows of a source for which `keep(positions, keys)` is True; `keys` are None without a `key` column."""

    def __init__(self, source: Source, keep: Keep, key: str) -> None:
        self.name, self.names = source.name, source.names
        self.form, self.about = source.form, source.about
        self._source, self._keep, self._key = source, keep, key

    @property
    def foreign(self) -> int:
        """The number of lines decoded from Windows-1252 so far."""
        return self._source.foreign

    def under(self, rules: int) -> Dealt:
        """Return the source as `schema.rules` reads it."""
        return Dealt(self._source.under(rules), self._keep, self._key)

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the kept rows after the first `after`; a block without any says how far the source was read."""
        found: Iterator[Block]
        if isinstance(self._source, Text | Parquet | Files) and not self._key:
            found = self._source.kept_blocks(after, size, wanted, lambda positions: self._keep(positions, None))
        else:
            more = [self._key] if self._key and wanted is not None and self._key not in wanted else []
            found = self._source.blocks(after, size, None if wanted is None else [*wanted, *more])
        for block in found:
            yield _kept(block, self._own(block)) if len(block.kept) or block.faults else block

    def _own(self, block: Block) -> NDArray[np.bool_]:
        """Return which raw rows of a block are kept; an unreadable row has the key ""."""
        positions = np.arange(block.before + 1, block.before + block.rows + 1)
        if not self._key:
            return self._keep(positions, None)
        keys = np.full(block.rows, "", object)
        keys[block.kept] = [name.decode("utf-8", "replace") for name in _names(block.columns, self._key, block.kept)]
        return self._keep(positions, keys.tolist())

    def count(self) -> int | None:
        """Return the number of raw rows of the whole source."""
        return self._source.count()


def _names(columns: Mapping[str, Any], key: str, kept: Ints) -> list[bytes]:
    names: list[bytes] = segment_names(columns.get(key), len(kept)).tolist()
    return names


def _kept(block: Block, own: NDArray[np.bool_]) -> Block:
    """Return a block with some of its raw rows."""
    if own.all():
        return block
    keep = own[block.kept]
    places = np.flatnonzero(keep)
    if len(places) and places[-1] - places[0] + 1 == len(places):
        cut = slice(int(places[0]), int(places[-1]) + 1)
        columns = {name: column[cut] for name, column in block.columns.items()}
    else:
        columns = {name: _taken(column, places) for name, column in block.columns.items()}
    faults = {row: reason for row, reason in block.faults.items() if own[row]}
    return replace(block, kept=block.kept[keep], columns=columns, faults=faults)


def _taken(column: Any, places: Ints) -> Any:
    """Return some values of a native column."""
    if isinstance(column, list):
        return [column[place] for place in places.tolist()]
    return column[places] if isinstance(column, np.ndarray) else column.take(places)
