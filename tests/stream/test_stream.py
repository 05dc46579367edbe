"""Streams: complete, in order, resumable after any row, and dirt costs nothing but itself."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everlearn.errors import InputError
from everlearn.records import Rejected
from everlearn.schema import Encoder
from everlearn.spec import Schema
from everlearn.stream import Chunk, Stream, infer_file, read
from tests.support import SHARED

DATA = SHARED
SCHEMA = Schema(
    label="y", task="binary", classes=("no", "yes"), fields={"n": "numeric", "town": "categorical", "note": "text"}
)
HEADER = "n,town,note,y\n"


def arrays(chunks: Sequence[Chunk]) -> list[bytes]:
    """Everything in the chunks, however they were cut."""
    examples = [chunk.examples for chunk in chunks]
    batches = [one.batch for one in examples]
    columns = [
        [batch.dense for batch in batches],
        [np.diff(batch.indptr) for batch in batches],
        [batch.indices for batch in batches],
        [batch.values for batch in batches],
        [one.y for one in examples],
        [one.weight for one in examples],
        [one.position for one in examples],
    ]
    return [b"".join(array.tobytes() for array in column) for column in columns]


def everything(stream: Stream, after: int = 0, size: int = 8192) -> tuple[list[bytes], list[Rejected], int]:
    chunks = list(stream.chunks(after, size))
    rejected = [one for chunk in chunks for one in chunk.rejected]
    return arrays(chunks), rejected, chunks[-1].last if chunks else after


def lines_of(stream: Stream) -> tuple[list[int], dict[int, str]]:
    """The positions that can be used, and the line and reason of each row that cannot."""
    chunks = list(stream.chunks())
    good = [position for chunk in chunks for position in chunk.examples.position.tolist()]
    return good, {one.line: one.reason for chunk in chunks for one in chunk.rejected}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- the same rows from everywhere ---------------------------------------------------------------------------------


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {"n": i / 4, "town": f"town {i % 5}", "note": f'number {i}, says "who"?', "y": "yes" if i % 3 else "no"}
        for i in range(500)
    ]


def as_files(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same rows in each kind of source."""
    frame = pd.DataFrame(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    frame.to_csv(folder / "plain.csv", index=False)
    frame.to_csv(folder / "packed.csv.gz", index=False)
    frame.to_csv(folder / "tabs.tsv", index=False, sep="\t")
    frame.to_csv(folder / "semicolons.csv", index=False, sep=";")
    frame.to_csv(folder / "windows.csv", index=False, lineterminator="\r\n", encoding="utf-8-sig")
    written(folder / "rows.jsonl", lines)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    frame.to_parquet(folder / "rows.parquet", row_group_size=70)
    for part, start in enumerate(range(0, len(rows), 150)):
        frame[start : start + 150].to_csv(folder / f"part{part}.csv", index=False)
    names = ["plain.csv", "packed.csv.gz", "tabs.tsv", "semicolons.csv", "windows.csv", "rows.jsonl", "rows.jsonl.gz"]
    parts = [folder / f"part{part}.csv" for part in range(4)]
    return {
        **{name: folder / name for name in [*names, "rows.parquet"]},
        "glob": str(folder / "part*.csv"),
        "list": parts,
        "pandas": frame,
        "arrow": pa.table(frame),
        "dict": {name: [row[name] for row in rows] for name in rows[0]},
    }


def test_every_source_gives_the_same_examples_however_it_is_cut(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    expected, problems = Encoder(SCHEMA).records(rows)
    assert not problems
    for name, source in as_files(tmp_path, rows).items():
        stream = read(source, schema=SCHEMA)
        found, rejected, last = everything(stream)
        assert (rejected, last, stream.rows, stream.replayable) == ([], 500, 500, True), name
        assert found[0] == expected.dense.tobytes(), name
        assert found[2] == expected.indices.tobytes(), name
        for size in (1, 7, 64):
            assert everything(stream, size=size)[0] == found, (name, size)
        for after in (0, 1, 69, 70, 71, 150, 299, 300, 499, 500, 700):
            assert everything(stream, after, 50)[0] == arrays(list(tail(stream, after))), (name, after)


def tail(stream: Stream, after: int) -> list[Chunk]:
    """The rows after a position, picked from the whole stream one by one."""
    return [chunk for chunk in stream.chunks(size=1) if chunk.last > after]


def test_records_are_the_same_rows_as_chunks(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rows[3]["n"] = None
    for name, source in as_files(tmp_path, rows).items():
        stream = read(source, schema=SCHEMA)
        pieces = list(stream.records(after=2, size=100))
        features = msgspec.json.decode(msgspec.json.encode([one for piece in pieces for one in piece.features]))
        labels = [one for piece in pieces for one in piece.labels]
        assert "n" not in features[1]
        batch, problems = Encoder(SCHEMA).records(features)
        y, more = Encoder(SCHEMA).labels(labels, len(labels))
        assert not problems
        assert not more
        found = arrays(list(stream.chunks(after=2)))
        assert [batch.dense.tobytes(), batch.indices.tobytes(), y.tobytes()] == [found[0], found[2], found[4]], name
        assert [one for piece in pieces for one in piece.positions] == list(range(3, 501))
        assert pieces[-1].last == 500


def test_records_hold_what_json_can_hold() -> None:
    start = datetime(2024, 1, 31, 8, 30)
    table = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int32()),
            "b": pa.array([True, None, False]),
            "t": pa.array([start, None, start + timedelta(hours=1)], pa.timestamp("ns", "UTC")),
            "v": pa.array([[1.0, None], None, [3.0, 4.0]], pa.list_(pa.float32())),
            "c": pa.array([b"a\xff", None, b"c"]),
            "d": pa.array([2**60, None, 7], pa.int64()),
            "w": pa.array(["a", None, ""], pa.string()).dictionary_encode(),
            "y": pa.array([1.5, 2.5, 3.5], pa.float32()),
        }
    )
    kinds = ["numeric", "boolean", "datetime", "vector[2]", "categorical", "categorical", "text"]
    schema = Schema(label="y", task="regression", fields=dict(zip("nbtvcdw", kinds, strict=True)))
    stream = read(table, schema=schema)
    (piece,) = stream.records()
    assert piece.labels == [1.5, 2.5, 3.5]
    assert piece.features[1] == {}
    assert piece.features[0]["v"] == [1.0, None]
    assert piece.features[0]["d"] == 2**60
    assert piece.features[0]["b"] is True
    assert piece.features[0]["t"].startswith("2024-01-31T08:30:00")
    features = msgspec.json.decode(msgspec.json.encode(piece.features))
    batch, _ = Encoder(schema).records(features)
    found = arrays(list(stream.chunks()))
    assert [batch.dense.tobytes(), batch.indices.tobytes()] == [found[0], found[2]]


