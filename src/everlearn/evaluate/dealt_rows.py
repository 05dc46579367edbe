"""The rows of one partition of a stream, opened in the process that learns them.

The rows of files are read from the files: each process encodes its own rows alone. Other streams are encoded once, and
written to a folder for the processes. Both give the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, InputError
from everlearn.model import cut, stack
from everlearn.records import Batch, Examples, Ints, Rejected
from everlearn.scale.partitions.dealing import EVERYONE, Dealing
from everlearn.scale.partitions.learner import DealtRows
from everlearn.scale.partitions.shared import read_columns, write_columns
from everlearn.spec import Schema
from everlearn.stream import Stream, read
from everlearn.stream.dealt import Keep

OPENER = "everlearn.evaluate.dealt_rows:rows_of"
_CHUNK = 65_536  # rows of the stream in a file of the folder


def rows_of(source: Mapping[str, Any], dealing: Dealing, partition: int, after: int) -> Iterator[DealtRows]:
    """Return the rows of a partition after a position; see `described` for the sources."""
    if "folder" in source:
        return _written(Path(source["folder"]) / str(partition), after)
    schema = msgspec.convert(source["schema"], Schema)
    files = source["files"]
    stream = read(files[0] if len(files) == 1 else files, schema=schema)
    return _dealt(stream, dealing, partition, after, source["segment"])


def described(
    stream: Stream | Examples | Iterable[Examples], dealing: Dealing, segment: str, folder: Path
) -> dict[str, Any]:
    """Return the description of a stream from which each process opens its rows.

    Files are named; the rows of any other stream are written to `folder`. Raises `InputError` for a stream that can be
    read only once, and `ConfigError` for a key that the rows do not have.
    """
    if not isinstance(stream, Stream):
        if dealing.key:
            raise ConfigError(
                f"key: got {dealing.key!r} for encoded rows, which have no fields; expected '', or a stream"
            )
        _write_examples([stream] if isinstance(stream, Examples) else stream, dealing, folder)
        return {"folder": str(folder)}
    if dealing.key and dealing.key not in stream.names:
        raise ConfigError(
            f"partitions.key: got {dealing.key!r}; expected one of the columns {', '.join(stream.names[:20])}, or '' "
            "to deal neighbouring rows together"
        )
    if not stream.replayable:
        raise InputError(
            f"{stream.name} can be read only once, and each partition reads its own rows; expected files. Write it to "
            "a file first, or use one learner"
        )
    if files := stream.files():
        return {"files": files, "schema": msgspec.to_builtins(stream.schema), "segment": segment}
    for partition in range(dealing.count):
        _write(_dealt(stream, dealing, partition, 0, segment), folder / str(partition))
    return {"folder": str(folder)}


def _dealt(stream: Stream, dealing: Dealing, partition: int, after: int, segment: str) -> Iterator[DealtRows]:
    """Yield the rows of one partition, as they are encoded."""
    size = dealing.every // dealing.count
    for chunk in stream.dealt(_keeper(dealing, partition), dealing.key).chunks(after, size, segment):
        yield DealtRows(chunk.examples, chunk.rejected, chunk.last)


def _keeper(dealing: Dealing, partition: int) -> Keep:
    def keep(positions: Ints, keys: Sequence[str] | None) -> Any:
        owner = dealing.owners(positions, keys)
        return (owner == partition) | (owner == EVERYONE)

    return keep


# ---- rows in a folder ----------------------------------------------------------------------------------------------


def _write_examples(pieces: Iterable[Examples], dealing: Dealing, folder: Path) -> None:
    """Number encoded rows from 1, deal them, and write those of each partition, many in a file."""
    waiting: list[list[Examples]] = [[] for _ in range(dealing.count)]
    for partition in range(dealing.count):
        (folder / str(partition)).mkdir(parents=True, exist_ok=True)
    before = written = 0

    def write() -> None:
        for partition, own in enumerate(waiting):
            _save(DealtRows(_joined(own), (), before), folder / str(partition), before)
            own.clear()

    for examples in pieces:
        for begin in range(0, len(examples.y), _CHUNK):
            part = cut(examples, begin, min(begin + _CHUNK, len(examples.y)))
            positions = np.arange(before + 1, before + len(part.y) + 1)
            numbered, owner = dataclasses.replace(part, position=positions), dealing.owners(positions)
            before += len(part.y)
            for partition, own in enumerate(waiting):
                own += _stretches(numbered, (owner == partition) | (owner == EVERYONE))
            if before - written >= _CHUNK:
                write()
                written = before
    if before > written:
        write()


def _stretches(examples: Examples, keep: NDArray[np.bool_]) -> list[Examples]:
    """Return the stretches of neighbouring rows for which `keep` is True, or no rows; nothing is copied."""
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)).tolist()
    return [cut(examples, start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)] or [
        cut(examples, 0, 0)
    ]


def _joined(parts: Sequence[Examples]) -> Examples:
    """Return the rows of one or more parts, in order."""
    if len(parts) == 1:
        return parts[0]
    segments = [one.segment for one in parts if one.segment is not None]
    return Examples(
        stack([one.batch for one in parts], parts[0].batch.dense.shape[1]),
        np.concatenate([one.y for one in parts]),
        np.concatenate([one.weight for one in parts]),
        np.concatenate([one.position for one in parts]),
        np.concatenate(segments) if segments else None,
    )


def _write(pieces: Iterable[DealtRows], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate(pieces, 1):
        _save(piece, folder, number)


def _save(piece: DealtRows, folder: Path, number: int) -> None:
    """Write a piece; its indptr begins at 0."""
    examples, batch = piece.examples, piece.examples.batch
    entries = slice(batch.indptr[0], batch.indptr[-1])
    arrays = {
        "dense": batch.dense, "indptr": batch.indptr - batch.indptr[0], "indices": batch.indices[entries],
        "values": batch.values[entries], "y": examples.y, "weight": examples.weight, "position": examples.position,
    }  # fmt: skip
    if examples.segment is not None:
        arrays["segment"] = examples.segment
    write_columns(folder / f"{number:09}-{piece.last}", arrays, msgspec.to_builtins(list(piece.rejected)))


def _written(folder: Path, after: int) -> Iterator[DealtRows]:
    """Yield the rows in a folder after a position."""
    for path in sorted(folder.iterdir()):
        last = int(path.name.partition("-")[2])
        if last <= after:
            continue
        arrays, refused = read_columns(path)
        batch = Batch(arrays["dense"], arrays["indptr"], arrays["indices"], arrays["values"])
        examples = Examples(batch, arrays["y"], arrays["weight"], arrays["position"], arrays.get("segment"))
        left = int(np.searchsorted(examples.position, after, "right"))
        rejected = msgspec.convert(refused, list[Rejected])
        known = tuple(row for row in rejected if row.at > after)
        yield DealtRows(cut(examples, left, len(examples.y)), known, last)
