"""Blocks of rows of which some are passed over, against those of all rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn import stream
from everlearn.spec import Schema
from everlearn.stream import decoding
from everlearn.stream.blocks import stretches

SCHEMA = Schema(label="y", task="binary", fields={"a": "numeric", "b": "categorical"}, classes=(0, 1))
ROWS = 997
ODD = {100: '7,"x,\ny",1', 101: "", 102: "oops", 500: "1,caf\xe9,0", 501: "8,\xe9\r,1"}  # quotes, blank, short, foreign


def rows_of(text: bool) -> list[str]:
    plain = [f"{row % 13}.5,{'abc'[row % 3]},{row % 2}" for row in range(ROWS)]
    return [ODD.get(row, line) if text else line for row, line in enumerate(plain)]


@pytest.fixture(params=["plain.csv", "odd.csv", "rows.jsonl", "rows.parquet", "two files"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(decoding, "PIECE", 1500)  # many pieces, and borders of stretches within them
    name = "plain.csv" if request.param == "two files" else request.param
    path, lines = tmp_path / name, rows_of(name == "odd.csv")
    if name.endswith("csv"):
        path.write_bytes("\n".join(["a,b,y", *lines]).encode("cp1252"))
        if request.param == "two files":
            (tmp_path / "z.csv").write_bytes(path.read_bytes())
            return [path, tmp_path / "z.csv"]
        return path
    cells = [line.split(",") for line in lines]
    if name.endswith("jsonl"):
        path.write_text("\n".join(f'{{"a": {a}, "b": "{b}", "y": {y}}}' for a, b, y in cells))
    else:
        columns = {
            "a": [float(a) for a, _, _ in cells],
            "b": [b for _, b, _ in cells],
            "y": [int(y) for *_, y in cells],
        }
        pq.write_table(pa.table(columns), path, row_group_size=300)
    return path


def content(chunks: Any) -> tuple[dict[int, tuple[Any, ...]], list[Any], int]:
    """Return rows by position, the rejected ones, and the last position."""
    rows: dict[int, tuple[Any, ...]] = {}
    rejected, last, sizes = list[Any](), 0, list[int]()
    for chunk in chunks:
        examples, batch = chunk.examples, chunk.examples.batch
        for row, position in enumerate(examples.position.tolist()):
            entries = slice(batch.indptr[row], batch.indptr[row + 1])
            rows[position] = (batch.dense[row].tolist(), batch.indices[entries].tolist(), examples.y[row])
        rejected += chunk.rejected
        assert chunk.last > last
        last = chunk.last
        sizes.append(len(examples.y))
    assert max(sizes) <= 64
    return rows, rejected, last


@pytest.mark.parametrize(("length", "after"), [(64, 0), (50, 0), (64, 333), (7, 990)])
def test_kept_rows_are_those_of_the_whole(source: Any, length: int, after: int) -> None:
    opened = stream.read(source, schema=SCHEMA)
    whole, refused, last = content(opened.chunks(after, 64))

    def keep(positions: Any, keys: Any) -> Any:
        return (positions - 1) // length % 3 == 1

    kept, aside, reached = content(opened.dealt(keep).chunks(after, 64))
    mine = set(np.flatnonzero(keep(np.arange(last) + 1, None)) + 1)
    assert kept == {at: row for at, row in whole.items() if at in mine}
    assert kept
    assert aside == [row for row in refused if row.at in mine]
    assert reached == last


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 5))
def test_stretches_follow_each_other_and_hold_what_is_kept(keep: list[bool], size: int) -> None:
    found = list(stretches(np.array(keep, np.bool_), len(keep), size))
    assert [row for begin, end, _ in found for row in range(begin, end)] == list(range(len(keep)))
    assert all(set(keep[begin:end]) == {kept} and (end - begin <= size or not kept) for begin, end, kept in found)
