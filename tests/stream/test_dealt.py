from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from everlearn.records import Ints
from everlearn.stream import Stream, read

ROWS = 60
TABLE = {
    "x": [str(row) if row % 17 else "broken" for row in range(ROWS)],
    "who": [f"user {row % 7}" for row in range(ROWS)],
    "y": [row % 2 for row in range(ROWS)],
}


def every_third(positions: Ints, keys: Sequence[str] | None) -> NDArray[np.bool_]:
    return positions % 3 == 1


def of_user_3(positions: Ints, keys: Sequence[str] | None) -> NDArray[np.bool_]:
    return np.array([key == "user 3" for key in keys or ()], np.bool_)


@pytest.fixture(params=["csv", "json lines", "parquet", "table"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Stream:
    """Return the same rows from each kind of source."""
    known = read(TABLE, label="y").schema
    known = type(known)(label="y", task="binary", fields={"x": "numeric"}, classes=(0, 1))
    path = tmp_path / "rows"
    if request.param == "table":
        return read(TABLE, schema=known)
    if request.param == "parquet":
        pq.write_table(pa.table(TABLE), path, row_group_size=25)
    elif request.param == "csv":
        lines = [f"{x},{who},{y}" for x, who, y in zip(*TABLE.values(), strict=True)]
        path.write_text("\n".join(["x,who,y", *lines]))
    else:
        rows = zip(*TABLE.values(), strict=True)
        path.write_text("\n".join(f'{{"x": "{x}", "who": "{who}", "y": {y}}}' for x, who, y in rows))
    return read(path, schema=known)


def taken(stream: Stream, after: int = 0, size: int = 8) -> tuple[list[Any], list[int], int]:
    """Return positions with values, the positions of rejected rows, and the last position."""
    chunks = list(stream.chunks(after, size))
    rows = [
        (int(at), float(x))
        for one in chunks
        for at, x in zip(one.examples.position, one.examples.batch.dense[:, 0], strict=True)
    ]
    return rows, [row.at for one in chunks for row in one.rejected], chunks[-1].last


@pytest.mark.parametrize(("keep", "key"), [(every_third, ""), (of_user_3, "who")], ids=["positions", "keys"])
@pytest.mark.parametrize("after", [0, 20])
def test_kept_rows_are_those_of_the_whole_stream_at_their_positions(
    stream: Stream, keep: Any, key: str, after: int
) -> None:
    rows, rejected, last = taken(stream, after)
    positions = np.arange(1, ROWS + 1)
    own = set(positions[keep(positions, TABLE["who"])].tolist())
    expected = [row for row in rows if row[0] in own], [at for at in rejected if at in own], last
    assert taken(stream.dealt(keep, key), after) == expected
    assert len(expected[0]) > 3
    assert last == ROWS


def test_files_of_a_stream(stream: Stream) -> None:
    found = stream.files()
    assert found == ([] if stream.name == "table" else [stream.name])
    assert stream.dealt(every_third).files() == []
