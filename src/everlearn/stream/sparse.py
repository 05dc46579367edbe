"""Rows of sparse text: LIBSVM (svmlight) and Vowpal Wabbit.

Neither format names its columns. The label is "label". A feature of LIBSVM has its number as name; one of Vowpal
Wabbit with a value is "namespace.feature", and the features of a namespace without values are the tokens of one column
with the name of the namespace. A number that a row does not name is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from everlearn.errors import InputError
from everlearn.stream.decoding import Bytes
from everlearn.stream.formats import NAMES
from everlearn.stream.text import Readable, lines_of

LABEL = "label"
PLAIN = "features"  # the namespace without a name
MOST_COLUMNS = 1_000
_NAMING_ROWS = 1_000
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_INDEX = re.compile(r"[0-9]+")
_WITHOUT_ZERO = ("tokens", "text", "datetime")  # kinds of which a row that does not name them has no value

Row = dict[str, Any]


class SparseReader:
    """The rows of a sparse file; `read` turns a line into the values that it names, and raises `InputError`.

    >>> import io
    >>> reader = SparseReader(io.BytesIO(b"1 1:0.5 4:1\\n0 4:2\\n"), "small.svm", libsvm)
    >>> reader.names, reader.parse(["0 4:2"], None)[1]
    (['label', '1', '4'], {'label': ['0'], '1': [0.0], '4': [2.0]})
    """

    def __init__(self, file: Bytes, name: str, read: Callable[[str], Row]) -> None:
        self.name = name
        self.foreign, self.about = 0, NAMES[read.__name__]
        self._read = read
        self._lines = lines_of(file, name, self)
        self._held: list[str] = next(self._lines, [])
        self._next = 1
        self._tokens: set[str] = set()
        self.names: Sequence[str] = [LABEL]
        self.names = self._named([self._row(line) for line in self._held[:_NAMING_ROWS] if _is_row(line)])

    def records(self) -> Iterator[tuple[Sequence[int], Sequence[str]]]:
        """Yield some rows at a time, with their line numbers."""
        lines: list[str] | None = self._held
        while lines is not None:
            found = [(self._next + i, line) for i, line in enumerate(lines) if _is_row(line)]
            self._next += len(lines)
            if found:
                yield [number for number, _ in found], [line for _, line in found]
            lines = next(self._lines, None)

    def parse(self, texts: Sequence[str], wanted: Collection[str] | None) -> Readable:
        """Parse some rows into columns; rows that cannot be read become faults.

        `wanted` should map names to kinds: where a row does not name a column, it holds 0, but no tokens. Without
        kinds, the rows read so far decide.
        """
        found = [self._row(text) for text in texts]
        faults = {i: str(row) for i, row in enumerate(found) if isinstance(row, InputError)}
        rows: list[Row] = [row for row in found if not isinstance(row, InputError)]
        names = self._named(rows) if wanted is None else wanted
        kinds = wanted if isinstance(wanted, Mapping) else dict.fromkeys(self._tokens, "tokens")
        columns = {}
        for name in names:
            nothing = None if name == LABEL or kinds.get(name) in _WITHOUT_ZERO else 0.0
            columns[name] = [row.get(name, nothing) for row in rows]
        return [i for i in range(len(texts)) if i not in faults], columns, faults

    def _row(self, text: str) -> Row | InputError:
        try:
            row = self._read(text)
        except InputError as error:
            return error
        self._tokens.update(name for name, value in row.items() if isinstance(value, list))
        return row

    def _named(self, rows: Sequence[Row | InputError]) -> list[str]:
        """Return the names known so far and those in some rows, numbers in their order."""
        names = dict.fromkeys([*self.names, *(name for row in rows if isinstance(row, Mapping) for name in row)])
        if len(names) > MOST_COLUMNS:
            raise InputError(
                f"{self.name} has more than {MOST_COLUMNS:,} columns; expected fewer. Write it as JSON lines with the "
                "features of a row as one list, which becomes a field of tokens"
            )
        return [LABEL, *sorted((name for name in names if name != LABEL), key=_order)]


def _order(name: str) -> tuple[int, str]:
    return (int(name), "") if _INDEX.fullmatch(name) else (-1, name)


def _is_row(line: str) -> bool:
    text = line.lstrip()
    return bool(text) and not text.startswith("#")


def libsvm(text: str) -> Row:
    """Return the values of a line such as "1 qid:3 1:0.5 7:1 # note". Raises `InputError` for any other line."""
    first, *cells = text.partition("#")[0].split() or [":"]
    if ":" in first:
        raise InputError("got a row of LIBSVM without a label, expected a label and features: 1 7:0.5")
    row: Row = {LABEL: first}
    for cell in cells:
        name, _, value = cell.partition(":")
        if not _NUMBER.fullmatch(value) or not (_INDEX.fullmatch(name) or name == "qid"):
            raise InputError(f"got {cell!r} in a row of LIBSVM, expected the number of a feature and its value: 7:0.5")
        row[name] = float(value)
    return row


def vowpal(text: str) -> Row:
    """Return the values of a line such as "1 |n price:0.5 |c blue big". Raises `InputError` for any other line."""
    head, *spaces = text.split("|")
    label, *rest = head.split() or [""]
    if not spaces or not _NUMBER.fullmatch(label):
        raise InputError("got a row of Vowpal Wabbit without a label, expected a number, a bar and features")
    if any(_NUMBER.fullmatch(word) and float(word) != 1.0 for word in rest):
        raise InputError(
            "got a row of Vowpal Wabbit with an importance weight, which a file cannot carry here. Send such rows with "
            "loop.learn(features, label, weight=...)"
        )
    row: Row = {LABEL: label}
    for space in spaces:
        name, _, scale = ("" if space[:1].isspace() or not space else space.split(maxsplit=1)[0]).partition(":")
        factor = float(scale) if _NUMBER.fullmatch(scale) else 1.0
        for cell in space.split()[bool(name or scale) :]:
            feature, mark, value = cell.partition(":")
            if not mark:
                _add_token(row, _column(name or PLAIN), feature)
            elif not _NUMBER.fullmatch(value):
                raise InputError(f"got {cell!r} in a row of Vowpal Wabbit, expected a feature, or feature:number")
            elif isinstance(row.get(column := _column(f"{name}.{feature}" if name else feature)), list):
                raise InputError(_TWICE.format(column))
            else:
                row[column] = float(value) * factor
    return row


_TWICE = (
    "got {0!r} as a feature with a value and as a namespace of features without, expected one of the two: give the "
    "feature a namespace"
)


def _column(name: str) -> str:
    """Return the name of a column of features: one called like the label is "features.label"."""
    return f"{PLAIN}.{name}" if name == LABEL else name


def _add_token(row: Row, column: str, token: str) -> None:
    held = row.setdefault(column, [])
    if not isinstance(held, list):
        raise InputError(_TWICE.format(column))
    held.append(token)
