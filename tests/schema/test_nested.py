"""Objects within records: one column for each part, whatever brings them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.loop.loop import Loop
from everlearn.schema.nested import DEPTH, flat, flat_columns
from everlearn.spec import Schema, Spec
from everlearn.stream import read

ROWS: list[dict[str, Any]] = [
    {
        "x": i * 7919 % 97 / 7,
        "user": {"country": ("nl", "de", "fr")[i % 3], "tags": ["new", "big"][: i % 3], "home": {"size": i % 7 + 0.5}},
        "items": [{"price": i}],
        "y": i % 2,
    }
    for i in range(120)
]
FIELDS = {"x": "numeric", "user.country": "categorical", "user.tags": "tokens", "user.home.size": "numeric"}


def containers(folder: Path) -> dict[str, Any]:
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, folder / "d.parquet")
    frame = pd.DataFrame(ROWS)
    return {
        "jsonl": folder / "d.jsonl",
        "parquet": folder / "d.parquet",
        "arrow": table,
        "pandas": frame,
        "polars": pl.from_arrow(table),
        "dict": {name: [row[name] for row in ROWS] for name in ROWS[0]},
    }


def test_every_container_has_the_same_columns(tmp_path: Path) -> None:
    found = {}
    for name, source in containers(tmp_path).items():
        stream = read(source, label="y")
        assert stream.schema.fields == FIELDS, name
        assert stream.survey is not None
        assert "lists of objects" in stream.survey.left_out["items"]
        (chunk,) = read(source, schema=stream.schema).chunks()
        assert chunk.rejected == ()
        batch = chunk.examples.batch
        found[name] = (stream.schema, batch.dense.tobytes(), batch.indices.tobytes(), batch.indptr.tobytes())
    assert len(set(map(str, found.values()))) == 1


def test_requests_and_frames_are_read_as_files_are(tmp_path: Path) -> None:
    stream = read(containers(tmp_path)["jsonl"], label="y")
    linear = {"family": "linear"}
    spec = Spec(schema=stream.schema, model=linear, subject="user.country", strict=True, ignore=("items",))
    flat_row = {"x": 1.5, "user.country": "nl", "user.tags": ["new"], "user.home.size": 2.5}
    nested_row = {"x": 1.5, "user": {"country": "nl", "tags": ["new"], "home": {"size": 2.5}}, "items": [{}]}
    with Loop(spec, tmp_path / "home") as loop:
        loop.run(stream)
        given = [loop.predict(row) for row in (flat_row, nested_row)]
        assert given[0].features == given[1].features == flat_row
        assert [one.subject for one in given] == ["nl", "nl"]
        loop.learn(nested_row, 1)
        assert loop.predict_many(pd.DataFrame([nested_row]))["value"].tolist() == [given[0].value]
        assert loop.predict_many(pa.Table.from_pylist([nested_row | {"items": []}]))["value"].to_pylist()


def test_labels_may_be_parts_of_objects(tmp_path: Path) -> None:
    rows = [{"x": i * 7919 % 97 / 7, "meta": {"id": f"p{i}", "y": i % 2}} for i in range(60)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = Spec(schema=read(tmp_path / "d.jsonl", label="meta.y").schema, model={"family": "linear"})
    assert (spec.schema.classes, dict(spec.schema.fields)) == ((0, 1), {"x": "numeric"})
    with Loop(spec, tmp_path / "home") as loop:
        loop.learn_many(pd.DataFrame(rows))
        loop.predict_many(pa.Table.from_pylist(rows), id="meta.id")
        assert loop.feedback_many(pl.DataFrame(rows), id="meta.id")["known"].to_list() == [False] * 60


def test_homes_of_release_0_1_0_keep_objects_apart(tmp_path: Path) -> None:
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"x": "numeric", "user.country": "text"}, rules=1)
    for name, source in containers(tmp_path).items():
        stream = read(source, schema=schema)
        assert "user" in stream.names, name
        assert all("user.country" not in record for some in stream.records() for record in some.features), name
        assert "user.country" in stream.under(2).names, name


@pytest.mark.parametrize(
    ("record", "fields", "made"),
    [
        ({"a": {"b": 1}, "a.b": 2}, (), {"a.b": 2}),
        ({"a": {}}, (), {}),
        ({"a": {"b": 1}}, ("a",), {"a": {"b": 1}}),
        ({"a": {"b": {"c": 1}}}, ("a.b",), {"a.b": {"c": 1}}),
        ({"a": {"b.c": 1, "b": {"c": 2}}}, (), {"a.b.c": 1}),
        ({"a": {1: None}}, (), {"a.1": None}),
    ],
)
def test_flat(record: dict[str, Any], fields: tuple[str, ...], made: dict[str, Any]) -> None:
    assert flat(record, fields) == made


def test_deep_objects_stay_whole() -> None:
    record: Any = 1
    for _ in range(2_000):
        record = {"a": record}
    ((name, value),) = flat(record).items()
    assert (name, type(value)) == (".".join("a" * DEPTH + "a"), dict)


_values = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from("abc"), _values, max_size=3), min_size=1, max_size=5))
def test_columns_are_those_of_records(rows: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = flat_columns({name: [row.get(name) for row in rows] for name in names})
    for i, row in enumerate(rows):
        held = {name: column[i] for name, column in columns.items() if column[i] is not None}
        assert held == {name: value for name, value in flat(row).items() if value is not None}


@pytest.mark.parametrize("form", ["jsonl", "table"])
def test_an_object_that_is_null_in_some_rows_is_no_field(tmp_path: Path, form: str) -> None:
    users = [{"age": i * 7919 % 97 / 7} if i % 3 else None for i in range(100)]
    table: Any = {"user": users, "y": [i % 2 for i in range(100)]}
    if form == "jsonl":
        lines = [json.dumps({"user": user, "y": i % 2}) + "\n" for i, user in enumerate(users)]
        (tmp_path / "d.jsonl").write_text("".join(lines))
        table = tmp_path / "d.jsonl"
    stream = read(table, label="y")
    assert stream.schema.fields == {"user.age": "numeric"}
    assert stream.survey is not None
    assert ("user" in stream.survey.left_out) == (form == "jsonl")