# ---- dirt ----------------------------------------------------------------------------------------------------------

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
    (14, "n,town,note,y", "field 'n': got 'n', expected a number; label 'y'"),
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
    rejected = [one for chunk in chunks for one in chunk.rejected]
    expected = [(position, *entry) for position, entry in enumerate(raw, 1) if entry[2] is not None]
    assert [(one.at, one.line) for one in rejected] == [(position, line) for position, line, _, _ in expected]
    for one, (_, _, line, reason) in zip(rejected, expected, strict=True):
        assert reason in one.reason
        assert (one.source, one.raw) == (str(path), line)
    good = [position for chunk in chunks for position in chunk.examples.position.tolist()]
    assert good == [position for position, entry in enumerate(raw, 1) if entry[2] is None]
    assert chunks[-1].last == stream.rows == len(raw)
    for after in range(len(raw) + 1):
        left = [one.at for chunk in stream.chunks(after, size) for one in chunk.rejected]
        assert left == [one.at for one in rejected if one.at > after]


def test_bytes_that_are_not_utf8_reject_their_row(tmp_path: Path) -> None:
    body = b"1,Delft,caf\xc3\xa9,yes\n2,Delft,caf\xe9,yes\n3,Delft,a\x00b,no\n"
    good, rejected = lines_of(read(written(tmp_path / "x.csv", HEADER.encode() + body), schema=SCHEMA))
    assert (good, rejected) == ([1, 3], {3: "not valid UTF-8"})
    ignored = msgspec.structs.replace(SCHEMA, fields={"n": "numeric"})
    assert lines_of(read(tmp_path / "x.csv", schema=ignored)) == ([1, 2, 3], {})


