"""Labels from files: the same from every format, and a bad row costs itself alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everlearn.errors import InputError
from everlearn.records import Label, Rejected
from everlearn.schema import Encoder
from everlearn.spec import Schema
from everlearn.stream.labels import read_labels

FIELDS = {"x": "numeric"}
FRAUD = Encoder(Schema(label="y", task="binary", classes=("fine", "fraud"), fields=FIELDS))
PRICE = Encoder(Schema(label="y", task="regression", fields=FIELDS))
ROWS = [("0017", "fraud"), ("0018", "fine"), ("é☃", "fraud")]


def write(path: Path, form: str) -> Path:
    if form == "csv":
        path.write_text("order,other,what\n" + "".join(f"{id},1,{what}\n" for id, what in ROWS), encoding="utf-8")
    elif form == "gz":
        text = "order,what\n" + "".join(f'"{id}",{what}\n' for id, what in ROWS)
        path.write_bytes(gzip.compress(text.encode()))
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"what": what, "order": id}) + "\n" for id, what in ROWS), encoding="utf-8")
    else:
        pq.write_table(pa.table({"order": [id for id, _ in ROWS], "what": [what for _, what in ROWS]}), path)
    return path


def labels(source: Any, encoder: Encoder = FRAUD, **options: Any) -> tuple[list[Label], list[Rejected]]:
    accepted = list(read_labels(source, encoder, id="order", label="what", **options))
    return [entry for some in accepted for entry in some.labels], [
        entry for some in accepted for entry in some.rejected
    ]


@pytest.mark.parametrize("form", ["csv", "gz", "jsonl", "parquet"])
def test_every_format_tells_the_same_labels(form: str, tmp_path: Path) -> None:
    accepted, rejected = labels(write(tmp_path / f"labels.{form}", form), by="back office")
    assert accepted == [Label(id, what, source="back office") for id, what in ROWS]
    assert rejected == []


def test_a_bad_row_costs_itself_alone_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("order,what\n1,fraud\n2,maybe\n,fine\n,oops\n5\n6,\n7,fine\n")
    accepted, rejected = labels(path)
    assert accepted == [Label("1", "fraud"), Label("7", "fine")]
    assert [(entry.line, entry.at, entry.raw) for entry in rejected] == [
        (3, 2, "2,maybe"),
        (4, 3, ",fine"),
        (5, 4, ",oops"),
        (6, 5, "5"),
        (7, 6, "6,"),
    ]
    reasons = [entry.reason for entry in rejected]
    assert reasons[0] == "label 'what': got the label 'maybe', expected one of 'fine', 'fraud'"
    assert reasons[1] == "id 'order': the id is missing"
    assert (
        reasons[2]
        == "id 'order': the id is missing; label 'what': got the label 'oops', expected one of 'fine', 'fraud'"
    )
    assert reasons[3] == "got 1 columns, expected 2"
    assert reasons[4] == "label 'what': the label is missing"


def test_numbers_are_ids_and_labels_too() -> None:
    accepted, rejected = labels({"order": [7.0, 8, 2**60], "what": [1.5, float("inf"), 1e308]}, PRICE)
    assert accepted == [Label("7", 1.5)]
    assert [entry.line for entry in rejected] == [2, 3]


def test_reading_goes_on_after_any_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("order,what\n" + "".join(f"{i},{'fraud' if i % 3 else 'wrong'}\n" for i in range(100)))
    whole, bad = labels(path)
    for after in (0, 1, 50, 99, 100):
        accepted, rejected = labels(path, after=after, size=7)
        assert accepted == [entry for entry in whole if int(entry.id) >= after]
        assert rejected == [entry for entry in bad if entry.at > after]
    assert [some.last for some in read_labels(path, FRAUD, id="order", label="what", size=40)] == [40, 80, 100]


def test_columns_that_are_not_there_are_named_before_anything_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", "csv")
    with pytest.raises(
        InputError, match="labels.csv has no column 'id', 'y'; its columns are 'order', 'other', 'what'"
    ):
        read_labels(path, FRAUD, id="id", label="y")


def test_old_rules_read_files_of_labels_as_they_did(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"order,what\n1,fraud\n2,caf\xe9\n# 3,fine\n")
    old = Encoder(msgspec.structs.replace(FRAUD.schema, rules=1))
    _, rejected = labels(tmp_path / "labels.csv", old)
    assert rejected[0].reason == "not valid UTF-8"
