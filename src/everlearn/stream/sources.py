"""Sources of a stream: text files, Parquet, several files, standard input, and tables in memory.

A source numbers its raw rows from 1, counts bad rows too, and can start after any row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from everlearn.errors import InputError
from everlearn.schema import columnar, nested
from everlearn.spec import RULES
from everlearn.stream.arff import ArffReader
from everlearn.stream.blocks import Block, Keep, kept_text_blocks, stretches, text_blocks, unread, whole
from everlearn.stream.decoding import Bytes, Chained, Kept, opened, packing, read, utf_8
from everlearn.stream.formats import form_of
from everlearn.stream.sparse import SparseReader, libsvm, vowpal
from everlearn.stream.text import CsvReader, JsonReader, RowReader

_PASSED = 1 << 16  # rows of Parquet that are decoded at a time where many of them are passed over
PEEK = 1 << 16  # bytes of standard input that are examined to guess its schema


class Source(Protocol):
    """A file, several files, or a table. `names` are its columns, as far as its beginning shows.

    `form` is its format, as `formats` calls it, and `about` is that in words.
    """

    name: str
    names: Sequence[str]
    form: str
    about: str

    @property
    def foreign(self) -> int:
        """The number of lines decoded from Windows-1252 so far."""
        ...

    def under(self, rules: int) -> Source:
        """Return the source as `schema.rules` reads it."""
        ...

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block; only the `wanted` columns, if given."""
        ...

    def count(self) -> int | None:
        """Return the number of raw rows; None if it cannot be known."""
        ...


class Table:
    """Columns in memory: a dict of columns, a DataFrame or an Arrow table; `InputError` if they differ in length."""

    form, about, foreign = "table", "a table", 0

    def __init__(self, data: Any, rules: int = RULES) -> None:
        self.name = "table"
        self._data, self._rules = data, rules
        columns = {name: columnar.native(column) for name, column in columnar.named(data).items()}
        self._columns = columns if rules == 1 else nested.flat_columns(columns)
        self.names: Sequence[str] = list(self._columns)
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns have different lengths: {lengths}")
        self._length = max(lengths.values(), default=0)

    def under(self, rules: int) -> Source:
        """Return the table, read by other rules: those of release 0.1.0 know no objects within records."""
        return self if rules == self._rules else Table(self._data, rules)

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block."""
        names = self.names if wanted is None else [name for name in wanted if name in self._columns]
        for start in range(after, self._length, size):
            columns = {name: self._columns[name][start : start + size] for name in names}
            yield whole(self.name, start, min(size, self._length - start), columns)

    def count(self) -> int:
        """Return the number of raw rows."""
        return self._length


class Parquet:
    """A Parquet file, read a piece of a row group at a time."""

    form, about, foreign = "parquet", "Parquet", 0

    def __init__(self, path: Path, name: str, rules: int = RULES) -> None:
        self.name = name
        self._path, self._rules = path, rules
        with self._open() as file:
            columnar.require_unique(file.schema_arrow.names)
            self.names: Sequence[str] = (
                file.schema_arrow.names if rules == 1 else nested.column_names(file.schema_arrow)
            )
            groups = range(file.metadata.num_row_groups)
            self._groups = [file.metadata.row_group(group).num_rows for group in groups]

    def under(self, rules: int) -> Source:
        """Return the file, read by other rules: those of release 0.1.0 know no objects within records."""
        return self if rules == self._rules else Parquet(self._path, self.name, rules)

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.name} cannot be read as Parquet ({error}); write or copy it again") from error

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block."""
        return self.kept_blocks(after, size, wanted, None)

    def kept_blocks(self, after: int, size: int, wanted: Collection[str] | None, keep: Keep | None) -> Iterator[Block]:
        """Yield blocks as `blocks` does, of rows whose positions `keep` maps to True; other blocks have no columns."""
        import pyarrow as pa

        names = self.names if wanted is None else [name for name in wanted if name in self.names]
        group = before = 0
        while group < len(self._groups) and before + self._groups[group] <= after:
            before += self._groups[group]
            group += 1
        if group == len(self._groups):
            return
        piece = size if keep is None else max(size, _PASSED)
        with self._open() as file:
            try:
                for batch in file.iter_batches(piece, row_groups=range(group, len(self._groups)), columns=names):
                    skip = min(max(after - before, 0), len(batch))
                    first = before + skip
                    own = None if keep is None else keep(np.arange(first, before + len(batch)) + 1)
                    for begin, end, kept in stretches(own, len(batch) - skip, size):
                        if kept:
                            columns = self._columns(batch.slice(skip + begin, end - begin), names)
                            yield whole(self.name, first + begin, end - begin, columns)
                        else:
                            yield unread(self.name, first + begin, end - begin)
                    before += len(batch)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{self.name} is damaged after row {before} ({error}); copy it again") from error

    def _columns(self, part: Any, names: Sequence[str]) -> dict[str, Any]:
        """Return the columns of these names in some rows."""
        columns = {name: columnar.native(part.column(name)) for name in part.schema.names}
        if self._rules == 1:
            return columns
        flat = nested.flat_columns(columns)  # which may have more than the wanted parts
        return {name: flat[name] for name in names if name in flat}

    def count(self) -> int:
        """Return the number of raw rows."""
        return sum(self._groups)


