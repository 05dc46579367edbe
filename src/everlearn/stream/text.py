"""Readers of text: rows of delimited text or JSON objects, each with the line on which it starts.

A row that cannot be read does not affect the others. Blank lines are skipped; CRLF ends a line as LF does.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import msgspec

from everlearn.errors import InputError
from everlearn.schema import columnar, nested
from everlearn.spec import RULES
from everlearn.stream.decoding import Bytes, decoded, read
from everlearn.stream.formats import MARK
from everlearn.stream.lines import PlainLines, plain_lines

LONGEST_CELL = 131_072  # characters: the limit of the csv module, which other libraries raise for the whole process

_LONGEST_LINE = 64 << 20
_DELIMITERS = ",;\t|"
_SEPARATED_ROWS = 50  # from which the delimiter is guessed
_COMMENT = re.compile(r"#|//|%|sep=.$")
_DIGITS = re.compile(r"[+-]?[0-9][0-9.,:eE+/-]*")
_NAMING_ROWS = 1_000  # JSON objects that are searched for column names

Readable = tuple[
    Sequence[int], dict[str, Any], dict[int, str]
]  # indices of the readable texts, their columns, and the faults of the others


class Foreign(Protocol):
    """A reader that counts lines in another encoding than UTF-8."""

    foreign: int


class RowReader(Protocol):
    """The rows of one text file, read once from start to end; `foreign` counts the lines from Windows-1252 so far."""

    name: str
    names: Sequence[str]
    foreign: int
    about: str

    def records(self) -> Iterator[tuple[Sequence[int], Sequence[Any]]]:
        """Yield some rows at a time as text or bytes, with the line (from 1) on which each starts."""
        ...

    def parse(self, texts: Sequence[Any], wanted: Collection[str] | None) -> Readable:
        """Parse some of these rows; only the `wanted` columns, if given."""
        ...


def _pieces(file: Bytes, name: str) -> Iterator[bytes]:
    """Yield whole lines, without the last line break; CRLF becomes LF, and a byte order mark is dropped."""
    held: list[bytes] = []
    begun = False
    while data := read(file, name):
        data = data if begun else data.removeprefix(MARK)
        begun = True
        cut = data.rfind(b"\n") + 1
        if cut:
            piece = b"".join([*held, data[:cut]])
            yield (piece.replace(b"\r\n", b"\n") if b"\r" in piece else piece)[:-1]
            held = [data[cut:]]
        else:
            held.append(data)
            if sum(map(len, held)) > _LONGEST_LINE:
                raise InputError(f"{name} has a line of more than {_LONGEST_LINE >> 20} MiB; expected lines of text")
    rest = b"".join(held)
    if rest:
        yield rest.removesuffix(b"\r")


def lines_of(file: Bytes, name: str, reader: Foreign) -> Iterator[list[str]]:
    """Yield some lines at a time as text; lines that are not UTF-8 are Windows-1252, and the reader counts them."""
    for piece in _pieces(file, name):
        yield texts_of(piece, reader)


def texts_of(piece: bytes, reader: Foreign) -> list[str]:
    """Return the lines of a piece as text, as `lines_of` does."""
    try:
        return piece.decode().split("\n")
    except UnicodeDecodeError:
        found = list(map(decoded, piece.split(b"\n")))
        reader.foreign += sum(foreign for _, foreign in found)
        return [text for text, _ in found]


class CsvReader:
    """Delimited text whose first line names the columns; the delimiter is guessed from the first lines if not given.

    Rules 1 are those of release 0.1.0: they keep blanks around names, know no comment lines, and refuse rows that are
    not UTF-8.
    """

    def __init__(self, file: Bytes, name: str, delimiter: str = "", rules: int = RULES) -> None:
        self.name = name
        self.foreign = 0
        self._old = rules == 1
        self._lines: Iterator[Sequence[str]] = self._read(file)
        self.about = "CSV"
        self._held: list[str] = []  # lines that have been read but not split into rows yet
        self._next = 1  # the number of the first of them
        header = self._header()
        self._top = header
        self._blanks = False  # True where runs of blanks stand between the cells
        self._delimiter = delimiter or max(_DELIMITERS, key=header.count)
        if not delimiter and not self._old:
            self._delimiter, self._blanks = _separator(header, self._held[:_SEPARATED_ROWS])
        try:
            names = next(self._csv([header]))
        except csv.Error as error:
            raise InputError(f"{name}: the header line cannot be read ({error}): {header[:200]!r}") from error
        names = names if self._old else [column.strip() for column in names]
        columnar.require_unique(column for column in names if column)
        self.names: Sequence[str] = names
        self._places = [
            str(place) for place in range(len(names))
        ]  # column names for Arrow, since those in the file may be empty

    def _read(self, file: Bytes) -> Iterator[Sequence[str]]:
        """Yield some lines at a time."""
        for piece in _pieces(file, self.name):
            if (plain := plain_lines(piece)) is not None:
                yield plain
            elif self._old:
                yield piece.decode("utf-8", "surrogateescape").split("\n")
            else:
                yield texts_of(piece, self)

    def _header(self) -> str:
        for lines in self._lines:
            self._held += lines
            start = next((i for i, line in enumerate(self._held) if self._is_header(line)), len(self._held))
            if start < len(self._held) and (above := sum(map(bool, self._held[:start]))):
                self.about = f"CSV below {above} comment line{'s' if above > 1 else ''}"
            if not self._old and (named := _commented(self._held, start)):
                self._held, self._next = self._held[start:], start + 1
                return named
            end = _end(self._held, start) if start < len(self._held) else None
            if end is not None:
                header = "\n".join(self._held[start:end])
                self._held, self._next = self._held[end:], end + 1
                return header
        raise InputError(f"{self.name} has no header line that can be read; expected the names of its columns")

    def _is_header(self, line: str) -> bool:
        return bool(line) if self._old else bool(line.strip()) and not _COMMENT.match(line)

    def _csv(self, texts: Sequence[str]) -> Iterator[list[str]]:
        if self._blanks:
            texts = ["\t".join(text.split()) for text in texts]
        return csv.reader(texts, delimiter=self._delimiter, skipinitialspace=not self._old, strict=True)

    def records(self) -> Iterator[tuple[Sequence[int], Sequence[str]]]:
        """Yield some rows at a time as text, with the line on which each starts."""
        final = False
        while True:
            numbers, texts = self._rows_held(final)
            if texts:
                yield numbers, texts
            if final:
                return
            lines = next(self._lines, None)
            final = lines is None
            if isinstance(lines, PlainLines) and not self._held:
                yield range(self._next, self._next + len(lines)), lines
                self._next += len(lines)
            else:
                self._held += lines or []

    def _rows_held(self, final: bool) -> tuple[Sequence[int], Sequence[str]]:
        """Return the complete rows; a row whose quote is never closed ends with its first line."""
        lines, first = self._held, self._next
        numbers: list[int] = []
        texts: list[str] = []
        start = 0
        if '"' not in "".join(lines):
            numbers, texts, start = list(range(first, first + len(lines))), lines, len(lines)
        while start < len(lines):
            end = _end(lines, start)
            if end is None and not final:
                break
            if end is None or (end > start + 1 and not self._fits("\n".join(lines[start:end]))):
                end = start + 1
            numbers.append(first + start)
            texts.append("\n".join(lines[start:end]))
            start = end
        self._held, self._next = lines[start:], first + start
        if "" in texts:
            numbers = [number for number, text in zip(numbers, texts, strict=True) if text]
            texts = [text for text in texts if text]
        return numbers, texts

    def _fits(self, text: str) -> bool:
        row, _ = self._row(text)
        return row is not None

    def _row(self, text: str) -> tuple[list[str] | None, str]:
        """Return the cells of one row, or None and the reason."""
        try:
            row = next(self._csv([text]))
        except csv.Error as error:
            return None, f"broken quotes or an overlong cell: {error}"
        if len(text) > LONGEST_CELL and max(map(len, row), default=0) > LONGEST_CELL:
            return None, f"an overlong cell: got more than {LONGEST_CELL} characters"
        if len(row) != len(self.names):
            return None, f"got {len(row)} columns, expected {len(self.names)}"
        return row, ""

    def parse(self, texts: Sequence[str], wanted: Collection[str] | None) -> Readable:
        """Parse some rows into columns; rows that cannot be read become faults."""
        names = [name for name in (self.names if wanted is None else wanted) if name in self.names and name]
        if not self._old and self._top in texts:
            return self._without_header(texts, wanted)
        quick = self._quick_columns(texts, names)
        if quick is not None:
            return range(len(texts)), quick, {}
        rows, faults = self._rows(texts)
        places = [self.names.index(name) for name in names]
        kept: Sequence[int] = range(len(texts)) if not faults else [i for i in range(len(texts)) if i not in faults]
        try:
            return kept, _text_columns(rows, names, places), faults
        except UnicodeEncodeError:
            valid = [_encodable(row, places) for row in rows]
            faults |= {i: "not valid UTF-8" for i, good in zip(kept, valid, strict=True) if not good}
            rows = [row for row, good in zip(rows, valid, strict=True) if good]
            kept = [i for i, good in zip(kept, valid, strict=True) if good]
            return kept, _text_columns(rows, names, places), faults

    def _without_header(self, texts: Sequence[str], wanted: Collection[str] | None) -> Readable:
        """Parse some rows, among which the header line stands again."""
        places = [i for i, text in enumerate(texts) if text != self._top]
        kept, columns, faults = self.parse([texts[i] for i in places], wanted)
        again = {i: "the header line again" for i, text in enumerate(texts) if text == self._top}
        return [places[i] for i in kept], columns, again | {places[i]: reason for i, reason in faults.items()}

    def _quick_columns(self, texts: Sequence[str], names: Sequence[str]) -> dict[str, Any] | None:
        """Parse all columns at once, if no row needs special treatment: no quotes, and no faults. None otherwise."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if self._blanks or not names:
            return None
        try:
            if isinstance(texts, PlainLines):
                data, longest = texts.encoded(), texts.longest
            else:
                data, longest = "\n".join(texts).encode(), max(map(len, texts), default=0)
            if b'"' in data or b"\r" in data or longest > LONGEST_CELL:
                return None
            table = arrow_csv.read_csv(
                pa.BufferReader(data),
                arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=self._places),
                arrow_csv.ParseOptions(delimiter=self._delimiter, quote_char=False),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(self._places, pa.string()),
                    include_columns=[self._places[self.names.index(name)] for name in names],
                ),
            )
        except (UnicodeEncodeError, pa.ArrowException):
            return None
        if table.num_rows != len(texts):
            return None
        return {name: columnar.native(column) for name, column in zip(names, table.columns, strict=True)}

    def _rows(self, texts: Sequence[str]) -> tuple[list[list[str]], dict[int, str]]:
        """Return the cells of each readable row, and the reasons for the others."""
        try:
            rows = list(self._csv(texts))
            fits = set(map(len, rows)) <= {len(self.names)} and max(map(len, texts), default=0) <= LONGEST_CELL
            if len(rows) == len(texts) and fits:
                return rows, {}
        except csv.Error:
            pass
        rows, faults = [], {}
        for i, text in enumerate(texts):
            row, reason = self._row(text)
            if row is None:
                faults[i] = reason
            else:
                rows.append(row)
        return rows, faults


