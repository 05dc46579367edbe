"""Origins of encoded rows: numbers far from zero keep their changes, through every door."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import everlearn as el
from everlearn import config
from everlearn.errors import ConfigError
from everlearn.schema import Encoder, infer, origins
from everlearn.spec import Schema
from tests.support.schemas import row

START = 1_700_000_000.0
SECONDS = [START + 0.25 * second for second in range(400)]
TIMED = Schema(
    label="y",
    task="binary",
    classes=(0, 1),
    fields={"t": "numeric", "c": "boolean", "v": "vector[2]"},
    origin={"t": START},
)


def test_numbers_far_from_zero_keep_their_changes() -> None:
    batch = Encoder(TIMED).records([{"t": second} for second in SECONDS])[0]
    assert batch.dense[:, 0].tolist() == [0.25 * second for second in range(400)]
    without = msgspec.structs.replace(TIMED, origin={})
    assert len(np.unique(Encoder(without).records([{"t": second} for second in SECONDS])[0].dense[:, 0])) == 2


@pytest.mark.parametrize("count", [1, 3, 100])
def test_every_door_subtracts_the_origin_alike(count: int) -> None:
    records = [{"t": second, "c": True, "v": [1.0, START]} for second in SECONDS[:count]]
    records[0] |= {"t": None}
    encoder = Encoder(TIMED)
    together, few = encoder.records(records)[0], encoder.rows(records)
    for i, record in enumerate(records):
        assert row(together, i) == row(few, i) == row(encoder.record(record), 0)


def test_only_numeric_columns_are_encoded_alike_by_the_fast_path() -> None:
    encoder = Encoder(
        Schema(label="y", task="regression", fields={"t": "numeric", "u": "numeric"}, origin={"t": START})
    )
    records = [{"t": second, "u": -0.0} for second in SECONDS[:5]]
    assert encoder.rows(records).dense.tobytes() == encoder.records(records)[0].dense.tobytes()


def test_a_vector_field_has_one_origin_for_all_its_numbers() -> None:
    schema = Schema(label="y", task="regression", fields={"a": "numeric", "v": "vector[3]"}, origin={"v": START})
    dense = Encoder(schema).record({"a": 2.0, "v": [START, START + 1, None]}).dense
    assert dense[0, :3].tolist() == [2.0, 0.0, 1.0]
    assert np.isnan(dense[0, 3])


def test_a_difference_beyond_float32_stays_finite() -> None:
    schema = Schema(label="y", task="regression", fields={"a": "numeric"}, origin={"a": -3e38})
    assert np.isfinite(Encoder(schema).record({"a": 3e38}).dense).all()


@pytest.mark.parametrize(
    ("numbers", "origin"),
    [
        ([START + second for second in range(60)], START + 30),
        ([-1e8 - 7, -1e8, -1e8 + 9], -1e8),
        ([1e12, 1e12], 1e12),
        ([5.0, 5.0], None),
        ([0.0, 1.0, 1e9], None),
        ([1990.0, 2005.0, 2026.0], None),
        ([np.nan, np.nan], None),
        ([3.3e38, 3.3e38], 3.3e38),
    ],
)
def test_an_origin_is_guessed_only_far_from_zero(numbers: list[float], origin: float | None) -> None:
    assert origins.guess(np.array(numbers)) == origin


def test_a_guess_is_near_the_values_for_any_offset() -> None:
    draw = np.random.default_rng(0)
    for power in range(4, 16):
        numbers = 10.0**power + draw.random(500) * 2.0
        found = origins.guess(numbers)
        assert found is not None
        assert abs(found - np.median(numbers)) <= 0.5


def test_files_frames_and_mappings_infer_one_origin(tmp_path: Path) -> None:
    columns = {"t": SECONDS, "u": [float(i % 7) / 2 for i in range(400)], "y": [i % 2 for i in range(400)]}
    frame = pd.DataFrame(columns)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    lines = (json.dumps(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    sources = [columns, frame, pa.table(columns), *(tmp_path / f"a.{kind}" for kind in ("csv", "parquet", "jsonl"))]
    schemas = [el.read(source, label="y").schema for source in sources]
    assert schemas[0].origin == {"t": START + 50}
    assert all(schema == schemas[0] for schema in schemas)
    streams = [el.read(source, schema=schemas[0]) for source in sources]
    encoded = [np.concatenate([chunk.examples.batch.dense for chunk in stream.chunks()]) for stream in streams]
    assert all(dense.tobytes() == encoded[0].tobytes() for dense in encoded)


def test_numbers_written_as_text_have_an_origin() -> None:
    found = infer({"t": [f"{second:.2f}" for second in SECONDS], "y": [i % 2 for i in range(400)]}, "y")
    assert found.origin == {"t": START + 50}


def test_an_origin_is_written_to_a_file_and_read_back(tmp_path: Path) -> None:
    spec = config.convert({"schema": msgspec.to_builtins(TIMED), "model": {"family": "linear"}})
    config.save(spec, tmp_path / "everlearn.toml")
    assert config.load(tmp_path / "everlearn.toml").schema == TIMED


def test_a_request_and_a_learned_row_have_the_origin(tmp_path: Path) -> None:
    fields = {"t": "numeric"}
    schema = {"label": "y", "task": "binary", "classes": [0, 1], "fields": fields, "origin": {"t": START + 30}}
    draw = np.random.default_rng(0)
    with el.open({"schema": schema, "model": {"family": "linear"}, "mode": "live"}, home=tmp_path / "home") as loop:
        for second in (draw.random(600) * 60).tolist():
            loop.learn({"t": START + second}, int(second > 30))
        assert loop.predict({"t": START + 50}).value == 1
        assert loop.predict({"t": START + 10}).value == 0


def test_a_stored_spec_without_an_origin_keeps_its_encoder() -> None:
    spec = config.convert(
        {"schema": msgspec.to_builtins(msgspec.structs.replace(TIMED, origin={})), "model": {"family": "linear"}}
    )
    held = config.stored(spec)
    del held["schema"]["origin"]  # as releases before wrote it
    read = config.read_stored(held, "home").schema
    records = [{"t": second, "c": 1, "v": [0.1, second]} for second in SECONDS]
    dense = Encoder(read).records(records)[0].dense
    assert dense.tobytes() == np.array([[s, 1.0, 0.1, s] for s in SECONDS]).astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ({"c": 1.0}, "schema.origin: got 'c'; expected only numeric and vector fields: 't', 'v'"),
        ({"gone": 1.0}, "schema.origin: got 'gone'"),
        ({"t": float("inf")}, "schema.origin.t: got inf; expected a number between"),
        ({"t": float("nan")}, "schema.origin.t: got nan"),
    ],
)
def test_an_origin_that_does_not_fit_is_refused(origin: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Encoder(msgspec.structs.replace(TIMED, origin=origin))
