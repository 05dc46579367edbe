"""Sources: every container gives the same rows, and standard input is read once."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everlearn.errors import InputError
from everlearn.schema import Encoder, columnar
from everlearn.stream import Chunk, Stream, read
from everlearn.stream.sources import Piped
from tests.support.streams import HEADER, SCHEMA, arrays, as_files, everything


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
    """Return the rows after a position, picked from the whole stream."""
    return [chunk for chunk in stream.chunks(size=1) if chunk.last > after]


def test_a_parquet_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": np.arange(10_000.0), "y": ["no", "yes"] * 5_000}), path, compression="none")
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.parquet"):
        list(read(path, schema=SCHEMA).chunks())


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


ARFF = b"@relation r\n@attribute n numeric\n@attribute y {no,yes}\n@data\n1,no\n2,yes\n"


class Slow:
    """A pipe whose bytes come a few at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._pieces = [data[i : i + step] for i in range(0, len(data), step)]

    def read1(self, size: int, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("step", [1, 12, 40, 1_000])
@pytest.mark.parametrize("peek", [0, 20, 1_000])
@pytest.mark.parametrize("data", [ARFF, b"n,y\n1,no\n2,yes\n", b'broken\n{"n": 1, "y": "no"}\n{"n": 2, "y": "yes"}\n'])
def test_the_pace_of_a_pipe_changes_nothing(data: bytes, peek: int, step: int) -> None:
    if data.startswith(b"broken"):
        data = b'{"n": \n' + data.split(b"\n", 1)[1]
    pipe = Piped(Slow(data, step), "standard input", peek)
    assert pipe.names == ["n", "y"]
    if peek:
        assert sum(len(block.kept) for block in pipe.peek(10)) <= 2
    blocks = list(pipe.blocks(0, 10, None))
    assert [float(value) for block in blocks for value in columnar.values_of(block.columns["n"])] == [1.0, 2.0]


def test_a_pipe_is_read_by_the_rules_of_the_home() -> None:
    data = b" n,y\n1,caf\xe9\n2,no\n"
    for rules, names, faults in ((2, ["n", "y"], 0), (1, [" n", "y"], 1)):
        pipe = Piped(Slow(data, 5), "standard input", 0)
        assert pipe.under(rules).names == names
        assert sum(len(block.faults) for block in pipe.blocks(0, 10, None)) == faults
        assert pipe.under(rules) is pipe
        with pytest.raises(InputError, match="after rows were read by rules"):
            pipe.under(3 - rules)


@pytest.mark.parametrize("limit", [1, 15, 33, 60, 90])
def test_the_first_rows_are_those_of_the_whole(tmp_path: Path, limit: int) -> None:
    table = pa.table({"n": np.arange(1.0, 61.0), "y": ["no", "yes"] * 30})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=20)
    (tmp_path / "d.csv").write_text(table.to_pandas().to_csv(index=False))
    for name in ("d.parquet", "d.csv"):
        stream = read(tmp_path / name, schema=SCHEMA).first(limit)
        for after, size in ((0, 4), (7, 4), (7, 64), (25, 64)):
            chunks = list(stream.chunks(after, size))
            found = [value for chunk in chunks for value in chunk.examples.batch.dense[:, 0].tolist()]
            assert found == list(range(after + 1, min(limit, 60) + 1)), (name, after, size)
            assert [place for chunk in chunks for place in chunk.examples.position.tolist()] == found


def test_the_first_rows_count_those_that_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(HEADER + "1,a,,no\nbroken\n3,a,,yes\n4,a,,what\n5,a,,no\n")
    for limit, kept, refused in ((2, [1], [2]), (3, [1, 3], [2]), (4, [1, 3], [2, 4]), (5, [1, 3, 5], [2, 4])):
        (chunk,) = read(tmp_path / "d.csv", schema=SCHEMA).first(limit).chunks()
        assert chunk.examples.position.tolist() == kept
        assert [row.at for row in chunk.rejected] == refused
        assert chunk.last == limit
