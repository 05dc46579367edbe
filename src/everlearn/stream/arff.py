"""Rows of ARFF (Attribute-Relation File Format) files, dense and sparse."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from everlearn.errors import InputError
from everlearn.schema import columnar
from everlearn.stream.decoding import Bytes
from everlearn.stream.text import Readable, lines_of

_ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)\s+(.*\S)\s*", re.IGNORECASE)


class ArffReader:
    """The rows after @data; "?" is missing, and a sparse row has 0 or the first nominal value where it names none.

    >>> import io
    >>> text = b"@relation r\\n@attribute a numeric\\n@attribute y {no,'oh yes'}\\n@data\\n1,?\\n2,'oh yes'\\n"
    >>> reader = ArffReader(io.BytesIO(text), "small.arff")
    >>> [texts for _, texts in reader.records()]
    [['1,?', "2,'oh yes'"]]
    >>> reader.parse(["1,?", "2,'oh yes'"], None)[1]
    {'a': ['1', '2'], 'y': [None, 'oh yes']}
    """

    def __init__(self, file: Bytes, name: str) -> None:
        self.name = name
        self.foreign, self.about = 0, "ARFF"
        self._lines = lines_of(file, name, self)
        self._held: list[str] = []
        self._next = 1
        names: list[str] = []
        self._defaults: list[str] = []
        for lines in self._lines:
            self._held += lines
            if (
                end := next((i for i, line in enumerate(self._held) if line.lower().startswith("@data")), None)
            ) is None:
                continue
            for line in self._held[:end]:
                if found := _ATTRIBUTE.fullmatch(line.strip()):
                    names.append(re.sub(r"\\(.)", r"\1", found[1].strip("'\"")))
                    nominal = next(iter(_cells(found[2].strip("{} "), self.name)), "") if found[2][0] == "{" else "0"
                    self._defaults.append(nominal)
            self._held, self._next = self._held[end + 1 :], end + 2
            break
        if not names:
            raise InputError(f"{name} is ARFF without @attribute lines before @data; expected one for each column")
        columnar.require_unique(names)
        self.names: Sequence[str] = names

    def records(self) -> Iterator[tuple[Sequence[int], Sequence[str]]]:
        """Yield some rows at a time, with the line on which each starts."""
        lines: list[str] | None = self._held
        while lines is not None:
            found = [(self._next + i, line) for i, line in enumerate(lines) if line.strip() and line[0] != "%"]
            self._next += len(lines)
            if found:
                yield [number for number, _ in found], [line for _, line in found]
            lines = next(self._lines, None)

    def parse(self, texts: Sequence[str], wanted: Collection[str] | None) -> Readable:
        """Parse some rows into columns; rows that cannot be read become faults."""
        rows: list[list[str]] = []
        faults: dict[int, str] = {}
        for i, text in enumerate(texts):
            try:
                row = self._sparse(text) if text.startswith("{") else _cells(text, self.name)
            except (InputError, ValueError) as error:
                faults[i] = str(error)
                continue
            if len(row) == len(self.names):
                rows.append(row)
            else:
                faults[i] = f"got {len(row)} columns, expected {len(self.names)}"
        kept = [i for i in range(len(texts)) if i not in faults]
        columns: dict[str, Any] = {}
        for place, name in enumerate(self.names):
            if wanted is None or name in wanted:
                columns[name] = [None if row[place] == "?" else row[place] for row in rows]
        return kept, columns, faults

    def _sparse(self, text: str) -> list[str]:
        row = list(self._defaults)
        for cell in _cells(text.strip().strip("{}"), self.name):
            place, _, value = cell.strip().partition(" ")
            if not place.isdigit() or int(place) >= len(row):
                raise InputError(f"got {cell!r} in a sparse row, expected the number of a column and its value")
            row[int(place)] = value.strip().strip("'\"")
        return row


def _cells(text: str, name: str) -> list[str]:
    quote = '"' if '"' in text and "'" not in text else "'"
    try:
        found = next(csv.reader([text], quotechar=quote, skipinitialspace=True, escapechar="\\", strict=True), [])
    except csv.Error as error:
        raise InputError(f"broken quotes: {error}") from error
    return [cell.strip() for cell in found]