class Text:
    """A file of delimited text, JSON lines, ARFF, LIBSVM or Vowpal Wabbit, packed or not.

    `foreign` counts the lines that were decoded from Windows-1252, as far as the file has been read.
    """

    def __init__(self, path: Path, name: str, form: str, rules: int = RULES) -> None:
        self.name = name
        self.form = form
        self.foreign = 0
        self._path = path
        self._rules = rules
        with self._reader() as reader:
            self.names: Sequence[str] = reader.names
            packed = packing(path)
            self.about = reader.about + (f", packed with {packed}" if packed else "")

    @contextmanager
    def _reader(self) -> Iterator[RowReader]:
        file = opened(self._path, self.name)
        try:
            reader = _reader(file, self.name, self.form, self._path.name, self._rules)
            yield reader
            self.foreign = max(self.foreign, reader.foreign)
        finally:
            file.close()

    def under(self, rules: int) -> Source:
        """Return the file, read by other rules."""
        return self if rules == self._rules else Text(self._path, self.name, self.form, rules)

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block."""
        with self._reader() as reader:
            yield from text_blocks(reader, after, size, wanted)

    def kept_blocks(self, after: int, size: int, wanted: Collection[str] | None, keep: Keep) -> Iterator[Block]:
        """Yield blocks as `blocks` does, and parse only the rows whose positions `keep` maps to True."""
        with self._reader() as reader:
            yield from kept_text_blocks(reader, after, size, wanted, keep)

    def count(self) -> int:
        """Return the number of raw rows."""
        with self._reader() as reader:
            return sum(len(texts) for _, texts in reader.records())


def _reader(file: Bytes, name: str, form: str, ending: str, rules: int) -> RowReader:
    match form:
        case "json":
            return JsonReader(file, name, rules)
        case "arff":
            return ArffReader(file, name)
        case "libsvm" | "vowpal":
            return SparseReader(file, name, libsvm if form == "libsvm" else vowpal)
    return CsvReader(file, name, "\t" if ".tsv" in ending.lower() else "", rules)


class Piped:
    """Text that can be read once, such as standard input; each call of `blocks` continues after the last one.

    The constructor waits for at least `peek` bytes and for the names of the columns. The method `peek` shows these
    bytes without consuming them.
    """

    def __init__(self, file: Bytes, name: str, peek: int, rules: int = RULES) -> None:
        self.name = name
        start, file = b"", utf_8(file, name)
        while (len(start) < peek or b"\n" not in start) and (data := read(file, name)):
            start += data
        form = form_of(start, name)
        if form == "parquet":
            raise InputError(f"{name} holds Parquet; expected CSV or JSON lines: give the path of the file instead")
        self.form, self.about = form, form
        self._file = Kept(start, file)
        self._rules = rules
        self._open()

    def _open(self) -> None:
        """Read the names of the columns, by the rules of now; the rows are read later."""
        self._reader: RowReader = _reader(self._file, self.name, self.form, "", self._rules)
        self._peeked: RowReader | None = None
        self._blocks: Iterator[Block] | None = None
        self.names: Sequence[str] = self._reader.names

    def peek(self, size: int) -> Iterator[Block]:
        """Yield the first rows without consuming them."""
        start = self._file.kept  # its end may be inside a row
        whole = Chained(start[: start.rfind(b"\n") + 1] or start, None)
        self._peeked = _reader(whole, self.name, self.form, "", self._rules)
        return text_blocks(self._peeked, 0, size, None)

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows not read yet, numbered from `after` on; earlier rows are gone and cannot be skipped."""
        self._file.release()
        self._blocks = self._blocks or text_blocks(self._reader, 0, size, wanted)
        shift: int | None = None
        for block in self._blocks:
            shift = after - block.before if shift is None else shift
            yield replace(block, before=block.before + shift)

    @property
    def foreign(self) -> int:
        """The number of lines decoded from Windows-1252 so far."""
        return (self._peeked or self._reader).foreign

    def under(self, rules: int) -> Source:
        """Return the pipe, whose rows are all read by these rules from now on.

        Raises `InputError` if some have been read by others, since they cannot be read again.
        """
        if rules != self._rules:
            if self._blocks is not None:
                raise InputError(
                    f"{self.name}: got rules {rules} of a home after rows were read by rules {self._rules}; expected "
                    "the same. Read it with the schema of the loop: everlearn.read('-', schema=loop.spec.schema)"
                )
            self._rules = rules
            self._file.rewind()
            self._open()
        return self

    def count(self) -> None:
        """Return None: the rows of a pipe cannot be counted in advance."""