def _separator(header: str, rows: Sequence[str]) -> tuple[str, bool]:
    """Return the delimiter that splits most rows into as many cells as the header, and True for runs of blanks."""
    rows = [row for row in rows if row.strip()]

    def fitting(mark: str) -> tuple[float, int]:
        try:
            cells = [len(row) for row in csv.reader([header, *rows], delimiter=mark, skipinitialspace=True)]
        except csv.Error:
            return 0.0, 0
        return sum(n == cells[0] for n in cells) / len(cells) if cells[0] > 1 else 0.0, cells[0]

    best = max(_DELIMITERS, key=fitting)
    if fitting(best)[0] >= 0.5:
        return best, False
    width = len(header.split())
    blanks = width > 1 and bool(rows) and sum(len(row.split()) == width for row in rows) >= 0.9 * len(rows)
    return ("\t", True) if blanks and '"' not in header else (max(_DELIMITERS, key=header.count), False)


def _commented(lines: Sequence[str], start: int) -> str:
    """Return the names in the last comment line before the first row, such as "# time,x,y"; empty if it has none."""
    if not 0 < start < len(lines) or not lines[start - 1].startswith("#"):
        return ""
    header, first = lines[start - 1].lstrip("# "), lines[start]
    mark = max(_DELIMITERS, key=first.count)
    cells = first.split(mark)
    numbers = sum(_DIGITS.fullmatch(cell.strip()) is not None for cell in cells)
    return header if header.count(mark) == len(cells) - 1 > 0 and numbers > 0 else ""


