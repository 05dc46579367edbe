"""Streams: complete, in order, resumable after any row; an invalid value costs only its row."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everlearn.schema import Encoder
from everlearn.stream import Stream, infer_file, read
from tests.support import SHARED
from tests.support.streams import HEADER, SCHEMA, arrays, as_files, everything, written

DATA = SHARED


def lines_of(stream: Stream) -> tuple[list[int], dict[int, str]]:
    """Return the usable positions, and the line and reason of each rejected row."""
    chunks = list(stream.chunks())
    good = [position for chunk in chunks for position in chunk.examples.position.tolist()]
    return good, {item.line: item.reason for chunk in chunks for item in chunk.rejected}


def test_records_are_the_same_rows_as_chunks(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rows[3]["n"] = None
    for name, source in as_files(tmp_path, rows).items():
        stream = read(source, schema=SCHEMA)
        pieces = list(stream.records(after=2, size=100))
        features = msgspec.json.decode(msgspec.json.encode([item for piece in pieces for item in piece.features]))
        labels = [item for piece in pieces for item in piece.labels]
        assert "n" not in features[1]
        batch, problems = Encoder(SCHEMA).records(features)
        y, more = Encoder(SCHEMA).labels(labels, len(labels))
        assert not problems
        assert not more
        found = arrays(list(stream.chunks(after=2)))
        assert [batch.dense.tobytes(), batch.indices.tobytes(), y.tobytes()] == [found[0], found[2], found[4]], name
        assert [item for piece in pieces for item in piece.positions] == list(range(3, 501))
        assert pieces[-1].last == 500


DIRTY = [  # (line of the file, the text of it, None if the row is good, else what the reason says)
    (2, "1,Delft,fine,yes", None),
    (3, "2,Delft,yes", "got 3 columns, expected 4"),
    (4, "3,Delft,too,many,yes", "got 5 columns, expected 4"),
    (5, '4,"broken,fine,yes', "quotes"),
    (6, "5,Gouda,fine,no", None),
    (7, "many,Gouda,fine,no", "field 'n': got 'many', expected a number"),
    (8, "7,Gouda,fine,perhaps", "label 'y': got the label 'perhaps', expected one of 'no', 'yes'"),
    (9, "8,Gouda,fine,", "label 'y': the label is missing"),
    (10, "", "blank"),
    (11, "inf,Gouda,fine,no", "expected a number"),
    (12, '10,"two\nlines","said ""so""",yes', None),
    (14, "n,town,note,y", "the header line again"),
    (15, ',,"",no', None),
    (16, "1e39,Gouda,fine,no", "range of float32"),
    (17, '13,"a"b,fine,no', "quotes"),
    (18, '14,5" pipe,5" pipe,no', None),
    (19, '15,"never closed,fine,no', "quotes"),
    (20, "16,Gouda,fine,no", None),
    (21, "17,Gouda", "got 2 columns, expected 4"),
]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 3, 8192])
def test_each_kind_of_dirt_costs_its_own_row_only(tmp_path: Path, newline: str, size: int) -> None:
    text = newline.join([HEADER.strip(), *(line for _, line, _ in DIRTY)]).replace("\n", newline)
    path = written(tmp_path / "dirty.csv", text.replace("\r\r", "\r"))
    stream = read(path, schema=SCHEMA)
    raw = [entry for entry in DIRTY if entry[2] != "blank"]
    chunks = list(stream.chunks(size=size))
    rejected = [item for chunk in chunks for item in chunk.rejected]
    expected = [(position, *entry) for position, entry in enumerate(raw, 1) if entry[2] is not None]
    assert [(item.at, item.line) for item in rejected] == [(position, line) for position, line, _, _ in expected]
    for item, (_, _, line, reason) in zip(rejected, expected, strict=True):
        assert reason in item.reason
        assert (item.source, item.raw) == (str(path), line)
    good = [position for chunk in chunks for position in chunk.examples.position.tolist()]
    assert good == [position for position, entry in enumerate(raw, 1) if entry[2] is None]
    assert chunks[-1].last == stream.rows == len(raw)
    for after in range(len(raw) + 1):
        left = [item.at for chunk in stream.chunks(after, size) for item in chunk.rejected]
        assert left == [item.at for item in rejected if item.at > after]