def _cut(block: Block, rows: int) -> Block:
    """Return the first raw rows of a block."""
    kept = block.kept[block.kept < rows]
    columns = {name: column[: len(kept)] for name, column in block.columns.items()}
    faults = {row: reason for row, reason in block.faults.items() if row < rows}
    raws = None if block.raws is None else block.raws[:rows]
    return replace(block, rows=rows, kept=kept, lines=block.lines[:rows], columns=columns, faults=faults, raws=raws)


class Beginning:
    """The first `rows` raw rows of a source."""

    def __init__(self, source: Source, rows: int) -> None:
        self.name, self.names = source.name, source.names
        self.form, self.about = source.form, source.about
        self._source, self._rows = source, rows

    @property
    def foreign(self) -> int:
        """The number of lines decoded from Windows-1252 so far."""
        return self._source.foreign

    def under(self, rules: int) -> Beginning:
        """Return the source as `schema.rules` reads it."""
        return Beginning(self._source.under(rules), self._rows)

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block."""
        for block in self._source.blocks(after, size, wanted):
            left = self._rows - block.before
            if left > 0:
                yield block if block.rows <= left else _cut(block, left)
            if block.rows >= left:
                return

    def count(self) -> int | None:
        """Return the number of raw rows."""
        count = self._source.count()
        return None if count is None else min(count, self._rows)


class Files:
    """Several files, one after the other; `apart` if files may be added later, as in a folder or a glob."""

    def __init__(self, name: str, sources: Sequence[Source], apart: bool = False) -> None:
        self.name = name
        self.apart = apart
        self.sources = sources
        self.names: Sequence[str] = list(dict.fromkeys(column for source in sources for column in source.names))
        self.about = next((source.about for source in sources), "CSV")
        self.form = next((source.form for source in sources), "csv")

    @property
    def foreign(self) -> int:
        """The number of lines decoded from Windows-1252 so far."""
        return sum(source.foreign for source in self.sources)

    def under(self, rules: int) -> Source:
        """Return the files, read by other rules."""
        return Files(self.name, [source.under(rules) for source in self.sources], self.apart)

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block."""
        return self.kept_blocks(after, size, wanted, None)

    def kept_blocks(self, after: int, size: int, wanted: Collection[str] | None, keep: Keep | None) -> Iterator[Block]:
        """Yield blocks as `blocks` does, and parse only the rows whose positions `keep` maps to True, where it can."""
        before = 0
        for source in self.sources:
            rows = (source.count() or 0) if before < after else None
            if rows is None or before + rows > after:
                rows = 0
                for block in _of_file(source, before, max(after - before, 0), size, wanted, keep):
                    rows = block.before + block.rows
                    yield replace(block, before=before + block.before)
            before += rows

    def count(self) -> int:
        """Return the number of raw rows."""
        return sum(source.count() or 0 for source in self.sources)


def _of_file(
    source: Source,
    before: int,
    after: int,
    size: int,
    wanted: Collection[str] | None,
    keep: Keep | None,
) -> Iterator[Block]:
    """Return the blocks of a file behind `before` rows of others, whose positions in all files `keep` takes."""
    if keep is None or not isinstance(source, Text | Parquet):
        return source.blocks(after, size, wanted)
    return source.kept_blocks(after, size, wanted, lambda positions: keep(positions + before))


def file(path: Path, rules: int = RULES) -> Source:
    """Return the source of a file, by its first bytes.

    Raises `InputError` if it does not exist or has another format.
    """
    name = str(path)
    if not path.exists():
        raise InputError(f"there is no file {name}; expected a CSV, JSON-lines or Parquet file")
    handle = opened(path, name)
    try:
        start = read(handle, name)
    finally:
        handle.close()
    form = form_of(start, name)
    return Parquet(path, name, rules) if form == "parquet" else Text(path, name, form, rules)
