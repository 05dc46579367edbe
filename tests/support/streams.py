"""A small schema, and helpers that read a stream completely."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from everlearn.records import Rejected
from everlearn.spec import Schema
from everlearn.stream import Chunk, Stream

SCHEMA = Schema(
    label="y", task="binary", classes=("no", "yes"), fields={"n": "numeric", "town": "categorical", "note": "text"}
)

HEADER = "n,town,note,y\n"


def arrays(chunks: Sequence[Chunk]) -> list[bytes]:
    """Return the bytes of all chunks, independent of their sizes."""
    examples = [chunk.examples for chunk in chunks]
    batches = [entry.batch for entry in examples]
    columns = [
        [batch.dense for batch in batches],
        [np.diff(batch.indptr) for batch in batches],
        [batch.indices for batch in batches],
        [batch.values for batch in batches],
        [entry.y for entry in examples],
        [entry.weight for entry in examples],
        [entry.position for entry in examples],
    ]
    return [b"".join(array.tobytes() for array in column) for column in columns]


def everything(stream: Stream, after: int = 0, size: int = 8192) -> tuple[list[bytes], list[Rejected], int]:
    chunks = list(stream.chunks(after, size))
    rejected = [entry for chunk in chunks for entry in chunk.rejected]
    return arrays(chunks), rejected, chunks[-1].last if chunks else after


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_files(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the same rows to each kind of source."""
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