def test_a_cell_that_is_too_long_rejects_its_row(tmp_path: Path) -> None:
    long = "x" * 200_000
    body = f'1,"{long}",fine,yes\n2,{long},fine,yes\n3,Delft,fine,yes\n4,"never closed\n'
    body += "a,b\n" * 50_000 + "5,Delft,,no\n"
    stream = read(written(tmp_path / "x.csv", HEADER + body), schema=SCHEMA)
    chunks = list(stream.chunks())
    good = [value for chunk in chunks for value in chunk.examples.batch.dense[:, 0].tolist()]
    assert good == [3.0, 5.0]
    assert all(len(one.raw) <= 1_000 for chunk in chunks for one in chunk.rejected)


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
    invalid = b'{"n": 1, "town": "\xff", "y": "no"}\n{"n": 2, "y": "no"}'
    assert lines_of(read(written(tmp_path / "x.jsonl", invalid), schema=SCHEMA)) == ([2], {1: "not valid UTF-8"})


def test_bad_rows_of_parquet_and_tables(tmp_path: Path) -> None:
    table = pa.table({"n": [1.0, np.inf, 3.0], "town": ["a", "b", "c"], "y": ["no", "no", "perhaps"]})
    pq.write_table(table, tmp_path / "x.parquet")
    for source in (tmp_path / "x.parquet", table, table.to_pandas(), table.to_pydict()):
        (chunk,) = read(source, schema=SCHEMA).chunks()
        assert chunk.examples.position.tolist() == [1]
        assert [(one.line, one.at) for one in chunk.rejected] == [(2, 2), (3, 3)]
        assert json.loads(chunk.rejected[1].raw) == {"n": 3.0, "town": "c", "y": "perhaps"}
        assert chunk.last == 3


# ---- sources that cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"\n\n", "is empty"),
        ("x.csv", b"a,b\n1,2\n", "has no column 'y' for the label; its columns are 'a', 'b'"),
        ("x.csv", b"a,y\n1,2\n", "has none of the fields n, town, note"),
        ("x.csv", b"n,n,y\n1,2,3\n", "two columns are named 'n'"),
        ("x.csv", '"n,y\n1,2\n', "no header line that can be read"),
        ("x.csv", "n,y\n1,no\n".encode("utf-16"), "UTF-16"),
        ("x.xlsx", b"PK\x03\x04....", "spreadsheet"),
        ("x.json", b'[\n {"n": 1}]', "one JSON array"),
        ("x.parquet", b"PAR1 and then nothing", "cannot be read as Parquet"),
        ("x.csv.gz", gzip.compress(b"n,y\n" + bytes(range(256)) * 400, mtime=0)[:60], "is damaged"),
    ],
)
def test_a_source_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: Any, reason: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(InputError, match=reason) as caught:
        list(read(path, schema=SCHEMA).chunks())
    assert reason == "two columns are named 'n'" or str(path) in str(caught.value)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, reason in [
        (tmp_path / "none.csv", "there is no file"),
        (tmp_path / "*.csv", "no file matches"),
        (tmp_path, "no file matches"),
        ([], "does not hold paths"),
        ([1, 2], "does not hold paths"),
        (3, "got a int, expected columns"),
        ({"n": [1], "y": [1, 2]}, "different lengths"),
    ]:
        with pytest.raises(InputError, match=reason):
            read(source, schema=SCHEMA)
    with pytest.raises(InputError, match="got no label and no schema"):
        read({"n": [1]})
    with pytest.raises(InputError, match="has no row that can be read"):
        read(written(tmp_path / "x.csv", HEADER), label="y")


