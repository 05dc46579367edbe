"""Blocks of the rows of one source, and those of text files, of which some may be passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Ints
from everlearn.schema import columnar
from everlearn.stream.lines import PlainLines
from everlearn.stream.text import RowReader

Keep = Callable[[Ints], NDArray[np.bool_]]  # positions, int64 (n,), to True for rows that are kept


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one source.

    `before` raw rows came earlier and `rows` are in the block. `kept` (int64) are the indices in the block of the rows
    that could be read; `columns` holds their values, and `faults` the reasons for the others. `lines` has the line,
    from 1, on which each raw row starts. `raws` has the content of each row, or None where `columns` hold everything.
    """

    source: str
    before: int
    rows: int
    kept: Ints
    lines: Sequence[int]
    columns: Mapping[str, Any]
    faults: Mapping[int, str]
    raws: Sequence[str | bytes] | None = None

    def raw(self, row: int) -> str:
        """Return the content of a raw row as text."""
        if self.raws is None:
            place = int(np.searchsorted(self.kept, row))  # `columns` have the kept rows alone
            values = {name: columnar.values_of(column[place : place + 1])[0] for name, column in self.columns.items()}
            return json.dumps(values, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()
        text = self.raws[row]
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "replace")


def whole(source: str, before: int, rows: int, columns: Mapping[str, Any]) -> Block:
    """Return a block without faults, from a source whose lines are its rows."""
    return Block(source, before, rows, np.arange(rows), range(before + 1, before + rows + 1), columns, {})


def unread(source: str, before: int, rows: int) -> Block:
    """Return a block whose rows were passed over."""
    return Block(source, before, rows, np.zeros(0, np.int64), range(before + 1, before + rows + 1), {}, {})


def stretches(own: NDArray[np.bool_] | None, rows: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the first row of each stretch of rows that are kept or not, the row behind it, and True if they are kept.

    A stretch that is kept has at most `size` rows. Without `own` all rows are kept.

    >>> list(stretches(np.array([True, True, True, False]), 4, 2))
    [(0, 2, True), (2, 3, True), (3, 4, False)]
    """
    keep = np.ones(rows, np.bool_) if own is None else own
    edges = [0, *(np.flatnonzero(keep[1:] != keep[:-1]) + 1).tolist(), rows] if rows else [0]
    for begin, end in pairwise(edges):
        for start in range(begin, end, size if keep[begin] else rows):
            yield start, min(start + size, end) if keep[begin] else end, bool(keep[begin])


def text_blocks(reader: RowReader, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
    """Yield the rows after the first `after`, at most `size` in a block."""
    before = 0
    for numbers, texts in reader.records():
        for start in range(min(max(after - before, 0), len(texts)), len(texts), size):
            cut = slice(start, start + size)
            yield _parsed(reader, TextRows(before + start, numbers[cut], texts[cut]), wanted)
        before += len(texts)


class TextRows(NamedTuple):
    """Neighbouring rows of a text file that are not parsed: rows before them, the line of each, and their text."""

    before: int
    numbers: Sequence[int]
    texts: Sequence[Any]

    def cut(self, begin: int, end: int) -> TextRows:
        """Return some of these rows."""
        return TextRows(self.before + begin, self.numbers[begin:end], self.texts[begin:end])

    def followed_by(self, more: TextRows) -> TextRows:
        """Return these rows and the next ones."""
        if isinstance(self.texts, PlainLines) and isinstance(more.texts, PlainLines):
            texts: Sequence[Any] = self.texts.followed_by(more.texts)
        else:
            texts = [*self.texts, *more.texts]
        return TextRows(self.before, [*self.numbers, *more.numbers], texts)


def _parsed(reader: RowReader, rows: TextRows, wanted: Collection[str] | None) -> Block:
    kept, columns, faults = reader.parse(rows.texts, wanted)
    index = np.asarray(kept, np.int64)
    return Block(reader.name, rows.before, len(rows.texts), index, rows.numbers, columns, faults, rows.texts)


def kept_text_blocks(
    reader: RowReader, after: int, size: int, wanted: Collection[str] | None, keep: Keep
) -> Iterator[Block]:
    """Yield blocks of the rows that are kept, in pieces of `size` where rows follow each other, and unread ones.

    A block costs as much as some thousand rows, so kept rows at the end of a piece of the file wait for the next piece.
    """
    before, waiting = 0, TextRows(0, (), ())
    for numbers, texts in reader.records():
        skip, end = min(max(after - before, 0), len(texts)), len(texts)
        rows = TextRows(before, numbers, texts).cut(skip, end)
        own = keep(np.arange(before + skip, before + end) + 1)
        for begin, behind, kept in stretches(own, end - skip, end):
            if kept:
                some = rows.cut(begin, behind)
                waiting = waiting.followed_by(some) if len(waiting.texts) else some
                while len(waiting.texts) >= size:
                    yield _parsed(reader, waiting.cut(0, size), wanted)
                    waiting = waiting.cut(size, len(waiting.texts))
            if len(waiting.texts) and (not kept or behind < end - skip):
                yield _parsed(reader, waiting, wanted)
                waiting = TextRows(0, (), ())
            if not kept:
                yield unread(reader.name, before + skip + begin, behind - begin)
        before += end
    if len(waiting.texts):
        yield _parsed(reader, waiting, wanted)
