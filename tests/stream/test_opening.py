"""Opening a stream: sources that cannot be read, folders, and the columns that a source lacks."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, InputError
from everlearn.spec import Schema
from everlearn.stream import read
from tests.support.streams import HEADER, SCHEMA, written


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"\n\n", "is empty"),
        ("x.csv", b"a,b\n1,2\n", "has no column 'y' for the label; its columns are 'a', 'b'"),
        ("x.csv", b"a,y\n1,2\n", "has none of the fields n, town, note"),
        ("x.csv", b"n,n,y\n1,2,3\n", "two columns are named 'n'"),
        ("x.csv", '"n,y\n1,2\n', "no header line that can be read"),
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


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        written(tmp_path / f"{part}.csv", f"{HEADER}{part},Delft,,no\n{part + 10},Delft,,what\n")
    for name in ("notes.md", "README.txt", "old.data"):
        written(tmp_path / name, "not data")
    stream = read(tmp_path, schema=SCHEMA)
    (*_, last) = chunks = list(stream.chunks())
    assert [chunk.examples.batch.dense.tolist() for chunk in chunks] == [[[0.0]], [[1.0]], [[2.0]]]
    assert [(Path(entry.source).name, entry.line, entry.at) for chunk in chunks for entry in chunk.rejected] == [
        ("0.csv", 3, 2),
        ("1.csv", 3, 4),
        ("2.csv", 3, 6),
    ]
    assert last.last == stream.rows == 6


def test_a_folder_of_other_endings_is_read_by_a_glob(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", f"{HEADER}1,Delft,,no\n")
    with pytest.raises(InputError, match=r"no file matches .* by a glob such as FOLDER/\*\.txt"):
        read(tmp_path, schema=SCHEMA)
    assert read(str(tmp_path / "*.txt"), schema=SCHEMA).rows == 1


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


# ---- rows without labels --------------------------------------------------------------------------------------------


def test_a_file_without_a_label_is_read_for_anomalies(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("at,heat\n" + "\n".join(f"2026-01-{1 + i % 28:02d},{i % 7}.5" for i in range(40)))
    found = read(path, task="anomaly")
    assert (found.schema.label, found.schema.classes) == ("anomaly", ("normal", "anomaly"))
    assert found.schema.fields == {"heat": "numeric"}  # each time is new
    assert "every one is new" in found.survey.left_out["at"]
    chunks = list(found.chunks())
    assert all((chunk.examples.y == 0.0).all() and not chunk.rejected for chunk in chunks)
    assert sum(len(chunk.examples.y) for chunk in chunks) == 40


def test_only_rows_without_a_label_take_the_class_of_the_unlabelled():
    table = {"x": [1.5, 2.5, 3.5, 4.5], "y": ["odd", None, "fine", "strange"]}
    schema = Schema(label="y", task="binary", classes=("fine", "odd"), fields={"x": "numeric"}, unlabelled="fine")
    chunk = next(read(table, schema=schema).chunks())
    assert chunk.examples.y.tolist() == [1.0, 0.0, 0.0]
    assert [(row.line, "got the label 'strange'" in row.reason) for row in chunk.rejected] == [(4, True)]
    records = next(read(table, schema=schema).records())
    assert records.labels == ["odd", "fine", "fine"]


def test_the_class_of_the_unlabelled_must_be_one():
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"x": "numeric"}, unlabelled="none")
    with pytest.raises(ConfigError, match=r"schema.unlabelled: got 'none'; expected one of the classes \[0, 1\]"):
        read({"x": [1.0]}, schema=schema)


@pytest.mark.parametrize(
    ("task", "said"), [("regresion", "'regression', 'anomaly'"), ("forecast", "Forecasts are of the task 'regression'")]
)
def test_a_task_that_is_unknown_is_refused(task, said):
    with pytest.raises(InputError, match=f"read: task: got {task!r}.*{said}"):
        read({"a": [1, 2, 3] * 9, "y": [1.5, 2.5, 3] * 9}, label="y", task=task)


def test_rows_that_cannot_be_read_are_noted_with_the_first_of_their_kind(tmp_path: Path) -> None:
    good = "".join(f"{row},{row % 2}\n" for row in range(20))
    (tmp_path / "d.csv").write_text(f"a,y\n{good}7\n1,2,3\n4,5,6\n")
    survey = read(tmp_path / "d.csv", label="y").survey
    assert survey is not None
    rows = [note for note in survey.notes if "cannot be read" in note]
    assert rows == ["3 rows cannot be read; the first: got 1 columns, expected 2"]
    (tmp_path / "d.csv").write_text(f"a,y\n{good}7\n")
    survey = read(tmp_path / "d.csv", label="y").survey
    assert survey is not None
    assert "1 row cannot be read: got 1 columns, expected 2" in survey.notes
