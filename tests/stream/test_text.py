"""Lines, quotes and rows of text, against the csv module; and nothing depends on how the bytes arrive."""

from __future__ import annotations

import csv
import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.stream import text as forms

HEADER = "n,town,note,y\n"
LINES = [
    "1,Delft,fine,yes",
    "2,Delft,yes",
    "3,Delft,too,many,yes",
    '4,"broken,fine,yes',
    "",
    '10,"two\nlines","said ""so""",yes',
    ',,"",no',
    '13,"a"b,fine,no',
    '14,5" pipe,5" pipe,no',
    "17,Gouda",
    "18,caf\udce9,fine,no",
]


@settings(deadline=None, max_examples=60)
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=12),
    piece=st.integers(1, 40),
    size=st.integers(1, 8),
)
def test_dirt_is_the_same_however_the_bytes_arrive(lines: list[str], piece: int, size: int) -> None:
    data = (HEADER + "\n".join(lines)).encode("utf-8", "surrogateescape")

    class Slow(io.BytesIO):
        def read1(self, _: int = -1, /) -> bytes:
            return self.read(piece)

    def found(file: io.BytesIO) -> list[tuple[int, str]]:
        reader = forms.CsvReader(file, "x")
        return [pair for numbers, texts in reader.records() for pair in zip(numbers, texts, strict=True)]

    whole = found(io.BytesIO(data))
    assert found(Slow(data)) == whole
    reader = forms.CsvReader(io.BytesIO(data), "x")
    texts = [text for _, text in whole]
    alone = [bool(reader.parse([text], None)[2]) for text in texts]
    cut = [texts[start : start + size] for start in range(0, len(texts), size)]
    assert [i in reader.parse(part, None)[2] for part in cut for i in range(len(part))] == alone


@settings(deadline=None)
@pytest.mark.parametrize("rules", [1, 2])
@given(
    st.lists(
        st.lists(st.text(st.sampled_from('ab",;\n\r é'), max_size=5), min_size=3, max_size=3).filter(any), max_size=8
    )
)
def test_what_the_csv_module_writes_is_read_back(rules: int, rows: list[list[str]]) -> None:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if any("\r" in cell for row in rows for cell in row) else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows([["a", "b", "c"], *rows])
    reader = forms.CsvReader(io.BytesIO(text.getvalue().encode()), "x", rules=rules)
    found = [pair for numbers, texts in reader.records() for pair in zip(numbers, texts, strict=True)]
    _, columns, faults = reader.parse([text for _, text in found], None)
    assert not faults
    blanks = "" if rules == 1 else " "  # newer rules leave blanks after delimiters out
    assert [
        tuple(cell.lstrip(blanks) for cell in row)
        for row in zip(*(columns[name].to_pylist() for name in "abc"), strict=True)
    ] == [tuple(cell.replace("\r\n", "\n").lstrip(blanks) for cell in row) for row in rows]
    breaks = [sum(cell.replace("\r\n", "\n").count("\n") for cell in row) + 1 for row in rows]
    assert [line for line, _ in found] == list(itertools.accumulate([2, *breaks]))[: len(rows)]
