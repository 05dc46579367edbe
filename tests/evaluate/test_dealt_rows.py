from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everlearn.errors import ConfigError, InputError
from everlearn.evaluate import dealt_rows
from everlearn.model import cut
from everlearn.scale.partitions.dealing import Dealing, partition_of
from everlearn.stream import read
from tests.support.partitions import labelled

DEALING = Dealing(count=2, every=20, opening=10)


def positions(source: dict[str, Any], dealing: Dealing, partition: int, after: int = 0) -> list[int]:
    pieces = dealt_rows.rows_of(source, dealing, partition, after)
    return [at for piece in pieces for at in piece.examples.position.tolist()]


def table(n: int) -> pa.Table:
    draw = np.random.default_rng(0)
    return pa.table({"x": draw.normal(size=n), "who": [f"u{row % 5}" for row in range(n)], "y": np.arange(n) % 2})


def test_encoded_rows_are_numbered_and_dealt(tmp_path: Path) -> None:
    examples = labelled(70)
    source = dealt_rows.described([cut(examples, 0, 33), cut(examples, 33, 70)], DEALING, "", tmp_path)
    owners = DEALING.owners(np.arange(1, 71))
    for partition in range(2):
        own = (np.flatnonzero((owners == partition) | (owners < 0)) + 1).tolist()
        assert positions(source, DEALING, partition) == own
        assert positions(source, DEALING, partition, 40) == [at for at in own if at > 40]
    piece = next(iter(dealt_rows.rows_of(source, DEALING, 0, 0)))
    assert piece.examples.batch.dense[:10].tobytes() == examples.batch.dense[:10].tobytes()
    assert piece.examples.batch.indices[:20].tobytes() == examples.batch.indices[:20].tobytes()


def test_a_file_and_a_table_give_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(table(90), tmp_path / "rows.parquet")
    from_file = read(tmp_path / "rows.parquet", label="y")
    first = dealt_rows.described(from_file, DEALING, "", tmp_path)
    second = dealt_rows.described(read(table(90), schema=from_file.schema), DEALING, "", tmp_path / "rows")
    assert "files" in first
    assert "folder" in second
    for partition in range(2):
        assert positions(first, DEALING, partition) == positions(second, DEALING, partition)


@pytest.mark.parametrize("kept", ["file", "table"])
def test_rows_of_one_key_are_in_one_partition(tmp_path: Path, kept: str) -> None:
    dealing = Dealing(count=2, every=20, opening=10, key="who")
    pq.write_table(table(90), tmp_path / "rows.parquet")
    opened = read(tmp_path / "rows.parquet", label="y")
    stream = opened if kept == "file" else read(table(90), schema=opened.schema)
    source = dealt_rows.described(stream, dealing, "", tmp_path / "rows")
    for partition in range(2):
        found = positions(source, dealing, partition)
        own = [at for at in range(1, 91) if at <= 10 or partition_of(f"u{(at - 1) % 5}", 2) == partition]
        assert found == own


def test_what_cannot_be_dealt_is_refused(tmp_path: Path) -> None:
    keyed = Dealing(count=2, every=20, key="whom")
    with pytest.raises(ConfigError, match=r"partitions.key: got 'whom'; expected one of the columns x, who, y"):
        dealt_rows.described(read(table(9), label="y"), keyed, "", tmp_path)
    with pytest.raises(ConfigError, match="key: got 'whom' for encoded rows"):
        dealt_rows.described(labelled(9), keyed, "", tmp_path)
    stream = read(table(9), label="y")
    stream.replayable = False
    with pytest.raises(InputError, match="can be read only once"):
        dealt_rows.described(stream, DEALING, "", tmp_path)
