"""Take a model out of a home: the one that answers now, or a stored version, with rows to show and measure it on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from everlearn import model
from everlearn.errors import InputError, InUse
from everlearn.events import connect
from everlearn.export import FreezingCost, cost
from everlearn.learn import limits
from everlearn.loop import commands
from everlearn.loop.loop import Loop
from everlearn.model import Model
from everlearn.records import Arrays, Example, Examples, Label, Prediction
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
    with closing(connect(str(home / "log.sqlite"), spec.log.durability, tidy=False)) as log:
        records = deque(_labelled(log, spec), maxlen=NEWEST)
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


def _labelled(log: Any, spec: Spec) -> Iterator[dict[str, Any]]:
    """Yield the newest records of a log that have labels, with the label as one more field."""
    label, after = spec.schema.label, max(log.end() - 4 * NEWEST, 0)
    while events := log.read(after, 1000, ("example", "label")):
        after = events[-1].position
        for event in events:
            payload = event.payload
            if isinstance(payload, Example):
                yield {**payload.features, label: payload.label}
            elif isinstance(payload, Label):
                found = log.find(f"prediction:{payload.id}")
                if found is not None and isinstance(found.payload, Prediction):
                    yield {**found.payload.features, label: payload.value}