def test_bytes_that_are_damaged_utf8_reject_their_row(tmp_path: Path) -> None:
    body = b"1,Delft,caf\xc3\xa9,yes\n2,Delft,caf\xc3\xa9\xe9,yes\n3,Delft,a\x00b,no\n"
    good, rejected = lines_of(read(written(tmp_path / "x.csv", HEADER.encode() + body), schema=SCHEMA))
    assert (good, rejected) == ([1, 3], {3: "not valid UTF-8"})
    ignored = msgspec.structs.replace(SCHEMA, fields={"n": "numeric"})
    assert lines_of(read(tmp_path / "x.csv", schema=ignored)) == ([1, 2, 3], {})


def test_other_bytes_are_windows_1252_by_new_rules_only(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", HEADER.encode() + b"1,Delft,caf\xe9,yes\n2,Delft,fine,yes\n")
    assert lines_of(read(path, schema=SCHEMA)) == ([1, 2], {})
    old = msgspec.structs.replace(SCHEMA, rules=1)
    assert lines_of(read(path, schema=old)) == ([2], {2: "not valid UTF-8"})
    assert lines_of(read(path, schema=SCHEMA).under(1)) == ([2], {2: "not valid UTF-8"})


@pytest.mark.parametrize("limit", [131_072, 1 << 31])  # of the csv module; SciPy, for one, raises it for the process
def test_a_cell_that_is_too_long_rejects_its_row(limit: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = csv.field_size_limit(limit)
    request.addfinalizer(lambda: csv.field_size_limit(before))
    long = "x" * 200_000
    body = f'1,"{long}",fine,yes\n2,{long},fine,yes\n3,Delft,fine,yes\n4,"never closed\n'
    body += "a,b\n" * 50_000 + "5,Delft,,no\n"
    stream = read(written(tmp_path / "x.csv", HEADER + body), schema=SCHEMA)
    chunks = list(stream.chunks())
    good = [value for chunk in chunks for value in chunk.examples.batch.dense[:, 0].tolist()]
    assert good == [3.0, 5.0]
    assert all(len(item.raw) <= 1_000 for chunk in chunks for item in chunk.rejected)


def test_dirt_in_json_lines(tmp_path: Path) -> None:
    body = [
        '{"n": 1, "town": "Delft", "y": "yes", "extra": {"a": [1]}}',
        '{"n": 2, "town": "Delft", "y": "yes"',
        "",
        "[1, 2]",
        '{"n": NaN, "town": null, "y": "no"}',
        '{"n": Infinity, "y": "no"}',
        '{"n": "7", "town": 12345678901234567890123, "y": "no"}',
        '{"n": [1], "town": {"a": 1}, "y": "no"}',
        '{"n": 9}',
        '{"n": 10, "town": "\\ud800", "y": "no"}\r',
        '{"n": 11, "y": "n',
    ]
    stream = read(written(tmp_path / "x.jsonl", "\n".join(body)), schema=SCHEMA)
    good, rejected = lines_of(stream)
    assert good == [1, 4, 6, 9]
    assert list(rejected) == [2, 4, 6, 8, 9, 11]
    assert rejected[2].startswith("not valid JSON")
    assert rejected[4] == 'got a JSON list, expected an object such as {"name": 1}'
    assert rejected[6] == "field 'n': got infinity, expected a finite number"
    assert "field 'n': got [1] (list)" in rejected[8]
    assert "field 'town'" in rejected[8]
    assert rejected[9] == "label 'y': the label is missing"
    invalid = b'{"n": 1, "town": "\xc3\xa9\xff", "y": "no"}\n{"n": 2, "y": "no"}'
    assert lines_of(read(written(tmp_path / "x.jsonl", invalid), schema=SCHEMA)) == ([2], {1: "not valid UTF-8"})


def test_bad_rows_of_parquet_and_tables(tmp_path: Path) -> None:
    table = pa.table({"n": [1.0, np.inf, 3.0], "town": ["a", "b", "c"], "y": ["no", "no", "perhaps"]})
    pq.write_table(table, tmp_path / "x.parquet")
    for source in (tmp_path / "x.parquet", table, table.to_pandas(), table.to_pydict()):
        (chunk,) = read(source, schema=SCHEMA).chunks()
        assert chunk.examples.position.tolist() == [1]
        assert [(item.line, item.at) for item in chunk.rejected] == [(2, 2), (3, 3)]
        assert json.loads(chunk.rejected[1].raw) == {"n": 3.0, "town": "c", "y": "perhaps"}
        assert chunk.last == 3


def test_a_file_that_has_grown_goes_on_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", HEADER + "1,Delft,,no\n2,Gouda,,yes\n")
    before = read(path, schema=SCHEMA)
    (first,) = before.chunks()
    with path.open("a") as file:
        file.write("3,Delft,,yes\n")
    after = read(path, schema=SCHEMA)
    (rest,) = after.chunks(first.last)
    assert rest.examples.batch.dense.tolist() == [[3.0]]
    assert (rest.examples.position.tolist(), after.rows) == ([3], 3)
    assert before.fingerprint == after.fingerprint
    assert len(after.fingerprint) == 16


def test_another_file_has_another_fingerprint(tmp_path: Path) -> None:
    contents = [HEADER + "1,Delft,,no\n", HEADER + "2,Delft,,no\n", HEADER.replace("n,", "m,", 1) + "1,Delft,,no\n"]
    found = []
    for folder, content in enumerate(contents):
        (tmp_path / str(folder)).mkdir()
        found.append(read(written(tmp_path / str(folder) / "x.csv", content), schema=SCHEMA).fingerprint)
    found.append(read(written(tmp_path / "other.csv", contents[0]), schema=SCHEMA).fingerprint)
    assert len(set(found)) == 4
    (tmp_path / "elsewhere").mkdir()
    assert read(written(tmp_path / "elsewhere" / "x.csv", contents[0]), schema=SCHEMA).fingerprint == found[0]


def test_reading_takes_little_memory(tmp_path: Path) -> None:
    line = "1.5,Delft,some words in a note,no\n"

    def peak(rows: int) -> int:
        path = written(tmp_path / "x.csv", HEADER + line * rows)
        stream = read(path, schema=SCHEMA)
        tracemalloc.start()
        assert sum(len(chunk.examples.y) for chunk in stream.chunks()) == rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(400_000) < 1.2 * peak(100_000)


def real(name: str) -> Path:
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here; set EVERLEARN_DATA to the folder that holds it")
    return path


@pytest.mark.parametrize(
    ("name", "rows", "classes", "kinds"),
    [
        ("elec2", 45_312, 2, {"numeric": 7, "integer": 1}),
        ("sms_spam", 5_574, 2, {"text": 1}),
        ("hflights", 223_874, 2, {"categorical": 5, "integer": 4, "numeric": 1}),
        ("covtype20k", 20_000, 7, {"numeric": 54}),
        ("insects_gradual", 24_150, 6, {"numeric": 33}),
        ("phishing", 1_250, 2, {"numeric": 9}),
    ],
)
def test_real_files_are_understood_and_complete(name: str, rows: int, classes: int, kinds: dict[str, int]) -> None:
    path = real(name)
    stream = read(path, label="label")
    counts = pd.Series(list(stream.schema.fields.values())).value_counts().to_dict()
    assert (counts, len(stream.schema.classes), stream.rows) == (kinds, classes, rows)
    chunks = list(stream.chunks())
    assert not any(chunk.rejected for chunk in chunks)
    table = pq.read_table(path)
    y = np.concatenate([chunk.examples.y for chunk in chunks])
    assert y.tolist() == [stream.schema.classes.index(value) for value in table["label"].to_pylist()]
    dense = [field for field, kind in stream.schema.fields.items() if kind in ("numeric", "integer")]
    if dense:
        expected = np.stack([table[field].to_numpy().astype(np.float32) for field in dense], axis=1)
        assert np.concatenate([chunk.examples.batch.dense for chunk in chunks]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["sms_spam", "phishing", "insects_gradual"])
def test_real_files_are_the_same_from_csv(tmp_path: Path, name: str) -> None:
    frame = pd.read_parquet(real(name))
    frame.to_csv(tmp_path / f"{name}.csv", index=False)
    schema = infer_file(real(name), "label")
    assert infer_file(tmp_path / f"{name}.csv", "label") == schema
    assert everything(read(tmp_path / f"{name}.csv", schema=schema)) == everything(read(real(name), schema=schema))


def test_a_stream_says_what_it_holds() -> None:
    columns = {f"x{i}": [1.5, 2.5] for i in range(10)} | {"y": ["no", "yes"]}
    text = repr(read(columns, label="y"))
    assert text.startswith("<Stream table: binary label 'y' from x0 (numeric), ")
    assert text.endswith("x7 (numeric) and 2 more>")