def test_a_label_that_json_lines_never_hold(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", '{"n": 1}\n')
    with pytest.raises(InputError, match="has no column 'y' for the label; its columns are 'n'"):
        read(path, schema=SCHEMA)


def test_a_parquet_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": np.arange(10_000.0), "y": ["no", "yes"] * 5_000}), path, compression="none")
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.parquet"):
        list(read(path, schema=SCHEMA).chunks())


# ---- folders, growth, identity -------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        written(tmp_path / f"{part}.csv", f"{HEADER}{part},Delft,,no\n{part + 10},Delft,,what\n")
    written(tmp_path / "notes.md", "not data")
    stream = read(tmp_path, schema=SCHEMA)
    (*_, last) = chunks = list(stream.chunks())
    assert [chunk.examples.batch.dense.tolist() for chunk in chunks] == [[[0.0]], [[1.0]], [[2.0]]]
    assert [(Path(one.source).name, one.line, one.at) for chunk in chunks for one in chunk.rejected] == [
        ("0.csv", 3, 2),
        ("1.csv", 3, 4),
        ("2.csv", 3, 6),
    ]
    assert last.last == stream.rows == 6


def test_files_may_have_their_columns_in_another_order(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "n,y\n1,no\n")
    written(tmp_path / "b.csv", "extra,y,n\nx,yes,2\n")
    chunks = list(read(str(tmp_path / "*.csv"), schema=SCHEMA).chunks())
    assert [(c.examples.batch.dense.tolist(), c.examples.y.tolist()) for c in chunks] == [
        ([[1.0]], [0.0]),
        ([[2.0]], [1.0]),
    ]
    written(tmp_path / "c.csv", "n,label\n1,no\n")
    with pytest.raises(InputError, match=r"c\.csv has no column 'y'"):
        read(str(tmp_path / "*.csv"), schema=SCHEMA)


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


# ---- standard input ------------------------------------------------------------------------------------------------

PIPE = """
import sys
from everlearn.stream import read
stream = read("-", label="y")
print(stream.name, stream.replayable, stream.rows, dict(stream.schema.fields), stream.fingerprint)
for chunk in stream.chunks(after=int(sys.argv[1])):
    print(chunk.last, chunk.examples.position.tolist()[-1:], len(chunk.examples.y), len(chunk.rejected))
print(list(stream.chunks()))
"""


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_standard_input_is_read_once(form: str) -> None:
    rows = [{"n": i / 2, "town": f"t{i % 3}", "y": i % 2} for i in range(10_000)]
    text = pd.DataFrame(rows).to_csv(index=False) if form == "csv" else "".join(json.dumps(row) + "\n" for row in rows)
    command = [sys.executable, "-c", PIPE, "100"]
    done = subprocess.run(command, input=text + "broken\n", capture_output=True, text=True, check=True)
    first, *chunks, again = done.stdout.splitlines()
    assert first.startswith("standard input False None {'n': 'numeric', 'town': 'categorical'}")
    assert chunks[-1].startswith("10101 [10100]")
    assert sum(int(line.split()[-2]) for line in chunks) == 10_000
    assert again == "[]"


def test_rows_of_a_live_pipe_come_as_they_are_written() -> None:
    script = "from everlearn.stream import read; from everlearn.spec import Schema\n"
    script += f"schema = Schema(label='y', task='binary', classes=('no', 'yes'), fields={dict(SCHEMA.fields)!r})\n"
    script += "for chunk in read('-', schema=schema).chunks(): print(chunk.last, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(HEADER + "1,Delft,,no\n2,Delft,,no\n")
        process.stdin.flush()
        assert process.stdout.readline() == "2\n"
        process.stdin.write("3,Delft,,no\n")
        process.stdin.flush()
        assert process.stdout.readline() == "3\n"
        process.stdin.close()
        assert process.wait() == 0


def test_parquet_on_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"PAR1....")))
    with pytest.raises(InputError, match="give the path of the file"):
        read("-", schema=SCHEMA)


# ---- real files ----------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here; set EVERLEARN_DATA to the folder that holds it")
    return path


@pytest.mark.parametrize(
    ("name", "rows", "classes", "kinds"),
    [
        ("elec2", 45_312, 2, {"numeric": 7, "categorical": 1}),
        ("sms_spam", 5_574, 2, {"text": 1}),
        ("hflights", 223_874, 2, {"numeric": 2, "categorical": 8}),
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
    dense = [field for field, kind in stream.schema.fields.items() if kind == "numeric"]
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
