"""Plain values: what JSON can hold, and the same bytes when encoded again."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import pyarrow as pa

from everlearn.schema import Encoder
from everlearn.spec import Schema
from everlearn.stream import read
from tests.support.streams import arrays


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