def _end(lines: Sequence[str], start: int) -> int | None:
    """Return the line at which the row that starts here ends, by its quotes; None if its end has not been read yet."""
    quotes, length, end = lines[start].count('"'), len(lines[start]), start + 1
    while quotes % 2:
        if length > LONGEST_CELL:
            return start + 1
        if end == len(lines):
            return None
        quotes += lines[end].count('"')
        length += len(lines[end]) + 1
        end += 1
    return end


def _text_columns(rows: Sequence[Sequence[str]], names: Sequence[str], places: Sequence[int]) -> dict[str, Any]:
    import pyarrow as pa

    flat = list(chain.from_iterable(rows))
    width = len(rows[0]) if rows else 1
    return {name: pa.array(flat[place::width], pa.string()) for name, place in zip(names, places, strict=True)}


def _encodable(row: Sequence[str], places: Sequence[int]) -> bool:
    try:
        "".join(row[place] for place in places).encode()
    except UnicodeEncodeError:
        return False
    return True


class JsonReader:
    """JSON lines: one object on each line. By rules 2, the parts of objects within them are columns: `user.age`."""

    def __init__(self, file: Bytes, name: str, rules: int = RULES) -> None:
        self.name = name
        self.foreign, self.about = 0, "JSON lines"
        self._old = rules == 1
        self._lines = (piece.split(b"\n") for piece in _pieces(file, name))
        self._held: list[bytes] = []
        self._next = 1
        self.names: Sequence[str] = []
        for lines in self._lines:
            self._held += lines
            self.names = list(self.parse([line for line in lines[:_NAMING_ROWS] if line.strip()], None)[1])
            if self.names:
                break

    def records(self) -> Iterator[tuple[Sequence[int], Sequence[bytes]]]:
        """Yield some lines at a time as bytes, with their numbers."""
        lines: list[bytes] | None = self._held
        while lines is not None:
            numbers: Sequence[int] = range(self._next, self._next + len(lines))
            self._next += len(lines)
            if not all(map(bytes.strip, lines)):
                numbers = [number for number, line in zip(numbers, lines, strict=True) if line.strip()]
                lines = [line for line in lines if line.strip()]
            if lines:
                yield numbers, lines
            lines = next(self._lines, None)

    def parse(self, texts: Sequence[bytes], wanted: Collection[str] | None) -> Readable:
        """Parse some lines into columns; lines that hold no object become faults."""
        try:
            found = [msgspec.json.decode(text) for text in texts]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = [self._decoded(text) for text in texts]
        faults = {i: _fault_of(value) for i, value in enumerate(found) if type(value) is not dict}
        kept = range(len(texts)) if not faults else [i for i in range(len(texts)) if i not in faults]
        objects: list[Mapping[str, Any]] = [found[i] for i in kept]
        if not self._old and (wanted is None or any("." in name for name in wanted)):
            objects = [nested.flat(record, wanted or ()) for record in objects]
        names = list(dict.fromkeys(name for record in objects for name in record)) if wanted is None else wanted
        return kept, {name: [record.get(name) for record in objects] for name in names}, faults

    def _decoded(self, text: bytes) -> Any:
        """Decode one line; return the error if it is not JSON. Python's own reader also accepts NaN and Infinity."""
        try:
            if self._old:
                return json.loads(text)
            line, foreign = decoded(text)
            self.foreign += foreign
            return json.loads(line if foreign else text)
        except (ValueError, RecursionError) as error:
            return error


def _fault_of(value: Any) -> str:
    if isinstance(value, UnicodeDecodeError):
        return "not valid UTF-8"
    if isinstance(value, Exception):
        return f"not valid JSON: {value}"
    return f'got a JSON {type(value).__name__}, expected an object such as {{"name": 1}}'
