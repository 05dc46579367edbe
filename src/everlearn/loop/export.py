"""Take models and rows out of a home: the model that answers now or a stored version, and the rows that have labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from everlearn import _private, model
from everlearn.errors import InputError, InUse
from everlearn.events import Log, connect, url_of
from everlearn.export import FreezingCost, cost
from everlearn.learn import limits
from everlearn.loop import commands
from everlearn.loop.loop import Loop
from everlearn.model import Model
from everlearn.records import Arrays, Example, Examples, Label, Prediction, Reward
from everlearn.serve import snapshot
from everlearn.spec import Spec
from everlearn.stream import Stream, read
from everlearn.version.registry import Versions

NEWEST = 10_000  # rows of a file or of the log, unless a file is named


class Taken(NamedTuple):
    """A model of a home, its version, and the ranges to which rows are clipped before it sees them."""

    model: Model
    version: str
    ranges: Arrays


def served(spec: Spec, home: Path) -> Taken:
    """Return the model that answers in a home, with all that it has learned.

    Where another process has the loop open, that is the model of its newest snapshot. Raises `BlobError` if there is
    none yet.
    """
    try:
        with Loop(spec, home) as loop:
            found = loop.ready()
            return Taken(found.model, found.version, loop.fold.bounds)
    except InUse:
        newest = snapshot.Reader(snapshot.folder(home), model.build).current()
        return Taken(newest.champion.model, newest.champion.version, limits.bounds(newest.arrays))


def stored(spec: Spec, home: Path, versions: Versions, name: str) -> Taken:
    """Return a stored version; rows are clipped as they are now.

    `spec` and `versions` are those of the loop (`loop.spec`, `loop.home.versions`). `name` is an id, a unique beginning
    of one, or an alias. The champion of a live loop has learned more since it was stored: `served` returns that. Raises
    `InputError` for an unknown version, `BlobError` where its arrays are lost.
    """
    found = versions.find(name)
    made = commands.build(spec, found.spec)
    model.restore(made, versions.load(name))
    return Taken(made, found.id, served(spec, home).ranges if spec.limits.clip else {})


def write_folder(taken: Taken, folder: str | Path) -> None:
    """Write a model to an empty or new folder, in its family's own format.

    A policy is written as adapters of PEFT, or as a model of transformers where all its weights are trained. Raises
    `InputError` for a folder with content and for a family that writes none.
    """
    write: Any = getattr(taken.model, "export", None)
    if not callable(write):
        raise InputError(
            f"version {taken.version}: got a {type(taken.model).__name__}, which is no language model; expected a "
            'family that writes a folder, such as "preference". Write it with --onnx, or load its arrays with '
            "loop.home.versions.load(name)"
        )
    write(folder)


def rows(spec: Spec, home: Path, source: str | Path | None = None, beside: Path | None = None) -> Stream | None:
    """Return labelled rows: those of a file, or of the file of the settings, or the newest of the log; None if none.

    `beside` is the folder from which `spec.source` counts. Raises `InputError` for a file that cannot be read.
    """
    if source is None and spec.source:
        named = (beside or Path()) / spec.source
        source = named if named.exists() else None
    if source is not None:
        return read(str(source), schema=spec.schema)
    with closing(connect(url_of(home, spec.log.url, spec.log.book), spec.log.durability, tidy=False)) as log:
        records = deque(_labelled(log, spec, max(log.end() - 4 * NEWEST, 0)), maxlen=NEWEST)
    if not records:
        return None
    names = [*spec.schema.fields, spec.schema.label]
    return read({name: [record.get(name) for record in records] for name in names}, schema=spec.schema)


def newest(stream: Stream, most: int = NEWEST) -> Iterator[Examples]:
    """Yield the last rows of a stream, in order: at least `most` of them, if there are so many."""
    kept: deque[Examples] = deque()
    held = 0
    for chunk in stream.chunks(size=min(most, 4096)):
        kept.append(chunk.examples)
        held += len(chunk.examples.y)
        while held - len(kept[0].y) >= most:
            held -= len(kept.popleft().y)
    return chain(kept)


def measured(taken: Taken, spec: Spec, stream: Stream, most: int | None = NEWEST) -> FreezingCost:
    """Return what the exported form of a model loses on the last rows of a stream (None: all), clipped as in the loop.

    Raises `InputError` for a stream without a usable row.
    """
    parts = newest(stream, most) if most is not None else (chunk.examples for chunk in stream.chunks())
    return cost(taken.model, (replace(one, batch=limits.clip(taken.ranges, spec.limits, one.batch)) for one in parts))


def write_rows(spec: Spec, home: Path, file: Path) -> int:
    """Write all records of the log that have labels to a new file of JSON lines; return their number.

    A record has its fields, its label (of several the newest) and its subject, in the order in which labels came; the
    file is written whole or not at all. Rows of a file that is its own log are in that file, and not here. Raises
    `InputError` for a file that exists, and for a loop that learns pairs of answers.
    """
    if spec.schema.task == "preference":
        raise InputError(f"{file.name}: this loop learns pairs of answers, whose log has no rows with labels")
    unfinished = file.with_name(f".{file.name}.unfinished")
    if file.exists():
        raise InputError(f"{file} exists; remove it, or name another file")
    with closing(connect(url_of(home, spec.log.url, spec.log.book), spec.log.durability, tidy=False)) as log:
        with _private.create(unfinished) as out:
            written = 0
            for record in _labelled(log, spec, 0):
                out.write(msgspec.json.encode(record) + b"\n")
                written += 1
        unfinished.replace(file)
    return written


def _labelled(log: Log, spec: Spec, after: int) -> Iterator[dict[str, Any]]:
    """Yield the records after a position of a log that have labels, with label and subject as more fields."""
    label = spec.schema.label
    while events := log.read(after, 1000, ("example", "label", "reward")):
        after = events[-1].position
        for event in events:
            payload = event.payload
            if isinstance(payload, Example):
                yield {**_record(payload, spec), label: payload.label}
            elif isinstance(payload, Label | Reward):
                about = log.about(payload.id)
                first = about[0].payload if about else None
                if isinstance(first, Prediction) and about[-1].position == event.position and payload.weight > 0.0:
                    yield {**_record(first, spec), label: payload.value}


def _record(event: Example | Prediction, spec: Spec) -> dict[str, Any]:
    return {**event.features, **({spec.subject: event.subject} if spec.subject and event.subject else {})}
